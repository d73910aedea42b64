//! Passing bytes both ways, whatever they mean: TCP connections, and requests that have become something else.
//!
//! What is idle holds no buffer: bytes are read into one that the worker's tunnels share, and only what the other side does
//! not take at once is kept.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep_until};
use whichpod_protocols::error::Ended;
use whichpod_protocols::sni::Sni;

use crate::downstream::LONG;
use crate::exchange::Exchange;
use crate::io::{DownstreamIo, UpstreamIo};
use crate::peer::Peer;

/// Where bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// What the client says.
    ToPod,
    /// What the pod says.
    ToClient,
}

/// Both ends of a tunnel, and what was read from them already.
pub struct Ends {
    /// The client.
    pub client: DownstreamIo,
    /// The pod.
    pub pod: UpstreamIo,
    /// Who that is.
    pub peer: Peer,
    /// Read from the client.
    pub from_client: Bytes,
    /// Read from the pod.
    pub from_pod: Bytes,
}

/// The pod's end of a tunnel that a request has become.
pub struct Switched {
    /// The request.
    pub exchange: Box<Exchange>,
    /// The pod.
    pub pod: UpstreamIo,
    /// Who that is.
    pub peer: Peer,
    /// Read from the pod.
    pub from_pod: Bytes,
}

/// Passes bytes on until both sides are done or one is gone, and writes the line.
pub async fn run(mut exchange: Box<Exchange>, ends: Ends) {
    exchange.begin_tunnel();
    let Ends { client, pod, peer, from_client, from_pod } = ends;
    exchange.passed(Direction::ToPod, from_client.len());
    exchange.passed(Direction::ToClient, from_pod.len());
    let open_line = Some(Box::pin(sleep_until(exchange.started() + LONG)));
    let (to_pod, to_client) = (Way::new(from_client), Way::new(from_pod));
    let sni = if exchange.record.protocol.is_none() { Sni::Waiting } else { Sni::Done };
    let mut tunnel = Tunnel { exchange, client, pod, to_pod, to_client, first: None, sni, open_line };
    let how = poll_fn(|cx| tunnel.poll(cx)).await;
    let Tunnel { mut exchange, client, pod, to_client, .. } = tunnel;
    exchange.end_tunnel(how);
    // Each side learns of the other's end as it would without us.
    match how {
        Ended::ClientReset => pod.reset(),
        Ended::ByClient if !to_client.done => pod.reset(),
        Ended::PodReset => exchange.downstream.reset(),
        Ended::ByPod if pod.refused() => {
            drop((exchange, pod, peer));
            client.linger().await;
        }
        Ended::ByClient | Ended::ByPod | Ended::Idle | Ended::Shutdown => {}
    }
}

struct Tunnel {
    exchange: Box<Exchange>,
    client: DownstreamIo,
    pod: UpstreamIo,
    to_pod: Way,
    to_client: Way,
    /// Who was done first.
    first: Option<Ended>,
    sni: Sni,
    /// `None` once the line is written.
    open_line: Option<Pin<Box<Sleep>>>,
}

/// One direction.
struct Way {
    /// What the receiver has not taken yet.
    waiting: Bytes,
    /// The sender has ended its direction.
    ended: bool,
    /// And the receiver knows.
    done: bool,
}

impl Way {
    fn new(waiting: Bytes) -> Self {
        Self { waiting, ended: false, done: false }
    }
}

/// Whose end is broken.
enum Fault {
    Sender,
    Receiver,
}

