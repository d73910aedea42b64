//! Headless twins on a real API server.
#![cfg(feature = "cluster")]
#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use whichpod_cluster::wait_for;
use whichpod_tests_admission::{Installation, User, routes};

const PATIENCE: Duration = Duration::from_secs(60);
const TWIN: &str = "backend-whichpod";

fn service() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "backend", "labels": { "scrape": "yes" } },
        "spec": { "selector": { "app": "backend" }, "ports": [{ "port": 10000 }] },
    })
}

fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "app", "annotations": { "whichpod.io/upstreams": "backend:10000" } },
        "spec": { "containers": [{ "name": "app", "image": "example.test/app" }] },
    })
}

/// A leader keeps the twins of the whole cluster, whoever asked for them: two installations at a time would do each
/// other's work. Whoever holds this is the only one; it must be let go last.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Scene(User);

impl Scene {
    fn new(installation: &Installation, prefix: &str) -> Self {
        Self(User::new(installation, prefix).unwrap())
    }

    fn create(&self, object: &Value) -> String {
        self.0.create(object).unwrap().err
    }

    fn run(&self, arguments: &[&str]) {
        self.0.kubectl(arguments).unwrap();
    }

    fn twin(&self) -> Option<Value> {
        self.0.get(&format!("service/{TWIN}")).ok()
    }

    fn until(&self, what: &str, accept: impl Fn(&Value) -> bool) -> Value {
        wait_for(what, PATIENCE, || Ok(self.twin().filter(|twin| accept(twin)))).unwrap()
    }
}

#[test]
fn a_twin_comes_with_the_first_pod_that_asks_and_is_kept_in_step() {
    let _alone = alone();
    let installation = Installation::new("twins").unwrap();
    let _replica = installation.start(&[]).unwrap();
    let scene = Scene::new(&installation, "twins");
    scene.create(&service());
    assert!(scene.twin().is_none());
    scene.create(&pod());
    let twin = scene.until("the twin", |_| true);
    assert_eq!(twin["spec"]["clusterIP"], "None");
    assert_eq!(twin["spec"]["ports"][0]["name"], "p10000");
    assert_eq!(twin["metadata"]["labels"].get("scrape"), None, "monitors must not scrape twice");
    assert_eq!(twin["metadata"]["ownerReferences"][0].get("blockOwnerDeletion"), None);

    let patch =
        r#"{"spec":{"selector":{"app":"other"},"ports":[{"name":"web","port":10000,"targetPort":8080}]}}"#;
    scene.run(&["patch", "service", "backend", "--type=merge", "-p", patch]);
    let twin = scene.until("the change", |twin| twin["spec"]["selector"]["app"] == "other");
    assert_eq!(
        (&twin["spec"]["ports"][0]["name"], &twin["spec"]["ports"][0]["targetPort"]),
        (&json!("p10000"), &json!(8080))
    );

    let edited = r#"{"spec":{"selector":{"app":"wrong"},"publishNotReadyAddresses":true}}"#;
    scene.run(&["patch", "service", TWIN, "--type=merge", "-p", edited]);
    let twin = scene.until("the mending", |twin| twin["spec"]["selector"]["app"] == "other");
    assert_ne!(twin["spec"]["publishNotReadyAddresses"], true);

    let uid = twin["metadata"]["uid"].clone();
    scene.run(&["delete", "service", TWIN]);
    scene.until("another twin", |twin| twin["metadata"]["uid"] != uid);
}

/// By what GitOps tools, Helm and kubectl know that an object is theirs: to compare it with what they were given, and to
/// delete it when they were not given it.
fn tracked(tools: &mut Value) {
    tools["metadata"]["labels"] = json!({
        "app.kubernetes.io/instance": "shop", "app.kubernetes.io/managed-by": "Helm",
        "app.kubernetes.io/part-of": "shop", "argocd.argoproj.io/instance": "shop", "helm.sh/chart": "shop-1.0.0",
        "kustomize.toolkit.fluxcd.io/name": "shop", "kustomize.toolkit.fluxcd.io/namespace": "flux-system",
        "helm.toolkit.fluxcd.io/name": "shop", "helm.toolkit.fluxcd.io/namespace": "flux-system",
    });
    tools["metadata"]["annotations"] = json!({
        "argocd.argoproj.io/tracking-id": "shop:/Service:shop/backend", "argocd.argoproj.io/sync-wave": "1",
        "meta.helm.sh/release-name": "shop", "meta.helm.sh/release-namespace": "shop",
        "kustomize.toolkit.fluxcd.io/prune": "enabled", "config.kubernetes.io/origin": "path: backend.yaml",
    });
}

