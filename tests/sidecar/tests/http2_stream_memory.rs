//! Much data over one HTTP/2 stream. Alone in its process, whose memory it measures.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use bytes::Bytes;
use serde_json::json;
use whichpod_testkit::http2::{Http2Client, Http2Pod, request, send};
use whichpod_tests_sidecar::{ANY, Rig, resident};

const MIB: u64 = 1 << 20;

async fn rig() -> (Http2Pod, Rig, Http2Client) {
    let pod = Http2Pod::start("backend-1", ANY).await.unwrap();
    // No log: a test that reads it would hold it in memory.
    let rig = Rig::new(pod.address(), json!({"access_log": {"path": "off"}})).ready().await;
    let client = Http2Client::connect(rig.address).await.unwrap();
    (pod, rig, client)
}

#[tokio::test]
async fn a_gibibyte_up_and_down_a_stream_stays_out_of_memory() {
    let (pod, _rig, client) = rig().await;
    assert_eq!(client.get("/bytes/10000000").await.unwrap().body.len(), 10_000_000);
    let before = resident();
    let (response, mut up) = client
        .begin(request("POST", "/echo", &[("content-type", "application/grpc")], "").map(drop), false)
        .await
        .unwrap();
    let mut down = response.await.unwrap().into_body();
    let sending = tokio::spawn(async move {
        let piece = Bytes::from(vec![b'x'; 64 * 1024]);
        for _ in 0..(1 << 30) / piece.len() {
            send(&mut up, piece.clone()).await.unwrap();
        }
        up.send_data(Bytes::new(), true).unwrap();
    });
    let (mut received, mut most) = (0_u64, 0);
    while let Some(data) = down.data().await {
        let data = data.unwrap();
        down.flow_control().release_capacity(data.len()).unwrap();
        if received / (64 * MIB) != (received + data.len() as u64) / (64 * MIB) {
            most = most.max(resident());
        }
        received += data.len() as u64;
    }
    sending.await.unwrap();
    assert_eq!((received, pod.requests()), (1 << 30, 2));
    let grown = most.saturating_sub(before);
    assert!(grown <= 16 * MIB, "{} MiB more than before", grown / MIB);
}
