//! Time limits, and clients that do not wait for them: each ends what it should, and the line says which it was.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};
use whichpod_testkit::client::{Client, End};
use whichpod_testkit::http2::{Http2Client, request};
use whichpod_testkit::scripted::{ANSWER, Script, ScriptedBackend};
use whichpod_tests_sidecar::{ANY, Rig};

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
const HEAD_OF_POST: &str = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n";

async fn rig(script: Script, timeouts: Value) -> (ScriptedBackend, Rig) {
    let pod = ScriptedBackend::start(ANY, script).await.unwrap();
    let rig = Rig::new(pod.address(), json!({"timeouts": timeouts}));
    (pod, rig)
}

fn slow_body(bytes: usize, interval: u64) -> Script {
    Script::SlowBody { bytes, interval: Duration::from_millis(interval) }
}

/// A pod's end of its only connection, after a whole request of this many bytes at least was read.
async fn pod_with_request(listener: &TcpListener, bytes: usize) -> TcpStream {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut received = Vec::new();
    while received.len() < bytes {
        assert!(stream.read_buf(&mut received).await.unwrap() > 0);
    }
    stream
}

/// Waits until the sidecar has ended the connection to the pod.
async fn is_ended(mut stream: TcpStream) {
    let mut rest = Vec::new();
    // The end may be orderly or not.
    let _ = timeout(Duration::from_secs(10), stream.read_to_end(&mut rest)).await.unwrap();
}

fn only(ok: &str) -> Vec<String> {
    vec![ok.to_owned()]
}

#[tokio::test]
async fn a_pod_that_does_not_answer_in_time_is_given_up_and_named() {
    for (limit, status, flags, details, reason) in [
        (json!({"request": "200ms"}), 504, "UT", "upstream_response_timeout", "response_timeout"),
        (json!({"idle": "200ms"}), 504, "SI", "stream_idle_timeout", "idle_timeout"),
    ] {
        let (pod, rig) = rig(Script::Hang, limit).await;
        let started = Instant::now();
        let answer = rig.exchange(GET).await;
        let took = started.elapsed().as_millis();
        assert!((200..2000).contains(&took), "{took} ms");
        assert_eq!(u64::from(answer.status), status);
        let line = rig.line().await;
        assert_eq!((line.verdict(), line.text("details")), ((status, flags, only(reason)), details));
        assert_eq!(line.text("upstream_host"), pod.address().to_string());
        assert!(line.tries()[0].status.is_none() && line.number("duration_ms") >= 200);
    }
}

#[tokio::test]
async fn an_answer_that_stops_or_takes_too_long_is_broken_off_and_flagged() {
    for (script, limit, flags, details) in [
        (slow_body(200, 20), json!({"request": "1s"}), "UT", "upstream_response_timeout"),
        (slow_body(2, 4000), json!({"idle": "1s"}), "SI", "stream_idle_timeout"),
    ] {
        let (_pod, rig) = rig(script, limit).await;
        let mut client = rig.client().await;
        client.send(GET).await.unwrap();
        let (bytes, end) = client.end().await;
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && end == End::Closed, "{text} {end:?}");
        let line = rig.line().await;
        assert_eq!((line.verdict(), line.text("details")), ((200, flags, only("ok")), details));
    }
}

/// Half a second of each kind, and what the line says when it is over.
fn half_a_second() -> [(Value, &'static str, &'static str); 2] {
    [
        (json!({"idle": "500ms"}), "SI", "stream_idle_timeout"),
        (json!({"request": "500ms"}), "UT", "upstream_response_timeout"),
    ]
}

/// A pod that answers on its only connection for as long as somebody takes it; ends when nobody does.
async fn answer_without_end(listener: &TcpListener) {
    let mut pod = pod_with_request(listener, GET.len()).await;
    pod.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n").await.unwrap();
    let sends = async { while pod.write_all(&[b'x'; 65_536]).await.is_ok() {} };
    timeout(Duration::from_secs(20), sends).await.unwrap();
}

