//! Bodies in both directions: streamed, counted, and watched for how they end.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;
use whichpod_protocols::error::{Broken, Failure};
use whichpod_protocols::headers::forbidden_in_trailers;

use crate::exchange::Exchange;
use crate::http2;
use crate::incoming::{BodyError, Incoming};
use crate::peer::Peer;
use crate::upstream_connection::UpstreamConnection;

/// How long what a client still sends is read and thrown away after its response, so that it gets to read
/// the response instead of a reset.
pub const LINGER: Duration = Duration::from_secs(5);

/// A request's body: how far it has come, and what of it can be sent again; shared by the attempts and the log.
#[derive(Debug, Default)]
pub struct BodyProgress {
    /// Bytes read from the client.
    pub bytes: Cell<u64>,
    /// When the last byte was read.
    pub ended: Cell<Option<Instant>>,
    /// Why the body ended badly.
    pub failure: Cell<Option<Failure>>,
    /// When bytes last moved, for the idle timeout.
    pub moved: Cell<Option<Instant>>,
    /// The client sends nothing before it is told to.
    pub expects_continue: Cell<bool>,
    /// Where the body comes from; taken when nobody will read it any more.
    incoming: RefCell<Option<Incoming>>,
    /// What was read so far, as long as it may have to be sent again.
    kept: RefCell<Option<Kept>>,
}

/// The beginning of a body.
#[derive(Debug, Default, Clone)]
struct Kept {
    frames: VecDeque<Bytes>,
    trailers: Option<HeaderMap>,
    /// How many more bytes are kept.
    room: usize,
}

impl BodyProgress {
    /// True once nothing more of the body will come.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.ended.get().is_some() || self.failure.get().is_some()
    }

    /// From now on what is read is kept, up to so many bytes.
    pub fn keep(&self, bytes: usize) {
        self.kept.replace(Some(Kept { room: bytes, ..Kept::default() }));
    }

    /// True while all that was read is kept.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.kept.borrow().is_some()
    }

    /// It will not be sent again.
    pub fn forget(&self) {
        self.kept.take();
    }

    /// Nobody will read it any more: what the client still sends is read and thrown away.
    pub fn abandon(self: &Rc<Self>) {
        self.forget();
        // Who waits for "100 Continue" has sent nothing, and reading would ask for it.
        let asked_for = self.moved.get().is_some() || !self.expects_continue.get();
        let incoming = self.incoming.take();
        // Over HTTP/2 the stream is reset, and the connection goes on.
        if let (false, true, Some(incoming @ Incoming::Http1(_))) = (self.is_over(), asked_for, incoming) {
            crate::worker::spawn(throw_away(incoming, Rc::clone(self)));
        }
    }

    fn keep_frame(&self, frame: &Frame<Bytes>) {
        let mut kept = self.kept.borrow_mut();
        let Some(all) = &mut *kept else { return };
        if let Some(data) = frame.data_ref() {
            match all.room.checked_sub(data.len()) {
                Some(room) => {
                    all.room = room;
                    all.frames.push_back(data.clone());
                }
                None => *kept = None,
            }
        } else if let Some(trailers) = frame.trailers_ref() {
            all.trailers = Some(trailers.clone());
        }
    }

    fn poll_incoming(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut place = self.incoming.borrow_mut();
        let Some(incoming) = &mut *place else { return Poll::Ready(None) };
        let mut frame = ready!(Pin::new(&mut *incoming).poll_frame(cx));
        match &mut frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.bytes.set(self.bytes.get() + data.len() as u64);
                    self.moved.set(Some(Instant::now()));
                }
                if let Some(trailers) = frame.trailers_mut() {
                    strip_forbidden_trailers(trailers);
                }
                if incoming.is_end_stream() {
                    self.ended.set(Some(Instant::now()));
                }
                self.keep_frame(frame);
            }
            Some(Err(error)) => {
                let failure = match error {
                    error if error.is_overload() => Failure::Overloaded,
                    error if error.is_malformed() => Failure::BadRequestBody,
                    _ => Failure::ClientGone,
                };
                self.failure.set(Some(failure));
            }
            None => self.ended.set(Some(Instant::now())),
        }
        Poll::Ready(frame)
    }
}

/// A request's body on its way to a pod.
pub struct RequestBody(Option<Streamed>);

struct Streamed {
    progress: Rc<BodyProgress>,
    /// What an earlier attempt has read.
    replay: Option<Box<Kept>>,
}

impl RequestBody {
    /// No body.
    #[must_use]
    pub const fn empty() -> Self {
        Self(None)
    }

