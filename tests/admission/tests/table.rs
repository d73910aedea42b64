//! Who gets a sidecar, on a real API server: every row of the table, every kind, and who never gets one.
#![cfg(feature = "cluster")]
#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use serde_json::{Value, json};
use whichpod_cluster::wait_for;
use whichpod_tests_admission::{Installation, Replica, User, backend, service, sidecar};

const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);
const UPSTREAMS: &str = "whichpod.io/upstreams";
const INJECT: &str = "whichpod.io/inject";

fn names() -> Value {
    json!({ UPSTREAMS: "backend-service:10000" })
}

/// An object of any kind with pods; annotations of its own and of its template.
fn workload(kind: &str, own: &Value, of_template: &Value) -> Value {
    let labels = json!({ "app": "app" });
    let restart = if matches!(kind, "Job" | "CronJob") { "Never" } else { "Always" };
    let pod = json!({
        "metadata": { "labels": labels, "annotations": of_template },
        "spec": { "restartPolicy": restart, "containers": [{ "name": "app", "image": "example.test/app" }] },
    });
    let group = if matches!(kind, "Job" | "CronJob") { "batch/v1" } else { "apps/v1" };
    let spec = match kind {
        "Job" => json!({ "template": pod }),
        "CronJob" => json!({ "schedule": "0 0 1 1 *", "jobTemplate": { "spec": { "template": pod } } }),
        "StatefulSet" => {
            json!({ "serviceName": "app", "selector": { "matchLabels": labels }, "template": pod })
        }
        _ => json!({ "selector": { "matchLabels": labels }, "template": pod }),
    };
    match kind {
        "Pod" => json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": "app", "labels": labels, "annotations": own }, "spec": pod["spec"],
        }),
        _ => json!({
            "apiVersion": group, "kind": kind, "metadata": { "name": "app", "annotations": own }, "spec": spec,
        }),
    }
}

fn pod_of(object: &Value) -> &Value {
    match object["kind"].as_str().unwrap() {
        "Pod" => object,
        "CronJob" => &object["spec"]["jobTemplate"]["spec"]["template"],
        _ => &object["spec"]["template"],
    }
}

/// Whether it gets a sidecar, and what kubectl prints about it.
fn admitted(user: &User, object: &Value) -> (bool, String) {
    let (stored, told) = user.dry_run(object).unwrap();
    let pod = pod_of(&stored);
    let injected = sidecar(&pod["spec"]).is_some();
    let marked = pod["metadata"]["labels"].get("whichpod.io/injected").is_some();
    assert_eq!(injected, marked, "all or nothing: {stored}");
    (injected, told)
}

fn installed(prefix: &str) -> (Installation, Replica) {
    let installation = Installation::new(prefix).unwrap();
    let replica = installation.start(&[]).unwrap();
    (installation, replica)
}

/// A user whose namespace has a Service and this label, all of which the webhook knows.
fn user(installation: &Installation, label: Option<&str>) -> User {
    let Some(label) = label else {
        let user = User::new(installation, "plain").unwrap();
        user.serve(&backend()).unwrap();
        return user;
    };
    let user = User::labelled(installation, label, label).unwrap();
    user.create(&backend()).unwrap();
    let asks = workload("Pod", &names(), &json!({}));
    wait_for("the webhook to know label and Service", PATIENCE, || {
        let told = admitted(&user, &asks).1;
        let knows_label = match label {
            "enabled" => admitted(&user, &workload("Pod", &json!({}), &json!({}))).0,
            _ => told.contains(&format!("namespace {}", user.name())),
        };
        Ok((knows_label && !told.contains("there is no Service")).then_some(()))
    })
    .unwrap();
    user
}

#[test]
fn every_row_of_the_table_holds() {
    let (installation, _replica) = installed("table");
    let none = json!({});
    let with_upstreams = |inject: &str| json!({ INJECT: inject, UPSTREAMS: "backend-service:10000" });
    let refuses = json!({ INJECT: "false" });
    // Namespace label; annotations; whether a Deployment and a pod get it; what is told.
    let rows: [(Option<&str>, Value, bool, bool, &str); 19] = [
        (None, none.clone(), false, false, ""),
        (None, names(), true, true, ""),
        (None, with_upstreams("true"), true, true, ""),
        (None, json!({ INJECT: "true" }), false, false, "no upstreams are named"),
        (None, refuses.clone(), false, false, ""),
        (None, with_upstreams("false"), false, false, ""),
        (None, with_upstreams("yes"), false, false, "accepted: \"true\", \"false\""),
        (None, json!({ UPSTREAMS: "" }), false, false, "no upstreams are named"),
        (Some("enabled"), none.clone(), false, true, ""),
        (Some("enabled"), names(), true, true, ""),
        (Some("enabled"), json!({ INJECT: "true" }), true, true, ""),
        (Some("enabled"), refuses.clone(), false, false, ""),
        (Some("enabled"), with_upstreams("maybe"), false, false, "accepted: \"true\", \"false\""),
        (Some("disabled"), none.clone(), false, false, ""),
        (Some("disabled"), names(), false, false, "disabled"),
        (Some("disabled"), json!({ INJECT: "true" }), false, false, "disabled"),
        (Some("disabled"), refuses, false, false, ""),
        (Some("sometimes"), names(), false, false, "sometimes"),
        (Some("sometimes"), with_upstreams("false"), false, false, ""),
    ];
    let mut users: Vec<(Option<&str>, User)> = Vec::new();
    for (label, annotations, of_deployment, of_pod, warning) in rows {
        if users.iter().all(|(known, _)| *known != label) {
            users.push((label, user(&installation, label)));
        }
        let user = &users.iter().find(|(known, _)| *known == label).unwrap().1;
        for (kind, expected) in [("Deployment", of_deployment), ("Pod", of_pod)] {
            let (injected, told) = admitted(user, &workload(kind, &annotations, &none));
            assert_eq!(injected, expected, "{kind}, {label:?}, {annotations}: {told}");
            assert!(told.contains(warning), "{kind}, {label:?}, {annotations}: {told}");
            assert_eq!(
                told.contains("Warning"),
                !warning.is_empty(),
                "{kind}, {label:?}, {annotations}: {told}"
            );
        }
    }
    // A label that nobody knows is told to whoever creates a pod, asked or not.
    let sometimes = &users.iter().find(|(label, _)| *label == Some("sometimes")).unwrap().1;
    let (injected, told) = admitted(sometimes, &workload("Pod", &none, &none));
    assert!(!injected && told.contains("sometimes"), "{told}");
}

