//! The backend of the reference scenario: answers every HTTP request with the name of its pod.
//!
//! It is compiled by `rustc` alone, statically, so it uses the standard library only. Paths that do something else:
//! `/headers` answers with the request's head, `/status/503` with that status, `/sleep/250` after so many milliseconds,
//! and `/close` closes the connection without an answer.

use std::env;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

/// More than any test sends; a longer head ends the connection.
const HEAD_LIMIT: u64 = 64 * 1024;

fn main() -> std::io::Result<()> {
    let port = env::args().nth(1).unwrap_or_else(|| "10000".to_owned());
    #[expect(clippy::disallowed_methods, reason = "the kubelet sets it to the pod's name")]
    let host = env::var("HOSTNAME").unwrap_or_else(|_| "nowhere".to_owned());
    let listener = TcpListener::bind(format!("0.0.0.0:{port}"))?;
    log(&format!("{host} listens on port {port}"));
    for stream in listener.incoming().flatten() {
        let host = host.clone();
        // A connection that breaks concerns nobody else.
        thread::spawn(move || drop(serve(&stream, &host)));
    }
    Ok(())
}

fn log(line: &str) {
    // Whoever reads the log may have gone.
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Answers the requests of one connection, until it is closed.
fn serve(stream: &TcpStream, host: &str) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    while let Some(request) = Request::read(&mut reader)? {
        let Some(answer) = request.answer(host) else { return Ok(()) };
        (&*stream).write_all(answer.as_bytes())?;
        log(&format!("{host} {}", request.line()));
        if !request.keeps_alive() {
            return Ok(());
        }
    }
    Ok(())
}

struct Request {
    head: String,
}

impl Request {
    /// `None` at the end of the connection.
    fn read(reader: &mut impl BufRead) -> std::io::Result<Option<Self>> {
        let mut head = String::new();
        let mut limited = reader.take(HEAD_LIMIT);
        while !head.ends_with("\r\n\r\n") {
            if limited.read_line(&mut head)? == 0 {
                return Ok(None);
            }
        }
        let request = Self { head };
        let length = request.header("content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
        std::io::copy(&mut reader.take(length), &mut std::io::sink())?;
        Ok(Some(request))
    }

    fn line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

    fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        headers.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    fn keeps_alive(&self) -> bool {
        let asked = self.header("connection").map(str::to_ascii_lowercase);
        match asked.as_deref() {
            Some("close") => false,
            Some("keep-alive") => true,
            _ => self.line().ends_with("HTTP/1.1"),
        }
    }

    /// `None` closes the connection.
    fn answer(&self, host: &str) -> Option<String> {
        let path = self.line().split(' ').nth(1).unwrap_or("/");
        let path = path.split('?').next().unwrap_or(path);
        let mut status = 200;
        let mut body = format!("i am backend in {host}\n");
        match path.trim_start_matches('/').split_once('/').unwrap_or((path.trim_start_matches('/'), "")) {
            ("close", _) => return None,
            ("headers", _) => body.clone_from(&self.head),
            ("status", code) => status = code.parse().unwrap_or(400),
            ("sleep", time) => pause(Duration::from_millis(time.parse().unwrap_or(0))),
            _ => {}
        }
        let connection = if self.keeps_alive() { "keep-alive" } else { "close" };
        let length = body.len();
        Some(format!(
            "HTTP/1.1 {status} Scripted\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\n\
             connection: {connection}\r\n\r\n{body}"
        ))
    }
}

#[expect(clippy::disallowed_methods, reason = "a thread of this one connection, told to be slow")]
fn pause(time: Duration) {
    thread::sleep(time);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(head: &str) -> Request {
        Request::read(&mut head.as_bytes()).unwrap().unwrap()
    }

    #[test]
    fn the_answer_names_the_pod() {
        let answer = request("GET /test HTTP/1.1\r\nHost: a\r\n\r\n").answer("backend-1").unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.ends_with("\r\n\r\ni am backend in backend-1\n"), "{answer}");
    }

    #[test]
    fn the_path_scripts_the_answer() {
        let answer = |path: &str| request(&format!("GET {path} HTTP/1.1\r\nx-a: b\r\n\r\n")).answer("pod");
        assert!(answer("/status/503").unwrap().starts_with("HTTP/1.1 503 "));
        assert!(answer("/headers").unwrap().contains("\r\n\r\nGET /headers HTTP/1.1\r\nx-a: b\r\n"));
        assert!(answer("/close").is_none());
    }

    #[test]
    fn a_body_is_not_taken_for_the_next_request() {
        let mut input =
            "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET /next HTTP/1.0\r\n\r\n".as_bytes();
        assert!(Request::read(&mut input).unwrap().unwrap().keeps_alive());
        let next = Request::read(&mut input).unwrap().unwrap();
        assert_eq!(next.line(), "GET /next HTTP/1.0");
        assert!(!next.keeps_alive());
        assert!(Request::read(&mut input).unwrap().is_none());
    }
}
