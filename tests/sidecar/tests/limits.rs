//! Limits turn away what is too much, at once and with the right words, and let the rest through.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use whichpod_testkit::backend::Backend;
use whichpod_testkit::client::{Client, End};
use whichpod_testkit::scripted::{Script, ScriptedBackend};
use whichpod_tests_sidecar::{ANY, Cluster, Rig, eventually, resident};

const GET: &str = "GET /a HTTP/1.1\r\nhost: a\r\n\r\n";
const OVERFLOW: &str = "upstream_reset_before_response_started{overflow}";

async fn hanging(settings: Value) -> (ScriptedBackend, Rig) {
    let pod = ScriptedBackend::start(ANY, Script::Hang).await.unwrap();
    let rig = Rig::new(pod.address(), settings);
    (pod, rig)
}

/// Clients whose requests are under way.
async fn busy(rig: &Rig, pod: &ScriptedBackend, count: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..count {
        let mut client = rig.client().await;
        client.send(GET).await.unwrap();
        clients.push(client);
    }
    eventually("the requests are under way", || pod.connections() == count).await;
    clients
}

#[tokio::test]
async fn one_request_too_many_is_answered_at_once_and_the_next_is_served_when_one_ends() {
    let (pod, rig) = hanging(json!({"circuit_breakers": {"max_requests": 2}})).await;
    let mut clients = busy(&rig, &pod, 2).await;
    // The pod never answers: whoever waited would wait for ever.
    let answer = rig.exchange(GET).await;
    assert_eq!((answer.status, answer.text().contains("upstream backend: too much")), (503, true));
    let line = rig.line().await;
    assert_eq!(line.verdict(), (503, "UO", Vec::new()));
    assert_eq!(line.text("details"), OVERFLOW);
    drop(clients.pop());
    rig.lines(2).await;
    let mut next = rig.client().await;
    next.send(GET).await.unwrap();
    eventually("another is let in", || pod.connections() == 3).await;
}

#[tokio::test]
async fn requests_wait_for_a_connection_and_too_many_waiting_are_turned_away() {
    let cluster = Cluster::new(5).await;
    let pods = cluster.pods(2).await;
    let rig = cluster
        .sidecar(json!({"circuit_breakers": {"max_connections": 2, "max_pending_requests": 3}}))
        .ready()
        .await;
    let turned_away = AtomicUsize::new(0);
    let get = async || {
        let status = rig.exchange("GET /held HTTP/1.1\r\nhost: a\r\n\r\n").await.status;
        turned_away.fetch_add(usize::from(status == 503), Relaxed);
        status
    };
    // Nobody is answered before all have been met.
    let release = async {
        eventually("three are turned away", || turned_away.load(Relaxed) == 3).await;
        pods.iter().for_each(Backend::release);
    };
    let (mut statuses, ()) = tokio::join!(join_all((0..8).map(|_| get())), release);
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 503, 503, 503], "two at once, three wait");
    let opened: usize = pods.iter().map(Backend::connections).sum();
    assert!(opened <= 5, "{opened}: who waited took over what became free");
    for line in rig.lines(8).await {
        assert!(line.status() == 200 || line.flags() == "UO" && line.text("details") == OVERFLOW);
    }
}

#[tokio::test]
async fn idle_connections_to_one_pod_do_not_starve_another() {
    let cluster = Cluster::new(5).await;
    let _pods = cluster.pods(4).await;
    let settings = json!({"circuit_breakers": {"max_connections": 1}, "timeouts": {"upstream_idle": "60s"}});
    let rig = cluster.sidecar(settings).ready().await;
    for _ in 0..8 {
        let started = Instant::now();
        assert_eq!(rig.get("/").await.status, 200);
        assert!(started.elapsed() < Duration::from_secs(2), "an idle connection makes room");
    }
    let pods: std::collections::BTreeSet<_> =
        rig.lines(8).await.iter().map(|line| line.text("upstream_pod").to_owned()).collect();
    assert_eq!(pods.len(), 4, "all pods are used");
}

