//! Reading HTTP/1 messages as they are, byte by byte traceable: for the raw client and the scripted backend.
//!
//! Deliberately apart from hyper, which the proxy uses: what one library gets wrong the tests must not get wrong too.

use std::io;
use std::sync::{Arc, Mutex};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::sync::lock;

/// The most that a head, a line or a length may take; beyond that the other side has gone mad.
const HEAD_LIMIT: usize = 1 << 20;
const BODY_LIMIT: usize = 1 << 30;
/// Room for each read.
const READ_SIZE: usize = 16 << 10;

/// The bytes that one side has received, to be looked at from outside.
pub(crate) type Log = Arc<Mutex<Vec<u8>>>;

/// A stream and what was read from it but not used yet.
#[derive(Debug)]
pub(crate) struct Wire<S> {
    pub(crate) stream: S,
    unused: BytesMut,
    used: Vec<u8>,
    log: Option<Log>,
}

/// The start line and the headers of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) start_line: String,
    pub(crate) headers: Headers,
}

/// Header lines in their order; names as they came.
pub(crate) type Headers = Vec<(String, String)>;

/// Where a body ends (RFC 9112 §6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    Length(usize),
    Chunked,
    UntilClose,
}

/// A body and the trailers after it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Body {
    pub(crate) bytes: Vec<u8>,
    pub(crate) trailers: Headers,
}

impl<S: AsyncRead + Unpin> Wire<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, unused: BytesMut::new(), used: Vec::new(), log: None }
    }

    /// Every byte read is also appended to the log.
    pub(crate) fn logged(stream: S, log: Log) -> Self {
        Self { log: Some(log), ..Self::new(stream) }
    }

    /// Reads more bytes; false at the end of the stream.
    pub(crate) async fn fill(&mut self) -> io::Result<bool> {
        let before = self.unused.len();
        self.unused.reserve(READ_SIZE);
        self.stream.read_buf(&mut self.unused).await?;
        if let Some(log) = &self.log {
            lock(log).extend_from_slice(&self.unused[before..]);
        }
        Ok(self.unused.len() > before)
    }

    /// Whether bytes are there already that nothing has used.
    pub(crate) fn has_unused(&self) -> bool {
        !self.unused.is_empty()
    }

    /// The bytes used since this was last called: a message exactly as it came.
    pub(crate) fn take_used(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.used)
    }

    /// Reads a head; None if the stream ends before its first byte.
    pub(crate) async fn head(&mut self) -> io::Result<Option<Head>> {
        let Some(start_line) = self.line().await? else { return Ok(None) };
        let headers = self.headers().await?;
        Ok(Some(Head { start_line, headers }))
    }

    /// Reads a body to its end.
    pub(crate) async fn body(&mut self, framing: Framing) -> io::Result<Body> {
        match framing {
            Framing::Length(length) => Ok(Body { bytes: self.take(length).await?, ..Body::default() }),
            Framing::Chunked => self.chunked().await,
            Framing::UntilClose => {
                self.drain().await?;
                Ok(Body { bytes: self.take_unused(), ..Body::default() })
            }
        }
    }

    /// Reads until the stream ends, and keeps the bytes unused.
    pub(crate) async fn drain(&mut self) -> io::Result<()> {
        while self.fill().await? {}
        Ok(())
    }

    /// Gives away the bytes that nothing has used.
    pub(crate) fn take_unused(&mut self) -> Vec<u8> {
        self.split(self.unused.len())
    }

    async fn chunked(&mut self) -> io::Result<Body> {
        let mut bytes = Vec::new();
        loop {
            let line = self.line().await?.ok_or_else(|| ended("a chunk's size"))?;
            let size = chunk_size(&line)?;
            if size == 0 {
                return Ok(Body { bytes, trailers: self.headers().await? });
            }
            bytes.append(&mut self.take(size).await?);
            if self.take(2).await? != b"\r\n" {
                return Err(invalid("no line end after a chunk"));
            }
        }
    }

    /// Header or trailer lines and the empty line after them.
    async fn headers(&mut self) -> io::Result<Headers> {
        let mut headers = Headers::new();
        let mut total = 0;
        loop {
            let line = self.line().await?.ok_or_else(|| ended("the headers"))?;
            if line.is_empty() {
                return Ok(headers);
            }
            total += line.len();
            if total > HEAD_LIMIT {
                return Err(invalid("headers of more than 1 MiB"));
            }
            let (name, value) =
                line.split_once(':').ok_or_else(|| invalid(&format!("no colon in header line {line:?}")))?;
            headers.push((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()));
        }
    }

    /// One line without its CRLF; None if the stream ends before its first byte.
    async fn line(&mut self) -> io::Result<Option<String>> {
        let mut searched = 0;
        loop {
            if let Some(position) = self.unused[searched..].windows(2).position(|pair| pair == b"\r\n") {
                let mut line = self.split(searched + position + 2);
                line.truncate(searched + position);
                return Ok(Some(String::from_utf8_lossy(&line).into_owned()));
            }
            if self.unused.len() > HEAD_LIMIT {
                return Err(invalid("a line of more than 1 MiB"));
            }
            searched = self.unused.len().saturating_sub(1);
            if !self.fill().await? {
                return if self.unused.is_empty() { Ok(None) } else { Err(ended("a line")) };
            }
        }
    }

    async fn take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.unused.len() < length {
            if !self.fill().await? {
                let text =
                    format!("the connection ended after {} of {length} bytes of a body", self.unused.len());
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
            }
        }
        Ok(self.split(length))
    }

    fn split(&mut self, length: usize) -> Vec<u8> {
        let taken = self.unused.split_to(length);
        self.used.extend_from_slice(&taken);
        taken.into()
    }
}