#[tokio::test]
async fn a_client_that_takes_nothing_does_not_hold_a_pod_for_longer_than_configured() {
    for (limit, flags, details) in half_a_second() {
        let listener = TcpListener::bind(ANY).await.unwrap();
        let rig = Rig::new(listener.local_addr().unwrap(), json!({"timeouts": limit}));
        let mut client = rig.client().await;
        client.send(GET).await.unwrap();
        answer_without_end(&listener).await;
        let line = rig.line().await;
        assert_eq!((line.verdict(), line.text("details")), ((200, flags, only("ok")), details));
        assert!(line.number("bytes_sent") > 0 && line.number("duration_ms") >= 500);
        assert_eq!(client.end().await.1, End::Reset);
    }
}

#[tokio::test]
async fn a_stream_whose_client_takes_nothing_ends_in_time_and_its_connection_goes_on() {
    for (limit, flags, details) in half_a_second() {
        let listener = TcpListener::bind(ANY).await.unwrap();
        let settings = json!({"timeouts": limit, "protocol": "http1"});
        let rig = Rig::new(listener.local_addr().unwrap(), settings);
        let client = Http2Client::connect(rig.address).await.unwrap();
        let (response, _) = client.begin(request("GET", "/", &[], "").map(drop), true).await.unwrap();
        answer_without_end(&listener).await;
        let line = rig.line().await;
        assert_eq!((line.verdict(), line.text("details")), ((200, flags, only("ok")), details));
        let mut body = response.await.unwrap().into_body();
        let mut last = Ok(());
        while let (Some(data), true) = (body.data().await, last.is_ok()) {
            last = data.map(drop);
        }
        assert!(last.is_err_and(|error| error.is_reset()), "it is not taken for whole");
        assert!(client.is_open());
    }
}

#[tokio::test]
async fn an_answer_that_keeps_coming_is_not_idle() {
    let (_pod, rig) = rig(slow_body(12, 150), json!({"idle": "1500ms"})).await;
    assert_eq!(rig.exchange(GET).await.text(), "............");
    let line = rig.line().await;
    assert_eq!(line.verdict(), (200, "-", only("ok")));
    assert!(line.number("duration_ms") >= 1800);
}

#[tokio::test]
async fn a_slow_upload_does_not_use_up_the_pods_time() {
    let (_pod, rig) = rig(Script::Answer, json!({"request": "1500ms", "idle": "1500ms"})).await;
    let mut client = rig.client().await;
    client.send(HEAD_OF_POST).await.unwrap();
    for _ in 0..10 {
        sleep(Duration::from_millis(180)).await;
        client.send("x").await.unwrap();
    }
    assert_eq!(client.response().await.unwrap().text(), ANSWER);
    let line = rig.line().await;
    assert_eq!(line.verdict(), (200, "-", only("ok")));
    assert!(line.number("request_duration_ms") >= 1800);
}

#[tokio::test]
async fn a_client_that_stops_sending_is_told_that_it_was_its_turn() {
    let (pod, rig) = rig(Script::Answer, json!({"idle": "200ms"})).await;
    let mut client = rig.client().await;
    client.send(format!("{HEAD_OF_POST}abc")).await.unwrap();
    let answer = client.response().await.unwrap();
    assert_eq!((answer.status, answer.header("connection")), (408, Some("close")));
    let line = rig.line().await;
    assert_eq!(line.verdict(), (408, "SI", only("idle_timeout")));
    assert_eq!((line.text("details"), line.number("bytes_received")), ("stream_idle_timeout", 3));
    assert_eq!(pod.requests(), 0);
}