#[tokio::test]
async fn two_workers_share_one_limit_and_nobody_waits_for_ever() {
    let cluster = Cluster::new(5).await;
    let pods = cluster.pods(2).await;
    let settings = json!({"workers": 2, "circuit_breakers": {"max_connections": 3}, "timeouts": {"upstream_idle": "60s"}});
    let rig = cluster.sidecar(settings).ready().await;
    let load = whichpod_testkit::load::Load::new(rig.address).connections(12).requests(1_200);
    let report = load.timeout(Duration::from_secs(10)).run().await;
    assert_eq!((report.ok, report.failed), (1_200, 0), "{:?}", report.reasons);
    drop(pods);
}

#[tokio::test]
async fn a_wait_for_a_connection_ends_with_the_requests_time() {
    let (pod, rig) =
        hanging(json!({"circuit_breakers": {"max_connections": 1}, "timeouts": {"request": "400ms"}})).await;
    let mut first = rig.client().await;
    first.send("POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n").await.unwrap();
    eventually("the connection is taken", || pod.connections() == 1).await;
    let answer = rig.exchange(GET).await;
    assert_eq!(answer.status, 504);
    let line = rig.line().await;
    assert_eq!((line.flags(), line.tries().len()), ("UT", 0));
}

#[tokio::test]
async fn retries_are_limited_whatever_the_budget() {
    let pod = ScriptedBackend::start(ANY, Script::CloseWithoutResponse).await.unwrap();
    let rig = Rig::new(pod.address(), json!({"circuit_breakers": {"max_retries": 0}}));
    assert_eq!(rig.exchange(GET).await.status, 503);
    assert_eq!(rig.line().await.verdict(), (503, "UC,URX", vec!["closed".to_owned()]));
}

#[tokio::test]
async fn one_client_too_many_is_closed_and_another_is_let_in_when_one_leaves() {
    let pod = ScriptedBackend::start(ANY, Script::Answer).await.unwrap();
    let rig = Rig::new(pod.address(), json!({"limits": {"connections": 2}, "workers": 2}));
    let mut clients = [rig.client().await, rig.client().await];
    for client in &mut clients {
        assert_eq!(client.get("/").await.unwrap().status, 200);
    }
    let mut third = rig.client().await;
    let (bytes, end) = third.end().await;
    assert!(bytes.is_empty() && end != End::Open, "{end:?}");
    let [first, _second] = clients;
    drop(first);
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let mut next = rig.client().await;
        if next.get("/").await.is_ok_and(|answer| answer.status == 200) {
            break;
        }
        assert!(Instant::now() < deadline);
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_process_near_its_memory_limit_sheds_requests_and_takes_them_again() {
    let resident = resident();
    // Other tests of this process come and go: the room is large compared to them.
    let limit = (resident + (256 << 20)) * 2;
    let pod = ScriptedBackend::start(ANY, Script::Answer).await.unwrap();
    let rig = Rig::new(pod.address(), json!({"memory": {"limit": limit, "shed_at_percent": 80}}));
    assert_eq!(rig.get("/").await.status, 200);
    let share = usize::try_from(limit / 100 * 85 - resident).unwrap();
    let block = vec![1_u8; share];
    let until = async |wanted: u16| {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let answer = rig.get("/").await;
            if answer.status == wanted {
                return answer;
            }
            assert!(Instant::now() < deadline, "{wanted} never came");
            sleep(Duration::from_millis(20)).await;
        }
    };
    let shed = until(503).await;
    assert_eq!(shed.header("connection"), Some("close"));
    assert!(shed.text().contains("memory runs short"), "{}", shed.text());
    assert_eq!(block[share - 1], 1);
    drop(block);
    until(200).await;
    let lines = rig.lines_with("shed", |line| line.flags() == "OM").await;
    let line = lines.iter().find(|line| line.flags() == "OM").unwrap();
    assert_eq!((line.verdict(), line.text("details")), ((503, "OM", Vec::new()), "overload"));
}
