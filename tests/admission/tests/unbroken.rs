//! No admission fails while certificates and replicas come and go: thousands of reviews in a row, on a real API server.
#![cfg(feature = "cluster")]
#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::collections::BTreeMap;
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

/// A Secret that the kubelet has mounted: the files are links into a folder that is replaced as a whole.
struct Mounted {
    folder: tempfile::TempDir,
    version: usize,
}

impl Mounted {
    fn new(files: &BTreeMap<&str, String>) -> Self {
        let mut mounted = Self { folder: tempfile::tempdir().unwrap(), version: 0 };
        for name in files.keys() {
            std::os::unix::fs::symlink(Path::new("..data").join(name), mounted.path(name)).unwrap();
        }
        mounted.replace(files);
        mounted
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn replace(&mut self, files: &BTreeMap<&str, String>) {
        self.version += 1;
        let version = format!("..{}", self.version);
        std::fs::create_dir(self.path(&version)).unwrap();
        for (name, content) in files {
            std::fs::write(self.path(&version).join(name), content).unwrap();
        }
        std::os::unix::fs::symlink(&version, self.path("..data_tmp")).unwrap();
        std::fs::rename(self.path("..data_tmp"), self.path("..data")).unwrap();
        if self.version > 1 {
            std::fs::remove_dir_all(self.path(&format!("..{}", self.version - 1))).unwrap();
        }
    }
}

/// The certificate of one and the key of another, as the files of a Secret.
fn files(certificate: &Material, key: &Material) -> BTreeMap<&'static str, String> {
    let text = |of: &Material, name: &str| String::from_utf8(of.data()[name].0.clone()).unwrap();
    [("tls.crt", certificate), ("tls.key", key)].map(|(name, of)| (name, text(of, name))).into()
}

#[test]
fn certificates_that_others_bring_are_served_when_they_change_and_no_review_is_lost() {
    // Each lives longer than the one before, by which they are told apart.
    let lasting = |hours| Lifetimes {
        authority: SignedDuration::from_hours(99),
        leaf: SignedDuration::from_hours(hours),
    };
    let (names, now) = (["127.0.0.1", "localhost"].map(str::to_owned), Timestamp::now());
    let first = Material::fresh(&names, now, lasting(3)).unwrap();
    let mut mounted = Mounted::new(&files(&first, &first));
    let flags = ["--tls-cert=tls.crt", "--tls-key=tls.key"].map(|flag| {
        let (flag, name) = flag.split_once('=').unwrap();
        format!("{flag}={}", mounted.path(name).display())
    });

    let installation = Installation::new("files").unwrap();
    let replica = Replica::start(&installation, "one", &flags.each_ref().map(String::as_str)).unwrap();
    installation.register(&replica).unwrap();
    let injector = ["annotate", "mutatingwebhookconfiguration", installation.name()];
    let told = ["cert-manager.io/inject-ca-from=whichpod-system/tls"];
    installation.client().run(&[injector.as_slice(), &told].concat()).unwrap();
    // cert-manager's injector writes the caBundle a moment later.
    wait_for("a replica that nobody trusts yet", PATIENCE, || {
        Ok(replica.readiness()?.contains("cert-manager is to write").then_some(()))
    })
    .unwrap();
    installation.trust(&first.bundle()).unwrap();
    replica.ready().unwrap();
    installation.reached().unwrap();
    let user = User::new(&installation, "files").unwrap();
    user.serve(&backend()).unwrap();
    let asking = Asking::start(&installation, user.name());

    // The API server keeps its connections; by another name it makes a new one.
    let mut host = "127.0.0.1";
    let mut connect_anew = || {
        host = if host == "localhost" { "127.0.0.1" } else { "localhost" };
        let url = format!("https://{host}:{}/mutate", replica.address().port());
        installation.set("clientConfig/url", &json!(url)).unwrap();
        let so_far = asking.asked();
        wait_for("more requests", PATIENCE, || Ok((asking.asked() > so_far + 200).then_some(()))).unwrap();
        assert_eq!(replica.readiness().unwrap(), "ready");
    };
    let until = |material: &Material| material.leaf().unwrap().not_after().as_second() as f64;
    let served = |material: &Material| {
        let expected = until(material);
        wait_for("the new certificate", PATIENCE, || Ok((expiry(&replica) == expected).then_some(())))
            .unwrap();
    };
    connect_anew();

    // By the same authority: first with the key of another, then whole.
    let renewed = first.with_new_leaf(&names, now, lasting(4)).unwrap();
    mounted.replace(&files(&renewed, &first));
    connect_anew();
    assert_eq!(expiry(&replica), until(&first), "half of a certificate is not served");
    mounted.replace(&files(&renewed, &renewed));
    served(&renewed);
    connect_anew();
    // What is no certificate changes nothing.
    mounted.replace(&[("tls.crt", "nonsense".to_owned()), ("tls.key", String::new())].into());
    connect_anew();
    mounted.replace(&BTreeMap::new());
    connect_anew();
    assert_eq!(expiry(&replica), until(&renewed));
    // By another authority, before anybody trusts that: the one from before goes on.
    let both = renewed.with_new_authority(now, lasting(5)).unwrap();
    let rotated = both.with_new_leaf(&names, now, lasting(5)).unwrap();
    mounted.replace(&files(&rotated, &rotated));
    connect_anew();
    assert_eq!(expiry(&replica), until(&renewed), "nobody would trust the new one");
    installation.trust(&both.bundle()).unwrap();
    served(&rotated);
    connect_anew();

    let missed = asking.end_after(2_000).unwrap();
    assert!(missed.is_empty(), "{} missed: {:?}", missed.len(), &missed[..missed.len().min(5)]);
}
