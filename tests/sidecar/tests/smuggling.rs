//! Requests that two parsers would read differently: what reaches the pod is never ambiguous.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::time::Duration;

use futures_util::future::join_all;
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use whichpod_testkit::client::End;
use whichpod_testkit::scripted::{ANSWER, Script, ScriptedBackend};
use whichpod_tests_sidecar::{ANY, Line, Rig, received, unambiguous};

/// What an attacker hides behind a request, to be taken for one of its own.
const HIDDEN: &str = "GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";

async fn rig() -> (ScriptedBackend, Rig) {
    rig_with(json!({})).await
}

async fn rig_with(settings: Value) -> (ScriptedBackend, Rig) {
    let pod = ScriptedBackend::start(ANY, Script::Answer).await.unwrap();
    let rig = Rig::new(pod.address(), settings);
    (pod, rig)
}

/// What came of an attack.
struct Outcome {
    /// The statuses of the answers, in their order.
    statuses: Vec<u16>,
    /// What reached the pod, without request ids.
    received: String,
    lines: Vec<Line>,
}

/// Sends these bytes on a connection of their own and waits for its end.
async fn attack(bytes: &[u8]) -> Outcome {
    let (pod, rig) = rig().await;
    let mut client = rig.client().await.with_timeout(Duration::from_secs(10));
    // The sidecar may close before it has read everything.
    let _ = client.send(bytes).await;
    let (answers, end) = client.end().await;
    let text = String::from_utf8_lossy(&answers).into_owned();
    assert_ne!(end, End::Open, "the connection is closed: {:?}\n{text}", String::from_utf8_lossy(bytes));
    let statuses: Vec<_> =
        text.split("HTTP/1.").skip(1).map(|answer| answer[2..5].parse().unwrap()).collect();
    assert_eq!(rig.get("/next").await.text(), ANSWER, "the next client is served");
    let mut lines = rig.lines(statuses.len().max(1) + 1).await;
    lines.pop();
    for received in pod.received() {
        unambiguous(&received).unwrap();
    }
    let received = received(&pod);
    let lines_received = received.lines().filter(|line| !line.starts_with("x-request-id"));
    let attack: String = lines_received.map(|line| format!("{line}\n")).collect();
    let attack = attack.replace("GET /next HTTP/1.1\nhost: backend-service\n\n", "");
    Outcome { statuses, received: attack, lines }
}

/// All of these attacks are refused; see [`refused`].
async fn all_refused(attacks: impl IntoIterator<Item = String>, status: u16) {
    join_all(attacks.into_iter().map(|bytes| refused(bytes, status))).await;
}

/// The attack is refused with this status, closed and logged, and the pod hears nothing of it.
async fn refused(bytes: impl AsRef<[u8]>, status: u16) {
    let bytes = bytes.as_ref();
    let outcome = attack(bytes).await;
    let what = String::from_utf8_lossy(bytes);
    assert_eq!(outcome.statuses, [status], "{what:?}");
    assert_eq!(outcome.received, "", "{what:?}");
    assert_eq!(outcome.lines[0].verdict(), (status.into(), "DPE", vec![]), "{what:?}");
    assert_eq!(outcome.lines[0].text("details"), "http1.codec_error", "{what:?}");
    assert_ne!(outcome.lines[0].text("downstream_remote_address"), "-", "{what:?}: who did it");
}

fn with(fields: &str) -> String {
    format!("POST / HTTP/1.1\r\nhost: a\r\n{fields}\r\n\r\n")
}

#[tokio::test]
async fn a_length_beside_chunks_cannot_hide_a_request() {
    for fields in [
        "content-length: 6\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 6",
        "content-length: 6\r\nx-a: b\r\nTransfer-Encoding: Chunked\r\nContent-Length: 6",
    ] {
        let outcome = attack(format!("{}0\r\n\r\n{HIDDEN}", with(fields)).as_bytes()).await;
        // Normalised and closed afterwards (RFC 9112 §6.3).
        assert_eq!(outcome.statuses, [200], "{fields:?}");
        assert!(
            !outcome.received.contains("smuggled") && !outcome.received.contains("content-length"),
            "{fields:?}: {}",
            outcome.received
        );
    }
}

#[tokio::test]
async fn a_transfer_coding_that_not_everybody_understands_is_refused() {
    let codings = [
        "xchunked",
        "chunked, identity",
        "chunked;q=1",
        "identity",
        "",
        "chunked\u{b}",
        "\"chunked\"",
        "gzip",
        "chunked chunked",
    ];
    all_refused(
        codings.map(|coding| format!("{}0\r\n\r\n{HIDDEN}", with(&format!("transfer-encoding: {coding}")))),
        400,
    )
    .await;
    let codingss = [
        "gzip, chunked",
        "chunked, chunked",
        "chunked\r\ntransfer-encoding: chunked",
        "identity\r\ntransfer-encoding: chunked",
        "chunked\r\ntransfer-encoding: identity",
    ];
    all_refused(
        codingss
            .map(|codings| format!("{}0\r\n\r\n{HIDDEN}", with(&format!("transfer-encoding: {codings}")))),
        400,
    )
    .await;
    let old = "POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    refused(format!("{old}{HIDDEN}"), 400).await;
}