#[test]
fn git_ops_tools_neither_track_nor_prune_a_twin_and_see_no_change_of_their_service() {
    let _alone = alone();
    let installation = Installation::new("gitops").unwrap();
    let _replica = installation.start(&[]).unwrap();
    let scene = Scene::new(&installation, "gitops");
    let mut desired = service();
    tracked(&mut desired);
    let ways = [
        &["--server-side", "--field-manager=argocd-controller", "--force-conflicts"][..],
        &["--server-side", "--field-manager=kustomize-controller", "--force-conflicts"],
        // Leaves `last-applied-configuration` on the Service.
        &["--prune", "--selector=app.kubernetes.io/instance=shop", "--prune-allowlist=core/v1/Service"],
    ];
    scene.0.apply(&desired, ways[0]).unwrap();
    scene.create(&pod());
    let first = scene.until("the twin", |_| true);
    let metadata =
        |twin: &Value| (twin["metadata"]["labels"].clone(), twin["metadata"].get("annotations").cloned());
    let ours = json!({ "app.kubernetes.io/managed-by": "whichpod", "whichpod.io/twin-of": "backend" });
    assert_eq!(metadata(&first), (ours.clone(), None));

    for (target, flags) in (8081_u16..).zip(ways) {
        // A change of the Service has the twin written anew, which must not bring them along either.
        desired["spec"]["ports"][0]["targetPort"] = json!(target);
        scene.0.apply(&desired, flags).unwrap();
        let twin = scene.until("the change", |twin| twin["spec"]["ports"][0]["targetPort"] == target);
        assert_eq!(metadata(&twin), (ours.clone(), None), "{flags:?}");
        let service = scene.0.get("service/backend").unwrap();
        let applied = scene.0.apply(&desired, flags).unwrap();
        assert!(!applied.out.contains("pruned"), "{}", applied.out);
        let again = scene.0.get("service/backend").unwrap();
        assert_eq!(again["metadata"]["resourceVersion"], service["metadata"]["resourceVersion"], "{flags:?}");
        let how = &flags[..if flags[0] == "--server-side" { flags.len() } else { 0 }];
        let diff = scene.0.try_kubectl(&[&["diff", "-f", "-"], how].concat(), Some(&desired)).unwrap();
        assert!(diff.ok && diff.out.is_empty(), "{flags:?}: {diff:?}");
    }
    let shown = scene.0.kubectl(&["get", "service", TWIN, "-o", "json", "--show-managed-fields"]).unwrap();
    let twin: Value = serde_json::from_str(&shown.out).unwrap();
    assert_eq!(twin["metadata"]["uid"], first["metadata"]["uid"], "it was there all the time");
    let managers = twin["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    assert!(
        !managers.is_empty() && managers.iter().all(|entry| entry["manager"] == "whichpod"),
        "{managers:?}"
    );
}

#[test]
fn a_twin_goes_with_its_service_and_comes_again_with_it() {
    let _alone = alone();
    let installation = Installation::new("gone").unwrap();
    let replica = installation.start(&[]).unwrap();
    let scene = Scene::new(&installation, "gone");
    scene.create(&service());
    scene.create(&pod());
    scene.until("the twin", |_| true);
    scene.run(&["delete", "service", "backend"]);
    wait_for("the twin's end", PATIENCE, || Ok(scene.twin().is_none().then_some(()))).unwrap();
    scene.create(&service());
    scene.until("the twin", |_| true);
    // Nobody asks any more: it stays all the same.
    scene.run(&["delete", "pod", "app", "--grace-period=0", "--force"]);
    wait_for("the metric", PATIENCE, || Ok((replica.metric("twins")? >= 1.0).then_some(()))).unwrap();
    assert!(scene.twin().is_some());
}

#[test]
fn a_service_that_is_not_ours_is_never_adopted_and_its_owner_is_told() {
    let _alone = alone();
    let installation = Installation::new("foreign").unwrap();
    let _replica = installation.start(&[]).unwrap();
    let scene = Scene::new(&installation, "foreign");
    scene.create(&service());
    scene.create(&pod());
    scene.until("the twin", |_| true);
    // Somebody makes it theirs: without our label it is anybody's.
    let theirs = r#"{"metadata":{"labels":{"app.kubernetes.io/managed-by":"somebody"}},"spec":{"selector":{"app":"somebody"}}}"#;
    scene.run(&["patch", "service", TWIN, "--type=merge", "-p", theirs]);
    let before = scene.twin().unwrap();
    let event = scene.0.event("TwinNameTaken").unwrap();
    assert_eq!(event["involvedObject"]["name"], "backend");
    scene.run(&["annotate", "service", "backend", "example.test/changed=yes"]);
    assert_eq!(scene.twin().unwrap()["metadata"]["resourceVersion"], before["metadata"]["resourceVersion"]);
    // Once the name is free, the twin is made.
    scene.run(&["delete", "service", TWIN]);
    scene.until("the twin", |twin| twin["spec"]["clusterIP"] == "None");
}