impl Head {
    /// The first header of this name, in any case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    /// Where a request's body ends: without framing headers at once.
    pub(crate) fn request_framing(&self) -> io::Result<Framing> {
        self.framing(Framing::Length(0))
    }

    /// Where a response's body ends: without framing headers with the connection. HEAD, 1xx, 204 and 304 are the caller's
    /// to know.
    pub(crate) fn response_framing(&self) -> io::Result<Framing> {
        self.framing(Framing::UntilClose)
    }

    fn framing(&self, otherwise: Framing) -> io::Result<Framing> {
        let is_chunked = |value: &str| value.to_ascii_lowercase().ends_with("chunked");
        if self.header("transfer-encoding").is_some_and(is_chunked) {
            return Ok(Framing::Chunked);
        }
        let Some(length) = self.header("content-length") else { return Ok(otherwise) };
        match length.parse() {
            Ok(length) if length <= BODY_LIMIT => Ok(Framing::Length(length)),
            _ => Err(invalid(&format!("content-length {length:?}"))),
        }
    }
}

/// The first value of this name, in any case.
pub(crate) fn find<'h>(headers: &'h [(String, String)], name: &str) -> Option<&'h str> {
    headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// Hexadecimal, perhaps with an extension after a semicolon (RFC 9112 §7.1).
fn chunk_size(line: &str) -> io::Result<usize> {
    let digits = line.split(';').next().unwrap_or_default().trim_end();
    let only_digits = !digits.is_empty() && digits.chars().all(|c| c.is_ascii_hexdigit());
    match usize::from_str_radix(digits, 16) {
        Ok(size) if only_digits && size <= BODY_LIMIT => Ok(size),
        _ => Err(invalid(&format!("chunk size {line:?}"))),
    }
}

