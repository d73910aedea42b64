//! One HTTP/1.1 connection to a pod: the identity it was opened with, and one exchange at a time.
//!
//! hyper's connection is driven by the request that uses it, not by a task of its own: a request costs no
//! hand-over between tasks, and dropping it closes the connection.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::Instant;
use whichpod_config::Limits;

use crate::body::RequestBody;
use crate::connect::Opened;
use crate::error::Failure;
use crate::incoming::Incoming;
use crate::io::{Traffic, UpstreamIo};
use crate::peer::Peer;
use crate::pool::Owner;
use crate::retry::Progress;
use crate::worker::Worker;

/// A connection to a pod.
pub struct UpstreamConnection {
    sender: http1::SendRequest<RequestBody>,
    driver: http1::Connection<TokioIo<UpstreamIo>, RequestBody>,
    driver_ended: bool,
    traffic: Rc<Traffic>,
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

/// An attempt that got no response.
pub struct SendError {
    /// Why.
    pub failure: Failure,
    /// The reason as the access log has it.
    pub reason: &'static str,
    /// How much may have reached the pod.
    pub progress: Progress,
    /// The request, where nothing of it was sent.
    pub request: Option<Request<RequestBody>>,
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
        worker: &Rc<Worker>,
    ) -> hyper::Result<Self> {
        let traffic = Rc::new(Traffic::default());
        let io = TokioIo::new(UpstreamIo::new(stream, Rc::clone(&traffic), worker));
        let mut builder = http1::Builder::new();
        // A pod's head may be as large as a client's.
        builder.max_buf_size(limits.head_bytes.max(8192));
        let (sender, driver) = builder.handshake(io).await?;
        Ok(Self {
            sender,
            driver,
            driver_ended: false,
            traffic,
            peer,
            owner,
            reused: false,
            idle_since: Instant::now(),
            idle_limit,
        })
    }

    /// Moves bytes in both directions; true once the connection has ended.
    pub fn drive(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.driver_ended {
            self.driver_ended = Pin::new(&mut self.driver).poll(cx).is_ready();
        }
        self.driver_ended
    }

    /// True if another request can be sent now: the last one is complete in both directions.
    pub fn is_reusable(&mut self) -> bool {
        !self.driver_ended && !self.traffic.refused() && self.sender.is_ready()
    }

    /// The socket after the pod has agreed to something else than HTTP, what was read from it already, and who the pod is.
    pub async fn into_parts(mut self: Box<Self>) -> (UpstreamIo, Bytes, Peer) {
        // It ends with the response's head.
        poll_fn(|cx| if self.drive(cx) { Poll::Ready(()) } else { Poll::Pending }).await;
        let Self { driver, peer, .. } = *self;
        let parts = driver.into_parts();
        (parts.io.into_inner(), parts.read_buf, peer)
    }

    /// Sends one request and waits for the response's head.
    ///
    /// `interrupted` is asked at every turn and ends the wait with its failure.
    pub async fn send(
        &mut self,
        request: Request<RequestBody>,
        mut interrupted: impl FnMut(&mut Context<'_>) -> Option<Failure>,
    ) -> Result<Response<Incoming>, SendError> {
        let (read, written) = (self.traffic.read(), self.traffic.written());
        let mut response = pin!(self.sender.try_send_request(request));
        let (driver, driver_ended) = (&mut self.driver, &mut self.driver_ended);
        let result = poll_fn(|cx| {
            if !*driver_ended {
                *driver_ended = Pin::new(&mut *driver).poll(cx).is_ready();
            }
            // Only the driver completes it, and that is woken by `cx`: another waker would have this task run twice.
            if let Poll::Ready(result) = response.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                return Poll::Ready(Ok(result));
            }
            if *driver_ended {
                return Poll::Ready(Err(Failure::Closed));
            }
            match interrupted(cx) {
                Some(failure) => Poll::Ready(Err(failure)),
                None => Poll::Pending,
            }
        })
        .await;
        let progress =
            if self.traffic.read() != read { Progress::SomeResponse } else { Progress::NoResponseByte };
        match result {
            Ok(Ok(response)) => Ok(response.map(Incoming::Http1)),
            Ok(Err(mut error)) => {
                let request = error.take_message();
                let nothing_sent = request.is_some() && self.traffic.written() == written;
                let (failure, reason) = match classify(&error.into_error()) {
                    (Failure::Closed, _) if self.traffic.refused() => (Failure::Reset, "reset"),
                    other => other,
                };
                let progress = if nothing_sent { Progress::NothingSent } else { progress };
                Err(SendError { failure, reason, progress, request })
            }
            Err(failure) => Err(SendError { failure, reason: failure.reason(), progress, request: None }),
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
