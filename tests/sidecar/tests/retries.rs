//! What is tried again, what is not, and what the line says about it.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;
use whichpod_testkit::scripted::{Script, ScriptedBackend};
use whichpod_tests_sidecar::{ANY, Line, Rig, received};

const GET: &str = "GET /a HTTP/1.1\r\nhost: a\r\n\r\n";

fn raw(head: &str) -> Script {
    Script::Raw(format!("HTTP/1.1 {head}\r\ncontent-length: 0\r\n\r\n").into())
}

/// One request to a pod that plays one script after the other.
async fn exchange(scripts: Vec<Script>, retry: Value, request: &[u8]) -> (ScriptedBackend, Line) {
    let pod = ScriptedBackend::start_sequence(ANY, scripts).await.unwrap();
    let rig = Rig::new(pod.address(), json!({"retry": retry}));
    rig.exchange(request).await;
    let line = rig.line().await;
    (pod, line)
}

fn statuses(line: &Line) -> Vec<u64> {
    line.tries().iter().map(|attempt| attempt.status.unwrap_or(0)).collect()
}

fn put(bytes: usize) -> Vec<u8> {
    let head = format!("PUT /a HTTP/1.1\r\nhost: a\r\ncontent-length: {bytes}\r\n\r\n");
    [head.into_bytes(), (0..bytes).map(|at| b'a' + u8::try_from(at % 26).unwrap()).collect()].concat()
}

#[tokio::test]
async fn statuses_and_headers_are_tried_again_in_envoys_words() {
    for (answer, on, tries) in [
        ("500 Oops", "5xx", 2),
        ("500 Oops", "gateway-error", 1),
        ("503 No", "gateway-error", 2),
        ("409 Conflict", "retriable-4xx", 2),
        ("429 Slow", "retriable-status-codes", 2),
        ("428 Slow", "retriable-status-codes", 1),
        ("200 OK\r\nx-again: 1", "retriable-headers", 2),
        ("200 OK\r\nx-other: 1", "retriable-headers", 1),
        ("503 No", "connect-failure", 1),
    ] {
        let retry = json!({"on": [on], "status_codes": [429], "headers": ["X-Again"]});
        let (_pod, line) = exchange(vec![raw(answer), Script::Answer], retry, GET.as_bytes()).await;
        assert_eq!(line.tries().len(), tries, "{answer} on {on}");
        assert_eq!(line.tries()[0].reason, if tries == 2 { "retried" } else { "ok" }, "{answer} on {on}");
    }
}

#[tokio::test]
async fn a_limit_that_was_reached_is_flagged_and_the_last_answer_is_given() {
    let (pod, line) =
        exchange(vec![raw("503 No")], json!({"on": ["5xx"], "attempts": 2}), GET.as_bytes()).await;
    assert_eq!((line.status(), line.flags(), statuses(&line), pod.requests()), (503, "URX", vec![503; 3], 3));
    let none = json!({"on": ["5xx"], "budget": {"percent": 0, "min_concurrency": 0}});
    let (_pod, line) = exchange(vec![raw("503 No")], none, GET.as_bytes()).await;
    assert_eq!((line.status(), line.flags(), statuses(&line)), (503, "URX", vec![503]), "no budget at all");
}

#[tokio::test]
async fn a_try_that_takes_too_long_goes_to_another_and_names_both() {
    let retry = json!({"on": ["gateway-error"], "per_try_timeout": "600ms"});
    let started = Instant::now();
    let (_pod, line) = exchange(vec![Script::Hang, Script::Answer], retry.clone(), GET.as_bytes()).await;
    assert!((600..3_000).contains(&started.elapsed().as_millis()));
    assert_eq!(line.verdict(), (200, "-", vec!["per_try_timeout".to_owned(), "ok".to_owned()]));
    let (pod, line) = exchange(vec![Script::Hang], retry, GET.as_bytes()).await;
    assert_eq!(line.verdict(), (504, "UT,URX", vec!["per_try_timeout".to_owned(); 3]));
    assert_eq!((line.text("details"), pod.connections()), ("upstream_per_try_timeout", 3));
    let alone = json!({"per_try_timeout": "100ms"});
    let (_pod, line) = exchange(vec![Script::Hang], alone, GET.as_bytes()).await;
    assert_eq!(
        line.verdict(),
        (504, "UT", vec!["per_try_timeout".to_owned()]),
        "nothing asks for another try"
    );
}

