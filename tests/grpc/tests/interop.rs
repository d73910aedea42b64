//! gRPC's own interop tests, the client and the server of Go, with the sidecar between them.
#![cfg(feature = "peers")]
#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::FutureExt as _;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::process::Child;
use tokio::time::{sleep, timeout};
use whichpod_tests_grpc::{run, start};
use whichpod_tests_sidecar::{Cluster, Rig};

/// Every case of the client that needs neither TLS nor somebody's credentials, and the statuses of its calls. Left out are
/// pick_first_unary, orca_per_rpc and orca_oob, which this server does not serve, with or without a proxy: it tells neither
/// its name nor its load.
const CASES: &[(&str, &[u64])] = &[
    ("empty_unary", &[0]),
    ("large_unary", &[0]),
    ("client_streaming", &[0]),
    ("server_streaming", &[0]),
    ("ping_pong", &[0]),
    ("empty_stream", &[0]),
    // The client's deadline of a millisecond ends it before the server answers, or before anything is sent.
    ("timeout_on_sleeping_server", &[]),
    ("cancel_after_begin", &[]),
    ("cancel_after_first_response", &[]),
    ("status_code_and_message", &[2, 2]),
    ("special_status_message", &[2]),
    ("custom_metadata", &[0, 0]),
    ("unimplemented_method", &[12]),
    ("unimplemented_service", &[12]),
];

/// A server and the cluster that it is a pod of. It listens on every address of one port, and thus also on the cluster's
/// first; where anybody has that port already, at whatever address, it ends, and another is tried.
async fn serving() -> (Cluster, Child) {
    let up = async {
        loop {
            let cluster = Cluster::new(5).await;
            let address = cluster.address(1);
            let mut server = start("server", &["-port".to_owned(), address.port().to_string()]).unwrap();
            while server.try_wait().unwrap().is_none() {
                if TcpStream::connect(address).await.is_ok() {
                    cluster.publish_named(&[("interop-1", address)]);
                    return (cluster, server);
                }
                sleep(Duration::from_millis(20)).await;
            }
        }
    };
    timeout(Duration::from_secs(60), up).await.unwrap()
}

async fn all_cases(settings: serde_json::Value) {
    let (cluster, _server) = serving().await;
    for (case, statuses) in CASES {
        let rig: Rig = cluster.sidecar(settings.clone()).ready().await;
        let address: SocketAddr = rig.address;
        let arguments = [
            format!("-server_host={}", address.ip()),
            format!("-server_port={}", address.port()),
            format!("-test_case={case}"),
        ];
        let said = run("client", &arguments).await.unwrap();
        assert!(said.content, "{case}: {}", said.text);
        // A call that is over before it begins has no line.
        let over_at_once = ["timeout_on_sleeping_server", "cancel_after_begin"].contains(case);
        let lines = if over_at_once {
            rig.lines_with("whatever there is", |_| true).now_or_never().unwrap_or_default()
        } else {
            rig.lines_with(case, |_| true).await
        };
        for line in &lines {
            assert_eq!((line.text("protocol"), line.text("upstream")), ("HTTP/2", "backend"), "{case}");
            let tries = line.tries();
            assert!(tries.len() <= 1, "{case}: {tries:?}");
            for attempt in tries {
                assert_eq!(attempt.pod.as_deref(), Some("interop-1"), "{case}");
                assert_eq!(attempt.address, cluster.address(1).to_string(), "{case}");
            }
            if over_at_once {
                // Who is first, the client or we, is a matter of luck.
                assert!(["DC", "UT"].contains(&line.flags()), "{line:?}");
            }
        }
        if !statuses.is_empty() {
            let lines = rig.lines(statuses.len()).await;
            let got: Vec<_> = lines.iter().map(|line| line.number("grpc_status")).collect();
            assert_eq!(got, *statuses, "{case}");
            assert!(
                lines.iter().all(|line| line.flags() == "-" && line.tries().len() == 1),
                "{case}: {lines:?}"
            );
        }
    }
}

#[tokio::test]
async fn every_case_of_grpcs_own_interop_tests_passes_through_us() {
    all_cases(json!({})).await;
}

#[tokio::test]
async fn every_case_passes_where_the_protocol_is_set() {
    all_cases(json!({"protocol": "grpc"})).await;
}
