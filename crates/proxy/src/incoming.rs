//! A body that comes in, from a client or from a pod, over HTTP/1 or HTTP/2.

use std::error::Error as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http::{HeaderMap, header};
use http_body::{Body, Frame, SizeHint};

/// A body that comes in.
#[derive(Debug)]
pub enum Incoming {
    /// Over HTTP/1.
    Http1(hyper::body::Incoming),
    /// Over HTTP/2.
    Http2(Http2Body),
}

/// What an HTTP/2 stream brings.
#[derive(Debug)]
pub struct Http2Body {
    stream: RecvStream,
    length: Option<u64>,
    data_ended: bool,
}

/// Why a body ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// Over HTTP/1.
    #[error(transparent)]
    Http1(#[from] hyper::Error),
    /// Over HTTP/2.
    #[error(transparent)]
    Http2(#[from] h2::Error),
}

impl Incoming {
    /// What follows a head on an HTTP/2 stream.
    #[must_use]
    pub fn http2(stream: RecvStream, head: &HeaderMap) -> Self {
        let length = if stream.is_end_stream() { Some(0) } else { content_length(head) };
        Self::Http2(Http2Body { stream, length, data_ended: false })
    }
}

/// h2 has checked it.
fn content_length(head: &HeaderMap) -> Option<u64> {
    head.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

impl Http2Body {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if !self.data_ended {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // Whoever polls has room for it: that is how far the sender's window opens.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.data_ended = true,
            }
        }
        let trailers = ready!(self.stream.poll_trailers(cx));
        Poll::Ready(trailers.transpose().map(|trailers| trailers.map(Frame::trailers)))
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Http1(body) => Pin::new(body).poll_frame(cx).map_err(BodyError::Http1),
            Self::Http2(body) => body.poll_frame(cx).map_err(BodyError::Http2),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.length.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

impl BodyError {
    /// True if it was cut off here because memory runs short.
    #[must_use]
    pub fn is_overload(&self) -> bool {
        let kind = match self {
            Self::Http1(error) => io_error(error),
            Self::Http2(error) => error.get_io().map(io::Error::kind),
        };
        kind == Some(io::ErrorKind::OutOfMemory)
    }

    /// True if the bytes of the body themselves are wrong, rather than the connection they came over.
    #[must_use]
    pub fn is_malformed(&self) -> bool {
        match self {
            Self::Http1(error) => !error.is_incomplete_message() && is_malformed_http1(error),
            Self::Http2(error) => error.is_library(),
        }
    }
}

fn is_malformed_http1(error: &hyper::Error) -> bool {
    matches!(io_error(error), Some(io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData))
}

/// What the socket said, if that is the cause.
fn io_error(error: &hyper::Error) -> Option<io::ErrorKind> {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            return Some(io.kind());
        }
        source = cause.source();
    }
    None
}
