//! Attacks over HTTP/2, frame by frame: what is malformed reaches no pod, and what floods costs nobody else.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step is a failed test")]

use std::cell::Cell;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use whichpod_testkit::http2::{Http2Client, Http2Pod, request};
use whichpod_tests_sidecar::{ANY, Rig, eventually};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

const PROTOCOL_ERROR: u32 = 1;
const ENHANCE_YOUR_CALM: u32 = 11;

/// A client that writes frames as it likes.
struct Raw {
    stream: TcpStream,
}

/// One frame that came back.
#[derive(Debug)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Frame {
    /// The error code of RST_STREAM or GOAWAY.
    fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Fields without any compression (RFC 7541 §6.2.2).
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let text = |bytes: &mut Vec<u8>, text: &str| {
        if text.len() < 127 {
            bytes.push(u8::try_from(text.len()).unwrap());
        } else {
            bytes.push(127);
            let mut left = text.len() - 127;
            while left >= 128 {
                bytes.push(u8::try_from(left % 128).unwrap() | 128);
                left /= 128;
            }
            bytes.push(u8::try_from(left).unwrap());
        }
        bytes.extend_from_slice(text.as_bytes());
    };
    for (name, value) in fields {
        bytes.push(0);
        text(&mut bytes, name);
        text(&mut bytes, value);
    }
    bytes
}

/// Names and values.
type Fields = Vec<(&'static str, &'static str)>;

const GET: &[(&str, &str)] = &[(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")];

impl Raw {
    async fn connect(rig: &Rig) -> Self {
        let mut stream = TcpStream::connect(rig.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        let mut raw = Self { stream };
        raw.send(&frame(SETTINGS, 0, 0, &[])).await;
        raw
    }

    /// Sends as far as the other side wants to read.
    async fn send(&mut self, bytes: &[u8]) -> bool {
        timeout(Duration::from_secs(5), self.stream.write_all(bytes)).await.is_ok_and(|sent| sent.is_ok())
    }

    async fn head(&mut self, stream: u32, fields: &[(&str, &str)]) {
        self.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(fields))).await;
    }

    /// The next frame; `None` at the end of the connection.
    async fn next(&mut self) -> Option<Frame> {
        let read = async {
            let mut head = [0; 9];
            self.stream.read_exact(&mut head).await.ok()?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let mut payload = vec![0; length];
            self.stream.read_exact(&mut payload).await.ok()?;
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            Some(Frame { kind: head[3], flags: head[4], stream, payload })
        };
        timeout(Duration::from_secs(5), read).await.expect("a frame, or the end, comes")
    }

    /// The next frame of one of these kinds.
    async fn until(&mut self, kinds: &[u8]) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if kinds.contains(&frame.kind) {
                return Some(frame);
            }
        }
    }
}

async fn rig() -> (Http2Pod, Rig) {
    let pod = Http2Pod::start("backend-1", ANY).await.unwrap();
    let rig = Rig::new(pod.address(), json!({}));
    (pod, rig)
}