fn ended(within: &str) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, format!("the connection ended within {within}"))
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not HTTP/1: {what}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[tokio::test]
    async fn a_message_is_read_exactly_and_the_next_one_is_left() {
        let first = b"POST /a HTTP/1.1\r\nHost: x\r\nX-Blank:\r\nContent-Length:  3 \r\n\r\nabc";
        let second = b"GET /b HTTP/1.1\r\n\r\n";
        let bytes = [first.as_slice(), second].concat();
        let log = Log::default();
        let mut wire = Wire::logged(bytes.as_slice(), Arc::clone(&log));

        let head = wire.head().await.unwrap().unwrap();
        assert_eq!(head.start_line, "POST /a HTTP/1.1");
        assert_eq!(head.header("HOST"), Some("x"));
        assert_eq!(head.header("x-blank"), Some(""));
        let framing = head.request_framing().unwrap();
        assert_eq!(framing, Framing::Length(3));
        assert_eq!(wire.body(framing).await.unwrap().bytes, b"abc");
        assert_eq!(wire.take_used(), first);

        let head = wire.head().await.unwrap().unwrap();
        assert_eq!(head.start_line, "GET /b HTTP/1.1");
        assert_eq!(head.request_framing().unwrap(), Framing::Length(0));
        assert_eq!(head.response_framing().unwrap(), Framing::UntilClose);
        assert_eq!(wire.take_used(), second);
        assert_eq!(wire.head().await.unwrap(), None);
        assert_eq!(*lock(&log), bytes);
    }

    #[tokio::test]
    async fn chunks_are_joined_and_trailers_kept() {
        let bytes = b"3\r\nabc\r\nA;name=value\r\n0123456789\r\n0\r\nx-trailer: t\r\n\r\nnext";
        let mut wire = Wire::new(bytes.as_slice());
        let body = wire.body(Framing::Chunked).await.unwrap();
        assert_eq!(body.bytes, b"abc0123456789");
        assert_eq!(body.trailers, [("x-trailer".to_owned(), "t".to_owned())]);
        wire.drain().await.unwrap();
        assert_eq!(wire.take_unused(), b"next");
    }

    #[tokio::test]
    async fn what_is_not_http_is_an_error_with_its_reason() {
        let cases: [(&[u8], io::ErrorKind, &str); 4] = [
            (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", io::ErrorKind::InvalidData, "no colon"),
            (b"GET / HTTP/1.1\r\nhost: x\r\n", io::ErrorKind::UnexpectedEof, "within the headers"),
            (b"GET / HTT", io::ErrorKind::UnexpectedEof, "within a line"),
            (b"GET / HTTP/1.1\r\nhost", io::ErrorKind::UnexpectedEof, "within a line"),
        ];
        for (bytes, kind, text) in cases {
            let error = Wire::new(bytes).head().await.unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().contains(text), "{error}");
        }
        let bodies: [(&[u8], io::ErrorKind, &str); 5] = [
            (b"-3\r\nabc\r\n", io::ErrorKind::InvalidData, "chunk size \"-3\""),
            (b"+3\r\nabc\r\n", io::ErrorKind::InvalidData, "chunk size \"+3\""),
            (b"ffffffffffffffffffff\r\n", io::ErrorKind::InvalidData, "chunk size"),
            (b"3\r\nabcde\r\n", io::ErrorKind::InvalidData, "no line end"),
            (b"5\r\nabc", io::ErrorKind::UnexpectedEof, "3 of 5 bytes"),
        ];
        for (bytes, kind, text) in bodies {
            let error = Wire::new(bytes).body(Framing::Chunked).await.unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().contains(text), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in "([a-zA-Z0-9:; -]{0,8}|\r\n|\n){0,20}") {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let mut wire = Wire::new(bytes.as_bytes());
                if let Ok(Some(head)) = wire.head().await {
                    let _ = head.request_framing().map(|_| ());
                }
                let _ = wire.body(Framing::Chunked).await;
            });
        }

        #[test]
        fn any_chunking_gives_the_same_body(chunks in proptest::collection::vec(
            proptest::collection::vec(any::<u8>(), 1..40), 0..10
        )) {
            let mut bytes = Vec::new();
            for chunk in &chunks {
                bytes.extend(format!("{:x}\r\n", chunk.len()).bytes());
                bytes.extend(chunk);
                bytes.extend(b"\r\n");
            }
            bytes.extend(b"0\r\n\r\n");
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let body = runtime.block_on(Wire::new(bytes.as_slice()).body(Framing::Chunked)).unwrap();
            prop_assert_eq!(body.bytes, chunks.concat());
        }
    }
}
