//! A pod's connection: shared by streams, driven by a task of its own.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use h2::{Reason, SendStream};
use http::{Request, Response};
use http_body::Body as _;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use whichpod_config::Limits;
use whichpod_protocols::error::Failure;
use whichpod_protocols::retry::Progress;
use whichpod_upstream::EndpointId;

use crate::body::RequestBody;
use crate::connect::Opened;
use crate::incoming::Incoming;
use crate::peer::Peer;
use crate::pool::Owner;
use crate::upstream_connection::SendError;
use crate::worker::Worker;

use super::{CONNECTION_WINDOW, Pump, SEND_BUFFER, STREAM_WINDOW, Stopped};

/// An idle connection is kept for as long as an unused upstream is refreshed. A pod that ends it sooner says which streams
/// it left unprocessed, so that nothing is lost, unlike in HTTP/1.
const IDLE: Duration = Duration::from_secs(5 * 60);
/// Streams before the pod has said how many it takes: what RFC 9113 §6.5.2 asks of everybody.
const STREAMS_AT_FIRST: usize = 100;

/// A connection to a pod.
pub struct Connection {
    sender: SendRequest<Bytes>,
    /// The pod.
    pub peer: Peer,
    /// Whose requests it serves.
    pub owner: Owner,
    streams: Cell<usize>,
    idle_since: Cell<Instant>,
    served: Cell<bool>,
    ended: Rc<Cell<bool>>,
}

impl Connection {
    /// Speaks HTTP/2 on a connected socket, starts the task that moves its frames, and lets the worker's other requests use
    /// it, too.
    ///
    /// # Errors
    /// When the pod has closed the connection already.
    pub async fn open(
        Opened { stream, peer }: Opened,
        owner: Owner,
        limits: Limits,
        worker: &Worker,
    ) -> Result<Slot, h2::Error> {
        // The largest head that is accepted, as h2 counts it.
        let head = u32::try_from(limits.head_bytes).unwrap_or(u32::MAX);
        let known = worker.http2.borrow().stream_limit((peer.endpoint.id(), owner));
        let (sender, driver) = Builder::new()
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .initial_max_send_streams(known.unwrap_or(STREAMS_AT_FIRST))
            .max_header_list_size(head)
            .max_send_buffer_size(SEND_BUFFER)
            .handshake::<_, Bytes>(stream)
            .await?;
        let ended = Rc::new(Cell::new(false));
        let flag = Rc::clone(&ended);
        // It ends by itself when nobody holds the sender and no stream is left.
        crate::worker::spawn(async move {
            if let Err(error) = driver.await {
                tracing::debug!("a pod's HTTP/2 connection ended: {error}");
            }
            flag.set(true);
        });
        let connection = Rc::new(Self {
            sender,
            peer,
            owner,
            streams: Cell::new(0),
            idle_since: Cell::new(Instant::now()),
            served: Cell::new(false),
            ended,
        });
        let slot = connection.place().map_err(|_| h2::Error::from(Reason::CONNECT_ERROR))?;
        worker.share(connection);
        Ok(slot)
    }

    /// A place for one more stream; [`Room::Full`] at the pod's limit.
    fn place(self: &Rc<Self>) -> Result<Slot, Room> {
        if self.ended.get() {
            return Err(Room::Over);
        }
        // A clone does not wait for other streams; it only says whether the pod has ended the connection, or is about to.
        let mut sender = self.sender.clone();
        if let Poll::Ready(Err(_)) = sender.poll_ready(&mut Context::from_waker(Waker::noop())) {
            return Err(Room::Over);
        }
        if self.streams.get() >= sender.current_max_send_streams() {
            return Err(Room::Full);
        }
        self.streams.set(self.streams.get() + 1);
        Ok(Slot { reused: self.served.get(), connection: Rc::clone(self), sender, pump: None })
    }

    fn is_of_use(&self, now: Instant) -> bool {
        let idle = self.streams.get() == 0 && now.duration_since(self.idle_since.get()) >= IDLE;
        !self.ended.get() && !self.peer.endpoint.is_gone() && !idle
    }
}

