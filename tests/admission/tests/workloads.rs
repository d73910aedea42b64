//! What users see of the webhook on a real API server.
#![cfg(feature = "cluster")]
#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::time::Duration;

use serde_json::{Value, json};
use whichpod_cluster::{ControlPlane, wait_for};
use whichpod_tests_admission::{Installation, audit_annotations};

const PATIENCE: Duration = Duration::from_secs(60);
const INJECTED: &str = "/spec/template/metadata/labels/whichpod.io~1injected";

fn deployment(annotations: &Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "nginx-test", "annotations": annotations },
        "spec": {
            "replicas": 2,
            "selector": { "matchLabels": { "app": "nginx" } },
            "template": {
                "metadata": { "labels": { "app": "nginx" } },
                "spec": { "containers": [{ "name": "nginx", "image": "example.test/nginx" }] },
            },
        },
    })
}

fn asking() -> Value {
    deployment(&json!({ "whichpod.io/upstreams": "backend-service:10000" }))
}

fn service() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "backend-service" },
        "spec": { "selector": { "app": "backend" }, "ports": [{ "port": 10000 }] },
    })
}

#[test]
fn one_annotation_gives_a_deployment_its_sidecar_and_applying_it_again_changes_nothing() {
    let installation = Installation::new("scenario").unwrap();
    let replica = installation.start(&[]).unwrap();
    let namespace = installation.user_namespace("scenario").unwrap();
    let client = installation.client();
    let apply = |object: &Value| {
        client.pipe(&["apply", "-n", namespace.name(), "-f", "-"], &object.to_string()).unwrap()
    };
    apply(&service());
    apply(&asking());
    let get = || client.get(&["deployment", "nginx-test", "-n", namespace.name()]).unwrap();
    let first = get();
    let sidecar = &first["spec"]["template"]["spec"]["initContainers"][0];
    assert_eq!((&sidecar["name"], &sidecar["restartPolicy"]), (&json!("whichpod"), &json!("Always")));
    let hosts = first["spec"]["template"]["spec"]["hostAliases"][0]["hostnames"].as_array().unwrap();
    assert!(hosts.contains(&json!("backend-service")), "{hosts:?}");

    let pods = ["pods", "-n", namespace.name(), "-l", "whichpod.io/injected"];
    client.wait_until(&pods, |pods| (pods["items"].as_array()?.len() == 2).then_some(())).unwrap();
    apply(&asking());
    client
        .run(&["annotate", "deployment", "nginx-test", "-n", namespace.name(), "example.test/note=x"])
        .unwrap();
    client.run(&["scale", "deployment", "nginx-test", "-n", namespace.name(), "--replicas=3"]).unwrap();
    let again = get();
    assert_eq!(again["spec"]["template"], first["spec"]["template"], "no rollout that nobody asked for");
    let sets = client.get(&["replicasets", "-n", namespace.name()]).unwrap();
    assert_eq!(sets["items"].as_array().unwrap().len(), 1);
    assert!(replica.metric("reviews_total{result=\"patched\",reason=\"injected\"}").unwrap() >= 1.0);

    // Opting out takes everything away again.
    client
        .run(&["annotate", "deployment", "nginx-test", "-n", namespace.name(), "whichpod.io/inject=false"])
        .unwrap();
    let out = get();
    assert!(out.pointer(INJECTED).is_none());
    assert_eq!(out["spec"]["template"]["spec"].get("hostAliases"), None);
    assert_eq!(out["spec"]["template"]["spec"].get("initContainers"), None);
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
    let namespace = installation.user_namespace("audit").unwrap();
    for object in [service(), asking()] {
        installation
            .client()
            .pipe(&["create", "-n", namespace.name(), "-f", "-"], &object.to_string())
            .unwrap();
    }
    let annotations = audit_annotations(control_plane, namespace.name(), "deployments").unwrap();
    assert_eq!(annotations["annotated.whichpod.io/reason"], "injected");
    assert_eq!(annotations["annotated.whichpod.io/upstreams"], "backend-service:10000");
    assert_eq!(annotations["annotated.whichpod.io/twins"], format!("{}/backend-service", namespace.name()));
}

