//! What users see of the webhook on a real API server.
#![cfg(feature = "cluster")]
#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::time::Duration;

use serde_json::json;
use whichpod_cluster::{ControlPlane, wait_for};
use whichpod_tests_admission::{
    Installation, User, asking, audit_annotations, backend, configuration, deployment, sidecar,
};

const PATIENCE: Duration = Duration::from_secs(60);
const NAME: &str = "deployment/nginx-test";

#[test]
fn one_annotation_gives_a_deployment_its_sidecar_and_opting_out_takes_all_of_it_away() {
    let installation = Installation::new("scenario").unwrap();
    let replica = installation.start(&[]).unwrap();
    let user = User::new(&installation, "scenario").unwrap();
    user.serve(&backend()).unwrap();
    user.apply(&asking(), &[]).unwrap();
    let template = || user.get(NAME).unwrap()["spec"]["template"].clone();
    let first = template();
    let container = sidecar(&first["spec"]).unwrap();
    assert_eq!(
        (&first["spec"]["initContainers"][0], &container["restartPolicy"]),
        (container, &json!("Always"))
    );
    let hosts = first["spec"]["hostAliases"][0]["hostnames"].as_array().unwrap();
    assert!(hosts.contains(&json!("backend-service")), "{hosts:?}");
    let pods = user.get_all("pods", 2).unwrap();
    assert!(pods.iter().all(|pod| pod["metadata"]["labels"]["whichpod.io/injected"] == "true"));
    assert!(replica.metric("reviews_total{result=\"patched\",reason=\"injected\"}").unwrap() >= 1.0);

    user.kubectl(&["annotate", NAME, "whichpod.io/inject=false"]).unwrap();
    let out = template();
    assert!(out["metadata"]["labels"].get("whichpod.io/injected").is_none());
    assert_eq!((out["spec"].get("hostAliases"), out["spec"].get("initContainers")), (None, None));
}

#[test]
fn the_audit_log_says_why() {
    let control_plane = ControlPlane::shared();
    if control_plane.dir().is_none() {
        // Of a cluster that somebody else has started there is no audit log to be read.
        return;
    }
    let installation = Installation::new("audit").unwrap();
    let _replica = installation.start(&[]).unwrap();
    // Not a `User`: the log would tell of the dry runs by which that one waits.
    let namespace = installation.user_namespace("audit").unwrap();
    for object in [backend(), asking()] {
        let create = ["create", "-n", namespace.name(), "-f", "-"];
        installation.client().pipe(&create, &object.to_string()).unwrap();
    }
    let annotations = audit_annotations(control_plane, namespace.name(), "deployments").unwrap();
    assert_eq!(annotations["annotated.whichpod.io/reason"], "injected");
    assert_eq!(annotations["annotated.whichpod.io/upstreams"], "backend-service:10000");
    assert_eq!(annotations["annotated.whichpod.io/twins"], format!("{}/backend-service", namespace.name()));
}

#[test]
fn a_policy_of_deny_refuses_what_is_new_with_the_remedy_and_lets_what_runs_be() {
    let installation = Installation::new("deny").unwrap();
    let creating = installation.start(&[]).unwrap();
    let user = User::new(&installation, "deny").unwrap();
    user.serve(&backend()).unwrap();
    user.create(&asking()).unwrap();
    user.get_all("pods", 2).unwrap();
    creating.stop();
    let _denying = installation.start_unreached(&["--headless-services=deny"]).unwrap();
    let mut new = asking();
    new["metadata"]["name"] = json!("new");
    let arguments = ["create", "--dry-run=server", "-f", "-"];
    let refused = wait_for("the refusal", PATIENCE, || {
        let ran = user.try_kubectl(&arguments, Some(&new))?;
        Ok((!ran.ok).then_some(ran.err))
    })
    .unwrap();
    assert!(refused.contains("denied the request") && refused.contains("clusterIP: None"), "{refused}");
    // Scaled, annotated, its pods started anew: all of that goes on.
    user.kubectl(&["scale", NAME, "--replicas=3"]).unwrap();
    user.kubectl(&["annotate", NAME, "example.test/note=x"]).unwrap();
    user.kubectl(&["delete", "pods", "--all", "--grace-period=0", "--force"]).unwrap();
    wait_for("new pods with their sidecar", PATIENCE, || {
        let pods = user.get("pods")?["items"].as_array().cloned().unwrap_or_default();
        Ok((pods.len() == 3 && pods.iter().all(|pod| sidecar(&pod["spec"]).is_some())).then_some(()))
    })
    .unwrap();
    // A new image is a change of what it was made from.
    let changed = user.try_kubectl(&["set", "image", NAME, "nginx=example.test/nginx:2"], None).unwrap();
    assert!(!changed.ok && changed.err.contains("clusterIP: None"), "{changed:?}");
}