#[tokio::test]
async fn a_length_that_not_everybody_reads_the_same_is_refused() {
    let lengths = [
        "+3",
        "-3",
        "0x3",
        "3 3",
        "",
        "3,",
        "3, 3",
        "3, 4",
        "3\r\ncontent-length: 4",
        "3.0",
        "99999999999999999999",
        "\u{663}",
    ];
    all_refused(
        lengths.map(|length| format!("{}abc{HIDDEN}", with(&format!("content-length: {length}")))),
        400,
    )
    .await;
}

#[tokio::test]
async fn equal_lengths_become_one() {
    let (pod, rig) = rig().await;
    let answer = rig.exchange(format!("{}abc", with("content-length: 3\r\ncontent-length: 3"))).await;
    assert_eq!(answer.status, 200);
    assert_eq!(received(&pod).matches("content-length: 3\r\n").count(), 1);
    assert!(received(&pod).ends_with("\r\n\r\nabc"));
}

#[tokio::test]
async fn a_head_that_not_everybody_splits_the_same_is_refused() {
    let fields = [
        "x-a: b\r\n c",
        "x-a: b\r\n\tc",
        " x-a: b",
        "\tx-a: b",
        "x-a : b",
        "x-a\t: b",
        "transfer-encoding : chunked",
        ": b",
        "x-a",
        "x a: b",
        "x-a: b\rc: d",
        "x-a: b\0c",
        "x\0: b",
        "x-a: \u{7f}",
        "x-a: \u{1b}[2J",
        "x-a\r: b",
        "x(a): b",
        "x-\u{e9}: b",
    ];
    all_refused(fields.map(|field| format!("GET / HTTP/1.1\r\nhost: a\r\n{field}\r\n\r\n{HIDDEN}")), 400)
        .await;
    let starts = [
        "GET /\0 HTTP/1.1",
        "GET / x HTTP/1.1",
        "GET /\tx HTTP/1.1",
        "GET  / HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET / HTTP/1.1\r",
        "GET / HTTP/2.0",
        "GET / HTTP/1.2",
        "GET / HTTP/0.9",
        "GET / http/1.1",
        "GET /",
        " GET / HTTP/1.1",
        "G\u{e9}T / HTTP/1.1",
        "G(T / HTTP/1.1",
        "GET /\u{1} HTTP/1.1",
        "GET /<a> HTTP/1.1",
    ];
    all_refused(starts.map(|start| format!("{start}\r\nhost: a\r\n\r\n{HIDDEN}")), 400).await;
    refused(b"GET / HTTP/1.1\r\nhost: a\r\nx-a: \xff\x00\xfe\r\n\r\n", 400).await;
}

#[tokio::test]
async fn bare_line_feeds_reach_the_pod_as_proper_line_ends() {
    let (pod, rig) = rig().await;
    assert_eq!(rig.exchange("GET /a HTTP/1.1\nhost: a\nx-a: b\r\n\n").await.status, 200);
    assert!(
        received(&pod).starts_with("GET /a HTTP/1.1\r\nhost: a\r\nx-a: b\r\nx-request-id: "),
        "{}",
        received(&pod)
    );
}

#[tokio::test]
async fn a_request_whose_host_is_doubtful_is_refused() {
    let heads = [
        "GET / HTTP/1.1\r\nx-a: b",
        "GET / HTTP/1.1\r\nhost: a\r\nhost: b",
        "GET / HTTP/1.1\r\nhost: a\r\nHost: a",
        "GET / HTTP/1.0\r\nhost: a\r\nhost: a",
        "GET / HTTP/1.1\r\nhost: a b",
        "GET / HTTP/1.1\r\nhost: a/b",
        "GET / HTTP/1.1\r\nhost: a@b",
        "GET / HTTP/1.1\r\nhost: a?b",
        "GET / HTTP/1.1\r\nhost: a#b",
        "GET / HTTP/1.1\r\nhost: a\\b",
        "GET / HTTP/1.1\r\nhost: [::1",
        "GET / HTTP/1.1\r\nhost: a:b",
        "GET / HTTP/1.1\r\nhost: a:80:80",
        "GET / HTTP/1.1\r\nhost: \u{e9}",
        "GET http://b/ HTTP/1.1\r\nhost: a",
        "GET http://a:81/ HTTP/1.1\r\nhost: a:80",
        "GET http://u@a/ HTTP/1.1\r\nhost: a",
        "GET http://a/ HTTP/1.1\r\nx-a: b",
        // Only CONNECT has a target of this form.
        "GET a HTTP/1.1\r\nhost: a",
        "GET a:80 HTTP/1.1\r\nhost: a:80",
    ];
    all_refused(heads.map(|head| format!("{head}\r\n\r\n{HIDDEN}")), 400).await;
}