#[test]
fn a_labelled_namespaces_pods_get_the_sidecar_when_they_start() {
    let installation = Installation::new("labelled").unwrap();
    let _replica = installation.start(&[]).unwrap();
    let namespace = installation.user_namespace("labelled").unwrap();
    let client = installation.client();
    client.run(&["label", "namespace", namespace.name(), "whichpod.io/injection=enabled"]).unwrap();
    client.pipe(&["create", "-n", namespace.name(), "-f", "-"], &service().to_string()).unwrap();
    // The webhook learns of label and Service a moment later.
    wait_for("a pod with a sidecar", PATIENCE, || {
        let pod = [
            "run",
            "app",
            "-n",
            namespace.name(),
            "--image=example.test/app",
            "--dry-run=server",
            "-o",
            "json",
        ];
        let pod: Value = serde_json::from_str(&client.run(&pod)?)?;
        Ok((pod["spec"]["initContainers"][0]["name"] == "whichpod").then_some(()))
    })
    .unwrap();
    let plain = deployment(&json!({}));
    let created =
        client.pipe(&["create", "-n", namespace.name(), "-o", "json", "-f", "-"], &plain.to_string());
    let created: Value = serde_json::from_str(&created.unwrap()).unwrap();
    assert!(created.pointer(INJECTED).is_none(), "the template stays its owner's");
    let pods = ["pods", "-n", namespace.name(), "-l", "whichpod.io/injected"];
    client.wait_until(&pods, |pods| (pods["items"].as_array()?.len() == 2).then_some(())).unwrap();
}

#[test]
fn a_policy_of_deny_refuses_with_the_remedy_and_lets_existing_workloads_be() {
    let installation = Installation::new("deny").unwrap();
    let _replica = installation.start(&["--headless-services=deny"]).unwrap();
    let namespace = installation.user_namespace("deny").unwrap();
    let client = installation.client();
    client.pipe(&["create", "-n", namespace.name(), "-f", "-"], &service().to_string()).unwrap();
    let refused = wait_for("the refusal", PATIENCE, || {
        let arguments = ["create", "--dry-run=server", "-n", namespace.name(), "-f", "-"];
        Ok(client.pipe(&arguments, &asking().to_string()).err())
    });
    let refused = refused.unwrap().to_string();
    assert!(refused.contains("denied the request") && refused.contains("clusterIP: None"), "{refused}");
}

#[test]
fn workloads_that_are_older_than_the_webhook_are_told_to_be_restarted() {
    let installation = Installation::new("older").unwrap();
    let namespace = installation.user_namespace("older").unwrap();
    let client = installation.client();
    for object in [service(), asking()] {
        client.pipe(&["create", "-n", namespace.name(), "-f", "-"], &object.to_string()).unwrap();
    }
    let replica = installation.start(&[]).unwrap();
    let events = ["events", "-n", namespace.name()];
    let event = client.wait_until(&events, |events| {
        events["items"].as_array()?.iter().find(|event| event["reason"] == "NotInjected").cloned()
    });
    let event = event.unwrap();
    assert_eq!((&event["involvedObject"]["kind"], &event["type"]), (&json!("Deployment"), &json!("Warning")));
    let message = event["message"].as_str().unwrap();
    let remedy = format!("kubectl rollout restart deployment/nginx-test -n {}", namespace.name());
    assert!(message.contains(&remedy), "{message}");
    assert!(replica.metric("uninjected_workloads").unwrap() >= 1.0);
}

#[test]
fn a_webhook_that_is_gone_stops_nobody() {
    let installation = Installation::new("away").unwrap();
    let replica = installation.start(&[]).unwrap();
    let namespace = installation.user_namespace("away").unwrap();
    replica.kill();
    assert!(!installation.is_asked(namespace.name()).unwrap(), "admitted as it is");
}
