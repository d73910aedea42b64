//! Pods that answer badly, or fail their checks, get no requests; users see why; new pods and hashed users are treated as
//! they were asked to be.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::json;
use whichpod_testkit::http2::{Http2Client, Http2Pod};
use whichpod_testkit::scripted::{Script, ScriptedBackend};
use whichpod_tests_sidecar::{ANY, Cluster, Rig, eventually};

/// A scripted pod that answers each request with this status.
async fn answering(status: &str) -> ScriptedBackend {
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
    ScriptedBackend::start(ANY, Script::Raw(answer.into())).await.unwrap()
}

/// Waits until `/clusters` has this line for the pod.
async fn until_flagged(rig: &Rig, pod: SocketAddr, flags: &str) {
    let line = format!("backend::{pod}::health_flags::{flags}\n");
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        let text = rig.admin_page("/clusters").await;
        if text.contains(&line) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{line} is not in\n{text}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_pod_that_answers_5xx_is_ejected_seen_and_taken_back() {
    let (bad, good) = (answering("500 Oops").await, answering("200 OK").await);
    let outlier = json!({"consecutive_5xx": 3, "base_ejection_time": "4s", "interval": "100ms"});
    let (_cluster, rig) = Cluster::in_front_of(&[&bad, &good], json!({"outlier_detection": outlier})).await;
    let statuses = async |count: usize| {
        let mut counts = BTreeMap::new();
        for _ in 0..count {
            *counts.entry(rig.get("/").await.status).or_insert(0) += 1;
        }
        counts
    };
    assert_eq!(statuses(6).await[&500], 3);
    until_flagged(&rig, bad.address(), "/failed_outlier_check").await;
    assert_eq!(statuses(20).await, BTreeMap::from([(200, 20)]), "nobody meets it");
    let stats = rig.admin_page("/stats?filter=outlier").await;
    assert!(
        stats.contains("ejections_active: 1\n") && stats.contains("ejections_enforced_total: 1\n"),
        "{stats}"
    );
    until_flagged(&rig, bad.address(), "healthy").await;
    assert!(statuses(4).await.contains_key(&500), "it is tried again");
}

#[tokio::test]
async fn a_pod_whose_calls_fail_is_ejected_wherever_their_status_comes() {
    for path in ["/grpc/13", "/grpc-only/13"] {
        let pod = Http2Pod::start("backend-1", ANY).await.unwrap();
        let outlier = json!({"consecutive_5xx": 3, "interval": "100ms", "max_ejection_percent": 100});
        let rig = Rig::new(pod.address(), json!({"outlier_detection": outlier})).ready().await;
        let client = Http2Client::connect(rig.address).await.unwrap();
        for _ in 0..3 {
            // A call that is well in between would not be one of three in a row.
            assert_eq!(client.call(path, &[]).await.unwrap().field("grpc-status"), Some("13"), "{path}");
        }
        until_flagged(&rig, pod.address(), "/failed_outlier_check").await;
    }
}

#[tokio::test]
async fn a_pod_whose_calls_fail_now_and_then_stays() {
    let pod = Http2Pod::start("backend-1", ANY).await.unwrap();
    let outlier = json!({"consecutive_5xx": 3, "interval": "100ms", "max_ejection_percent": 100});
    let rig = Rig::new(pod.address(), json!({"outlier_detection": outlier})).ready().await;
    let client = Http2Client::connect(rig.address).await.unwrap();
    for status in [13, 14, 0, 13, 2, 5, 13, 13] {
        client.call(&format!("/grpc/{status}"), &[]).await.unwrap();
    }
    let text = rig.admin_page("/clusters").await;
    assert!(text.contains(&format!("{}::health_flags::healthy\n", pod.address())), "{text}");
}

#[tokio::test]
async fn a_pod_that_breaks_off_is_ejected_too() {
    let bad = ScriptedBackend::start(ANY, Script::ResetAfterRequest).await.unwrap();
    let good = answering("200 OK").await;
    let settings = json!({
        "outlier_detection": {"consecutive_5xx": 0, "consecutive_gateway_failure": 2},
        "retry": {"attempts": 1},
    });
    let (_cluster, rig) = Cluster::in_front_of(&[&bad, &good], settings).await;
    for _ in 0..8 {
        assert_eq!(rig.get("/").await.status, 200, "each is tried again on the other pod");
    }
    until_flagged(&rig, bad.address(), "/failed_outlier_check").await;
    assert_eq!(bad.requests(), 2);
}

#[tokio::test]
async fn a_pod_that_fails_its_http_checks_gets_no_requests_and_one_that_passes_does() {
    let (bad, good) = (answering("503 No").await, answering("200 OK").await);
    let check = json!({"protocol": "http", "path": "/healthz", "interval": "50ms", "unhealthy_threshold": 2});
    let (_cluster, rig) = Cluster::in_front_of(&[&bad, &good], json!({"health_check": check})).await;
    until_flagged(&rig, bad.address(), "/failed_active_hc").await;
    for _ in 0..10 {
        assert_eq!(rig.get("/").await.status, 200);
    }
    let asked = whichpod_tests_sidecar::received(&bad);
    assert!(asked.contains("GET /healthz HTTP/1.1\r\n") && !asked.contains("GET / "), "{asked}");
    assert!(asked.contains("host: backend-headless.default.svc.cluster.local\r\n"), "{asked}");
    let stats = rig.admin_page("/stats?filter=health_check").await;
    assert!(!stats.contains("health_check.failure: 0\n"), "{stats}");
}

#[tokio::test]
async fn checks_follow_the_pods_that_come_and_go() {
    let cluster = Cluster::new(0).await;
    let (first, second) = (answering("200 OK").await, answering("200 OK").await);
    cluster.publish_named(&[("backend-1", first.address())]);
    let check = json!({"health_check": {"protocol": "http", "path": "/up", "interval": "30ms"}});
    let rig = cluster.sidecar(check).ready().await;
    eventually("the first pod is checked", || first.requests() > 2).await;
    cluster.publish_named(&[("backend-2", second.address())]);
    rig.get("/").await;
    eventually("the second pod is checked", || second.requests() > 2).await;
    let before = first.requests();
    eventually("the second pod is checked on", || second.requests() > 20).await;
    assert!(first.requests() <= before + 1, "a pod that left is not checked");
}

#[tokio::test]
async fn a_port_that_nobody_listens_on_fails_tcp_checks_but_the_last_pods_are_used_all_the_same() {
    let pod = answering("200 OK").await;
    let closed = ScriptedBackend::start(ANY, Script::NoListen).await.unwrap();
    let check = json!({"protocol": "tcp", "port": closed.address().port(), "interval": "30ms", "unhealthy_threshold": 1});
    let (_cluster, rig) = Cluster::in_front_of(&[&pod], json!({"health_check": check})).await;
    until_flagged(&rig, pod.address(), "/failed_active_hc").await;
    assert_eq!(rig.get("/").await.status, 200, "a panic: too few pods are well");
    assert!(rig.admin_page("/clusters").await.contains("backend::panic::true\n"));
}

#[tokio::test]
async fn a_user_is_kept_with_one_pod_by_header_and_by_cookie() {
    let cluster = Cluster::new(5).await;
    let pods = cluster.pods(4).await;
    for (on, header) in
        [(json!({"header": "x-user"}), "x-user: "), (json!({"cookie": "id"}), "cookie: a=b; id=")]
    {
        let rig = cluster.sidecar(json!({"balance": {"policy": "maglev", "hash": on}})).ready().await;
        let mut used = std::collections::BTreeSet::new();
        for user in 0..12 {
            let mut homes = std::collections::BTreeSet::new();
            for _ in 0..3 {
                let request = format!("GET / HTTP/1.1\r\nhost: a\r\n{header}{user}\r\n\r\n");
                homes.insert(rig.exchange(request).await.text());
            }
            assert_eq!(homes.len(), 1, "{header}{user}: {homes:?}");
            used.extend(homes);
        }
        assert!(used.len() > 1, "{used:?}");
    }
    drop(pods);
}

#[tokio::test]
async fn every_policy_serves() {
    let cluster = Cluster::new(5).await;
    let _pods = cluster.pods(3).await;
    for policy in ["ewma", "random", "least_request", "maglev:source_address"] {
        let rig = cluster.sidecar(json!({"balance": policy, "slow_start": {"window": "0s"}})).ready().await;
        let mut used = std::collections::BTreeSet::new();
        for _ in 0..40 {
            let answer = rig.get("/").await;
            assert_eq!(answer.status, 200, "{policy}");
            used.insert(answer.text());
        }
        assert_eq!(used.len(), if policy.starts_with("maglev") { 1 } else { 3 }, "{policy}");
    }
}
