//! Sockets that count: what was read decides whether a request may be sent again, and when a head began.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, SystemTime};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;
use whichpod_access_log::Record;

use crate::body::{BodyProgress, LINGER};
use crate::http2::Frames;
use crate::memory::{LARGE, Pause, Pressure};
use crate::site::Site;
use crate::transport::Transport;
use crate::tunnel::Switched;
use crate::worker::Worker;

/// So much is read at a time to find out what a client speaks: most heads whole.
const LOOK: usize = 2048;

/// What a client's connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Between requests.
    Idle,
    /// The first byte of a head has come, the rest has not.
    Head,
    /// A request is running.
    Busy,
}

/// Why a client's connection is ended here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// Its time is over.
    Time,
    /// Memory is short.
    Memory,
}

/// A client's connection, as its requests and the worker's sweep see it.
pub struct Downstream {
    /// Number of the connection in this process.
    pub id: u64,
    /// The client.
    pub remote: SocketAddr,
    /// Our end.
    pub local: SocketAddr,
    /// When it was accepted.
    pub accepted: Instant,
    phase: Cell<Phase>,
    since: Cell<Instant>,
    over: Cell<Option<Over>>,
    reset: Cell<bool>,
    /// The last request's body, which may go on after its response.
    body: RefCell<Option<Rc<BodyProgress>>>,
    reader: RefCell<Option<Waker>>,
    /// Requests that run now; more than one only over HTTP/2.
    running: Cell<usize>,
    multiplexed: Cell<bool>,
    /// Over HTTP/2: since when a head is not complete, beside whatever else goes on.
    head_since: Cell<Option<Instant>>,
    tunnel: Cell<bool>,
    leaving: Cell<bool>,
    requests: Cell<usize>,
    resets: Cell<usize>,
    /// What the connection becomes when the response is out.
    switched: RefCell<Option<Switched>>,
}

/// Of this many requests, and of more, at most half may have been reset by the client before it had an answer and within
/// [`HASTE`]: what Envoy allows. Every one costs a pod work, and the client next to nothing.
const RESETS: usize = 500;
/// A client that waits for longer than this means its request.
const HASTE: Duration = Duration::from_secs(1);

impl Downstream {
    /// A connection that was just accepted.
    #[must_use]
    pub fn new(id: u64, remote: SocketAddr, local: SocketAddr) -> Self {
        let now = Instant::now();
        Self {
            id,
            remote,
            local,
            accepted: now,
            phase: Cell::new(Phase::Idle),
            since: Cell::new(now),
            over: Cell::new(None),
            reset: Cell::new(false),
            body: RefCell::new(None),
            reader: RefCell::new(None),
            running: Cell::new(0),
            multiplexed: Cell::new(false),
            head_since: Cell::new(None),
            tunnel: Cell::new(false),
            leaving: Cell::new(false),
            requests: Cell::new(0),
            resets: Cell::new(0),
            switched: RefCell::new(None),
        }
    }

    /// What the connection is doing, and since when.
    #[must_use]
    pub fn phase(&self) -> (Phase, Instant) {
        if let Some(since) = self.head_since.get() {
            return (Phase::Head, since);
        }
        let arriving = self.body.borrow().as_ref().is_some_and(|body| !body.is_over());
        (if arriving { Phase::Busy } else { self.phase.get() }, self.since.get())
    }

    /// A line of this connection, in which nothing else is known yet.
    #[must_use]
    pub fn record(&self, site: &Site, start: SystemTime) -> Record {
        let mut record = Record::new(start);
        record.downstream_remote = Some(self.remote);
        record.downstream_local = Some(self.local);
        record.connection_id = Some(self.id);
        record.upstream = Some(Arc::clone(&site.config.name));
        record
    }

    /// A head is complete; returns when its first byte came.
    pub fn begin_request(&self) -> Instant {
        // A pipelined head came with the bytes before it: its time starts now.
        let started = match self.phase.replace(Phase::Busy) {
            Phase::Head => self.since.get(),
            Phase::Idle | Phase::Busy => Instant::now(),
        };
        self.running.set(self.running.get() + 1);
        self.since.set(started);
        self.body.take();
        started
    }

