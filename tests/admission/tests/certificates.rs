//! The certificate that the webhook makes for itself, attacked on a real API server.
#![cfg(feature = "cluster")]
#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::time::{Duration, Instant};

use serde_json::json;
use whichpod_cluster::wait_for;
use whichpod_tests_admission::{Installation, Replica, User};

const PATIENCE: Duration = Duration::from_secs(60);
const SECRET: &str = "whichpod-webhook-tls";

/// The authorities that the Secret holds, in base64 as in a `caBundle`.
fn authorities(installation: &Installation) -> String {
    let secret = installation.client().get(&["secret", SECRET, "-n", installation.name()]).unwrap();
    secret["data"]["ca.crt"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn an_emptied_bundle_is_mended_within_a_second() {
    let installation = Installation::new("mended").unwrap();
    let replica = installation.start(&[]).unwrap();
    let authorities = authorities(&installation);
    let mut took = Vec::new();
    for _ in 0..3 {
        for patch in [
            json!([{ "op": "replace", "path": "/webhooks/0/clientConfig/caBundle", "value": "" }]),
            json!([{ "op": "remove", "path": "/webhooks/1/clientConfig/caBundle" }]),
        ] {
            installation.patch_configuration(&patch).unwrap();
            let emptied = Instant::now();
            wait_for("the bundle to be mended", PATIENCE, || {
                let bundles = installation.bundles()?;
                Ok(bundles.iter().all(|bundle| *bundle == authorities).then_some(()))
            })
            .unwrap();
            took.push(emptied.elapsed());
            assert_eq!(
                replica.readiness().unwrap(),
                "ready",
                "a moment without trust takes nobody out of the Service"
            );
        }
    }
    // Other tests and kubectl's own start are in every one of these times. None is that of the look without a reason.
    let fastest = took.iter().min().unwrap();
    assert!(*fastest < Duration::from_secs(1), "{took:?}");
    assert!(took.iter().all(|time| *time < Duration::from_secs(15)), "{took:?}");
}

#[test]
fn the_secret_is_deleted_and_no_request_misses_the_webhook() {
    let installation = Installation::new("deleted").unwrap();
    let leader = installation.start(&[]).unwrap();
    leader.leads(true).unwrap();
    let follower = Replica::start(&installation, "two", &[]).unwrap();
    follower.ready().unwrap();
    let expiry = |replica: &Replica| replica.metric("certificate_expiry_timestamp_seconds").unwrap();
    let (before, user) = (expiry(&leader), User::new(&installation, "deleted").unwrap());
    let old = authorities(&installation);

    // Before kubectl, which may end long after what it did.
    let (deleted, mut asked) = (Instant::now(), 0);
    installation.client().run(&["delete", "secret", SECRET, "-n", installation.name()]).unwrap();
    wait_for("both replicas to serve a new certificate", PATIENCE, || {
        assert!(installation.is_asked(user.name())?, "request {asked} missed the webhook");
        asked += 1;
        Ok((expiry(&leader) > before && expiry(&follower) > before).then_some(()))
    })
    .unwrap();
    let took = deleted.elapsed();
    assert!(
        took > Duration::from_secs(5),
        "the new authority is known for a while before it signs: {took:?}"
    );

    let new = authorities(&installation);
    assert_ne!(new, old);
    let decoded = |text: &str| installation.bundles().unwrap().iter().all(|bundle| bundle == text);
    assert!(decoded(&new), "every bundle is what the Secret holds");
    assert!(new.len() > old.len(), "the old authority stays trusted");
    // The follower serves what the leader made.
    installation.register(&follower).unwrap();
    installation.reached().unwrap();
}

#[test]
fn a_secret_of_garbage_is_made_anew() {
    let installation = Installation::new("garbage").unwrap();
    let garbage = json!({ "data": { "ca.crt": "Z2FyYmFnZQ==", "tls.crt": "Z2FyYmFnZQ==" } }).to_string();
    let namespace = installation.name();
    installation.client().run(&["patch", "secret", SECRET, "-n", namespace, "-p", &garbage]).unwrap();
    let _replica = installation.start(&[]).unwrap();
    assert!(installation.bundles().unwrap().iter().all(|bundle| *bundle == authorities(&installation)));
}

#[test]
fn two_replicas_that_start_at_once_make_one_authority() {
    let installation = Installation::new("at-once").unwrap();
    let one = Replica::start(&installation, "one", &[]).unwrap();
    let two = Replica::start(&installation, "two", &[]).unwrap();
    installation.register(&one).unwrap();
    one.ready().unwrap();
    two.ready().unwrap();
    let leading = |replica: &Replica| replica.metric("leading").unwrap();
    assert!(leading(&one) + leading(&two) <= 1.0);
    assert_eq!(
        one.metric("certificate_expiry_timestamp_seconds").unwrap(),
        two.metric("certificate_expiry_timestamp_seconds").unwrap()
    );
    for replica in [&one, &two] {
        installation.register(replica).unwrap();
        installation.reached().unwrap();
    }
}

#[test]
fn the_leader_is_killed_and_the_other_one_takes_over() {
    let installation = Installation::new("killed").unwrap();
    let leader = installation.start(&[]).unwrap();
    leader.leads(true).unwrap();
    let follower = Replica::start(&installation, "two", &[]).unwrap();
    follower.ready().unwrap();
    installation.register(&follower).unwrap();
    leader.kill();
    let emptied = json!([{ "op": "remove", "path": "/webhooks/0/clientConfig/caBundle" }]);
    installation.patch_configuration(&emptied).unwrap();
    let died = Instant::now();
    follower.leads(true).unwrap();
    // Its Lease lasts 15 s, and is looked at every 2 s.
    assert!(died.elapsed() < Duration::from_secs(40), "{:?}", died.elapsed());
    installation.reached().unwrap();
}

#[test]
fn a_leader_that_leaves_lets_the_other_one_lead_at_once() {
    let installation = Installation::new("leaves").unwrap();
    let leader = installation.start(&[]).unwrap();
    leader.leads(true).unwrap();
    let follower = Replica::start(&installation, "two", &[]).unwrap();
    follower.ready().unwrap();
    leader.stop();
    // Renewed until its end, a Lease that is not given back would last 13 s from here at least.
    let left = Instant::now();
    follower.leads(true).unwrap();
    assert!(left.elapsed() < Duration::from_secs(10), "{:?}", left.elapsed());
}

#[test]
fn certificates_that_live_for_minutes_are_renewed_without_a_gap() {
    let installation = Installation::new("renewed").unwrap();
    // A third of a minute and of three: both are renewed within this test.
    let replica = installation.start(&["--certificate-lifetime=60s", "--authority-lifetime=180s"]).unwrap();
    let user = User::new(&installation, "renewed").unwrap();
    let expiry = || replica.metric("certificate_expiry_timestamp_seconds");
    let first = expiry().unwrap();
    let patience = Duration::from_secs(180);
    wait_for("a certificate of a new authority", patience, || {
        assert!(installation.is_asked(user.name())?, "a request missed the webhook");
        Ok((expiry()? > first).then_some(()))
    })
    .unwrap();
}

#[test]
fn a_certificate_for_another_name_keeps_the_replica_out_of_the_service() {
    let installation = Installation::new("misnamed").unwrap();
    let replica = Replica::start(&installation, "one", &[]).unwrap();
    let waiting = |expected: &str| {
        let mut last = String::new();
        let found = wait_for(expected, PATIENCE, || {
            last = replica.readiness()?;
            Ok(last.contains(expected).then_some(()))
        });
        assert!(found.is_ok(), "{last}");
    };
    waiting("which does not exist");
    installation.register(&replica).unwrap();
    replica.ready().unwrap();
    let elsewhere = [0, 1].map(|entry| {
        json!({ "op": "replace", "path": format!("/webhooks/{entry}/clientConfig/url"), "value": "https://127.0.0.2/mutate" })
    });
    installation.patch_configuration(&json!(elsewhere)).unwrap();
    waiting("127.0.0.2");
}
