//! One HTTP request, for the few that the harness itself makes.

use anyhow::{Context, Result};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(10);

/// What a server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body.
    pub body: String,
}

/// Asks once, on a connection of its own (HTTP/1.0, so that the answer ends with the connection).
pub fn http_get(address: SocketAddr, path: &str) -> Result<Answer> {
    http_send(address, &format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n"))
}

/// Sends this request, head and body, on a connection of its own, which the server must close after its answer.
pub fn http_send(address: SocketAddr, request: &str) -> Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&address, LIMIT).context("cannot connect")?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_nodelay(true)?;
    stream.write_all(request.as_bytes()).context("cannot send")?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text).context("cannot read the answer")?;
    parse(&String::from_utf8_lossy(&text)).with_context(|| format!("no HTTP answer from {address}"))
}

fn parse(text: &str) -> Option<Answer> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut words = head.split(' ');
    words.next().filter(|version| version.starts_with("HTTP/1."))?;
    Some(Answer { status: words.next()?.parse().ok()?, body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_a_status_and_a_body() {
        let answer = parse("HTTP/1.1 503 Service Unavailable\r\na: b\r\n\r\nno pods\n").unwrap();
        assert_eq!(answer, Answer { status: 503, body: "no pods\n".into() });
        for broken in ["", "HTTP/1.1 200 OK", "SSH-2.0\r\n\r\n", "HTTP/1.1 x\r\n\r\n"] {
            assert_eq!(parse(broken), None, "{broken}");
        }
    }
}