#[tokio::test]
async fn a_client_that_went_away_is_logged_with_the_pod_that_was_working_for_it() {
    let listener = TcpListener::bind(ANY).await.unwrap();
    let rig = Rig::new(listener.local_addr().unwrap(), json!({}));
    let mut client = rig.client().await;
    client.send(GET).await.unwrap();
    let pod = pod_with_request(&listener, GET.len()).await;
    sleep(Duration::from_millis(100)).await;
    drop(client);
    is_ended(pod).await;
    let line = rig.line().await;
    assert_eq!(line.verdict(), (0, "DC", only("client_gone")));
    assert_eq!(line.text("details"), "downstream_remote_disconnect");
    assert_eq!(line.text("upstream_host"), listener.local_addr().unwrap().to_string());
    assert!(line.number("duration_ms") >= 100);
}

#[tokio::test]
async fn a_client_that_went_away_within_its_upload_leaves_the_pod_half_a_request() {
    let listener = TcpListener::bind(ANY).await.unwrap();
    let rig = Rig::new(listener.local_addr().unwrap(), json!({}));
    let mut client = rig.client().await;
    client.send(format!("{HEAD_OF_POST}abc")).await.unwrap();
    let pod = pod_with_request(&listener, HEAD_OF_POST.len()).await;
    drop(client);
    is_ended(pod).await;
    let line = rig.line().await;
    assert_eq!((line.status(), line.flags(), line.number("bytes_received")), (0, "DC", 3));
}

#[tokio::test]
async fn a_client_that_went_away_within_the_answer_keeps_its_status() {
    let listener = TcpListener::bind(ANY).await.unwrap();
    let rig = Rig::new(listener.local_addr().unwrap(), json!({}));
    let mut client = TcpStream::connect(rig.address).await.unwrap();
    client.write_all(GET.as_bytes()).await.unwrap();
    let mut pod = pod_with_request(&listener, GET.len()).await;
    pod.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc").await.unwrap();
    let mut begun = [0; 15];
    client.read_exact(&mut begun).await.unwrap();
    drop(client);
    is_ended(pod).await;
    let line = rig.line().await;
    assert_eq!((line.verdict(), line.number("bytes_sent")), ((200, "DC", only("ok")), 3));
}

#[tokio::test]
async fn a_client_that_went_away_before_any_pod_took_the_connection_is_logged_too() {
    let (gone, rig) = rig(Script::Silent, json!({"connect": "10s"})).await;
    let mut client = rig.client().await;
    client.send(GET).await.unwrap();
    sleep(Duration::from_millis(100)).await;
    drop(client);
    let line = rig.line().await;
    assert_eq!((line.status(), line.flags(), gone.connections()), (0, "DC", 0));
}

#[tokio::test]
async fn idle_connections_of_clients_end_after_their_time_and_leave_no_line() {
    let (_pod, rig) = rig(Script::Answer, json!({"downstream_idle": "1s"})).await;
    let mut unused = rig.client().await;
    let mut used = rig.client().await;
    assert_eq!(used.get("/").await.unwrap().status, 200);
    for client in [&mut unused, &mut used] {
        assert_eq!(client.end().await, (Vec::new(), End::Closed));
    }
    rig.line().await;
}

#[tokio::test]
async fn a_long_request_is_no_idle_connection() {
    let (_pod, rig) =
        rig(slow_body(18, 100), json!({"downstream_idle": "1s", "upstream_idle": "1s", "head": "1s"})).await;
    assert_eq!(rig.exchange(GET).await.status, 200);
    assert_eq!(rig.line().await.verdict(), (200, "-", only("ok")));
}

#[tokio::test]
async fn a_pods_idle_connection_ends_before_the_pod_would_end_it() {
    let listener = TcpListener::bind(ANY).await.unwrap();
    let rig = Rig::new(listener.local_addr().unwrap(), json!({"timeouts": {"upstream_idle": "300ms"}}));
    let mut client = Client::connect(rig.address).await.unwrap();
    client.send(GET).await.unwrap();
    let mut pod = pod_with_request(&listener, GET.len()).await;
    // Before the answer, because the connection may rest before its client has been told.
    let busy = Instant::now();
    pod.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    assert_eq!(client.response().await.unwrap().status, 200);
    is_ended(pod).await;
    let took = busy.elapsed().as_millis();
    assert!((300..3000).contains(&took), "{took} ms");
}