/// Why there is no place.
enum Room {
    Full,
    Over,
}

/// A pod, and whose connection to it.
pub type Key = (EndpointId, Owner);

/// A worker's connections by pod and owner, and those that are being opened.
#[derive(Default)]
pub struct Connections {
    open: HashMap<Key, Vec<Rc<Connection>>>,
    opening: HashMap<Key, Rc<Notify>>,
}

impl Connections {
    /// A place on a connection to this pod; those that are over are forgotten.
    pub fn take(&mut self, key: Key) -> Option<Slot> {
        let connections = self.open.get_mut(&key)?;
        let mut index = 0;
        while let Some(connection) = connections.get(index) {
            match connection.place() {
                // A pod that is gone gets no new stream.
                Ok(slot) if connection.peer.endpoint.is_gone() => {
                    drop((slot, connections.remove(index)));
                }
                Ok(slot) => return Some(slot),
                Err(Room::Full) => index += 1,
                Err(Room::Over) => drop(connections.remove(index)),
            }
        }
        if connections.is_empty() {
            self.open.remove(&key);
        }
        None
    }

    /// True if there is a connection to this pod.
    #[must_use]
    pub fn has(&self, key: Key) -> bool {
        self.open.contains_key(&key)
    }

    /// How many streams this pod takes on a connection, as another connection has learned.
    fn stream_limit(&self, key: Key) -> Option<usize> {
        Some(self.open.get(&key)?.first()?.sender.current_max_send_streams())
    }

    /// Keeps a new connection for all streams to its pod.
    pub fn put(&mut self, connection: Rc<Connection>) {
        self.open.entry((connection.peer.endpoint.id(), connection.owner)).or_default().push(connection);
    }

    /// Who opens a connection to this pod now, to be waited for.
    #[must_use]
    pub fn opening(&self, key: Key) -> Option<Rc<Notify>> {
        self.opening.get(&key).cloned()
    }

    /// Closes what was idle for too long and what belongs to pods that are gone, as soon as no stream runs on it.
    pub fn sweep(&mut self) {
        let now = Instant::now();
        self.open.retain(|_, connections| {
            connections.retain(|connection| connection.is_of_use(now));
            !connections.is_empty()
        });
    }

    /// How many connections there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.open.values().map(Vec::len).sum()
    }

    /// True if there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}

/// One request opens a connection, and the others wait for it instead of opening as many; until this is dropped.
pub struct Opening {
    connections: Rc<RefCell<Connections>>,
    key: Key,
    done: Rc<Notify>,
}

impl Opening {
    /// From now on others wait.
    #[must_use]
    pub fn begin(connections: &Rc<RefCell<Connections>>, key: Key) -> Self {
        let done = Rc::new(Notify::new());
        connections.borrow_mut().opening.insert(key, Rc::clone(&done));
        Self { connections: Rc::clone(connections), key, done }
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.connections.borrow_mut().opening.remove(&self.key);
        self.done.notify_waiters();
    }
}

/// A place for one stream on a connection.
pub struct Slot {
    /// The connection.
    connection: Rc<Connection>,
    sender: SendRequest<Bytes>,
    /// The connection had answered a request before.
    pub reused: bool,
    /// The task that still sends the request's body after the response has begun.
    pump: Option<AbortHandle>,
}