#[test]
fn a_quota_that_forbids_the_twin_is_told_to_the_services_owner() {
    let _alone = alone();
    let installation = Installation::new("quota").unwrap();
    let replica = installation.start(&[]).unwrap();
    let scene = Scene::new(&installation, "quota");
    scene.create(&service());
    scene.create(&json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": { "name": "few" }, "spec": { "hard": { "services": "1" } },
    }));
    wait_for("the quota's count", PATIENCE, || {
        Ok(scene.0.get("resourcequota/few")?["status"]["used"]["services"].as_str().map(drop))
    })
    .unwrap();
    scene.create(&pod());
    let event = scene.0.event("TwinRefused").unwrap();
    let message = event["message"].as_str().unwrap();
    assert!(message.contains(TWIN) && message.contains("exceeded quota"), "{message}");
    let failed = || replica.metric("twin_writes_total{result=\"failed\"}");
    wait_for("the metric", PATIENCE, || Ok((failed()? >= 1.0).then_some(()))).unwrap();
    // Who asks from now on is told, too, and is injected all the same: it may be allowed later.
    let mut later = pod();
    later["metadata"]["name"] = json!("later");
    let told = || scene.0.dry_run(&later).unwrap().1;
    wait_for("the warning", PATIENCE, || Ok(told().contains("no headless twin").then_some(()))).unwrap();
    // It comes as soon as it may.
    scene.run(&["delete", "resourcequota", "few"]);
    scene.until("the twin", |_| true);
    wait_for("no warning", PATIENCE, || Ok((!told().contains("no headless twin")).then_some(()))).unwrap();
}

#[test]
fn a_twin_that_was_asked_for_while_nobody_led_is_made_afterwards() {
    let _alone = alone();
    let installation = Installation::new("late").unwrap();
    let replica = installation.start(&[]).unwrap();
    let scene = Scene::new(&installation, "late");
    replica.stop();
    scene.create(&service());
    // As another replica's admission would have left it.
    let mut injected = pod();
    let status = json!({ "version": "0.1.0", "twins": [{ "namespace": scene.0.name(), "name": "backend" }] });
    injected["metadata"]["annotations"] = json!({ "whichpod.io/status": status.to_string() });
    injected["metadata"]["labels"] = json!({ "whichpod.io/injected": "true" });
    scene.create(&injected);
    let _replica = installation.start(&[]).unwrap();
    scene.until("the twin", |_| true);
}

#[test]
fn no_twin_is_made_where_the_operator_does_not_want_one() {
    let _alone = alone();
    let installation = Installation::new("warned").unwrap();
    let replica = installation.start(&["--headless-services=warn"]).unwrap();
    let scene = Scene::new(&installation, "warned");
    scene.create(&service());
    wait_for("the webhook to know the Service", PATIENCE, || {
        Ok((!scene.0.dry_run(&pod())?.1.contains("there is no Service")).then_some(()))
    })
    .unwrap();
    let told = scene.create(&pod());
    assert!(
        told.contains("Warning: whichpod: Service backend has a virtual IP and no headless twin"),
        "{told}"
    );
    // The leader has seen the pod and left it at that.
    replica.leads(true).unwrap();
    assert!(scene.twin().is_none());
}

#[test]
fn twins_from_before_are_neither_kept_in_step_nor_given_away_where_none_are_made_any_more() {
    let _alone = alone();
    let installation = Installation::new("before").unwrap();
    let creating = installation.start(&[]).unwrap();
    let scene = Scene::new(&installation, "before");
    scene.create(&service());
    scene.create(&pod());
    let twin = scene.until("the twin", |_| true);
    creating.stop();
    let warning = installation.start(&["--headless-services=warn"]).unwrap();
    warning.leads(true).unwrap();
    scene.run(&[
        "patch",
        "service",
        "backend",
        "--type=merge",
        "-p",
        r#"{"spec":{"selector":{"app":"other"}}}"#,
    ]);
    // A Service whose pods the twin would not follow is asked for itself, and the user is told.
    let mut asked = pod();
    asked["metadata"]["name"] = json!("later");
    let (stored, told) = scene.0.dry_run(&asked).unwrap();
    assert_eq!(routes(&stored["spec"]).unwrap(), ["10000>backend:10000|"]);
    assert!(told.contains("no headless twin"), "{told}");
    // Those of other tests are in the same cluster, and some go with their namespaces.
    assert!(warning.metric("twins").unwrap() >= 1.0);
    assert_eq!(warning.metric("twin_writes_total{result=\"failed\"}").unwrap(), 0.0);
    assert_eq!(scene.twin(), Some(twin), "nobody touched it");
}
