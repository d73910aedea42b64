//! A body on its way out, as far as the peer's window allows.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::Body;

/// Moves a body's frames into a stream; a future.
pub struct Pump<B> {
    body: B,
    stream: SendStream<Bytes>,
    /// Data that waits for the peer's window, and whether it is the last.
    waiting: Option<(Bytes, bool)>,
    /// The first piece goes out without asking for room: most bodies have one.
    begun: bool,
}

/// Why a body did not get to its end.
#[derive(Debug)]
pub enum Stopped<E> {
    /// The peer, or the connection to it, ended the stream.
    Peer,
    /// The body itself broke off.
    Body(E),
}

impl<B: Body<Data = Bytes> + Unpin> Pump<B> {
    /// Nothing is moved before the first poll.
    #[must_use]
    pub const fn new(body: B, stream: SendStream<Bytes>) -> Self {
        Self { body, stream, waiting: None, begun: false }
    }

    /// The body, while data of it waits for the peer's window.
    pub fn waiting(&mut self) -> Option<&mut B> {
        self.waiting.is_some().then_some(&mut self.body)
    }

    /// Ends the stream before its end.
    pub fn reset(&mut self, reason: Reason) {
        self.stream.send_reset(reason);
    }

    fn send(&mut self, data: Bytes, last: bool) -> Result<(), Stopped<B::Error>> {
        self.begun = true;
        self.stream.send_data(data, last).map_err(|_| Stopped::Peer)
    }

    /// Ready when the peer's window has room for at least a byte. What exceeds it waits in h2, one piece at most.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stopped<B::Error>>> {
        if !self.begun {
            return Poll::Ready(Ok(()));
        }
        self.stream.reserve_capacity(1);
        while self.stream.capacity() == 0 {
            match ready!(self.stream.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Poll::Ready(Err(Stopped::Peer)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<B: Body<Data = Bytes> + Unpin> Future for Pump<B> {
    type Output = Result<(), Stopped<B::Error>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let me = &mut *self;
        if me.stream.poll_reset(cx).is_ready() {
            return Poll::Ready(Err(Stopped::Peer));
        }
        loop {
            if me.waiting.is_some() {
                ready!(me.poll_room(cx))?;
            }
            if let Some((data, last)) = me.waiting.take() {
                me.send(data, last)?;
                if last {
                    return Poll::Ready(Ok(()));
                }
            }
            let frame = match ready!(Pin::new(&mut me.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Poll::Ready(Err(Stopped::Body(error))),
                None => return Poll::Ready(me.send(Bytes::new(), true)),
            };
            match frame.into_data() {
                Ok(data) => {
                    let last = me.body.is_end_stream();
                    // Nothing in it: nobody needs the frame, and receivers count empty ones as an attack.
                    if !data.is_empty() || last {
                        me.waiting = Some((data, last));
                    }
                }
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        me.stream.reserve_capacity(0);
                        return Poll::Ready(me.stream.send_trailers(trailers).map_err(|_| Stopped::Peer));
                    }
                }
            }
        }
    }
}
