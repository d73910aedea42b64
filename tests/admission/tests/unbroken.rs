//! No admission fails while certificates and replicas come and go: thousands of reviews in a row, on a real API server.
#![cfg(feature = "cluster")]
#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::time::Duration;

use whichpod_cluster::wait_for;
use whichpod_tests_admission::{Asking, Balancer, Installation, Replica, User, backend};

const PATIENCE: Duration = Duration::from_secs(180);
const SECRET: &str = "whichpod-webhook-tls";
/// Endpoints lag behind readiness; so does the balancer.
const DELAY: &str = "--shutdown-delay=5s";
/// A certificate is renewed after a third of a minute, its authority after a minute.
const SHORT: [&str; 3] = [DELAY, "--certificate-lifetime=60s", "--authority-lifetime=180s"];

fn expiry(replica: &Replica) -> f64 {
    replica.metric("certificate_expiry_timestamp_seconds").unwrap_or_default()
}

#[test]
fn starts_restarts_renewals_and_rotations_of_two_replicas_lose_no_review() {
    let installation = Installation::new("unbroken").unwrap();
    let balancer = Balancer::start().unwrap();
    installation.register_at(balancer.address()).unwrap();
    // Nothing is there yet, and both start at once.
    let mut replicas = ["one", "two"].map(|name| Replica::start(&installation, name, &SHORT).unwrap());
    for replica in &replicas {
        balancer.add(replica);
        replica.ready().unwrap();
    }
    installation.reached().unwrap();
    let user = User::new(&installation, "unbroken").unwrap();
    user.serve(&backend()).unwrap();
    let asking = Asking::start(&installation, user.name());

    // Expiry is near all the time: both replicas get certificates of a first, and then of a second authority.
    let authority = || installation.bundles().map(|bundles| bundles[0].clone());
    let (first, before) = (authority().unwrap(), replicas.each_ref().map(expiry));
    wait_for("new certificates", PATIENCE, || {
        Ok(replicas.iter().zip(before).all(|(replica, before)| expiry(replica) > before).then_some(()))
    })
    .unwrap();
    wait_for("a new authority", PATIENCE, || Ok((authority()? != first).then_some(()))).unwrap();
    // Each is restarted, as an upgrade does: first there is one more.
    for (number, name) in ["three", "four"].into_iter().enumerate() {
        let next = Replica::start(&installation, name, &SHORT).unwrap();
        balancer.add(&next);
        next.ready().unwrap();
        std::mem::replace(&mut replicas[number], next).stop();
    }
    // Somebody deletes the Secret, and somebody else thinks that a caBundle is theirs to write.
    let before = replicas.each_ref().map(expiry);
    installation.client().run(&["delete", "secret", SECRET, "-n", installation.name()]).unwrap();
    wait_for("certificates from a new Secret", PATIENCE, || {
        Ok(replicas.iter().zip(before).all(|(replica, before)| expiry(replica) > before).then_some(()))
    })
    .unwrap();
    let missed = asking.end_after(2_000).unwrap();
    assert!(missed.is_empty(), "{} missed: {:?}", missed.len(), &missed[..missed.len().min(5)]);
    // The API server keeps its connections, maybe all of them to one; the other one serves, too.
    for replica in &replicas {
        installation.register(replica).unwrap();
        wait_for("a review", PATIENCE, || {
            assert!(installation.is_asked(user.name())?, "a request missed the webhook");
            let reviews = replica.metric("reviews_total{result=\"patched\",reason=\"injected\"}")?;
            Ok((reviews > 0.0).then_some(()))
        })
        .unwrap();
    }
}