impl Slot {
    /// The pod.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.connection.peer
    }

    /// Sends one request and waits for the response's head.
    ///
    /// `interrupted` is asked at every turn and ends the wait with its failure.
    pub async fn send(
        &mut self,
        request: Request<RequestBody>,
        mut interrupted: impl FnMut(&mut Context<'_>) -> Option<Failure>,
    ) -> Result<Response<Incoming>, SendError> {
        let (head, body) = request.into_parts();
        let ends = body.is_end_stream();
        let sent = self.sender.send_request(Request::from_parts(head, ()), ends);
        let (mut response, stream) = sent.map_err(|error| unsent(&error))?;
        let mut pump = if ends { Sending::Ended(stream) } else { Sending::Body(Pump::new(body, stream)) };
        let result = poll_fn(|cx| {
            if let Some(failure) = pump.poll(cx) {
                return Poll::Ready(Err(local(failure)));
            }
            match Pin::new(&mut response).poll(cx) {
                Poll::Ready(result) => Poll::Ready(result.map_err(|error| classify(&error))),
                Poll::Pending => match interrupted(cx) {
                    Some(failure) => Poll::Ready(Err(local(failure))),
                    None => Poll::Pending,
                },
            }
        })
        .await;
        let response = result?;
        self.connection.served.set(true);
        if let Sending::Body(pump) = pump {
            // The client is still sending: neither direction waits for the other.
            self.pump = crate::worker::spawn_abortable(async move {
                let mut pump = pump;
                if let Err(Stopped::Body(_)) = (&mut pump).await {
                    pump.reset(Reason::CANCEL);
                }
            });
        }
        let (head, stream) = response.into_parts();
        let body = Incoming::http2(stream, &head.headers);
        Ok(Response::from_parts(head, body))
    }

    /// The response is not wanted to its end: nothing more is sent either.
    pub fn abort(&mut self) {
        if let Some(pump) = self.pump.take() {
            pump.abort();
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let connection = &self.connection;
        connection.streams.set(connection.streams.get().saturating_sub(1));
        connection.idle_since.set(Instant::now());
    }
}

/// A request on its way out.
enum Sending {
    Body(Pump<RequestBody>),
    /// Kept, because dropping it would end the stream's other half, too.
    Ended(#[expect(dead_code, reason = "held, not used")] SendStream<Bytes>),
    Over,
}

impl Sending {
    /// The failure of the client's own body, if that is what ended it.
    fn poll(&mut self, cx: &mut Context<'_>) -> Option<Failure> {
        let Self::Body(pump) = self else { return None };
        match Pin::new(&mut *pump).poll(cx) {
            Poll::Pending => None,
            // What the pod did to the stream shows in the response.
            Poll::Ready(Ok(()) | Err(Stopped::Peer)) => {
                *self = Self::Over;
                None
            }
            Poll::Ready(Err(Stopped::Body(_))) => {
                pump.reset(Reason::CANCEL);
                *self = Self::Over;
                Some(Failure::ClientGone)
            }
        }
    }
}

/// The stream could not be opened: the pod has ended the connection meanwhile.
fn unsent(error: &h2::Error) -> SendError {
    let SendError { failure, reason, .. } = classify(error);
    SendError { failure, reason, progress: Progress::NothingSent, request: None }
}

/// The wait was ended here.
fn local(failure: Failure) -> SendError {
    SendError { failure, reason: failure.reason(), progress: Progress::NoResponseByte, request: None }
}

/// What h2's error means for a request that has no response yet.
fn classify(error: &h2::Error) -> SendError {
    let (failure, reason, progress) = if error.is_go_away() && error.is_remote() {
        // h2 gives it only to streams above the last one that the pod will process (RFC 9113 §6.8).
        (Failure::Closed, "goaway", Progress::NothingSent)
    } else if error.is_reset() && error.is_remote() {
        match error.reason() {
            Some(Reason::REFUSED_STREAM) => (Failure::StreamRefused, "refused_stream", Progress::NothingSent),
            _ => (Failure::StreamReset, "stream_reset", Progress::NoResponseByte),
        }
    } else if let Some(io) = error.get_io() {
        let (failure, reason) = match io.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => (Failure::Reset, "reset"),
            io::ErrorKind::TimedOut => (Failure::Reset, "peer_unresponsive"),
            _ => (Failure::Closed, "closed"),
        };
        (failure, reason, Progress::NoResponseByte)
    } else if error.reason() == Some(Reason::ENHANCE_YOUR_CALM) {
        (Failure::LocalReset, "local_reset", Progress::SomeResponse)
    } else {
        (Failure::UpstreamProtocol, "protocol_error", Progress::SomeResponse)
    };
    SendError { failure, reason, progress, request: None }
}