#[tokio::test]
async fn a_malformed_request_ends_its_own_stream_and_reaches_no_pod() {
    let get = |change: &[(&'static str, &'static str)]| {
        let mut fields: Fields = GET.to_vec();
        fields.extend_from_slice(change);
        fields
    };
    let without = |name: &str| GET.iter().filter(|(field, _)| *field != name).copied().collect::<Vec<_>>();
    // Those that h2 refuses itself have no line: it does not tell.
    let rows: Vec<(&str, Fields, bool)> = vec![
        ("Host unequal to :authority", get(&[("host", "b")]), true),
        ("two Hosts", get(&[("host", "a"), ("host", "a")]), true),
        ("a value that begins with a blank", get(&[("x", " 1")]), true),
        ("a value that ends with a tab", get(&[("x", "1\t")]), true),
        ("CONNECT without authority", vec![(":method", "CONNECT")], true),
        ("a path without a slash", [without(":path"), vec![(":path", "x")]].concat(), false),
        ("user information", [without(":authority"), vec![(":authority", "u@a")]].concat(), true),
        ("a line end in a value", get(&[("x", "a\r\nb: c")]), false),
        ("a NUL in a value", get(&[("x", "a\0")]), false),
        ("a capital in a name", get(&[("X", "1")]), false),
        ("a connection field", get(&[("connection", "close")]), false),
        ("an upgrade", get(&[("upgrade", "h2c")]), false),
        ("a transfer coding", get(&[("transfer-encoding", "chunked")]), false),
        ("a TE other than trailers", get(&[("te", "gzip")]), false),
        ("a pseudo-header after a header", get(&[("x", "1"), (":path", "/2")]), false),
        ("a pseudo-header twice", get(&[(":path", "/2")]), false),
        ("an unknown pseudo-header", get(&[(":x", "1")]), false),
        ("a response's pseudo-header", get(&[(":status", "200")]), false),
        ("no method", without(":method"), false),
        ("no scheme", without(":scheme"), false),
        ("no path", without(":path"), false),
        ("two lengths", get(&[("content-length", "0"), ("content-length", "1")]), false),
        ("the same length twice", get(&[("content-length", "0"), ("content-length", "0")]), true),
        ("a length without a body", get(&[("content-length", "1")]), false),
    ];
    let (pod, rig) = rig().await;
    let mut lines = 0;
    for (what, fields, has_line) in rows {
        let mut raw = Raw::connect(&rig).await;
        raw.head(1, &fields).await;
        let end = raw.until(&[HEADERS, RST_STREAM, GOAWAY]).await.expect(what);
        assert_eq!(
            (end.kind, end.code()),
            (if end.kind == GOAWAY { GOAWAY } else { RST_STREAM }, PROTOCOL_ERROR),
            "{what}"
        );
        if end.kind == RST_STREAM {
            raw.head(3, GET).await;
            let answer = raw.until(&[HEADERS, GOAWAY]).await.expect(what);
            assert_eq!((answer.kind, answer.stream), (HEADERS, 3), "{what}: the connection goes on");
            lines += 1;
        }
        if has_line {
            lines += 1;
            let line = rig.lines_with(what, |line| line.flags() == "DPE").await.pop().unwrap();
            assert!(line.status() == 0 || line.status() == 200, "{what}");
        } else if end.kind == GOAWAY {
            lines += 1;
        }
    }
    let all = rig.lines(lines).await;
    let malformed: Vec<_> = all.iter().filter(|line| line.flags() == "DPE").collect();
    for line in malformed {
        assert_eq!((line.status(), line.text("details"), line.tries().len()), (0, "http2.codec_error", 0));
    }
    assert_eq!(pod.requests(), all.iter().filter(|line| line.status() == 200).count(), "no other reached it");
}

#[tokio::test]
async fn upgrade_to_http_2_is_not_smuggled_past_us() {
    let (pod, rig) = rig().await;
    let client = Http2Client::connect(rig.address).await.unwrap();
    let smuggle = request("GET", "/headers", &[("http2-settings", "AAMAAABkAARAAAAAAAIAAAAA")], "");
    let seen = client.send(smuggle).await.unwrap().text();
    assert!(!seen.contains("http2-settings") && seen.contains("x-request-id"), "{seen}");
    assert_eq!(pod.requests(), 1);
}

#[tokio::test]
async fn trailers_cannot_change_what_the_request_was() {
    let (pod, rig) = rig().await;
    let mut raw = Raw::connect(&rig).await;
    raw.send(&frame(
        HEADERS,
        END_HEADERS,
        1,
        &block(&[(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/echo")]),
    ))
    .await;
    raw.send(&frame(DATA, 0, 1, b"abc")).await;
    let trailers = [(":path", "/other"), ("host", "b"), ("content-length", "9"), ("x-sum", "7")];
    raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&trailers))).await;
    let mut came_back = Vec::new();
    loop {
        let frame = raw.until(&[HEADERS, DATA, RST_STREAM]).await.unwrap();
        came_back.extend_from_slice(&frame.payload);
        if frame.kind == RST_STREAM || frame.flags & END_STREAM != 0 {
            break;
        }
    }
    let text = String::from_utf8_lossy(&came_back).into_owned();
    assert!(!text.contains("other") && !text.contains("host"), "{text:?}");
    assert_eq!(pod.requests(), 1);
    assert_eq!(rig.line().await.text("path"), "/echo");
}