    /// The response is complete: the connection is idle from now on, or once the request's body is.
    pub fn end_request(&self, now: Instant, body: Option<Rc<BodyProgress>>) {
        let others = self.running.get().saturating_sub(1);
        self.running.set(others);
        if others > 0 {
            return;
        }
        self.phase.set(Phase::Idle);
        self.since.set(now);
        if !self.multiplexed.get() {
            self.body.replace(body);
        }
    }

    /// From now on requests run beside each other (HTTP/2), and what is read may be no head at all.
    pub fn multiplex(&self) {
        self.multiplexed.set(true);
        if self.running.get() == 0 {
            self.phase.set(Phase::Idle);
        }
    }

    /// Whether a head is not complete now, over HTTP/2.
    fn set_in_head(&self, in_head: bool) {
        let since = self.head_since.get();
        if in_head != since.is_some() {
            self.head_since.set(in_head.then(Instant::now));
        }
    }

    /// True if it may be ended, or should not grow, while memory is that short: where a request runs beside a head that is
    /// not complete, only at the last.
    #[must_use]
    pub fn gives_way(&self, pressure: Pressure) -> bool {
        match pressure {
            Pressure::None => false,
            Pressure::ShedRequests => self.running.get() == 0,
            Pressure::RefuseConnections => true,
        }
    }

    /// From now on bytes pass through, whatever they mean.
    pub fn becomes_tunnel(&self) {
        self.tunnel.set(true);
    }

    /// True if what is read now is a body, over HTTP/1.
    fn reads_body(&self) -> bool {
        !self.multiplexed.get() && !self.tunnel.get() && self.phase().0 == Phase::Busy
    }

    /// True over HTTP/2.
    #[must_use]
    pub fn is_multiplexed(&self) -> bool {
        self.multiplexed.get()
    }

    /// Lets an HTTP/2 connection end as soon as its requests have (GOAWAY).
    pub fn leave(&self) {
        if self.multiplexed.get() && !self.leaving.replace(true) {
            self.wake();
        }
    }

    /// True once [`Self::leave`] was called.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.leaving.get()
    }

    /// A request over HTTP/2 ended; `abandoned`: the client reset it before it had an answer.
    pub fn count(&self, abandoned: bool, after: Duration) {
        self.requests.set(self.requests.get() + 1);
        if abandoned && after < HASTE {
            self.resets.set(self.resets.get() + 1);
            if self.is_abusive() {
                self.wake();
            }
        }
    }

    /// True if the client resets its requests too often.
    #[must_use]
    pub fn is_abusive(&self) -> bool {
        self.resets.get() * 2 > self.requests.get().max(RESETS)
    }

    fn wake(&self) {
        if let Some(waker) = self.reader.take() {
            waker.wake();
        }
    }

    /// The connection becomes a tunnel when the response is out.
    pub fn switch(&self, switched: Switched) {
        self.switched.replace(Some(switched));
    }

    /// The pod's end of the tunnel that the connection has become.
    #[must_use]
    pub fn take_switched(&self) -> Option<Switched> {
        self.switched.take()
    }

    /// Ends the connection at its next read, which is made to happen now.
    pub fn end(&self, why: Over) {
        self.over.set(Some(why));
        self.wake();
    }

    /// Lets the connection end with a reset (RST) instead of an orderly end (FIN).
    pub fn reset(&self) {
        self.reset.set(true);
    }

    /// Why it was ended by [`Self::end`].
    #[must_use]
    pub fn over(&self) -> Option<Over> {
        self.over.get()
    }
}

/// A client's socket.
pub struct DownstreamIo {
    stream: TcpStream,
    /// Read to find out what the client speaks, and still to be read by whoever speaks it.
    looked_at: Vec<u8>,
    connection: Rc<Downstream>,
    site: Arc<Site>,
    worker: Rc<Worker>,
    frames: Frames,
    pause: Pause,
    /// The client does not take what is there for it.
    blocked: Cell<bool>,
}

impl DownstreamIo {
    /// Tells `connection` about everything that is read from `stream`, and counts for `site` whether writing waits.
    #[must_use]
    pub fn new(stream: TcpStream, connection: Rc<Downstream>, site: Arc<Site>, worker: Rc<Worker>) -> Self {
        Self {
            stream,
            looked_at: Vec::new(),
            connection,
            site,
            worker,
            frames: Frames::default(),
            pause: Pause::default(),
            blocked: Cell::new(false),
        }
    }