impl Tunnel {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        let worker = Rc::clone(&self.exchange.worker);
        let buffer = &mut *worker.buffer.borrow_mut();
        let Self { exchange, client, pod, to_pod, to_client, first, sni, open_line } = self;
        let look = |exchange: &mut Exchange, bytes: &[u8]| {
            exchange.passed(Direction::ToPod, bytes.len());
            if let Some(name) = sni.look(bytes) {
                exchange.record.server_name = Some(name);
            }
        };
        match poll_way(cx, to_pod, client, pod, buffer, exchange, look) {
            Poll::Ready(Ok(())) => {
                first.get_or_insert(Ended::ByClient);
                exchange.client_is_done();
            }
            Poll::Ready(Err(Fault::Sender)) => return Poll::Ready(Ended::ClientReset),
            Poll::Ready(Err(Fault::Receiver)) => return Poll::Ready(Ended::PodReset),
            Poll::Pending => {}
        }
        let count = |exchange: &mut Exchange, bytes: &[u8]| exchange.passed(Direction::ToClient, bytes.len());
        match poll_way(cx, to_client, pod, client, buffer, exchange, count) {
            Poll::Ready(Ok(())) => {
                first.get_or_insert(Ended::ByPod);
            }
            Poll::Ready(Err(Fault::Sender)) => return Poll::Ready(Ended::PodReset),
            // A client that has said goodbye need not wait for the pod's.
            Poll::Ready(Err(Fault::Receiver)) if *first == Some(Ended::ByClient) => {
                return Poll::Ready(Ended::ByClient);
            }
            Poll::Ready(Err(Fault::Receiver)) => return Poll::Ready(Ended::ClientReset),
            Poll::Pending => {}
        }
        match *first {
            // A pod that is done and reads no more: what the client still says is for nobody.
            Some(first) if to_client.done && (to_pod.done || pod.refused()) => return Poll::Ready(first),
            _ => {}
        }
        if let Some(timer) = open_line
            && timer.as_mut().poll(cx).is_ready()
        {
            *open_line = None;
            exchange.write_open_line();
        }
        match exchange.interrupted(cx) {
            Some(_) => Poll::Ready(Ended::Idle),
            None => Poll::Pending,
        }
    }
}

/// Moves what there is from one side to the other; ready when the sender is done and the receiver knows.
fn poll_way<S, R>(
    cx: &mut Context<'_>,
    way: &mut Way,
    sender: &mut S,
    receiver: &mut R,
    buffer: &mut [u8],
    exchange: &mut Exchange,
    mut passed: impl FnMut(&mut Exchange, &[u8]),
) -> Poll<Result<(), Fault>>
where
    S: AsyncRead + Unpin,
    R: AsyncWrite + Unpin,
{
    let (mut sender, mut receiver) = (Pin::new(sender), Pin::new(receiver));
    while !way.done {
        while !way.waiting.is_empty() {
            match ready!(receiver.as_mut().poll_write(cx, &way.waiting)) {
                Ok(count) if count > 0 => way.waiting.advance(count),
                _ => return Poll::Ready(Err(Fault::Receiver)),
            }
            if way.waiting.is_empty() {
                // Gives the memory back.
                way.waiting = Bytes::new();
            }
        }
        if way.ended {
            // A receiver that is gone need not be told.
            let _ = ready!(receiver.as_mut().poll_shutdown(cx));
            way.done = true;
            break;
        }
        let mut read = ReadBuf::new(buffer);
        match sender.as_mut().poll_read(cx, &mut read) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => return Poll::Ready(Err(Fault::Sender)),
            Poll::Pending => {
                // A receiver behind TLS may hold something back until it is told to send it.
                return match receiver.as_mut().poll_flush(cx) {
                    Poll::Ready(Err(_)) => Poll::Ready(Err(Fault::Receiver)),
                    _ => Poll::Pending,
                };
            }
        }
        let read = read.filled();
        if read.is_empty() {
            way.ended = true;
            continue;
        }
        passed(exchange, read);
        let taken = match receiver.as_mut().poll_write(cx, read) {
            Poll::Ready(Ok(count)) => count,
            Poll::Ready(Err(_)) => return Poll::Ready(Err(Fault::Receiver)),
            Poll::Pending => 0,
        };
        way.waiting = Bytes::copy_from_slice(&read[taken..]);
    }
    Poll::Ready(Ok(()))
}
