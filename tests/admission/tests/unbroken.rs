//! No admission fails while certificates and replicas come and go: thousands of reviews in a row, on a real API server.
#![cfg(feature = "cluster")]
#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::path::Path;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use whichpod_cluster::wait_for;
use whichpod_tests_admission::{Asking, Balancer, Installation, Replica, User, backend};
use whichpod_webhook::certificates::material::{Lifetimes, Material};

const PATIENCE: Duration = Duration::from_secs(180);
const SECRET: &str = "whichpod-webhook-tls";
/// Endpoints lag behind readiness; so does the balancer.
const DELAY: &str = "--shutdown-delay=2s";
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
    for replica in &replicas {
        assert!(replica.metric("reviews_total{result=\"patched\",reason=\"injected\"}").unwrap() > 0.0);
    }
}

/// Writes a certificate as the kubelet mounts a Secret: into a folder of its own, to which one link points.
fn mount(folder: &Path, version: &str, material: &Material) {
    let data = folder.join(version);
    std::fs::create_dir(&data).unwrap();
    for name in ["tls.crt", "tls.key"] {
        std::fs::write(data.join(name), &material.data()[name].0).unwrap();
        let link = folder.join(name);
        if !link.exists() {
            std::os::unix::fs::symlink(Path::new("..data").join(name), link).unwrap();
        }
    }
    std::os::unix::fs::symlink(version, folder.join("..new")).unwrap();
    std::fs::rename(folder.join("..new"), folder.join("..data")).unwrap();
}

#[test]
fn certificates_that_others_bring_are_served_as_soon_as_they_change() {
    let lifetimes =
        Lifetimes { authority: SignedDuration::from_hours(9), leaf: SignedDuration::from_hours(3) };
    let names = ["127.0.0.1".to_owned()];
    let first = Material::fresh(&names, Timestamp::now(), lifetimes).unwrap();
    let folder = tempfile::tempdir().unwrap();
    mount(folder.path(), "..1", &first);
    let flags = ["cert", "key"]
        .map(|part| format!("--tls-{part}={}/tls.{}", folder.path().display(), part.replace("cert", "crt")));

    let installation = Installation::new("files").unwrap();
    let replica = Replica::start(&installation, "one", &flags.each_ref().map(String::as_str)).unwrap();
    installation.register(&replica).unwrap();
    // Nobody has written the caBundle yet: as cert-manager's injector does a moment later.
    wait_for("a replica that nobody trusts", PATIENCE, || {
        Ok(replica.readiness()?.contains("to trust the certificate").then_some(()))
    })
    .unwrap();
    installation.trust(&first.bundle()).unwrap();
    replica.ready().unwrap();
    installation.reached().unwrap();
    let user = User::new(&installation, "files").unwrap();
    user.serve(&backend()).unwrap();
    let asking = Asking::start(&installation, user.name());

    let served = |before: f64| {
        wait_for("the new certificate", PATIENCE, || Ok((expiry(&replica) > before).then_some(()))).unwrap();
    };
    // Renewed by the same authority.
    let later = Timestamp::now() + SignedDuration::from_mins(5);
    let renewed = first.with_new_leaf(&names, later, lifetimes).unwrap();
    let before = expiry(&replica);
    mount(folder.path(), "..2", &renewed);
    served(before);
    // By another one: first both are trusted, then it signs.
    let both = renewed.with_new_authority(later, lifetimes).unwrap();
    installation.trust(&both.bundle()).unwrap();
    #[expect(
        clippy::disallowed_methods,
        reason = "the API server learns of it from a watch that nobody else sees"
    )]
    std::thread::sleep(Duration::from_secs(1));
    let rotated = both.with_new_leaf(&names, later + SignedDuration::from_mins(5), lifetimes).unwrap();
    let before = expiry(&replica);
    mount(folder.path(), "..3", &rotated);
    served(before);
    // What is no certificate changes nothing.
    std::fs::create_dir(folder.path().join("..4")).unwrap();
    std::fs::write(folder.path().join("..4/tls.crt"), "nonsense").unwrap();
    std::os::unix::fs::symlink("..4", folder.path().join("..new")).unwrap();
    std::fs::rename(folder.path().join("..new"), folder.path().join("..data")).unwrap();
    let missed = asking.end_after(500).unwrap();
    assert!(missed.is_empty(), "{} missed: {:?}", missed.len(), &missed[..missed.len().min(5)]);
    assert_eq!(json!(replica.readiness().unwrap()), json!("ready"));
}