    /// The client's body, which tells `progress` about itself.
    #[must_use]
    pub fn new(incoming: Incoming, progress: Rc<BodyProgress>) -> Self {
        progress.incoming.replace(Some(incoming));
        Self(Some(Streamed { progress, replay: None }))
    }

    /// The same body once more, from its beginning; `None` if that is not kept.
    #[must_use]
    pub fn again(progress: &Rc<BodyProgress>) -> Option<Self> {
        let replay = Box::new(progress.kept.borrow().clone()?);
        Some(Self(Some(Streamed { progress: Rc::clone(progress), replay: Some(replay) })))
    }
}

impl Kept {
    fn next(&mut self) -> Option<Frame<Bytes>> {
        self.frames.pop_front().map(Frame::data).or_else(|| self.trailers.take().map(Frame::trailers))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(streamed) = &mut self.0 else { return Poll::Ready(None) };
        if let Some(replay) = &mut streamed.replay {
            if let Some(frame) = replay.next() {
                return Poll::Ready(Some(Ok(frame)));
            }
            streamed.replay = None;
        }
        streamed.progress.poll_incoming(cx)
    }

    fn is_end_stream(&self) -> bool {
        let Some(Streamed { progress, replay }) = &self.0 else { return true };
        let left = replay.as_ref().is_some_and(|all| !all.frames.is_empty() || all.trailers.is_some());
        !left && progress.incoming.borrow().as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            None => SizeHint::with_exact(0),
            // Its length is in the head, if anywhere.
            Some(Streamed { replay: Some(_), .. }) => SizeHint::default(),
            Some(Streamed { progress, .. }) => {
                progress.incoming.borrow().as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
            }
        }
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        // What is kept may be sent again; the end of the request sees to the rest then.
        if !self.progress.is_kept() {
            self.progress.abandon();
        }
    }
}

/// Reads what the client still sends although nobody wants it: left unread, closing the socket would reset
/// the connection under the answer.
async fn throw_away(mut incoming: Incoming, progress: Rc<BodyProgress>) {
    let until_end = async {
        while let Some(Ok(_)) = std::future::poll_fn(|cx| Pin::new(&mut incoming).poll_frame(cx)).await {}
        progress.ended.set(Some(Instant::now()));
    };
    let _ = tokio::time::timeout(LINGER, until_end).await;
}

/// A response's body on its way to the client; writes the request's line when it ends.
pub enum ResponseBody {
    /// None: the line is not written here.
    Empty,
    /// Made here.
    Local(Option<Bytes>, Box<Exchange>),
    /// There is no response: the request was malformed, and its HTTP/2 stream is reset.
    Malformed(Box<Exchange>),
    /// A pod's.
    Pod(PodBody),
}

/// What a response comes over.
pub enum Link {
    /// A connection of its own.
    Http1(Box<UpstreamConnection>),
    /// A stream of a shared one.
    Http2(http2::Slot),
}

impl Link {
    /// The pod.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        match self {
            Self::Http1(connection) => &connection.peer,
            Self::Http2(slot) => slot.peer(),
        }
    }

    /// The connection has served before.
    #[must_use]
    pub fn reused(&self) -> bool {
        match self {
            Self::Http1(connection) => connection.reused,
            Self::Http2(slot) => slot.reused,
        }
    }
}

/// What a pod sends, and the connection it comes over.
pub struct PodBody {
    incoming: Incoming,
    /// `None` once a task of its own drives it, or once it went back to the pool.
    link: Option<Link>,
    exchange: Box<Exchange>,
    ended: bool,
    /// How it ended, still to be told.
    broken: Option<Broken>,
}

impl ResponseBody {
    /// The text of a locally made error.
    #[must_use]
    pub fn local(text: String, exchange: Box<Exchange>) -> Self {
        Self::Local(Some(text.into()), exchange)
    }

    /// A pod's body. While the client is still sending its request, a task of its own drives the connection,
    /// so that neither direction has to wait for the other.
    #[must_use]
    pub fn pod(incoming: Incoming, link: Link, exchange: Box<Exchange>) -> Self {
        let mut body = PodBody { incoming, link: None, exchange, ended: false, broken: None };
        match link {
            Link::Http1(connection) if !body.exchange.request_is_complete() => {
                body.exchange.drive_apart(connection);
            }
            link => {
                body.link = Some(link);
                if body.incoming.is_end_stream() {
                    body.end(None);
                }
            }
        }
        Self::Pod(body)
    }

