//! Bodies in both directions: streamed, bounded, and whole.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};
use whichpod_testkit::backend::{Backend, byte_at};
use whichpod_testkit::client::End;
use whichpod_testkit::scripted::{ANSWER, Script, ScriptedBackend};
use whichpod_tests_sidecar::{ANY, Rig, UPSTREAM, received, received_head};

const MIB: u64 = 1 << 20;

async fn scripted(script: Script) -> (ScriptedBackend, Rig) {
    let pod = ScriptedBackend::start(ANY, script).await.unwrap();
    let rig = Rig::new(pod.address(), json!({}));
    (pod, rig)
}

async fn backend() -> (Backend, Rig) {
    let pod = Backend::start("backend-0", ANY).await.unwrap();
    let rig = Rig::new(pod.address(), json!({}));
    (pod, rig)
}

#[tokio::test]
async fn chunked_bodies_pass_in_both_directions_whatever_their_chunks() {
    let (_pod, rig) = backend().await;
    let body = "3\r\nabc\r\n1;name=\"value\"\r\nd\r\n00A\r\n0123456789\r\n0\r\n\r\n";
    let answer = rig
        .exchange(format!("POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{body}"))
        .await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "abcd0123456789"));
    assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
    let line = rig.line().await;
    assert_eq!((line.number("bytes_received"), line.number("bytes_sent")), (14, 14));
    let answer = rig.get("/chunks/100").await;
    assert_eq!(answer.text().lines().count(), 100);
}

