//! Heads over HTTP/2 that never end, and trailers that pretend to be heads: frame by frame.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use whichpod_testkit::http2::{Http2Client, Http2Pod};
use whichpod_testkit::scripted::{Script, ScriptedBackend};
use whichpod_tests_sidecar::{ANY, Rig, received};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const POST: &[(&str, &str)] =
    &[(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/a")];

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, u8::try_from(payload.len()).unwrap(), kind, flags, 0, 0, 0, stream];
    bytes.extend_from_slice(payload);
    bytes
}

/// Fields without any compression (RFC 7541 §6.2.2).
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name, value] {
            bytes.push(u8::try_from(text.len()).unwrap());
            bytes.extend_from_slice(text.as_bytes());
        }
    }
    bytes
}

async fn client(rig: &Rig, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(rig.address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream
}

#[tokio::test]
async fn a_head_that_does_not_end_has_its_deadline_over_http_2_too() {
    let pod = Http2Pod::start("backend-1", ANY).await.unwrap();
    let rig = Rig::new(pod.address(), json!({"timeouts": {"head": "300ms"}})).ready().await;
    let settings = frame(SETTINGS, 0, 0, &[]);
    let begun = frame(HEADERS, END_STREAM, 1, &block(POST));
    let rows = [
        ("nothing after the preface", PREFACE.to_vec()),
        ("half a frame's head", [PREFACE, &settings, &begun[..5]].concat()),
        ("half a frame of fields", [PREFACE, &settings, &begun[..20]].concat()),
        ("fields to be continued", [PREFACE, &settings, &begun].concat()),
        (
            "fields continued, and to be continued",
            [PREFACE, &settings, &begun, &frame(CONTINUATION, 0, 1, &block(&[("x", "1")]))].concat(),
        ),
    ];
    for (number, (what, bytes)) in rows.into_iter().enumerate() {
        let mut stream = client(&rig, &bytes).await;
        let mut rest = Vec::new();
        let end = timeout(Duration::from_secs(10), stream.read_to_end(&mut rest)).await;
        assert!(end.is_ok(), "{what}: it goes on");
        let line = rig.last_line(number + 1).await;
        assert_eq!((line.status(), line.flags()), (0, "SI"), "{what}");
        assert_eq!(line.text("details"), "request_header_timeout", "{what}");
        assert!(line.number("duration_ms") >= 300, "{what}");
    }
    assert_eq!(pod.requests(), 0);
}

#[tokio::test]
async fn an_idle_client_and_a_slow_body_are_no_slow_heads() {
    let pod = Http2Pod::start("backend-1", ANY).await.unwrap();
    let rig = Rig::new(pod.address(), json!({"timeouts": {"head": "600ms"}})).ready().await;
    let idle = Http2Client::connect(rig.address).await.unwrap();
    let settings = frame(SETTINGS, 0, 0, &[]);
    let head = frame(HEADERS, END_HEADERS, 1, &block(POST));
    let half = &frame(DATA, 0, 1, b"abc")[..10];
    let mut slow = client(&rig, &[PREFACE, &settings, &head, half].concat()).await;
    // Heads that were begun at the same time have ended since.
    for number in 1..=3 {
        let mut stream = client(&rig, PREFACE).await;
        let mut rest = Vec::new();
        let _ = timeout(Duration::from_secs(10), stream.read_to_end(&mut rest)).await.unwrap();
        rig.lines(number).await;
    }
    assert_eq!(idle.get("/").await.unwrap().status, 200);
    slow.write_all(b"bc").await.unwrap();
    slow.write_all(&frame(DATA, END_STREAM, 1, b"")).await.unwrap();
    let lines = rig.lines_with("the slow one", |line| line.text("method") == "POST").await;
    assert!(lines.iter().any(|line| line.text("method") == "POST" && line.status() == 200), "{lines:?}");
}

#[tokio::test]
async fn a_clients_trailers_cannot_pretend_to_be_a_head() {
    let pod = ScriptedBackend::start(ANY, Script::Answer).await.unwrap();
    let rig = Rig::new(pod.address(), json!({"protocol": "http1"})).ready().await;
    let head = [POST, &[("trailer", "x-sum")]].concat();
    let trailers = [(":path", "/other"), (":authority", "b"), ("x-sum", "7")];
    let bytes = [
        PREFACE,
        &frame(SETTINGS, 0, 0, &[]),
        &frame(HEADERS, END_HEADERS, 1, &block(&head)),
        &frame(DATA, 0, 1, b"abc"),
        &frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&trailers)),
    ]
    .concat();
    let _client = client(&rig, &bytes).await;
    let line = rig.line().await;
    assert_eq!(line.text("path"), "/a");
    let text = received(&pod);
    assert!(!text.contains("/other") && !text.contains(":path") && !text.contains(":authority"), "{text}");
}

/// A pod whose trailers have a status of their own.
async fn pod_with_two_statuses() -> SocketAddr {
    let listener = TcpListener::bind(ANY).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut preface = [0; 24];
                stream.read_exact(&mut preface).await?;
                stream.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
                loop {
                    let mut head = [0; 9];
                    stream.read_exact(&mut head).await?;
                    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                    stream.read_exact(&mut vec![0; length]).await?;
                    match (head[3], head[4]) {
                        (SETTINGS, 0) => stream.write_all(&frame(SETTINGS, ACK, 0, &[])).await?,
                        (HEADERS, _) => {
                            let fields = [(":status", "200"), ("trailer", "x-sum")];
                            let trailers = [(":status", "599"), ("x-sum", "7")];
                            let answer = [
                                frame(HEADERS, END_HEADERS, head[8], &block(&fields)),
                                frame(DATA, 0, head[8], b"abc"),
                                frame(HEADERS, END_HEADERS | END_STREAM, head[8], &block(&trailers)),
                            ];
                            stream.write_all(&answer.concat()).await?;
                        }
                        _ => {}
                    }
                }
                #[expect(unreachable_code, reason = "names the error's type")]
                std::io::Result::Ok(())
            });
        }
    });
    address
}

#[tokio::test]
async fn a_pods_trailers_cannot_pretend_to_be_a_head() {
    let rig = Rig::new(pod_with_two_statuses().await, json!({"protocol": "h2c"})).ready().await;
    let over_http2 = Http2Client::connect(rig.address).await.unwrap().get("/").await;
    if let Ok(answer) = over_http2 {
        let names: Vec<_> =
            answer.trailers.iter().flat_map(|all| all.keys()).map(ToString::to_string).collect();
        assert_eq!((answer.status, names), (200, vec!["x-sum".to_owned()]));
    }
    let mut http1 =
        client(&rig, b"GET / HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: te, close\r\n\r\n").await;
    let mut answer = String::new();
    timeout(Duration::from_secs(10), http1.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && !answer.contains("599"), "{answer}");
    let lines = rig.lines(2).await;
    assert!(lines.iter().all(|line| line.status() == 200), "{lines:?}");
}