#[test]
fn workloads_that_are_older_than_the_webhook_are_told_to_be_restarted() {
    let installation = Installation::new("older").unwrap();
    let namespace = installation.user_namespace("older").unwrap();
    let client = installation.client();
    let mut plain = deployment(&json!({}));
    plain["metadata"]["name"] = json!("plain");
    for object in [backend(), asking(), plain] {
        client.pipe(&["create", "-n", namespace.name(), "-f", "-"], &object.to_string()).unwrap();
    }
    let replica = installation.start(&[]).unwrap();
    let told = client
        .wait_until(&["events", "-n", namespace.name()], |events| {
            let ours = |event: &&serde_json::Value| event["reason"] == "NotInjected";
            let found: Vec<_> = events["items"].as_array()?.iter().filter(ours).cloned().collect();
            (!found.is_empty()).then_some(found)
        })
        .unwrap();
    // Not `plain`. The leaders of other installations on the same cluster tell of it, too.
    for event in &told {
        let about = &event["involvedObject"];
        assert_eq!(
            (&about["kind"], &about["name"]),
            (&json!("Deployment"), &json!("nginx-test")),
            "{told:?}"
        );
        assert_eq!(event["type"], "Warning");
    }
    let message = told[0]["message"].as_str().unwrap();
    let remedy = format!("kubectl rollout restart deployment/nginx-test -n {}", namespace.name());
    assert!(message.contains(&remedy), "{message}");
    // Its own search may come after somebody else's.
    wait_for("the metric", PATIENCE, || Ok((replica.metric("uninjected_workloads")? >= 1.0).then_some(())))
        .unwrap();
}

#[test]
fn what_annotations_say_of_the_sidecar_is_what_the_sidecar_is_told_and_a_mistake_is_answered() {
    let installation = Installation::new("settings").unwrap();
    let _replica = installation.start(&["--default=timeouts=connect=3s", "--default=workers=2"]).unwrap();
    let user = User::new(&installation, "settings").unwrap();
    user.serve(&backend()).unwrap();
    let mut object = deployment(&json!({
        "whichpod.io/upstreams": "backend-service:10000",
        "whichpod.io/timeouts": "request=30s",
        "whichpod.io/retry": "on=5xx, reset, attempts=3, budget.percent=10",
        "whichpod.io/health-check": "protocol: http\npath: /healthz\n",
        "whichpod.io/tls": "ca_file=/etc/backend-ca/ca.crt",
        "whichpod.io/volume-mounts": "backend-ca=/etc/backend-ca",
        "whichpod.io/per-upstream": "{backend-service: {circuit_breakers: {max_requests: 10}}}",
    }));
    let volumes = json!([{ "name": "backend-ca", "configMap": { "name": "backend-ca" } }]);
    object["spec"]["template"]["spec"]["volumes"] = volumes;
    let told = user.create(&object).unwrap().err;
    assert!(!told.contains("Warning"), "{told}");
    let pod = |kind: &str| user.get(kind).unwrap()["spec"]["template"]["spec"].clone();
    let stored = pod(NAME);
    let document = configuration(&stored).unwrap();
    let upstream = &document["upstreams"][0];
    for (found, expected) in [
        (&document["timeouts"], json!({ "request": "30s" })),
        (&document["workers"], json!(2)),
        (&document["retry"], json!({ "on": ["5xx", "reset"], "attempts": 3, "budget": { "percent": 10 } })),
        (&upstream["health_check"], json!({ "protocol": "http", "path": "/healthz" })),
        (&upstream["tls"]["ca_file"], json!("/etc/backend-ca/ca.crt")),
        (&upstream["circuit_breakers"], json!({ "max_requests": 10 })),
    ] {
        assert_eq!(*found, expected, "{document}");
    }
    assert_eq!(sidecar(&stored).unwrap()["volumeMounts"][0]["mountPath"], "/etc/backend-ca");

    // A mistake is told with its place and its remedy, and what runs goes on.
    let wrong = ["annotate", "--overwrite", NAME, "whichpod.io/retry=on=5xx, attempts=many"];
    let told = user.kubectl(&wrong).unwrap().err;
    assert!(
        told.contains(
            "whichpod.io/retry: attempts is \"many\": not a whole number; write a whole number from 0 to 100"
        ),
        "{told}"
    );
    assert_eq!(pod(NAME), stored);
    user.kubectl(&["annotate", "--overwrite", NAME, "whichpod.io/retry=attempts=1"]).unwrap();
    assert_eq!(configuration(&pod(NAME)).unwrap()["retry"], json!({ "attempts": 1 }));
}
