//! The end of the process: no request is lost, and every line is written.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, timeout};
use whichpod_testkit::backend::Backend;
use whichpod_testkit::client::Client;
use whichpod_testkit::load::Load;
use whichpod_tests_sidecar::{ANY, Rig, eventually};

async fn rig(native: bool, grace_period: &str) -> (Backend, Rig) {
    let pod = Backend::start("backend-0", ANY).await.unwrap();
    let shutdown = json!({"native_sidecar": native, "grace_period": grace_period});
    let rig = Rig::new(pod.address(), json!({"shutdown": shutdown})).ready().await;
    (pod, rig)
}

/// What `/ready` answers, and its text.
async fn ready(address: std::net::SocketAddr) -> (u16, String) {
    let answer = Client::connect(address).await.unwrap().get("/ready").await.unwrap();
    (answer.status, answer.text())
}

#[tokio::test]
async fn a_native_sidecar_leaves_when_the_last_request_is_answered_and_not_before() {
    const REQUESTS: usize = 32;
    let (pod, mut rig) = rig(true, "30s").await;
    let _idle = rig.client().await;
    let mut clients = Vec::new();
    for _ in 0..REQUESTS {
        let mut client = rig.client().await;
        client.send("GET /held HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        clients.push(client);
    }
    eventually("all requests run", || pod.requests() == REQUESTS).await;
    let address = rig.address;
    let mut stopping = tokio::spawn(async move {
        rig.stop().await;
        rig
    });
    assert!(timeout(Duration::from_millis(300), &mut stopping).await.is_err(), "requests are waited for");
    let answered = Instant::now();
    pod.release();
    let rig = stopping.await.unwrap();
    let took = answered.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}: idle connections are not waited for");
    for mut client in clients {
        assert_eq!(client.response().await.unwrap().status, 200);
    }
    let lines = rig.lines(REQUESTS).await;
    assert!(lines.iter().all(|line| line.verdict() == (200, "-", vec!["ok".to_owned()])));
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn an_idle_native_sidecar_leaves_at_once() {
    let (_pod, mut rig) = rig(true, "30s").await;
    assert_eq!(rig.get("/").await.status, 200);
    let took = rig.stop().await;
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(rig.lines(1).await.len(), 1, "the line is written");
}

/// The longest answer that the sidecar has handed over whole although its client has not read a byte.
async fn longest_unread(rig: &Rig, mut connect: impl AsyncFnMut() -> TcpStream) -> (u64, TcpStream) {
    let (mut low, mut high) = (0, 16 << 20);
    let mut best = connect().await;
    while high - low > 16 << 10 {
        let middle = u64::midpoint(low, high);
        let mut client = connect().await;
        client
            .write_all(format!("GET /bytes/{middle} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let path = format!("/bytes/{middle}");
        let line = rig.lines_with("it is handed over", |line| line.text("path") == path);
        match timeout(Duration::from_millis(400), line).await {
            Ok(_) => (low, best) = (middle, client),
            Err(_) => high = middle,
        }
    }
    (low, best)
}

#[tokio::test]
async fn a_slow_reader_gets_the_rest_of_its_answer_although_the_sidecar_is_told_to_leave() {
    let (_pod, mut rig) = rig(true, "30s").await;
    let address = rig.address;
    let connect = async || {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.connect(address).await.unwrap()
    };
    let (length, mut client) = longest_unread(&rig, connect).await;
    let stopping = tokio::spawn(async move { rig.stop().await });
    sleep(Duration::from_millis(300)).await;
    let mut answer = Vec::new();
    let read = async {
        while answer.len() as u64 <= length {
            let count = client.read_buf(&mut answer).await.unwrap();
            assert!(count > 0, "cut after {} of {length} bytes", answer.len());
        }
    };
    timeout(Duration::from_secs(20), read).await.unwrap();
    let took = stopping.await.unwrap();
    assert!(took < Duration::from_secs(20), "{took:?}");
}

#[tokio::test]
async fn an_ordinary_sidecar_serves_while_the_app_is_still_at_work_and_loses_nothing() {
    let (pod, mut rig) = rig(false, "30s").await;
    let (address, health) = (rig.address, rig.health().unwrap());
    let mut kept = rig.client().await;
    assert_eq!(kept.get("/").await.unwrap().header("connection"), None);
    let load = Load::new(address).connections(4).pause(Duration::from_millis(5)).start();
    eventually("the load runs", || load.report().ok > 50).await;
    assert_eq!(ready(health).await.0, 200);

    let log = rig.log().to_owned();
    let stopping = tokio::spawn(async move {
        let took = rig.stop().await;
        (took, std::fs::read_to_string(log).unwrap())
    });
    let not_ready = async {
        while ready(health).await.0 == 200 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(5), not_ready).await.unwrap();
    assert_eq!(ready(health).await.1, "not ready: shutting down\n");
    let begun = load.report().ok;
    eventually("the load goes on", || load.report().ok > begun + 50).await;
    let answer = kept.get("/").await.unwrap();
    assert_eq!(
        (answer.status, answer.header("connection")),
        (200, Some("close")),
        "an idle connection still serves"
    );
    assert_eq!(
        Client::connect(address).await.unwrap().get("/").await.unwrap().status,
        200,
        "so does a new one"
    );

    // The last connection ends after this.
    let last = Instant::now();
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{:?}", report.reasons);
    let (_, text) = stopping.await.unwrap();
    let took = last.elapsed();
    assert!((4_900..12_000).contains(&took.as_millis()), "left {took:?} after the last connection");
    assert_eq!(text.lines().count(), pod.requests(), "every request has its line");
    assert!(pod.connections() < 60, "{} connections: the pod's stay open", pod.connections());
}

#[tokio::test]
async fn an_ordinary_sidecar_leaves_before_it_would_be_killed() {
    let (_pod, mut rig) = rig(false, "3s").await;
    let mut stuck = rig.client().await;
    stuck.send("GET /delay/60000 HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let took = rig.stop().await;
    assert!((900..2900).contains(&took.as_millis()), "{took:?}: two seconds before the grace period ends");
    let line = rig.line().await;
    assert_eq!((line.status(), line.text("path")), (0, "/delay/60000"), "what was cut off has its line");
}