#[tokio::test]
async fn a_header_bomb_is_answered_with_431_and_a_worse_one_ends_the_connection() {
    let (pod, rig) = rig().await;
    let mut raw = Raw::connect(&rig).await;
    let many: Vec<(&str, &str)> = GET.iter().copied().chain((0..101).map(|_| ("x", "1"))).collect();
    raw.head(1, &many).await;
    let answer = raw.until(&[HEADERS]).await.unwrap();
    // The status in plain or Huffman-coded digits, after a reference to the static table.
    assert_eq!((answer.stream, pod.requests()), (1, 0));
    let line = rig.line().await;
    assert_eq!((line.status(), line.flags()), (431, "DPE"));

    let value = "v".repeat(1000);
    let large: Vec<(&str, &str)> =
        GET.iter().copied().chain((0..90).map(|_| ("x", value.as_str()))).collect();
    let bytes = block(&large);
    let mut chunks = bytes.chunks(16_000).enumerate().peekable();
    while let Some((index, chunk)) = chunks.next() {
        let kind = if index == 0 { HEADERS } else { CONTINUATION };
        let last = if chunks.peek().is_none() { END_HEADERS } else { 0 };
        let end = if index == 0 { END_STREAM } else { 0 };
        raw.send(&frame(kind, last | end, 3, chunk)).await;
    }
    assert_eq!(raw.until(&[HEADERS]).await.unwrap().stream, 3);
    let line = rig.last_line(2).await;
    assert_eq!((line.status(), line.flags()), (431, "DPE"));

    // A field of 4,000 bytes that the table holds, named by one byte again and again.
    let mut raw = Raw::connect(&rig).await;
    let mut bomb = block(GET);
    bomb.extend_from_slice(&[0x40, 1, b'x', 127]);
    // 3,900 as an integer with a prefix of 7 bits (RFC 7541 §5.1).
    bomb.extend_from_slice(&[189, 29]);
    bomb.extend(std::iter::repeat_n(b'v', 3900));
    bomb.extend(std::iter::repeat_n(0x80 | 62, 12_000));
    raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &bomb)).await;
    let end = raw.until(&[GOAWAY]).await.unwrap();
    assert_eq!(end.code(), ENHANCE_YOUR_CALM);
    assert_eq!(rig.last_line(3).await.flags(), "DPE");
    assert_eq!(pod.requests(), 0);
}

/// How long answers take: the middle one, and the one that only every hundredth exceeds.
#[derive(Debug, Clone, Copy)]
struct Latency {
    median: Duration,
    p99: Duration,
}

/// Of so many requests at least, and for as long as `goes_on`.
async fn latency(client: &Http2Client, at_least: usize, goes_on: &Cell<bool>) -> Latency {
    let mut all = Vec::new();
    while all.len() < at_least || goes_on.get() {
        let started = Instant::now();
        assert_eq!(client.get("/").await.unwrap().status, 200);
        all.push(started.elapsed());
    }
    all.sort_unstable();
    Latency { median: all[all.len() / 2], p99: all[all.len() * 99 / 100] }
}

