//! The load finds what is wrong, and nothing where nothing is.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Uri};
use whichpod_testkit::backend::Backend;
use whichpod_testkit::load::Load;
use whichpod_testkit::scripted::{Script, ScriptedBackend};

const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

#[tokio::test]
async fn every_request_is_sent_once_and_its_pod_is_known() {
    let backend = Backend::start("backend-0", ANY).await.unwrap();
    let report = Load::new(backend.address()).connections(8).requests(500).first_id(1000).run().await;
    assert_eq!((report.ok, report.failed), (500, 0), "{:?}", report.reasons);
    assert_eq!(report.pods["backend-0"], 500);
    assert!((1000..1500).all(|id| report.pod_of[&id] == "backend-0"));
    assert_eq!(report.pod_of.len(), 500);
    assert!(report.elapsed > Duration::ZERO);

    let ids = backend.request_ids();
    assert!((1000..1500).all(|id: u64| ids[&id.to_string()] == 1));
    assert_eq!((backend.requests(), backend.connections()), (500, 8));
}

#[tokio::test]
async fn wrong_answers_and_lost_ones_are_failures_with_a_reason() {
    let answer = |head: &str, body: &str| {
        let length = body.len();
        Bytes::from(format!("HTTP/1.1 {head}content-length: {length}\r\n\r\n{body}"))
    };
    let cases = [
        (Script::Raw(answer("503 No\r\n", "no pod\n")), "status 503: no pod"),
        (Script::Answer, "not a backend's answer: \"i am scripted\\n\""),
        (
            Script::Raw(answer("200 OK\r\nx-pod: b\r\n", "i am backend in a\n")),
            "the body is from \"a\", the header x-pod from \"b\"",
        ),
        (Script::CloseWithoutResponse, "no answer: connection closed before message completed"),
        (Script::ResetAfterBytes(200), "within the answer: "),
    ];
    for (script, reason) in cases {
        let backend = ScriptedBackend::start(ANY, script).await.unwrap();
        let report = Load::new(backend.address()).requests(3).run().await;
        assert_eq!((report.ok, report.failed), (0, 3), "{report:?}");
        assert!(report.reasons.keys().all(|text| text.starts_with(reason)), "{:?}", report.reasons);
        assert_eq!(report.reasons.values().sum::<u64>(), 3);
    }
    let refusing = ScriptedBackend::start(ANY, Script::NoListen).await.unwrap();
    let report = Load::new(refusing.address()).requests(2).run().await;
    assert_eq!(report.failed, 2);
    assert!(
        report.reasons.keys().all(|text| text.starts_with("connect: Connection refused")),
        "{:?}",
        report.reasons
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_never_comes_is_given_up() {
    let backend = ScriptedBackend::start(ANY, Script::Hang).await.unwrap();
    let report = Load::new(backend.address()).requests(2).timeout(Duration::from_secs(3)).run().await;
    assert_eq!(report.reasons["no answer within 3s"], 2);
    assert!((6..8).contains(&report.elapsed.as_secs()), "{:?}", report.elapsed);
}

#[tokio::test]
async fn a_connection_that_the_server_closes_after_its_answer_is_no_failure() {
    let answer = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 18\r\n\r\ni am backend in a\n";
    let backend = ScriptedBackend::start(ANY, Script::Garbage(Bytes::from(answer))).await.unwrap();
    let report = Load::new(backend.address()).requests(20).run().await;
    assert_eq!((report.ok, report.failed), (20, 0), "{:?}", report.reasons);
    assert_eq!(backend.connections(), 20);
}

#[tokio::test]
async fn endless_load_stops_when_told_and_loses_nothing() {
    let backend = Backend::start("backend-0", ANY).await.unwrap();
    let running = Load::new(backend.address()).connections(4).remember(false).start();
    while running.report().ok < 50 {
        tokio::task::yield_now().await;
    }
    let report = running.stop().await;
    assert_eq!(report.failed, 0, "{:?}", report.reasons);
    assert_eq!(report.ok, backend.requests() as u64);
    assert!(report.pod_of.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_pause_is_kept_and_does_not_hold_up_the_stop() {
    let backend = Backend::start("backend-0", ANY).await.unwrap();
    let running = Load::new(backend.address()).pause(Duration::from_secs(60)).start();
    tokio::time::sleep(Duration::from_secs(90)).await;
    let report = running.stop().await;
    assert_eq!(report.ok, 2);
    assert_eq!(report.elapsed.as_secs(), 90);
}

#[tokio::test]
async fn dropping_a_load_ends_it() {
    let backend = Backend::start("backend-0", ANY).await.unwrap();
    let running = Load::new(backend.address()).connections(4).start();
    while running.report().ok < 10 {
        tokio::task::yield_now().await;
    }
    drop(running);
    // Returns only when no connection is in use any more.
    backend.stop().await;
}

#[tokio::test]
async fn other_requests_can_be_sent_and_checked() {
    let backend = Backend::start("backend-0", ANY).await.unwrap();
    let load = Load::new(backend.address()).requests(5).send(Method::POST, Uri::from_static("/echo"), "body");
    let report = load.check(Arc::new(|answer| {
        if answer.body() == "body" { Ok("echo".to_owned()) } else { Err("another body".to_owned()) }
    }));
    assert_eq!(report.run().await.pods["echo"], 5);
}
