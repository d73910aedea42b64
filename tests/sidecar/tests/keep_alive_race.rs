//! Pods that close idle connections at random moments: no idempotent request fails, no POST comes twice.
//!
//! `WHICHPOD_RACE_REQUESTS` makes it longer: half are GET, half POST.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::time::Duration;

use http::{Method, Uri};
use serde_json::json;
use whichpod_testkit::load::Report;
use whichpod_testkit::scripted::{Script, ScriptedBackend};
use whichpod_tests_sidecar::{ANY, Cluster, request_ids, scripted_load};

const REQUESTS: u64 = 50_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_thousand_requests_over_connections_that_end_at_any_moment_fail_no_get_and_double_no_post() {
    #[expect(clippy::disallowed_methods, reason = "how long a run by hand is")]
    let asked = std::env::var("WHICHPOD_RACE_REQUESTS").ok().and_then(|text| text.parse().ok());
    let half = asked.unwrap_or(REQUESTS) / 2;
    let mut pods = Vec::new();
    for _ in 0..3 {
        pods.push(
            ScriptedBackend::start(ANY, Script::CloseIdleAfter(Duration::from_millis(4))).await.unwrap(),
        );
    }
    let cluster = Cluster::new(5).await;
    let names: Vec<_> = (1..=pods.len()).map(|number| format!("backend-{number}")).collect();
    let published: Vec<_> =
        names.iter().map(String::as_str).zip(pods.iter().map(ScriptedBackend::address)).collect();
    cluster.publish_named(&published);
    let rig = cluster.sidecar(json!({"access_log": {"path": "off"}})).ready().await;

    let load = || scripted_load(rig.address).connections(16).requests(half).remember(false);
    let gets = load().run().await;
    assert_eq!((gets.ok, gets.failed), (half, 0), "{:?}", gets.reasons);

    let posts: Report = load().first_id(half).send(Method::POST, Uri::from_static("/"), "abc").run().await;
    let ids = request_ids(&pods);
    let twice =
        (half..2 * half).filter(|id| ids.get(&id.to_string()).is_some_and(|times| *times > 1)).count();
    assert_eq!(twice, 0, "no POST came twice");
    let arrived = (half..2 * half).filter(|id| ids.contains_key(&id.to_string())).count() as u64;
    assert!(arrived >= posts.ok && posts.ok + posts.failed == half);
    // A POST that met the end of its connection is not repeated: with pods that close after milliseconds these are many.
    assert!(posts.ok > posts.failed, "{:?}", posts.reasons);
    let repeated = (0..half).filter(|id| ids.get(&id.to_string()).is_some_and(|times| *times > 1)).count();
    println!(
        "{half} GET: 0 failed, {repeated} reached two pods' ears; {half} POST: {} failed, 0 twice",
        posts.failed
    );
}
