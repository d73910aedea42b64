//! A webhook that is stopped, slow, or answers nonsense, on a real API server.
#![cfg(feature = "cluster")]
#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::net::TcpListener;
use std::time::Duration;

use serde_json::json;
use whichpod_cluster::wait_for;
use whichpod_tests_admission::{
    Impostor, Installation, Manner, Ran, User, asking, backend, deployment, sidecar,
};

const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until creating an annotated Deployment ends so under this policy: the API server goes by a change a moment
/// later, and on a machine that has much to do a webhook that answers nonsense may once be too late with it.
fn ends(manner: &str, policy: &str, installation: &Installation, user: &User, so: impl Fn(&Ran) -> bool) {
    installation.set("failurePolicy", &json!(policy)).unwrap();
    let arguments = ["create", "--dry-run=server", "-o", "json", "-f", "-"];
    let mut last = None;
    let ended = wait_for("the policy", PATIENCE, || {
        let ran = user.try_kubectl(&arguments, Some(&asking()))?;
        assert!(!ran.out.contains("whichpod-sidecar"), "{}", ran.out);
        let ended = so(&ran);
        last = Some(ran);
        Ok(ended.then_some(()))
    });
    assert!(ended.is_ok(), "{manner}, {policy}: {last:?}");
    // Who does not ask for a sidecar is admitted, under Fail too: nobody is asked.
    assert!(user.dry_run(&deployment(&json!({}))).is_ok(), "{manner}, {policy}");
}

fn check(manner: &str, installation: &Installation, user: &User, says: &str) {
    ends(manner, "Ignore", installation, user, |ran| ran.ok);
    // Which webhook, where it is, and what is wrong: enough to find `kubectl describe` and the chart's value.
    let says_why = |ran: &Ran| ["annotated.whichpod.io", says].iter().all(|word| ran.err.contains(word));
    ends(manner, "Fail", installation, user, |ran| !ran.ok && says_why(ran));
}

#[test]
fn under_ignore_everybody_is_admitted_and_under_fail_the_message_names_the_webhook() {
    let installation = Installation::new("outage").unwrap();
    let replica = installation.start(&[]).unwrap();
    let user = User::new(&installation, "outage").unwrap();
    user.serve(&backend()).unwrap();
    let address = replica.address();
    replica.kill();
    installation.set("timeoutSeconds", &json!(1)).unwrap();
    check("stopped", &installation, &user, &address.to_string());

    // Whoever listens there now says nothing, not even in the handshake.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    installation.register_at(silent.local_addr().unwrap()).unwrap();
    check("deaf", &installation, &user, "deadline exceeded");

    for (manner, says) in [
        (Manner::Silent, "deadline exceeded"),
        (Manner::Says(200, "nonsense"), "couldn't get version/kind"),
        (Manner::Says(200, "{}"), "webhook"),
        (
            Manner::Says(
                200,
                r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","response":{"uid":"x","allowed":true}}"#,
            ),
            "uid",
        ),
        (Manner::Says(500, "broken"), "broken"),
    ] {
        let impostor = Impostor::start(manner).unwrap();
        installation.register_at(impostor.address()).unwrap();
        installation.trust(impostor.bundle()).unwrap();
        check(&format!("{manner:?}"), &installation, &user, says);
    }
}

#[test]
fn what_came_while_the_webhook_was_away_is_served_at_its_pods_next_start() {
    let installation = Installation::new("away").unwrap();
    let replica = installation.start(&[]).unwrap();
    let user = User::new(&installation, "away").unwrap();
    user.serve(&backend()).unwrap();
    replica.kill();
    // The pods carry the annotation; where only the Deployment does, an Event tells of the restart that it needs.
    let mut asking = deployment(&json!({}));
    asking["spec"]["template"]["metadata"]["annotations"] =
        json!({ "whichpod.io/upstreams": "backend-service:10000" });
    user.create(&asking).unwrap();
    let pods = user.get_all("pods", 2).unwrap();
    assert!(pods.iter().all(|pod| sidecar(&pod["spec"]).is_none()));
    // It comes back: pods that start from now on have the sidecar although nobody touched their Deployment.
    let _replica = installation.start(&[]).unwrap();
    user.kubectl(&["delete", "pods", "--all", "--grace-period=0", "--force"]).unwrap();
    wait_for("pods with a sidecar", PATIENCE, || {
        let pods = user.get("pods")?["items"].as_array().cloned().unwrap_or_default();
        Ok((pods.len() == 2 && pods.iter().all(|pod| sidecar(&pod["spec"]).is_some())).then_some(()))
    })
    .unwrap();
    assert!(sidecar(&user.get("deployment/nginx-test").unwrap()["spec"]["template"]["spec"]).is_none());
}
