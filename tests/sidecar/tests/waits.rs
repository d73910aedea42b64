//! Nothing on a request's way waits for DNS or the admin server. (For the log: `a_reader_that_stopped_delays_no_traffic`.)

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};
use whichpod_testkit::dns::Failure;
use whichpod_testkit::scripted::{Script, ScriptedBackend};
use whichpod_tests_sidecar::{ANY, Cluster, Rig};

/// Far less than any of the waits that could be in the way, and more than a busy machine takes.
const SOON: Duration = Duration::from_millis(800);

async fn each_soon(rig: &Rig, requests: usize, what: &str) {
    for _ in 0..requests {
        let started = Instant::now();
        assert_eq!(rig.get("/").await.status, 200, "{what}");
        assert!(started.elapsed() < SOON, "{what}: {:?}", started.elapsed());
    }
}

#[tokio::test]
async fn a_request_does_not_wait_for_a_dns_that_is_silent_even_if_a_pod_has_just_failed() {
    let cluster = Cluster::new(0).await;
    let pods = cluster.pods(2).await;
    // Every request makes a connection of its own, so that the pod that dies is met.
    let rig = cluster.sidecar(json!({"timeouts": {"upstream_idle": "1ms"}})).ready().await;
    each_soon(&rig, 4, "DNS answers").await;
    let asked = cluster.zone.all_queries();
    cluster.zone.fail_all(Failure::Silent);
    pods[0].kill().await;
    each_soon(&rig, 20, "DNS is silent").await;
    let deadline = Instant::now() + Duration::from_secs(10);
    while cluster.zone.all_queries() == asked {
        assert!(Instant::now() < deadline, "DNS was asked meanwhile");
        sleep(Duration::from_millis(10)).await;
    }
    each_soon(&rig, 10, "DNS owes an answer").await;
}

#[tokio::test]
async fn a_request_does_not_wait_for_an_admin_server_that_is_kept_busy() {
    let pod = ScriptedBackend::start(ANY, Script::Answer).await.unwrap();
    let rig = Rig::new(pod.address(), json!({}));
    let admin = rig.admin().unwrap();
    let mut held = Vec::new();
    for number in 0..100 {
        let mut stream = TcpStream::connect(admin).await.unwrap();
        // Half of them never end their head, half never read what they asked for.
        let end = if number % 2 == 0 { "" } else { "\r\n\r\n" };
        let head = format!("GET /stats/prometheus HTTP/1.1\r\nhost: {admin}{end}");
        stream.write_all(head.repeat(if end.is_empty() { 1 } else { 50 }).as_bytes()).await.unwrap();
        held.push(stream);
    }
    each_soon(&rig, 50, "the admin server is busy").await;
    drop(held);
}