#[tokio::test]
async fn a_long_answer_is_not_cut_by_the_time_of_a_try() {
    let slow = Script::SlowBody { bytes: 12, interval: Duration::from_millis(100) };
    let (_pod, line) =
        exchange(vec![slow], json!({"per_try_timeout": "1s", "on": ["5xx"]}), GET.as_bytes()).await;
    assert_eq!(line.verdict(), (200, "-", vec!["ok".to_owned()]));
}

#[tokio::test]
async fn a_put_is_sent_again_with_its_whole_body() {
    for broken in [Script::ResetAfterRequest, Script::CloseWithoutResponse] {
        for bytes in [1, 5_000, 65_536] {
            let (pod, line) = exchange(vec![broken.clone(), Script::Answer], json!({}), &put(bytes)).await;
            assert_eq!((line.status(), line.tries().len()), (200, 2), "{broken:?} {bytes}");
            let all = pod.received();
            let body = |bytes: &[u8]| {
                bytes.windows(4).position(|at| at == b"\r\n\r\n").map(|at| bytes[at + 4..].to_vec())
            };
            assert_eq!(body(&all[1]), body(&put(bytes)), "{broken:?} {bytes}: byte for byte");
            assert_eq!(line.number("bytes_received"), bytes as u64, "counted once");
        }
    }
}

#[tokio::test]
async fn a_put_in_chunks_is_sent_again_with_its_body_too() {
    let request =
        b"PUT /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    let (pod, line) = exchange(vec![Script::ResetAfterRequest, Script::Answer], json!({}), request).await;
    assert_eq!((line.status(), line.tries().len()), (200, 2));
    let second = String::from_utf8(pod.received().remove(1)).unwrap();
    let body = second.split("\r\n\r\n").nth(1).unwrap();
    let letters: String = body.chars().filter(char::is_ascii_lowercase).collect();
    assert_eq!(letters, "abcde", "{second}");
}

#[tokio::test]
async fn a_body_longer_than_what_is_kept_is_sent_once() {
    let (pod, line) =
        exchange(vec![Script::ResetAfterRequest, Script::Answer], json!({}), &put(65_537)).await;
    assert_eq!(line.verdict(), (503, "UC", vec!["reset".to_owned()]));
    assert_eq!(pod.requests(), 1);
    let none = json!({"buffer_bytes": 0});
    let (_pod, line) = exchange(vec![Script::ResetAfterRequest, Script::Answer], none, &put(1)).await;
    assert_eq!(line.tries().len(), 1, "nothing is kept");
}

#[tokio::test]
async fn a_post_is_sent_once_unless_the_user_says_otherwise() {
    // Letters that no request id has (a UUID, in hexadecimal digits).
    let post = b"POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nxyz";
    let broken = || vec![Script::ResetAfterRequest, Script::Answer];
    for (retry, tries) in [
        (json!({"on": ["5xx", "reset"]}), 1),
        (json!({"non_idempotent": true}), 1),
        (json!({"on": ["5xx"], "non_idempotent": true}), 2),
    ] {
        let (pod, line) = exchange(broken(), retry.clone(), post).await;
        assert_eq!((line.tries().len(), pod.requests()), (tries, tries), "{retry}");
        assert_eq!(received(&pod).matches("xyz").count(), tries, "{retry}");
    }
    let patch = b"PATCH /a HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc";
    let (_pod, line) = exchange(vec![raw("503 No"), Script::Answer], json!({"on": ["5xx"]}), patch).await;
    assert_eq!((line.status(), line.tries().len()), (503, 1));
}

#[tokio::test]
async fn the_pause_before_a_try_is_the_users() {
    let retry = json!({"on": ["5xx"], "attempts": 2, "back_off": {"base": "200ms", "max": "200ms"}});
    let started = Instant::now();
    let (_pod, line) = exchange(vec![raw("503 No")], retry, GET.as_bytes()).await;
    assert_eq!(line.tries().len(), 3);
    assert!((200..2_000).contains(&started.elapsed().as_millis()), "two pauses of 100 to 200 ms");
    let (_pod, line) =
        exchange(vec![Script::CloseWithoutResponse, Script::Answer], json!({}), GET.as_bytes()).await;
    assert_eq!(line.status(), 200);
}
