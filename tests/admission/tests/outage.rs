//! A webhook that is stopped, slow, or answers nonsense, on a real API server.
#![cfg(feature = "cluster")]
#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::json;
use whichpod_cluster::wait_for;
use whichpod_tests_admission::{Impostor, Installation, Manner, User, asking, backend, deployment, sidecar};

const PATIENCE: Duration = Duration::from_secs(60);

/// Whether an annotated Deployment is admitted, and what kubectl says, under `Ignore` and then under `Fail`.
fn admitted(installation: &Installation, user: &User) -> [(bool, String); 2] {
    let arguments = ["create", "--dry-run=server", "-o", "json", "-f", "-"];
    ["Ignore", "Fail"].map(|policy| {
        installation.set("failurePolicy", &json!(policy)).unwrap();
        // The API server goes by a change a moment later.
        let mut last = (false, String::new());
        let _ = wait_for("the policy", Duration::from_secs(5), || {
            let ran = user.try_kubectl(&arguments, Some(&asking()))?;
            if ran.ok {
                assert!(!ran.out.contains("whichpod-sidecar"), "{}", ran.out);
            }
            last = (ran.ok, ran.err);
            Ok((last.0 == (policy == "Ignore")).then_some(()))
        });
        // Who does not ask for a sidecar never waits for the webhook.
        let started = Instant::now();
        assert!(user.dry_run(&deployment(&json!({}))).is_ok());
        assert!(started.elapsed() < Duration::from_secs(2), "{policy}: {:?}", started.elapsed());
        last
    })
}

fn check(manner: &str, installation: &Installation, user: &User, says: &str) {
    let [ignored, failed] = admitted(installation, user);
    assert!(ignored.0, "{manner}: {}", ignored.1);
    assert!(!failed.0, "{manner}: refused under Fail");
    // Which webhook, where it is, and what is wrong: enough to find `kubectl describe` and the chart's value.
    for word in ["annotated.whichpod.io", says] {
        assert!(failed.1.contains(word), "{manner}: {word} in {}", failed.1);
    }
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