    /// What [`Self::poll_look`] has read and nobody else yet.
    #[must_use]
    pub fn looked_at(&self) -> &[u8] {
        &self.looked_at
    }

    /// Reads more of what the client says, to be read again later; 0 at its end.
    pub fn poll_look(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut chunk = [MaybeUninit::uninit(); LOOK];
        let mut chunk = ReadBuf::uninit(&mut chunk);
        ready!(self.poll_socket(cx, &mut chunk))?;
        self.looked_at.extend_from_slice(chunk.filled());
        Poll::Ready(Ok(chunk.filled().len()))
    }

    fn poll_socket(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.connection.over().is_some() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buf.filled().len();
        let body = self.connection.reads_body();
        match self.pause.poll_read(cx, &self.worker, &mut self.stream, buf, body) {
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::OutOfMemory => {
                self.connection.over.set(Some(Over::Memory));
                Poll::Ready(Err(error))
            }
            Poll::Ready(result) => {
                let count = buf.filled().len() - before;
                if count > 0 {
                    self.took(count);
                }
                if self.connection.over().is_some() {
                    return Poll::Ready(Err(io::ErrorKind::OutOfMemory.into()));
                }
                Poll::Ready(result)
            }
            Poll::Pending => {
                let mut reader = self.connection.reader.borrow_mut();
                if !reader.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                    *reader = Some(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }

    /// So much was read from the socket.
    fn took(&mut self, count: usize) {
        let phase = self.connection.phase().0;
        if phase == Phase::Idle && !self.connection.is_multiplexed() {
            // Most heads come in one piece: those cost nothing more.
            self.connection.phase.set(Phase::Head);
            self.connection.since.set(Instant::now());
            self.pause.after(false);
            if self.worker.shared.memory.pressure() == Pressure::RefuseConnections {
                self.connection.over.set(Some(Over::Memory));
            }
            return;
        }
        let memory = &self.worker.shared.memory;
        memory.grow(count);
        // A body may come in small pieces, and all of them be kept.
        self.pause.after(count >= LARGE || self.connection.reads_body());
        if phase == Phase::Head && self.connection.gives_way(memory.pressure()) {
            self.connection.over.set(Some(Over::Memory));
        }
    }

    /// Reads what still comes, for a while: left unread, closing the socket would reset the connection under what the client
    /// has not read yet.
    pub async fn linger(mut self) {
        if self.worker.shared.memory.pressure() == Pressure::RefuseConnections {
            return;
        }
        let until_end = poll_fn(|cx| {
            loop {
                let mut unread = [MaybeUninit::uninit(); LOOK];
                let mut unread = ReadBuf::uninit(&mut unread);
                match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut unread)) {
                    Ok(()) if !unread.filled().is_empty() => {}
                    _ => return Poll::Ready(()),
                }
            }
        });
        let _ = tokio::time::timeout(LINGER, until_end).await;
    }

    fn set_blocked(&self, blocked: bool) {
        if self.blocked.replace(blocked) != blocked {
            let count = &self.site.stats.downstream_blocked;
            if blocked {
                count.fetch_add(1, Relaxed)
            } else {
                count.fetch_sub(1, Relaxed)
            };
        }
    }
}

impl Drop for DownstreamIo {
    fn drop(&mut self) {
        self.set_blocked(false);
        if self.connection.reset.get() {
            // It can fail only if the connection is gone already.
            let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        }
    }
}

impl AsyncRead for DownstreamIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if self.looked_at.is_empty() {
            ready!(self.poll_socket(cx, buf))?;
        } else {
            let count = self.looked_at.len().min(buf.remaining());
            buf.put_slice(&self.looked_at[..count]);
            self.looked_at.drain(..count);
            if self.looked_at.is_empty() {
                self.looked_at = Vec::new();
            }
        }
        if self.connection.is_multiplexed() {
            self.frames.read(&buf.filled()[before..]);
            self.connection.set_in_head(self.frames.in_head());
        }
        Poll::Ready(Ok(()))
    }
}

/// Bytes read and written on an upstream connection, readable while hyper owns the socket.
#[derive(Debug, Default)]
pub struct Traffic {
    read: Cell<u64>,
    written: Cell<u64>,
    refused: Cell<bool>,
}