#[test]
fn every_kind_gets_its_sidecar_wherever_the_annotation_stands() {
    let (installation, _replica) = installed("kinds");
    let user = user(&installation, None);
    let none = json!({});
    for kind in ["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "CronJob"] {
        for (own, of_template) in [(names(), none.clone()), (none.clone(), names())] {
            let (injected, told) = admitted(&user, &workload(kind, &own, &of_template));
            assert!(injected && !told.contains("Warning"), "{kind}: {told}");
        }
        // What a workload says for itself holds for its pods in a labelled namespace, too.
        let refusing = workload(kind, &json!({ INJECT: "false" }), &none);
        let (stored, _) = user.dry_run(&refusing).unwrap();
        assert_eq!(pod_of(&stored)["metadata"]["annotations"][INJECT], "false", "{kind}");
    }
    assert!(admitted(&user, &workload("Pod", &names(), &none)).0);
}

#[test]
fn who_can_have_none_is_told_and_whose_template_is_a_controllers_is_left_alone() {
    let (installation, _replica) = installed("never");
    let user = user(&installation, None);
    let with = |pointer: &str, value: Value| {
        let mut object = workload("Deployment", &names(), &json!({}));
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        object.pointer_mut(parent).unwrap()[key.replace("~1", "/")] = value;
        object
    };
    let on_windows = json!([{ "key": "kubernetes.io/os", "operator": "In", "values": ["windows"] }]);
    let terms = json!({ "nodeSelectorTerms": [{ "matchExpressions": on_windows }] });
    let windows_only = json!({ "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": terms } });
    for (pointer, value, told_of) in [
        ("/spec/template/spec/hostNetwork", json!(true), "hostNetwork"),
        ("/spec/template/spec/nodeSelector", json!({ "kubernetes.io/os": "windows" }), "Windows"),
        ("/spec/template/spec/affinity", windows_only, "Windows"),
        ("/spec/template/metadata/labels/sidecar.istio.io~1inject", json!("true"), "Istio"),
        ("/spec/template/metadata/annotations", json!({ "linkerd.io/inject": "enabled" }), "Linkerd"),
        (
            "/spec/template/spec/containers",
            json!([{ "name": "whichpod", "image": "example.test/mine" }]),
            "whichpod",
        ),
        ("/metadata/annotations/whichpod.io~1redirect", json!("magic"), "hosts, env, none"),
        ("/metadata/annotations/whichpod.io~1upstreams", json!("backend-service"), "NAME:PORT"),
    ] {
        let object = with(pointer, value);
        let (stored, told) = user.dry_run(&object).unwrap();
        assert!(told.contains("Warning: whichpod: ") && told.contains(told_of), "{pointer}: {told}");
        assert!(pod_of(&stored)["metadata"]["labels"].get("whichpod.io/injected").is_none(), "{pointer}");
        assert!(pod_of(&stored)["spec"].get("initContainers").is_none(), "{pointer}");
    }
    // Nobody is asked about whichpod's own pods, and a template that somebody else keeps is that one's.
    let ours =
        with("/spec/template/metadata/labels", json!({ "app": "app", "whichpod.io/component": "webhook" }));
    let owner = json!([{ "apiVersion": "example.test/v1", "kind": "Shop", "name": "s", "uid": "u", "controller": true }]);
    for object in [ours, with("/metadata/ownerReferences", owner)] {
        let (injected, told) = admitted(&user, &object);
        assert!(!injected && !told.contains("Warning"), "{told}");
    }
}

#[test]
fn a_pod_with_a_sidecar_is_admitted_where_the_restricted_standard_is_enforced() {
    let (installation, _replica) = installed("restricted");
    let user = User::new(&installation, "restricted").unwrap();
    // A low port, for which the pod gets a sysctl.
    user.serve(&service("web", &json!([{ "port": 80 }]))).unwrap();
    user.kubectl(&["label", "namespace", user.name(), "pod-security.kubernetes.io/enforce=restricted"])
        .unwrap();
    let mut pod = workload("Pod", &json!({ UPSTREAMS: "web:80" }), &json!({}));
    wait_for("the standard to be enforced", PATIENCE, || {
        let ran = user.try_kubectl(&["create", "--dry-run=server", "-f", "-"], Some(&pod))?;
        Ok(ran.err.contains("violates PodSecurity").then_some(()))
    })
    .unwrap();
    pod["spec"]["securityContext"] =
        json!({ "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } });
    pod["spec"]["containers"][0]["securityContext"] =
        json!({ "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } });
    for native in ["true", "false"] {
        pod["metadata"]["annotations"]["whichpod.io/native-sidecar"] = json!(native);
        let (stored, told) = user.dry_run(&pod).unwrap();
        assert!(sidecar(&stored["spec"]).is_some() && !told.contains("Warning"), "{native}: {told}");
        assert_eq!(stored["spec"]["securityContext"]["sysctls"][0]["value"], "80", "{native}");
    }
}
