//! A small raw HTTP/1 client: sends any bytes, reads what comes back as it is.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::wire::{Framing, Head, Wire, find};

/// A connection; requests and responses can follow each other on it.
#[derive(Debug)]
pub struct Client {
    wire: Wire<TcpStream>,
    timeout: Duration,
}

/// One response, as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// `HTTP/1.0` or `HTTP/1.1`.
    pub version: String,
    /// The status code.
    pub status: u16,
    /// What follows the status code, often nothing.
    pub reason: String,
    /// Names as they came, values without the blanks around them.
    pub headers: Vec<(String, String)>,
    /// Without chunked framing.
    pub body: Vec<u8>,
    /// After a chunked body.
    pub trailers: Vec<(String, String)>,
    /// Every byte of the response.
    pub raw: Vec<u8>,
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The other side closed it (FIN).
    Closed,
    /// The other side reset it (RST).
    Reset,
    /// It was still open when the time was over.
    Open,
}

/// How long to wait for anything, unless told otherwise.
const TIMEOUT: Duration = Duration::from_secs(5);

impl Client {
    /// Connects, waiting 5 s at most; so with everything that follows.
    ///
    /// # Errors
    /// When nobody accepts in time.
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        let connected = tokio::time::timeout(TIMEOUT, TcpStream::connect(address)).await;
        let stream = connected.map_err(|_| timed_out("connecting", TIMEOUT))??;
        stream.set_nodelay(true)?;
        Ok(Self { wire: Wire::new(stream), timeout: TIMEOUT })
    }

    /// Waits this long at most in each call from now on.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// This side's address.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.wire.stream.local_addr()
    }

    /// Sends these bytes as they are.
    ///
    /// # Errors
    /// When the connection is gone, or the other side does not read in time.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        let sent = tokio::time::timeout(self.timeout, self.wire.stream.write_all(bytes.as_ref())).await;
        sent.map_err(|_| timed_out("sending", self.timeout))?
    }

    /// Ends this direction (FIN); responses can still be read.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn finish(&mut self) -> io::Result<()> {
        self.wire.stream.shutdown().await
    }

    /// Sends `GET path` and reads the response; the connection stays open.
    ///
    /// # Errors
    /// As [`send`](Self::send) and [`response`](Self::response).
    pub async fn get(&mut self, path: &str) -> io::Result<Response> {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: backend-service\r\n\r\n")).await?;
        self.response().await
    }

    /// Reads one response with its body. An interim response (1xx) is a response of its own.
    ///
    /// # Errors
    /// `UnexpectedEof` if the connection ends before the response does, `ConnectionReset`, `TimedOut`, and `InvalidData` if
    /// it is no HTTP/1.
    pub async fn response(&mut self) -> io::Result<Response> {
        self.read(false).await
    }

    /// Reads one response to a HEAD request: without a body, whatever its headers say.
    ///
    /// # Errors
    /// As [`response`](Self::response).
    pub async fn response_to_head(&mut self) -> io::Result<Response> {
        self.read(true).await
    }

    /// Reads until the connection ends: the bytes that still came, and how it ended.
    pub async fn end(&mut self) -> (Vec<u8>, End) {
        let end = match tokio::time::timeout(self.timeout, self.wire.drain()).await {
            Err(_) => End::Open,
            Ok(Ok(())) => End::Closed,
            Ok(Err(_)) => End::Reset,
        };
        (self.wire.take_unused(), end)
    }

    async fn read(&mut self, to_head: bool) -> io::Result<Response> {
        let read = tokio::time::timeout(self.timeout, self.read_unhurried(to_head)).await;
        read.map_err(|_| timed_out("a whole response", self.timeout))?
    }

    async fn read_unhurried(&mut self, to_head: bool) -> io::Result<Response> {
        self.wire.take_used();
        let none = || io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended without a response");
        let head = self.wire.head().await?.ok_or_else(none)?;
        let (version, status, reason) = status_line(&head)?;
        let bodiless = to_head || matches!(status, 100..200 | 204 | 304);
        let framing = if bodiless { Framing::Length(0) } else { head.response_framing()? };
        let body = self.wire.body(framing).await?;
        Ok(Response {
            version,
            status,
            reason,
            headers: head.headers,
            body: body.bytes,
            trailers: body.trailers,
            raw: self.wire.take_used(),
        })
    }
}

impl Response {
    /// The first header of this name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    /// The body as text; what is not UTF-8 is replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// `HTTP/1.1 200 OK`, the reason perhaps missing (RFC 9112 §4).
fn status_line(head: &Head) -> io::Result<(String, u16, String)> {
    let mut fields = head.start_line.splitn(3, ' ');
    let (version, status) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
    match status.parse() {
        Ok(code @ 100..1000) if status.len() == 3 && version.starts_with("HTTP/1.") => {
            Ok((version.to_owned(), code, fields.next().unwrap_or_default().to_owned()))
        }
        _ => {
            let text = format!("not HTTP/1: status line {:?}", head.start_line);
            Err(io::Error::new(io::ErrorKind::InvalidData, text))
        }
    }
}

fn timed_out(what: &str, limit: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("{what} took longer than {limit:?}"))
}