/// Checks that other clients hardly notice an attack: next to what they had before it, twice the time, and what a busy
/// machine with two cores may add by itself. The machine may stop for longer than that, but hardly in each of three
/// attacks, which whatever an attack does is in. Returns how many there were.
async fn hardly_noticed(what: &str, rig: &Rig, mut attack: impl AsyncFnMut()) -> usize {
    let client = Http2Client::connect(rig.address).await.unwrap();
    for attacks in 1.. {
        let before = latency(&client, 200, &Cell::new(false)).await;
        let goes_on = Cell::new(true);
        let attacking = async {
            attack().await;
            goes_on.set(false);
        };
        let during = tokio::join!(attacking, latency(&client, 200, &goes_on)).1;
        let as_before = during.median <= before.median * 2 + Duration::from_millis(20)
            && during.p99 <= before.p99 * 2 + Duration::from_millis(200);
        if as_before {
            return attacks;
        }
        assert!(attacks < 3, "{what}: {before:?}, {during:?}");
    }
    unreachable!()
}

#[tokio::test]
async fn floods_end_their_own_connection_and_nobody_elses() {
    let (pod, rig) = rig().await;
    let attacks: [(&str, Vec<u8>, usize); 4] = [
        ("CONTINUATION", frame(CONTINUATION, 0, 1, &[]), 100_000),
        ("empty DATA", frame(DATA, 0, 1, &[]), 100_000),
        ("small DATA", frame(DATA, 0, 1, b"x"), 100_000),
        ("PING", frame(PING, 0, 0, &[0; 8]), 20_000),
    ];
    for (what, attack, count) in attacks {
        let ends_head = if what == "CONTINUATION" { 0 } else { END_HEADERS };
        let head = [(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/hang")];
        let flood = async || {
            let mut raw = Raw::connect(&rig).await;
            raw.send(&frame(HEADERS, ends_head, 1, &block(&head))).await;
            let burst = attack.repeat(100);
            for _ in 0..count / 100 {
                if !raw.send(&burst).await {
                    break;
                }
            }
        };
        hardly_noticed(what, &rig, flood).await;
        eventually("the attacker's request ends", || pod.running() == 0).await;
    }
}

#[tokio::test]
async fn a_client_that_resets_what_it_asks_for_is_sent_away() {
    let (pod, rig) = rig().await;
    let attack = async || {
        let mut raw = Raw::connect(&rig).await;
        for number in 0..20_000_u32 {
            let stream = 2 * number + 1;
            let mut bytes = frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(GET));
            bytes.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
            if !raw.send(&bytes).await {
                return;
            }
            if number % 100 == 0 {
                tokio::task::yield_now().await;
            }
        }
    };
    let attacks = hardly_noticed("resets", &rig, attack).await;
    eventually("nothing of it is left", || pod.running() == 0).await;
    let ended = rig.lines_with("it is sent away", |line| {
        line.text("details").starts_with("http2.") && line.flags() == "DPE"
    });
    let lines = ended.await;
    let resets = lines.iter().filter(|line| line.status() != 200).count();
    assert!(resets < 2_000 * attacks, "{resets} lines of {attacks} times 20,000 requests");
    let others = lines.len() - resets;
    assert!(pod.requests() < 2_000 * attacks + others, "{} requests reached the pod", pod.requests());
}

#[tokio::test]
async fn who_opens_more_streams_than_the_limit_is_refused_and_keeps_the_others() {
    let pod = Http2Pod::start("backend-1", ANY).await.unwrap();
    let rig = Rig::new(pod.address(), json!({"limits": {"streams": 5}}));
    let mut raw = Raw::connect(&rig).await;
    let hang = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/hang")];
    for number in 0..8 {
        raw.head(2 * number + 1, &hang).await;
    }
    for number in 5..8 {
        let refused = raw.until(&[RST_STREAM]).await.unwrap();
        assert_eq!((refused.stream, refused.code()), (2 * number + 1, 7), "REFUSED_STREAM");
    }
    eventually("five run", || pod.running() == 5).await;
}

#[tokio::test]
async fn what_is_no_http_2_after_the_preface_ends_with_a_reason() {
    let (_pod, rig) = rig().await;
    let mut stream = TcpStream::connect(rig.address).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nGET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await.unwrap().ok();
    let line = rig.line().await;
    assert_eq!((line.status(), line.flags(), line.text("details")), (0, "DPE", "http2.codec_error"));
}