impl Traffic {
    /// Bytes read so far.
    #[must_use]
    pub fn read(&self) -> u64 {
        self.read.get()
    }

    /// Bytes written so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written.get()
    }

    /// True once the pod has refused to read more: the connection is of no use to another request.
    #[must_use]
    pub fn refused(&self) -> bool {
        self.refused.get()
    }
}

/// A socket to a pod.
pub struct UpstreamIo {
    stream: Transport,
    traffic: Rc<Traffic>,
    /// Whose pool may hold this: it must not be held in turn.
    worker: Weak<Worker>,
    pause: Pause,
}

impl UpstreamIo {
    /// Counts what goes over `stream` in `traffic`.
    #[must_use]
    pub fn new(stream: Transport, traffic: Rc<Traffic>, worker: &Rc<Worker>) -> Self {
        Self { stream, traffic, worker: Rc::downgrade(worker), pause: Pause::default() }
    }

    /// So much is in a buffer here: whoever is small does not count.
    fn hold(&self, count: usize) {
        if let Some(worker) = self.worker.upgrade().filter(|_| count >= LARGE) {
            worker.shared.memory.grow(count);
        }
    }

    /// True once the pod has refused to read more.
    #[must_use]
    pub fn refused(&self) -> bool {
        self.traffic.refused()
    }

    /// Lets the connection end with a reset (RST) instead of an orderly end (FIN).
    pub fn reset(&self) {
        self.stream.reset();
    }
}

impl AsyncRead for UpstreamIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let me = &mut *self;
        let before = buf.filled().len();
        let result = ready!(match me.worker.upgrade() {
            Some(worker) => me.pause.poll_read(cx, &worker, &mut me.stream, buf, false),
            None => Pin::new(&mut me.stream).poll_read(cx, buf),
        });
        let count = buf.filled().len() - before;
        me.pause.after(count >= LARGE);
        me.hold(count);
        self.traffic.read.set(self.traffic.read.get() + count as u64);
        Poll::Ready(result)
    }
}

/// Up to this many bytes are copied together: one `send` costs less than one `writev`.
const SMALL: usize = 2048;

/// Copies small writes into one; `None` if they are not small.
fn join(bufs: &[io::IoSlice<'_>], joined: &mut [u8; SMALL]) -> Option<usize> {
    let mut length = 0;
    for buf in bufs {
        joined.get_mut(length..length + buf.len())?.copy_from_slice(buf);
        length += buf.len();
    }
    Some(length)
}

/// Writes go to the socket unchanged; `$after` makes of each its result, and hears how many bytes were offered.
macro_rules! pass_writes_on {
    ($io:ty, $after:expr) => {
        impl AsyncWrite for $io {
            fn poll_write(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &[u8],
            ) -> Poll<io::Result<usize>> {
                let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
                $after(&*self, polled, buf.len())
            }

            fn poll_write_vectored(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &[io::IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                let mut joined = [0; SMALL];
                let polled = match join(bufs, &mut joined) {
                    Some(length) => Pin::new(&mut self.stream).poll_write(cx, &joined[..length]),
                    None => Pin::new(&mut self.stream).poll_write_vectored(cx, bufs),
                };
                $after(&*self, polled, bufs.iter().map(|buf| buf.len()).sum())
            }

            fn is_write_vectored(&self) -> bool {
                self.stream.is_write_vectored()
            }

            fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.stream).poll_flush(cx)
            }

            fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.stream).poll_shutdown(cx)
            }
        }
    };
}

type Written = Poll<io::Result<usize>>;

pass_writes_on!(DownstreamIo, |io: &DownstreamIo, polled: Written, _: usize| {
    io.set_blocked(polled.is_pending());
    polled
});
pass_writes_on!(UpstreamIo, |io: &UpstreamIo, polled: Written, offered: usize| match polled {
    Poll::Ready(Ok(count)) => {
        io.hold(count);
        io.traffic.written.set(io.traffic.written.get() + count as u64);
        Poll::Ready(Ok(count))
    }
    // A pod that answers before it has the whole request, and closes: its answer is still to be read.
    Poll::Ready(Err(error))
        if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) =>
    {
        io.traffic.refused.set(true);
        Poll::Ready(Ok(offered))
    }
    other => other,
});
