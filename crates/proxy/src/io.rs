//! Sockets that count: what was read decides whether a request may be sent again, and when a head began.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::body::LINGER;
use crate::downstream::{Downstream, Phase};
use crate::driver_waker::Bell;
use crate::http2::Frames;
use crate::memory::{LARGE, Pause, Pressure};
use crate::site::Site;
use crate::transport::Transport;
use crate::worker::Worker;

/// So much is read at a time to find out what a client speaks: most heads whole.
const LOOK: usize = 2048;

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
    stall: Option<Stall>,
}

/// The client takes nothing.
struct Stall {
    since: Instant,
    timer: Pin<Box<Sleep>>,
}

impl DownstreamIo {
    /// Tells `connection` about everything that is read from `stream`, and counts for `site` whether writing waits.
    #[must_use]
    pub fn new(stream: TcpStream, connection: Rc<Downstream>, site: Arc<Site>, worker: Rc<Worker>) -> Self {
        let (frames, pause) = (Frames::default(), Pause::default());
        Self { stream, looked_at: Vec::new(), connection, site, worker, frames, pause, stall: None }
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

    /// Takes back what was read of the next head.
    pub fn unread(&mut self, head: &[u8]) {
        if head.is_empty() {
            return;
        }
        self.looked_at.extend_from_slice(head);
        self.connection.begin_head();
    }

    fn poll_socket(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.connection.over().is_some() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buf.filled().len();
        let body = self.connection.reads_body();
        match self.pause.poll_read(cx, &self.worker, &mut self.stream, buf, body) {
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::OutOfMemory => {
                self.connection.cut();
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
                self.connection.read_by(cx.waker());
                Poll::Pending
            }
        }
    }

    /// So much was read from the socket.
    fn took(&mut self, count: usize) {
        let phase = self.connection.phase().0;
        if phase == Phase::Idle && !self.connection.is_multiplexed() {
            // Most heads come in one piece: those cost nothing more.
            self.connection.begin_head();
            self.pause.after(false);
            if self.worker.shared.memory.pressure() == Pressure::RefuseConnections {
                self.connection.cut();
            }
            return;
        }
        let memory = &self.worker.shared.memory;
        memory.grow(count);
        // A body may come in small pieces, and all of them be kept.
        self.pause.after(count >= LARGE || self.connection.reads_body());
        if phase == Phase::Head && self.connection.gives_way(memory.pressure()) {
            self.connection.cut();
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

    /// Sees to it that a client which takes nothing does not hold a pod's connection for longer than is configured.
    fn wrote(&mut self, cx: &mut Context<'_>, polled: Written) -> Written {
        self.set_blocked(polled.is_pending());
        if polled.is_ready() {
            self.stall = None;
            return polled;
        }
        let since = self.stall.as_ref().map_or_else(Instant::now, |stall| stall.since);
        let Some((at, how)) = self.connection.stalls(since, self.site.config.timeouts.idle) else {
            return Poll::Pending;
        };
        let stall = self.stall.get_or_insert_with(|| Stall { since, timer: Box::pin(sleep_until(at)) });
        if stall.timer.deadline() != at {
            stall.timer.as_mut().reset(at);
        }
        ready!(stall.timer.as_mut().poll(cx));
        self.connection.stall(how);
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn set_blocked(&self, blocked: bool) {
        if self.connection.block(blocked) {
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
        if self.connection.is_reset() {
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
    worker: Rc<Worker>,
    pause: Pause,
    bell: Option<Arc<Bell>>,
}

impl UpstreamIo {
    /// Counts what goes over `stream` in `traffic`. Whoever reads it with a [`Bell`]'s waker only says so with `bell`, and
    /// does not ask the socket before that has rung.
    #[must_use]
    pub fn new(stream: Transport, traffic: Rc<Traffic>, worker: Rc<Worker>, bell: Option<Arc<Bell>>) -> Self {
        Self { stream, traffic, worker, pause: Pause::default(), bell }
    }

    /// From now on it is read with any waker.
    pub fn forget_bell(&mut self) {
        self.bell = None;
    }

    /// So much is in a buffer here: whoever is small does not count.
    fn hold(&self, count: usize) {
        if count >= LARGE {
            self.worker.shared.memory.grow(count);
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
        if me.bell.as_ref().is_some_and(|bell| bell.is_awaited()) {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let polled = me.pause.poll_read(cx, &me.worker, &mut me.stream, buf, false);
        if let (Poll::Pending, Some(bell)) = (&polled, &me.bell) {
            bell.wait();
        }
        let result = ready!(polled);
        let count = buf.filled().len() - before;
        me.pause.after(count >= LARGE);
        me.hold(count);
        self.traffic.read.set(self.traffic.read.get() + count as u64);
        Poll::Ready(result)
    }
}

/// Up to this many bytes are copied together: one `send` costs less than one `writev`.
const SMALL: usize = 2048;

/// Small writes as one, put into `joined`; `None` if they do not fit.
fn join<'a>(bufs: &[io::IoSlice<'_>], joined: &'a mut ReadBuf<'_>) -> Option<&'a [u8]> {
    for buf in bufs {
        if buf.len() > joined.remaining() {
            return None;
        }
        joined.put_slice(buf);
    }
    Some(joined.filled())
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
                $after(&mut *self, cx, polled, buf.len())
            }

            fn poll_write_vectored(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &[io::IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                let mut joined = [MaybeUninit::uninit(); SMALL];
                let polled = match join(bufs, &mut ReadBuf::uninit(&mut joined)) {
                    Some(joined) => Pin::new(&mut self.stream).poll_write(cx, joined),
                    None => Pin::new(&mut self.stream).poll_write_vectored(cx, bufs),
                };
                $after(&mut *self, cx, polled, bufs.iter().map(|buf| buf.len()).sum())
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

pass_writes_on!(DownstreamIo, |io: &mut DownstreamIo, cx: &mut Context<'_>, polled: Written, _: usize| {
    io.wrote(cx, polled)
});
pass_writes_on!(UpstreamIo, |io: &mut UpstreamIo, _: &mut Context<'_>, polled: Written, offered: usize| {
    match polled {
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
    }
});
