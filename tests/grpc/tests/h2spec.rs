//! h2spec, the conformance test for HTTP/2 servers, against the sidecar in front of a pod.
#![cfg(feature = "peers")]
#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use serde_json::json;
use whichpod_testkit::http2::Http2Pod;
use whichpod_tests_grpc::run;
use whichpod_tests_sidecar::{ANY, Rig};

/// How many cases there are: an empty run fails.
const CASES: usize = 146;
/// What cannot hold here: bytes that are no preface of HTTP/2 are no HTTP/2, but another protocol's, and answered in that
/// (HTTP/1: 400) or passed on.
const KNOWN: &[&str] = &["Sends invalid connection preface"];

/// The title of a case that failed: of a line such as `× 3: TITLE`.
fn failed_case(line: &str) -> Option<&str> {
    let (_, title) = line.trim().strip_prefix('×')?.split_once(": ")?;
    Some(title)
}

#[tokio::test]
async fn every_case_of_h2spec_holds() {
    let pod = Http2Pod::start("backend-1", ANY).await.unwrap();
    let rig = Rig::new(pod.address(), json!({}));
    let port = rig.address.port().to_string();
    let said = run("h2spec", &["--strict", "--port", &port, "--timeout", "5"]).await.unwrap();
    let summary = said.text.lines().find(|line| line.contains(" tests, ")).unwrap_or_default();
    let counts: Vec<usize> =
        summary.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect();
    let [all, passed, skipped, failed] = counts[..] else { panic!("no summary in {}", said.text) };
    assert_eq!((all, passed + skipped + failed), (CASES, CASES), "{summary}");
    let mut failures: Vec<_> = said.text.lines().filter_map(failed_case).collect();
    // Each is told twice: when it happens, and at the end.
    failures.sort_unstable();
    failures.dedup();
    assert!(failures.len() == failed && failures.iter().all(|case| KNOWN.contains(case)), "{}", said.text);
    let lines = rig.lines_with("requests that reached the pod", |line| line.status() == 200).await;
    for line in lines.iter().filter(|line| line.status() == 200) {
        assert_eq!(line.tries().len(), 1);
        assert_eq!(line.tries()[0].address, pod.address().to_string());
    }
}