#[tokio::test]
async fn a_fragment_does_not_reach_the_pod() {
    let (pod, rig) = rig().await;
    assert_eq!(rig.exchange("GET /a?b#/../secret HTTP/1.1\r\nhost: a\r\n\r\n").await.status, 200);
    assert!(received(&pod).starts_with("GET /a?b HTTP/1.1\r\n"), "{}", received(&pod));
}

#[tokio::test]
async fn a_malformed_chunk_aborts_the_pods_request_and_is_flagged() {
    let bodies = [
        "zz\r\nabc",
        "-3\r\nabc\r\n0\r\n\r\n",
        "+3\r\nabc\r\n0\r\n\r\n",
        "0x3\r\nabc\r\n0\r\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "3\r\nab\r\n0\r\n\r\n",
        "ffffffffffffffff0\r\n",
        "3;a\nb\r\nabc\r\n0\r\n\r\n",
        "3\nabc\r\n0\r\n\r\n",
        "\r\nabc",
        ";\r\n",
        "3\rabc\r\n",
        "3 3\r\nabc\r\n0\r\n\r\n",
        "3\r\nabc0\r\n\r\n",
        "3\r\nabc\r\n0\r\nx\r\n\r\n",
        "3\r\nabc\r\n0\r\nx a: 1\r\n\r\n",
        "3\r\nabc\r\n0\r\nx: 1\r\n folded\r\n\r\n",
    ];
    let check = async |body: &str| {
        let bytes = format!("{}{body}{HIDDEN}", with("transfer-encoding: chunked"));
        let outcome = attack(bytes.as_bytes()).await;
        assert!(!outcome.received.contains("smuggled"), "{body:?}: {}", outcome.received);
        assert!(outcome.statuses.is_empty() || outcome.statuses == [400], "{body:?}: {:?}", outcome.statuses);
        assert_eq!(outcome.lines[0].flags(), "DPE", "{body:?}: {:?}", outcome.lines[0]);
        assert!(!outcome.received.ends_with("0\n\n"), "{body:?}: the pod must not take it for whole");
    };
    join_all(bodies.map(check)).await;
}

#[tokio::test]
async fn a_head_too_large_is_refused_and_logged() {
    let long = |length: usize| "b".repeat(length);
    let many: String = (0..100).map(|number| format!("x-{number}: b\r\n")).collect();
    let attacks = [
        format!("GET / HTTP/1.1\r\nhost: a\r\nx-a: {}\r\n\r\n", long(61 << 10)),
        format!("GET / HTTP/1.1\r\nhost: a\r\nx-a: {}", long(4 << 20)),
        format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", long(61 << 10)),
        format!("GET / HTTP/1.1\r\nhost: a\r\n{many}\r\n"),
    ];
    all_refused(attacks, 431).await;
    let (_pod, rig) = rig().await;
    let most: String = (0..99).map(|number| format!("x-{number}: b\r\n")).collect();
    assert_eq!(rig.exchange(format!("GET / HTTP/1.1\r\nhost: a\r\n{most}\r\n")).await.status, 200);
    let large = long(58 << 10);
    assert_eq!(rig.exchange(format!("GET / HTTP/1.1\r\nhost: a\r\nx-a: {large}\r\n\r\n")).await.status, 200);
}

#[tokio::test]
async fn a_line_has_the_status_that_the_client_got_also_where_no_pod_was_asked() {
    let pod = ScriptedBackend::start(ANY, Script::Answer).await.unwrap();
    let rig = Rig::new(pod.address(), json!({"limits": {"head_bytes": 262_144}}));
    let answer = rig.exchange(format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "b".repeat(70_000))).await;
    assert_eq!((u64::from(answer.status), rig.line().await.status()), (414, 414));
}

#[tokio::test]
async fn a_client_cannot_have_the_framing_or_the_host_removed() {
    let (pod, rig) = rig().await;
    let fields =
        "connection: content-length, host, x-forwarded-for\r\nx-forwarded-for: 10.0.0.1\r\ncontent-length: 3";
    assert_eq!(rig.exchange(format!("{}abc", with(fields))).await.status, 200);
    let fields = "connection: transfer-encoding\r\ntransfer-encoding: chunked";
    assert_eq!(rig.exchange(format!("{}0\r\n\r\n", with(fields))).await.status, 200);
    assert_eq!(pod.requests(), 2);
    for received in pod.received() {
        unambiguous(&received).unwrap();
    }
    let received = received(&pod);
    for kept in ["content-length: 3\r\n", "x-forwarded-for: 10.0.0.1\r\n", "transfer-encoding: chunked\r\n"] {
        assert!(received.contains(kept), "{received}");
    }
}

