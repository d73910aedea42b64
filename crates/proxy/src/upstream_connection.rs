//! One HTTP/1.1 connection to a pod: the identity it was opened with, and one exchange at a time.
//!
//! hyper's connection is driven by the request that uses it, not by a task of its own: a request costs no
//! hand-over between tasks, and dropping it closes the connection. One that is idle for long has no hyper, whose buffers are
//! 16 KiB.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Instant;
use whichpod_config::Limits;
use whichpod_protocols::error::Failure;
use whichpod_protocols::retry::Progress;

use crate::body::RequestBody;
use crate::connect::Opened;
use crate::driver_waker::DriverWaker;
use crate::incoming::Incoming;
use crate::io::{Traffic, UpstreamIo};
use crate::peer::Peer;
use crate::pool::Owner;
use crate::worker::Worker;

/// A connection to a pod.
pub struct UpstreamConnection {
    state: State,
    waker: DriverWaker,
    traffic: Rc<Traffic>,
    limits: Limits,
    /// The pod.
    pub peer: Peer,
    /// Whose requests it serves.
    pub owner: Owner,
    /// A request was served on it before.
    pub reused: bool,
    /// When it became idle.
    pub idle_since: Instant,
    /// How long it may be idle: what the pod says, less a margin, else what is configured.
    pub idle_limit: Duration,
}

enum State {
    Awake(Box<Awake>),
    /// Nobody looks after it but the sweep of the pool; the next request wakes it.
    Resting(UpstreamIo),
    Ended,
}

/// hyper's two ends of it.
struct Awake {
    sender: http1::SendRequest<RequestBody>,
    driver: http1::Connection<TokioIo<UpstreamIo>, RequestBody>,
    ended: bool,
}

impl Awake {
    async fn new(io: UpstreamIo, limits: Limits) -> hyper::Result<Self> {
        let mut builder = http1::Builder::new();
        // A pod's head may be as large as a client's.
        builder.max_buf_size(limits.head_bytes.max(8192));
        let (sender, driver) = builder.handshake(TokioIo::new(io)).await?;
        Ok(Self { sender, driver, ended: false })
    }

    fn drive(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.ended {
            self.ended = Pin::new(&mut self.driver).poll(cx).is_ready();
        }
        self.ended
    }
}

/// An attempt that got no response.
pub struct SendError {
    /// Why.
    pub failure: Failure,
    /// The reason as the access log has it.
    pub reason: &'static str,
    /// How much may have reached the pod.
    pub progress: Progress,
    /// The request, where nothing of it was sent; in a box, because most requests are sent.
    pub request: Option<Box<Request<RequestBody>>>,
}

impl SendError {
    /// The pod has seen nothing of the request, which is where it was.
    #[must_use]
    pub fn nothing_sent(failure: Failure) -> Self {
        Self { failure, reason: failure.reason(), progress: Progress::NothingSent, request: None }
    }
}

impl UpstreamConnection {
    /// Speaks HTTP/1.1 on a connected socket.
    ///
    /// # Errors
    /// None that hyper makes today; they would be those of its handshake.
    pub async fn open(
        Opened { stream, peer }: Opened,
        owner: Owner,
        limits: Limits,
        idle_limit: Duration,
        worker: Rc<Worker>,
    ) -> hyper::Result<Self> {
        let (traffic, waker) = (Rc::new(Traffic::default()), DriverWaker::new());
        let io = UpstreamIo::new(stream, Rc::clone(&traffic), worker, Some(waker.bell()));
        Ok(Self {
            state: State::Awake(Box::new(Awake::new(io, limits).await?)),
            waker,
            traffic,
            limits,
            peer,
            owner,
            reused: false,
            idle_since: Instant::now(),
            idle_limit,
        })
    }

    /// Moves bytes in both directions; true once the connection has ended.
    pub fn drive(&mut self, cx: &mut Context<'_>) -> bool {
        let cx = &mut self.waker.driven_by(cx);
        match &mut self.state {
            State::Awake(awake) => awake.drive(cx),
            // Whatever a pod says to nobody, it ends the connection.
            State::Resting(io) => Pin::new(io).poll_read(cx, &mut ReadBuf::new(&mut [0])).is_ready(),
            State::Ended => true,
        }
    }

