//! Many HTTP/2 streams that are reset, and nothing left of them. Alone in its process, whose memory it measures.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use futures_util::future::join_all;
use serde_json::json;
use whichpod_testkit::http2::{Http2Client, Http2Pod, request};
use whichpod_tests_sidecar::{ANY, Rig, eventually, resident};

const MIB: u64 = 1 << 20;

/// Of the upstream, from `/metrics`.
async fn gauge(rig: &Rig, name: &str) -> u64 {
    let text = rig.metrics().await;
    let prefix = format!("{name}{{upstream=\"backend\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap().parse().unwrap()
}

async fn rig() -> (Http2Pod, Rig, Http2Client) {
    let pod = Http2Pod::start("backend-1", ANY).await.unwrap();
    // No log: a test that reads it would hold it in memory.
    let rig = Rig::new(pod.address(), json!({"access_log": {"path": "off"}})).ready().await;
    let client = Http2Client::connect(rig.address).await.unwrap();
    (pod, rig, client)
}

#[tokio::test]
async fn a_hundred_thousand_streams_that_are_reset_leave_nothing_behind() {
    const AT_A_TIME: usize = 100;
    let (pod, rig, client) = rig().await;
    let round = async || {
        let streams = (0..AT_A_TIME).map(|_| async {
            let head = request("POST", "/echo", &[], "").map(drop);
            let (response, stream) = client.begin(head, false).await.unwrap();
            (response.await.unwrap(), stream)
        });
        // Dropping what is not at its end resets it.
        drop(join_all(streams).await);
    };
    // By then every buffer has the size that it keeps.
    for _ in 0..300 {
        round().await;
    }
    let before = resident();
    let mut seen = Vec::new();
    for number in 0..700 {
        round().await;
        if number % 100 == 0 {
            seen.push(resident().saturating_sub(before) / 1024);
        }
    }
    eventually("the pod has none left", || pod.running() == 0).await;
    assert_eq!(pod.requests(), 100_000);
    while gauge(&rig, "whichpod_requests_active").await > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(gauge(&rig, "whichpod_connections_active").await, 1);
    assert!(gauge(&rig, "whichpod_upstream_connections_active").await <= 3);
    let grown = resident().saturating_sub(before);
    assert!(
        grown <= 8 * MIB,
        "{} MiB more than after the first 30,000; KiB on the way: {seen:?}",
        grown / MIB
    );
    assert_eq!(client.get("/").await.unwrap().status, 200);
}