#[tokio::test]
async fn a_slow_head_ends_and_an_idle_connection_does_not() {
    let pod = ScriptedBackend::start(ANY, Script::Answer).await.unwrap();
    let rig = Rig::new(pod.address(), json!({"timeouts": {"head": "400ms"}}));
    let mut idle = rig.client().await;
    let mut kept = rig.client().await;
    assert_eq!(kept.get("/").await.unwrap().status, 200);
    let started = Instant::now();
    let mut slow = rig.client().await;
    for byte in "GET / HTTP/1.1\r\nhost: a\r\nx-a: bbbbbbbbbbbbbbbbbbbbbbbbb".bytes() {
        if slow.send([byte]).await.is_err() {
            break;
        }
        sleep(Duration::from_millis(50)).await;
        if started.elapsed() > Duration::from_secs(2) {
            break;
        }
    }
    let (bytes, end) = slow.end().await;
    assert!(bytes.is_empty() && end != End::Open, "{end:?}");
    let took = started.elapsed().as_millis();
    assert!((400..5000).contains(&took), "{took} ms");
    let line = rig.last_line(2).await;
    assert_eq!((line.verdict(), line.text("details")), ((0, "SI", vec![]), "request_header_timeout"));
    assert!(line.number("duration_ms") >= 400);
    for client in [&mut idle, &mut kept] {
        assert_eq!(client.get("/").await.unwrap().text(), ANSWER, "an idle connection is no slow head");
    }
}

#[tokio::test]
async fn a_second_head_may_not_be_slow_either() {
    let pod = ScriptedBackend::start(ANY, Script::Answer).await.unwrap();
    let rig = Rig::new(pod.address(), json!({"timeouts": {"head": "300ms"}}));
    let mut client = rig.client().await;
    assert_eq!(client.get("/").await.unwrap().status, 200);
    client.send("GET / HT").await.unwrap();
    assert_eq!(client.end().await, (Vec::new(), End::Closed));
    assert_eq!(rig.last_line(2).await.text("details"), "request_header_timeout");
}

/// Pieces that mean something to a parser, and some that mean nothing.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let words = prop::sample::select(vec![
        "GET ",
        "POST ",
        "HEAD ",
        "/",
        "/a",
        "http://a/",
        " HTTP/1.1",
        " HTTP/1.0",
        "\r\n",
        "\r\n",
        "\r\n\r\n",
        "\n",
        "\r",
        "\0",
        ":",
        ": ",
        " ",
        "\t",
        "host: a\r\n",
        "host: a\r\n",
        "Host",
        "content-length: 3\r\n",
        "content-length: 0\r\n",
        "Content-Length",
        "transfer-encoding: chunked\r\n",
        "Transfer-Encoding",
        "chunked",
        "connection: close\r\n",
        "expect: 100-continue\r\n",
        "trailer: x\r\n",
        "upgrade: h2c\r\n",
        "te: trailers\r\n",
        "0\r\n\r\n",
        "3\r\nabc\r\n",
        "3",
        "ffffffff",
        ";",
        "abc",
        "x: y\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ]);
    prop_oneof![6 => words.prop_map(|word| word.as_bytes().to_vec()), 1 => prop::collection::vec(any::<u8>(), 0..12)]
}

#[test]
fn no_bytes_of_a_client_confuse_a_pod_or_harm_another_client() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // What is no HTTP at all would be passed on as it is.
    let (pod, rig) = runtime.block_on(rig_with(json!({"protocol": "http1"})));
    let config = ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(pieces in prop::collection::vec(piece(), 0..24))| {
        let bytes = pieces.concat();
        let before = pod.received().len();
        runtime.block_on(async {
            let mut client = rig.client().await.with_timeout(Duration::from_secs(5));
            let _ = client.send(&bytes).await;
            let _ = client.finish().await;
            let (_, end) = client.end().await;
            prop_assert_ne!(end, End::Open, "the connection is closed");
            prop_assert_eq!(rig.get("/next").await.text(), ANSWER, "the next client is served");
            Ok(())
        })?;
        // Connections of earlier cases go on serving: all of them are looked at.
        for (index, received) in pod.received().iter().enumerate() {
            if let Err(why) = unambiguous(received) {
                prop_assert!(false, "connection {index} (of {before} before): {why}: {:?}", String::from_utf8_lossy(received));
            }
        }
    });
}
