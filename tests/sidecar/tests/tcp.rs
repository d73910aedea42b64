//! TCP connections: whatever is spoken goes through, and its line says over which pod it went and how it ended.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};
use whichpod_testkit::client::{Client, End};
use whichpod_testkit::scripted::{ANSWER, Script, ScriptedBackend};
use whichpod_tests_sidecar::{ANY, Cluster, Rig, eventually};

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
/// How long a client says nothing after a pod was asked whether it greets.
const SILENT: Duration = Duration::from_millis(150);

async fn pod(script: Script) -> ScriptedBackend {
    ScriptedBackend::start(ANY, script).await.unwrap()
}

fn tcp(mut settings: Value) -> Value {
    settings["protocol"] = json!("tcp");
    settings
}

/// A sidecar of protocol tcp before a pod that is played by the test.
async fn played(settings: Value) -> (TcpListener, Rig) {
    let listener = TcpListener::bind(ANY).await.unwrap();
    let rig = Rig::new(listener.local_addr().unwrap(), tcp(settings));
    (listener, rig)
}

/// Both ends of a connection through the sidecar.
async fn both_ends(listener: &TcpListener, rig: &Rig) -> (TcpStream, TcpStream) {
    let client = TcpStream::connect(rig.address).await.unwrap();
    let (pod, _) = timeout(Duration::from_secs(10), listener.accept()).await.unwrap().unwrap();
    (client, pod)
}

async fn read(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    timeout(Duration::from_secs(10), stream.read_exact(&mut bytes)).await.unwrap().unwrap();
    bytes
}

/// Reads to the end; `None` if the connection is reset.
async fn end(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    timeout(Duration::from_secs(10), stream.read_to_end(&mut bytes)).await.unwrap().ok().map(|_| bytes)
}

fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
}