#[tokio::test]
async fn a_get_may_have_a_body() {
    let (_pod, rig) = backend().await;
    let answer = rig.exchange("GET /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "abc"));
}

#[tokio::test]
async fn declared_trailers_pass_in_both_directions_and_framing_ones_do_not() {
    let answer = "HTTP/1.1 200 OK\r\ntrailer: x-sum, content-length\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nx-sum: 7\r\n\
                  content-length: 3\r\n\r\n";
    let (pod, rig) = scripted(Script::Raw(answer.into())).await;
    let request = "POST / HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: te\r\ntrailer: x-sum, content-length, host\r\n\
                   transfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nx-sum: 9\r\ncontent-length: 3\r\nhost: b\r\nx-undeclared: 1\r\n\r\n";
    let got = rig.exchange(request).await;
    assert_eq!(got.trailers, [("x-sum".to_owned(), "7".to_owned())]);
    assert_eq!(got.header("trailer"), Some("x-sum, content-length"), "{got:?}");
    let received = received(&pod);
    assert!(received.ends_with("2\r\nab\r\n0\r\nx-sum: 9\r\n\r\n"), "{received}");
    assert!(
        received.contains("\r\nte: trailers\r\n") && received.contains("\r\nconnection: te\r\n"),
        "{received}"
    );
    assert!(received.contains("\r\ntrailer: x-sum, content-length, host\r\n"), "{received}");

    let plain = rig.get("/").await;
    assert_eq!(
        (plain.text().as_str(), plain.trailers.len()),
        ("x", 0),
        "not for who did not ask (RFC 9110 §6.5.1)"
    );
}

#[tokio::test]
async fn who_waits_for_continue_is_told_at_once_and_the_pod_hears_nothing_of_it() {
    let (pod, rig) = scripted(Script::Answer).await;
    let mut client = rig.client().await;
    client
        .send("POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(client.response().await.unwrap().status, 100);
    client.send("abc").await.unwrap();
    assert_eq!(client.response().await.unwrap().text(), ANSWER);
    assert_eq!(received_head(&pod), ["POST / HTTP/1.1", "host: a", "content-length: 3"]);
}

#[tokio::test]
async fn who_waits_for_continue_sends_no_body_that_nobody_would_take() {
    let settings = json!({"upstreams": [{
        "name": UPSTREAM, "listen": "127.0.0.1:0", "target": "127.0.0.1:1", "routes": [{"prefix": "/only"}],
    }]});
    let rig = Rig::new("127.0.0.1:1", settings);
    for (path, status) in [("/only", 503), ("/other", 404)] {
        let mut client = rig.client().await;
        client
            .send(format!(
                "POST {path} HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n"
            ))
            .await
            .unwrap();
        assert_eq!(client.response().await.unwrap().status, status, "{path}: the first answer is the last");
        // The three bytes may or may not follow: nothing more can be told apart on this connection.
        assert_eq!(client.end().await.1, End::Closed, "{path}");
    }
}

#[tokio::test]
async fn a_client_that_is_still_sending_gets_the_early_answer_and_no_reset() {
    let answer = "HTTP/1.1 413 Too Large\r\ncontent-length: 4\r\nconnection: close\r\n\r\nbig\n";
    let listener = TcpListener::bind(ANY).await.unwrap();
    let rig = Rig::new(listener.local_addr().unwrap(), json!({}));
    // A pod that answers after the head, reads no more, and closes for good.
    let pod = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_head(&mut stream).await;
        stream.write_all(answer.as_bytes()).await.unwrap();
    });
    let mut client = rig.client().await;
    let length = 8 * MIB;
    client.send(format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n")).await.unwrap();
    client.send(vec![b'x'; 64 << 10]).await.unwrap();
    pod.await.unwrap();
    // It reads the answer only when it has sent everything, as simple clients do.
    for _ in 0..(length >> 16) - 1 {
        client.send(vec![b'x'; 64 << 10]).await.unwrap();
    }
    let got = client.response().await.unwrap();
    assert_eq!((got.status, got.text().as_str()), (413, "big\n"));
    let line = rig.line().await;
    assert_eq!(line.verdict(), (413, "-", vec!["ok".to_owned()]));
}

#[tokio::test]
async fn a_refused_upload_ends_with_the_answer_and_no_reset() {
    let rig = Rig::new("127.0.0.1:1", json!({}));
    let mut client = rig.client().await;
    let length = 4 * MIB;
    client.send(format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n")).await.unwrap();
    for _ in 0..length >> 16 {
        client.send(vec![b'x'; 64 << 10]).await.unwrap();
    }
    assert_eq!(client.response().await.unwrap().status, 503);
}

#[tokio::test]
async fn an_upload_may_go_on_for_longer_than_a_head_after_an_early_answer() {
    let pod = ScriptedBackend::start(ANY, Script::AnswerEarly).await.unwrap();
    let rig = Rig::new(pod.address(), json!({"timeouts": {"head": "1s"}}));
    let mut client = rig.client().await;
    client.send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 8\r\n\r\n").await.unwrap();
    assert_eq!(client.response().await.unwrap().text(), ANSWER);
    for _ in 0..8 {
        client.send("x").await.unwrap();
        sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(client.get("/").await.unwrap().text(), ANSWER, "the upload was no slow head");
    for line in rig.lines(2).await {
        assert_eq!(line.verdict(), (200, "-", vec!["ok".to_owned()]));
    }
}

/// A pod that counts what it reads, or writes, until the other side stops.
struct Pump {
    moved: Arc<AtomicU64>,
    address: std::net::SocketAddr,
}

impl Pump {
    async fn start(
        serve: impl AsyncFnOnce(TcpStream, Arc<AtomicU64>) + 'static,
    ) -> (Self, tokio::task::LocalSet) {
        let listener = TcpListener::bind(ANY).await.unwrap();
        let address = listener.local_addr().unwrap();
        let moved = Arc::new(AtomicU64::new(0));
        let tasks = tokio::task::LocalSet::new();
        let counter = Arc::clone(&moved);
        tasks.spawn_local(async move {
            let (stream, _) = listener.accept().await.unwrap();
            serve(stream, counter).await;
        });
        (Self { moved, address }, tasks)
    }

    /// How much had moved when nothing did any more.
    async fn stalled(&self) -> u64 {
        let mut before = 0;
        let mut since = Instant::now();
        while since.elapsed() < Duration::from_millis(300) || before == 0 {
            sleep(Duration::from_millis(10)).await;
            let now = self.moved.load(Relaxed);
            if now != before {
                (before, since) = (now, Instant::now());
            }
        }
        before
    }
}

/// Reads byte by byte, so that nothing after the head is taken.
async fn read_head(stream: &mut TcpStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
}

/// Keeps the connection: the end of what a client sends is taken for the client's end.
async fn stay(writer: OwnedWriteHalf) {
    std::future::pending::<()>().await;
    drop(writer);
}

/// More than all sockets' buffers on the way can hold together.
const MOST_BUFFERED: u64 = 40 * MIB;

#[tokio::test]
async fn a_slow_reader_stops_the_pod_instead_of_filling_memory() {
    const LENGTH: u64 = 96 * MIB;
    let (pump, tasks) = Pump::start(async |mut stream, counter| {
        read_head(&mut stream).await;
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {LENGTH}\r\n\r\n");
        stream.write_all(answer.as_bytes()).await.unwrap();
        let piece = vec![b'x'; 64 << 10];
        while counter.load(Relaxed) < LENGTH {
            stream.write_all(&piece).await.unwrap();
            counter.fetch_add(piece.len() as u64, Relaxed);
        }
    })
    .await;
    tasks
        .run_until(async {
            let rig = Rig::new(pump.address, json!({}));
            let mut client = TcpStream::connect(rig.address).await.unwrap();
            client.write_all(b"GET / HTTP/1.1\r\nhost: backend\r\n\r\n").await.unwrap();
            let buffered = pump.stalled().await;
            assert!(
                buffered < MOST_BUFFERED,
                "{} MiB are underway to a client that reads nothing",
                buffered / MIB
            );
            let mut received = 0;
            let mut buffer = vec![0; 256 << 10];
            while received < LENGTH {
                let count = client.read(&mut buffer).await.unwrap();
                assert!(count > 0, "ended after {received}");
                received += count as u64;
            }
            assert_eq!(rig.line().await.number("bytes_sent"), LENGTH);
        })
        .await;
}

#[tokio::test]
async fn a_slow_pod_stops_the_client_instead_of_filling_memory() {
    const LENGTH: u64 = 96 * MIB;
    let go = Arc::new(tokio::sync::Notify::new());
    let reads = Arc::clone(&go);
    let (pump, tasks) = Pump::start(async move |mut stream, _| {
        reads.notified().await;
        let mut received = 0;
        let mut buffer = vec![0; 256 << 10];
        while received < LENGTH {
            received += stream.read(&mut buffer).await.unwrap() as u64;
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    })
    .await;
    tasks
        .run_until(async {
            let rig = Rig::new(pump.address, json!({}));
            let (mut reader, mut writer) = TcpStream::connect(rig.address).await.unwrap().into_split();
            let sent = Arc::clone(&pump.moved);
            tokio::task::spawn_local(async move {
                let head = format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {LENGTH}\r\n\r\n");
                writer.write_all(head.as_bytes()).await.unwrap();
                let piece = vec![b'x'; 64 << 10];
                while sent.load(Relaxed) < LENGTH {
                    writer.write_all(&piece).await.unwrap();
                    sent.fetch_add(piece.len() as u64, Relaxed);
                }
                stay(writer).await;
            });
            let buffered = pump.stalled().await;
            assert!(
                buffered < MOST_BUFFERED,
                "{} MiB are underway to a pod that reads nothing",
                buffered / MIB
            );
            go.notify_one();
            let mut answer = [0; 15];
            reader.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"HTTP/1.1 200 OK");
            assert_eq!(rig.line().await.number("bytes_received"), LENGTH);
        })
        .await;
}

#[tokio::test]
async fn big_bodies_arrive_as_they_were_sent() {
    let (_pod, rig) = backend().await;
    let mut client = rig.client().await.with_timeout(Duration::from_secs(30));
    let got = client.get(&format!("/bytes/{}", 16 * MIB)).await.unwrap();
    assert_eq!(got.body.len() as u64, 16 * MIB);
    assert!(got.body.iter().zip(0..).all(|(byte, index)| *byte == byte_at(index)));

    let body: Vec<u8> = (0..4 * MIB).map(byte_at).collect();
    let (mut reader, mut writer) = TcpStream::connect(rig.address).await.unwrap().into_split();
    let sent = body.clone();
    tokio::spawn(async move {
        let head = format!(
            "POST /echo HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            sent.len()
        );
        writer.write_all(head.as_bytes()).await.unwrap();
        writer.write_all(&sent).await.unwrap();
        stay(writer).await;
    });
    let mut answer = Vec::new();
    timeout(Duration::from_secs(30), reader.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert!(answer.ends_with(&body), "{} bytes", answer.len());
}

#[tokio::test]
async fn a_pod_and_a_client_can_talk_at_the_same_time() {
    let (_pod, rig) = backend().await;
    let mut stream = TcpStream::connect(rig.address).await.unwrap();
    stream.write_all(b"POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
    let mut received = String::new();
    for number in 0..50 {
        let word = format!("word-{number:02}");
        stream.write_all(format!("{:x}\r\n{word}\r\n", word.len()).as_bytes()).await.unwrap();
        // The echo of this word comes before the next one is sent.
        let arrives = async {
            while !received.contains(&word) {
                let mut buffer = [0; 1024];
                let count = stream.read(&mut buffer).await.unwrap();
                assert!(count > 0, "ended: {received}");
                received.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
            }
        };
        timeout(Duration::from_secs(5), arrives).await.unwrap();
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    let line = rig.line().await;
    assert_eq!((line.number("bytes_received"), line.number("bytes_sent")), (350, 350));
    assert_eq!(line.verdict(), (200, "-", vec!["ok".to_owned()]));
}