    /// Ends a response that waits for its client, when that has taken nothing for too long.
    pub fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        if let Self::Pod(body) = self
            && !body.ended
            && let Some(broken) = body.overdue(cx)
        {
            body.end(Some(broken));
            return Poll::Ready(broken);
        }
        Poll::Pending
    }
}

impl PodBody {
    /// The response is complete, or broken.
    fn end(&mut self, broken: Option<Broken>) {
        self.ended = true;
        match (self.link.take(), broken) {
            (Some(Link::Http1(connection)), None) => self.exchange.give_back(connection),
            (Some(Link::Http2(mut slot)), Some(_)) => slot.abort(),
            (link, _) => drop(link),
        }
        self.exchange.end(broken);
    }

    /// The response is broken off. hyper drops what it has not sent yet when a body fails, be it the head of the
    /// response: it hears of the failure one turn later, when it has sent what it has.
    fn break_off<T>(&mut self, broken: Broken, cx: &Context<'_>) -> Poll<T> {
        if self.exchange.ends_with_connection(&self.incoming) {
            // Its client must not take it for whole.
            self.exchange.downstream.reset();
        }
        self.end(Some(broken));
        self.broken = Some(broken);
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(Link::Http1(connection)) = &mut self.link else {
            return Pin::new(&mut self.incoming).poll_frame(cx);
        };
        // hyper hands a frame over only to a body that was polled before, so: poll, drive, poll. Frames come from
        // the driver alone, and that is woken by `cx`: another waker would have this task run twice.
        // Nor need the driver be woken: it is driven next, be it when the frame was passed on.
        let idle = &mut Context::from_waker(Waker::noop());
        let incoming = &mut self.incoming;
        let frame = connection.while_driving(|| Pin::new(&mut *incoming).poll_frame(idle));
        if frame.is_ready() {
            return frame;
        }
        connection.drive(cx);
        connection.while_driving(|| Pin::new(incoming).poll_frame(idle))
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if self.ended {
            return Poll::Ready(self.broken.take().map(Err));
        }
        match self.poll_incoming(cx) {
            Poll::Ready(Some(Ok(mut frame))) => {
                if let Some(data) = frame.data_ref() {
                    self.exchange.sent(data.len());
                }
                let mut last = self.incoming.is_end_stream();
                if let Some(trailers) = frame.trailers_mut() {
                    strip_forbidden_trailers(trailers);
                    self.exchange.response_trailers(trailers);
                    // Nobody may ask for what follows them.
                    last = true;
                }
                if last {
                    self.end(None);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                self.end(None);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => self.break_off(broken_by(&error), cx),
            Poll::Pending => match self.overdue(cx) {
                Some(broken) => self.break_off(broken, cx),
                None => Poll::Pending,
            },
        }
    }

    fn overdue(&mut self, cx: &mut Context<'_>) -> Option<Broken> {
        self.exchange.interrupted(cx).map(|failure| match failure {
            Failure::RequestTimeout => Broken::Timeout,
            Failure::StreamIdle | Failure::RequestIdle => Broken::Idle,
            _ => Broken::ClientGone,
        })
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match &mut *self {
            Self::Empty | Self::Malformed(_) => Poll::Ready(None),
            Self::Local(text, exchange) => Poll::Ready(text.take().map(|text| {
                exchange.sent(text.len());
                exchange.end(None);
                Ok(Frame::data(text))
            })),
            Self::Pod(body) => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty | Self::Malformed(_) => true,
            Self::Local(text, _) => text.is_none(),
            Self::Pod(body) => body.ended && body.broken.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty | Self::Malformed(_) => SizeHint::with_exact(0),
            Self::Local(text, _) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
            Self::Pod(body) => body.incoming.size_hint(),
        }
    }
}

/// How a response ended whose body has this error.
fn broken_by(error: &BodyError) -> Broken {
    match error {
        error if error.is_overload() => Broken::Overloaded,
        BodyError::Http2(error) if error.is_library() => {
            if error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM) {
                Broken::LocalReset
            } else {
                Broken::UpstreamProtocol
            }
        }
        BodyError::Http2(error) if error.is_reset() => {
            Broken::UpstreamReset(error.reason().unwrap_or(h2::Reason::INTERNAL_ERROR))
        }
        error if error.is_malformed() => Broken::UpstreamProtocol,
        _ => Broken::UpstreamClosed,
    }
}

fn strip_forbidden_trailers(trailers: &mut HeaderMap) {
    let forbidden: Vec<_> = trailers.keys().filter(|name| forbidden_in_trailers(name)).cloned().collect();
    for name in forbidden {
        trailers.remove(name);
    }
}