fn tries(reasons: &[&str]) -> Vec<String> {
    reasons.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn a_line_tells_the_pod_the_bytes_each_way_and_who_ended_the_connection() {
    let cluster = Cluster::new(5).await;
    let pod = ScriptedBackend::start(cluster.address(1), Script::Echo).await.unwrap();
    cluster.publish_named(&[("db-0", pod.address())]);
    let rig = cluster.sidecar(tcp(json!({}))).ready().await;
    let mut client = rig.client().await;
    client.send("hello").await.unwrap();
    client.finish().await.unwrap();
    assert_eq!(client.end().await, (b"hello".to_vec(), End::Closed), "half an end is no end");
    let line = rig.line().await;
    assert_eq!(line.verdict(), (0, "-", tries(&["ok"])));
    assert_eq!(
        (line.text("upstream_pod"), line.text("upstream_host")),
        ("db-0", &*pod.address().to_string())
    );
    assert_eq!((line.number("bytes_received"), line.number("bytes_sent")), (5, 5));
    assert_eq!(line.text("details"), "downstream_remote_close");
    assert_eq!(line.get("open"), false);
    for absent in ["method", "path", "protocol", "status", "server_name"] {
        assert_eq!(line.get(absent), &Value::Null, "{absent}");
    }
    assert_eq!(line.number("endpoints"), 1);
}

#[tokio::test]
async fn a_pod_may_end_first_and_still_hear_the_client_out() {
    let (listener, rig) = played(json!({})).await;
    let (mut client, mut pod) = both_ends(&listener, &rig).await;
    pod.write_all(b"bye").await.unwrap();
    pod.shutdown().await.unwrap();
    assert_eq!(end(&mut client).await.unwrap(), b"bye");
    client.write_all(b"one more thing").await.unwrap();
    drop(client);
    assert_eq!(end(&mut pod).await.unwrap(), b"one more thing");
    let line = rig.line().await;
    assert_eq!((line.flags(), line.text("details")), ("-", "upstream_remote_close"));
    assert_eq!((line.number("bytes_received"), line.number("bytes_sent")), (14, 3));
}

#[tokio::test]
async fn a_reset_reaches_the_other_side_as_one() {
    let (listener, rig) = played(json!({})).await;
    let (mut client, mut pod) = both_ends(&listener, &rig).await;
    pod.write_all(b"x").await.unwrap();
    read(&mut client, 1).await;
    reset(pod);
    assert_eq!(end(&mut client).await, None);
    let line = rig.line().await;
    assert_eq!((line.flags(), line.text("details")), ("UC", "upstream_remote_disconnect"));
    let (mut client, mut pod) = both_ends(&listener, &rig).await;
    client.write_all(b"x").await.unwrap();
    read(&mut pod, 1).await;
    reset(client);
    assert_eq!(end(&mut pod).await, None);
    let line = rig.last_line(2).await;
    assert_eq!((line.flags(), line.text("details")), ("DC", "downstream_remote_disconnect"));
}

#[tokio::test]
async fn what_a_pod_said_before_it_closed_is_read_although_the_client_goes_on_talking() {
    let (listener, rig) = played(json!({})).await;
    let (mut client, mut pod) = both_ends(&listener, &rig).await;
    client.write_all(b"ask").await.unwrap();
    read(&mut pod, 3).await;
    // No more than a socket takes at once: what has not arrived when the client's words do is lost with the reset.
    pod.write_all(&[b'x'; 30_000]).await.unwrap();
    drop(pod);
    let talking = async {
        while client.writable().await.is_ok() && client.try_write(b"and").is_ok() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    let _ = timeout(Duration::from_millis(300), talking).await;
    assert_eq!(read(&mut client, 30_000).await.len(), 30_000);
    drop(client);
    assert_eq!(rig.line().await.text("details"), "upstream_remote_close");
}

#[tokio::test]
async fn a_client_gets_the_next_pod_where_one_refuses() {
    let cluster = Cluster::new(5).await;
    let gone = ScriptedBackend::start(cluster.address(1), Script::NoListen).await.unwrap();
    let pod = ScriptedBackend::start(cluster.address(2), Script::Echo).await.unwrap();
    cluster.publish_named(&[("db-0", gone.address()), ("db-1", pod.address())]);
    let rig = cluster.sidecar(tcp(json!({}))).ready().await;
    for _ in 0..4 {
        let mut client = rig.client().await;
        client.send("x").await.unwrap();
        client.finish().await.unwrap();
        assert_eq!(client.end().await, (b"x".to_vec(), End::Closed));
    }
    let lines = rig.lines(4).await;
    assert!(lines.iter().all(|line| line.flags() == "-" && line.text("upstream_pod") == "db-1"));
    let moved = lines.iter().filter(|line| line.verdict().2 == ["connect_refused", "ok"]).count();
    assert!(moved >= 1, "{lines:?}");
}

#[tokio::test]
async fn a_client_learns_at_once_that_no_pod_takes_its_connection() {
    let gone = pod(Script::NoListen).await;
    let rig = Rig::new(gone.address(), tcp(json!({})));
    is_refused(&rig).await;
    let line = rig.line().await;
    assert_eq!(line.verdict(), (0, "UF", tries(&["connect_refused"])));
    assert_eq!(line.text("details"), "upstream_reset_before_response_started{remote_connection_failure}");
    assert_eq!(line.text("transport_failure"), "connect_refused");
    assert_eq!(line.get("status"), &Value::Null);

    let cluster = Cluster::new(5).await;
    let rig = cluster.sidecar(tcp(json!({}))).ready().await;
    is_refused(&rig).await;
    assert_eq!(rig.line().await.flags(), "UH");
}

/// The connection is reset, perhaps before the client knows that it has one.
async fn is_refused(rig: &Rig) {
    if let Ok(mut client) = TcpStream::connect(rig.address).await {
        assert_eq!(end(&mut client).await, None);
    }
}

#[tokio::test]
async fn a_connection_is_idle_only_if_somebody_says_so() {
    const IDLE: Duration = Duration::from_secs(1);
    let (listener, rig) = played(json!({"timeouts": {"idle": "1s"}})).await;
    let (mut client, mut pod) = both_ends(&listener, &rig).await;
    let mut last = Instant::now();
    for _ in 0..6 {
        sleep(IDLE / 5).await;
        last = Instant::now();
        client.write_all(b"x").await.unwrap();
        read(&mut pod, 1).await;
    }
    assert_eq!(end(&mut client).await.unwrap(), b"");
    assert!(last.elapsed() >= IDLE, "{:?}", last.elapsed());
    let line = rig.line().await;
    assert_eq!((line.flags(), line.text("details")), ("SI", "tcp_session_idle_timeout"));

    let (listener, rig) = played(json!({"timeouts": {"downstream_idle": "200ms", "head": "200ms"}})).await;
    let (mut client, mut pod) = both_ends(&listener, &rig).await;
    sleep(Duration::from_millis(1200)).await;
    client.write_all(b"x").await.unwrap();
    assert_eq!(read(&mut pod, 1).await, b"x", "limits of HTTP are none of TCP");
}

#[tokio::test]
async fn a_connection_outlives_its_pods_place_in_dns() {
    let cluster = Cluster::new(0).await;
    let pods = [
        ScriptedBackend::start(cluster.address(1), Script::Echo).await.unwrap(),
        ScriptedBackend::start(cluster.address(2), Script::Echo).await.unwrap(),
    ];
    cluster.publish_named(&[("db-0", pods[0].address())]);
    let rig = cluster.sidecar(tcp(json!({}))).ready().await;
    let mut old = TcpStream::connect(rig.address).await.unwrap();
    old.write_all(b"a").await.unwrap();
    read(&mut old, 1).await;
    cluster.publish_named(&[("db-1", pods[1].address())]);
    let at_the_new_pod = async {
        while pods[1].connections() == 0 {
            let mut new = TcpStream::connect(rig.address).await.unwrap();
            new.write_all(b"n").await.unwrap();
            read(&mut new, 1).await;
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(10), at_the_new_pod).await.unwrap();
    old.write_all(b"still here").await.unwrap();
    assert_eq!(read(&mut old, 10).await, b"still here");
    drop(old);
    let of_old = |line: &whichpod_tests_sidecar::Line| line.number("bytes_sent") == 11;
    let lines = rig.lines_with("the old connection's", of_old).await;
    let line = lines.iter().find(|line| of_old(line)).unwrap();
    assert_eq!((line.flags(), line.text("upstream_pod")), ("-", "db-0"));
}

#[tokio::test]
async fn a_protocol_that_is_not_http_needs_no_setting() {
    let pod = pod(Script::Echo).await;
    let rig = Rig::new(pod.address(), json!({}));
    let started = Instant::now();
    for hello in [&b"\0\0\0\x08\x04\xd2\x16\x2f"[..], b"*1\r\n$4\r\nPING\r\n", b"PING\r\n", b"hello"] {
        let mut client = rig.client().await;
        client.send(hello).await.unwrap();
        client.finish().await.unwrap();
        assert_eq!(client.end().await, (hello.to_vec(), End::Closed));
    }
    assert!(started.elapsed() < Duration::from_secs(3));
    assert!(rig.lines(4).await.iter().all(|line| line.verdict() == (0, "-", tries(&["ok"]))));
    // One that does not end its line is waited for, but not long.
    let mut client = TcpStream::connect(rig.address).await.unwrap();
    client.write_all(b"hello").await.unwrap();
    assert_eq!(read(&mut client, 5).await, b"hello");
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_although_its_client_waits_for_it() {
    let pod = pod(Script::Greet(Bytes::from_static(b"220 mail ESMTP\r\n"))).await;
    let rig = Rig::new(pod.address(), json!({}));
    let mut client = TcpStream::connect(rig.address).await.unwrap();
    let asked = Instant::now();
    assert_eq!(read(&mut client, 16).await, b"220 mail ESMTP\r\n");
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    client.write_all(b"EHLO a\r\n").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(end(&mut client).await.unwrap(), b"");
    let line = rig.line().await;
    assert_eq!((line.number("bytes_received"), line.number("bytes_sent")), (8, 16));
    assert!(line.number("duration_ms") >= 250, "from the beginning of the connection: {line:?}");
    assert_eq!(pod.connections(), 1, "the connection that was greeted is the one that is used");
}

#[tokio::test]
async fn a_silent_client_of_http_is_served_when_it_asks_whatever_pods_say_to_silence() {
    let says = |bytes: &'static str| Script::Greet(Bytes::from_static(bytes.as_bytes()));
    for to_silence in
        [Script::AcceptThenReset, says("HTTP/1.1 408 Request Timeout\r\n\r\n"), says("HT"), Script::Hang]
    {
        let pod =
            ScriptedBackend::start_sequence(ANY, vec![to_silence.clone(), Script::Answer]).await.unwrap();
        let rig = Rig::new(pod.address(), json!({}));
        let mut client = rig.client().await;
        eventually("a pod is asked whether it greets", || pod.connections() == 1).await;
        sleep(SILENT).await;
        client.send(GET).await.unwrap();
        assert_eq!(client.response().await.unwrap().text(), ANSWER, "{to_silence:?}");
        let line = rig.line().await;
        assert_eq!(line.verdict(), (200, "-", tries(&["ok"])), "{to_silence:?}");
    }
}

#[tokio::test]
async fn a_silent_client_that_leaves_has_no_line() {
    let pod = pod(Script::Hang).await;
    let rig = Rig::new(pod.address(), json!({}));
    let silent = rig.client().await;
    eventually("a pod is asked whether it greets", || pod.connections() == 1).await;
    drop(silent);
    let idle = Rig::new(pod.address(), json!({"timeouts": {"downstream_idle": "100ms"}}));
    assert_eq!(idle.client().await.end().await.1, End::Closed, "silence is idleness");
    let mut client = rig.client().await;
    client.send("x\n").await.unwrap();
    drop(client);
    assert_eq!(rig.line().await.number("bytes_received"), 1 + 1);
}

#[tokio::test]
async fn a_half_typed_head_is_a_slow_head_and_not_tcp() {
    let pod = pod(Script::Echo).await;
    let rig = Rig::new(pod.address(), json!({"timeouts": {"head": "600ms"}}));
    for begun in ["GE", "GET x", "POST http://a/ HT"] {
        let mut client = rig.client().await;
        client.send(begun).await.unwrap();
        assert_eq!(client.end().await, (Vec::new(), End::Closed), "{begun:?}");
    }
    for line in rig.lines(3).await {
        assert_eq!((line.flags(), line.text("details")), ("SI", "request_header_timeout"));
    }
    assert_eq!(pod.connections(), 0);
}

#[tokio::test]
async fn numbers_grow_while_a_connection_lasts() {
    let pod = pod(Script::Echo).await;
    let rig = Rig::new(pod.address(), tcp(json!({})));
    let mut client = TcpStream::connect(rig.address).await.unwrap();
    client.write_all(b"hello").await.unwrap();
    read(&mut client, 5).await;
    let sent = "whichpod_tcp_sent_bytes_total{upstream=\"backend\"} 5";
    let mut metrics = rig.metrics().await;
    let deadline = Instant::now() + Duration::from_secs(10);
    // The client may have the bytes before they are counted.
    while !metrics.contains(sent) && Instant::now() < deadline {
        sleep(Duration::from_millis(10)).await;
        metrics = rig.metrics().await;
    }
    for sample in [
        "whichpod_tcp_connections_total{upstream=\"backend\"} 1",
        "whichpod_tcp_connections_active{upstream=\"backend\"} 1",
        "whichpod_tcp_received_bytes_total{upstream=\"backend\"} 5",
        sent,
        "whichpod_upstream_connections_active{upstream=\"backend\"} 1",
        "whichpod_requests_active{upstream=\"backend\"} 0",
    ] {
        assert!(metrics.contains(sample), "{sample}:\n{metrics}");
    }
    let clusters = rig.admin_page("/clusters").await;
    assert!(clusters.contains(&format!("backend::{}::cx_active::1", pod.address())), "{clusters}");
}

#[tokio::test]
async fn an_ordinary_sidecar_keeps_connections_until_it_must_leave_and_writes_their_lines() {
    let (listener, mut rig) =
        played(json!({"shutdown": {"native_sidecar": false, "grace_period": "3s"}})).await;
    let (mut client, mut pod) = both_ends(&listener, &rig).await;
    let health = rig.health().unwrap();
    let stopping = tokio::spawn(async move {
        let took = rig.stop().await;
        (rig, took)
    });
    while Client::connect(health).await.unwrap().get("/ready").await.unwrap().status == 200 {
        sleep(Duration::from_millis(10)).await;
    }
    client.write_all(b"x").await.unwrap();
    assert_eq!(read(&mut pod, 1).await, b"x");
    let (rig, took) = stopping.await.unwrap();
    assert!((900..2900).contains(&took.as_millis()), "{took:?}");
    let line = rig.line().await;
    assert_eq!((line.flags(), line.text("details"), line.number("bytes_received")), ("LR", "shutdown", 1));
}

#[tokio::test]
async fn a_native_sidecar_passes_on_the_apps_last_words_and_does_not_wait_for_an_answer() {
    let (listener, mut rig) = played(json!({})).await;
    let (mut client, mut pod) = both_ends(&listener, &rig).await;
    // More than the kernel's buffers hold.
    let words = vec![b'w'; 8 << 20];
    let told = tokio::spawn(async move {
        client.write_all(&words).await.unwrap();
    });
    let mut heard = read(&mut pod, 1000).await.len();
    let stopping = tokio::spawn(async move {
        let took = rig.stop().await;
        (rig, took)
    });
    sleep(Duration::from_millis(300)).await;
    let mut buffer = vec![0; 65536];
    loop {
        match pod.read(&mut buffer).await.unwrap() {
            0 => break,
            count => heard += count,
        }
    }
    told.await.unwrap();
    assert_eq!(heard, 8 << 20);
    // The pod says nothing and does not close.
    let (rig, took) = stopping.await.unwrap();
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(rig.line().await.number("bytes_received"), 8 << 20);
}
