//! The HTTP/2 programs that people have: curl, nghttp, h2load and nghttpd.
#![cfg(feature = "peers")]
#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::time::Duration;

use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use whichpod_testkit::backend::Backend;
use whichpod_testkit::http2::Http2Pod;
use whichpod_tests_grpc::{run, start};
use whichpod_tests_sidecar::{ANY, Cluster, Rig};

#[tokio::test]
async fn curl_speaks_http_2_to_a_pod_of_either_version() {
    let (new, old) =
        (Http2Pod::start("backend-1", ANY).await.unwrap(), Backend::start("backend-1", ANY).await.unwrap());
    for (target, protocol) in [(new.address(), "auto"), (old.address(), "http1")] {
        let rig = Rig::new(target, json!({"protocol": protocol}));
        let url = format!("http://{}/echo", rig.address);
        let arguments = [
            "--silent",
            "--http2-prior-knowledge",
            "--data",
            "hello",
            "--write-out",
            " %{http_version}",
            &url,
        ];
        let said = run("curl", &arguments).await.unwrap();
        assert_eq!((said.content, said.text.as_str()), (true, "hello 2"), "{protocol}");
        let line = rig.line().await;
        assert_eq!(line.verdict(), (200, "-", vec!["ok".to_owned()]));
        assert_eq!(line.text("upstream_host"), target.to_string());
    }
}

#[tokio::test]
async fn nghttp_gets_an_answer_and_its_trailers() {
    let pod = Http2Pod::start("backend-1", ANY).await.unwrap();
    let rig = Rig::new(pod.address(), json!({}));
    let url = format!("http://{}/grpc/3", rig.address);
    let arguments = ["--verbose", "--data=/dev/null", "--header=content-type: application/grpc", &url];
    let said = run("nghttp", &arguments).await.unwrap();
    assert!(said.content && said.text.contains("grpc-status: 3"), "{}", said.text);
    assert_eq!(rig.line().await.number("grpc_status"), 3);
}

#[tokio::test]
async fn h2load_loads_all_pods_equally_and_fails_nowhere() {
    const REQUESTS: usize = 6_000;
    let cluster = Cluster::new(5).await;
    let mut pods = Vec::new();
    for number in 1..=3 {
        let name = format!("backend-{number}");
        pods.push(Http2Pod::start(&name, cluster.address(number)).await.unwrap());
    }
    let published: Vec<_> = pods.iter().map(|pod| (pod.name(), pod.address())).collect();
    cluster.publish_named(&published);
    let rig = cluster.sidecar(json!({})).ready().await;
    let url = format!("http://{}/", rig.address);
    let arguments = ["--requests=6000", "--clients=4", "--max-concurrent-streams=50", &url];
    let said = run("h2load", &arguments).await.unwrap();
    assert!(said.content && said.text.contains("6000 succeeded, 0 failed"), "{}", said.text);
    let each: Vec<_> = pods.iter().map(Http2Pod::requests).collect();
    assert_eq!(each.iter().sum::<usize>(), REQUESTS, "each sent once");
    assert!(each.iter().all(|count| count.abs_diff(REQUESTS / 3) <= REQUESTS / 100), "{each:?}");
    for line in rig.lines(REQUESTS).await {
        assert_eq!(line.verdict(), (200, "-", vec!["ok".to_owned()]));
    }
    assert!(pods.iter().all(|pod| pod.connections() <= 4), "one connection a pod, more only at its limit");
}

#[tokio::test]
async fn nghttpd_is_a_pod_as_any_other() {
    let cluster = Cluster::new(5).await;
    let address = cluster.address(1);
    let arguments = ["--no-tls", "--address", &address.ip().to_string(), &address.port().to_string()];
    let _server = start("nghttpd", &arguments).unwrap();
    let up = async {
        while TcpStream::connect(address).await.is_err() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(20), up).await.unwrap();
    cluster.publish_named(&[("nghttpd-1", address)]);
    let rig = cluster.sidecar(json!({"protocol": "h2c"})).ready().await;
    let answer = rig.get("/").await;
    assert!(answer.header("server").unwrap_or_default().starts_with("nghttpd"), "{answer:?}");
    let line = rig.line().await;
    assert_eq!((line.text("upstream_pod"), line.text("upstream_protocol")), ("nghttpd-1", "HTTP/2"));
    assert_eq!(line.tries().len(), 1);
}