    /// True if nothing has happened on it since it was driven last.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        !self.waker.rang()
    }

    /// Takes from, or gives to, what is on its way over it; the caller drives it next.
    pub fn while_driving<T>(&self, act: impl FnOnce() -> T) -> T {
        self.waker.muted(act)
    }

    /// True if another request can be sent now: the last one is complete in both directions.
    pub fn is_reusable(&mut self) -> bool {
        let ready = match &mut self.state {
            State::Awake(awake) => !awake.ended && awake.sender.is_ready(),
            State::Resting(_) => true,
            State::Ended => false,
        };
        ready && !self.traffic.refused()
    }

    /// Gives back the memory that it has no use for while it is idle; true if there was some.
    pub fn rest(&mut self) -> bool {
        if let State::Awake(_) = self.state
            && self.is_reusable()
            && let State::Awake(awake) = std::mem::replace(&mut self.state, State::Ended)
        {
            let parts = awake.driver.into_parts();
            if parts.read_buf.is_empty() {
                self.state = State::Resting(parts.io.into_inner());
            }
            return true;
        }
        false
    }

    /// Makes it ready for a request.
    ///
    /// # Errors
    /// If it has ended.
    pub async fn wake(&mut self) -> Result<Ready<'_>, SendError> {
        if let State::Resting(_) = self.state
            && let State::Resting(io) = std::mem::replace(&mut self.state, State::Ended)
            && let Ok(awake) = Awake::new(io, self.limits).await
        {
            self.state = State::Awake(Box::new(awake));
        }
        match &mut self.state {
            State::Awake(awake) => Ok(Ready { awake, waker: &self.waker, traffic: &self.traffic }),
            State::Resting(_) | State::Ended => Err(SendError::nothing_sent(Failure::Closed)),
        }
    }

    /// The socket after the pod has agreed to something else than HTTP, what was read from it already, and who the pod is.
    /// `None` for one that is not in use.
    pub async fn into_parts(self: Box<Self>) -> Option<(UpstreamIo, Bytes, Peer)> {
        let Self { state: State::Awake(mut awake), waker, peer, .. } = *self else { return None };
        // It ends with the response's head.
        poll_fn(|cx| if awake.drive(&mut waker.driven_by(cx)) { Poll::Ready(()) } else { Poll::Pending })
            .await;
        let parts = awake.driver.into_parts();
        let mut io = parts.io.into_inner();
        io.forget_bell();
        Some((io, parts.read_buf, peer))
    }
}

/// A connection that takes a request now.
pub struct Ready<'a> {
    awake: &'a mut Awake,
    waker: &'a DriverWaker,
    traffic: &'a Traffic,
}

impl<'a> Ready<'a> {
    /// Sends one request, and waits for the response's head.
    ///
    /// `interrupted` is asked at every turn and ends the wait with its failure.
    pub fn send(
        self,
        request: Request<RequestBody>,
        mut interrupted: impl FnMut(&mut Context<'_>) -> Option<Failure> + 'a,
    ) -> impl Future<Output = Result<Response<Incoming>, SendError>> + 'a {
        let Self { awake, waker, traffic } = self;
        let (read, written) = (traffic.read(), traffic.written());
        // At once: a request that waited in here would be moved once more.
        let response = waker.muted(|| awake.sender.try_send_request(request));
        async move {
            let mut response = pin!(response);
            let result = poll_fn(|cx| {
                let ended = awake.drive(&mut waker.driven_by(cx));
                // Only the driver completes it, and that is woken by `cx`: another waker would have this task run twice.
                if let Poll::Ready(result) = response.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    return Poll::Ready(Ok(result));
                }
                if ended {
                    return Poll::Ready(Err(Failure::Closed));
                }
                match interrupted(cx) {
                    Some(failure) => Poll::Ready(Err(failure)),
                    None => Poll::Pending,
                }
            })
            .await;
            let progress =
                if traffic.read() != read { Progress::SomeResponse } else { Progress::NoResponseByte };
            match result {
                Ok(Ok(response)) => Ok(response.map(Incoming::Http1)),
                Ok(Err(mut error)) => {
                    let request = error.take_message().map(Box::new);
                    let nothing_sent = request.is_some() && traffic.written() == written;
                    let (failure, reason) = match classify(&error.into_error()) {
                        (Failure::Closed, _) if traffic.refused() => (Failure::Reset, "reset"),
                        other => other,
                    };
                    let progress = if nothing_sent { Progress::NothingSent } else { progress };
                    Err(SendError { failure, reason, progress, request })
                }
                Err(failure) => Err(SendError { failure, reason: failure.reason(), progress, request: None }),
            }
        }
    }
}

/// What hyper's error means for the request.
fn classify(error: &hyper::Error) -> (Failure, &'static str) {
    if error.is_parse() {
        return (Failure::UpstreamProtocol, "protocol_error");
    }
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            use std::io::ErrorKind as Kind;
            return match io.kind() {
                Kind::ConnectionReset | Kind::BrokenPipe | Kind::ConnectionAborted => {
                    (Failure::Reset, "reset")
                }
                // TCP_USER_TIMEOUT and keep-alive probes end a connection so.
                Kind::TimedOut => (Failure::Reset, "peer_unresponsive"),
                Kind::OutOfMemory => (Failure::Overloaded, Failure::Overloaded.reason()),
                _ => (Failure::Closed, "io_error"),
            };
        }
        source = cause.source();
    }
    // `UnexpectedMessage`: bytes that nobody asked for, on an idle connection.
    (Failure::Closed, "closed")
}
