//! The commands against a real API server; kubectl is the judge.
#![cfg(feature = "cluster")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod command;

use command::{Ran, whichpod};
use serde_json::{Value, json};
use whichpod_cluster::{Client, ControlPlane, Namespace};

/// A Service and a Deployment in a namespace of their own.
struct Shop {
    client: Client,
    namespace: Namespace,
    folder: tempfile::TempDir,
}

impl Shop {
    fn open(prefix: &str, annotations: &Value) -> Shop {
        Shop::open_in(ControlPlane::shared(), prefix, annotations)
    }

    fn open_in(cluster: &ControlPlane, prefix: &str, annotations: &Value) -> Shop {
        let client = cluster.client().clone();
        let namespace = client.namespace(prefix).unwrap();
        let manifest = json!({"apiVersion": "v1", "kind": "List", "items": [
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "backend-service"},
                "spec": {"selector": {"app": "backend"}, "ports": [{"port": 10000}]}},
            {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "annotations": annotations},
                "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "web"}}, "template": {
                    "metadata": {"labels": {"app": "web"}},
                    "spec": {"containers": [{"name": "web", "image": "example.test/web"}]}}}},
        ]});
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("app.json"), manifest.to_string()).unwrap();
        client.pipe(&["create", "-n", namespace.name(), "-f", "-"], &manifest.to_string()).unwrap();
        Shop { client, namespace, folder }
    }

    fn whichpod(&self, arguments: &[&str]) -> Ran {
        let kubeconfig = self.client.kubeconfig().to_str().unwrap();
        let here = ["--kubeconfig", kubeconfig, "-n", self.namespace.name()];
        whichpod(self.folder.path(), &[arguments, &here].concat())
    }

    fn kubectl(&self, arguments: &[&str]) -> String {
        self.client.run(&[arguments, &["-n", self.namespace.name()]].concat()).unwrap()
    }

    /// What the Deployment's owner wrote, as the cluster has it now.
    fn deployment(&self) -> Value {
        let object = self.client.get(&["deployment", "web", "-n", self.namespace.name()]).unwrap();
        json!({"annotations": object["metadata"]["annotations"], "template": object["spec"]["template"]})
    }

    fn services(&self) -> Vec<String> {
        let services = self.client.get(&["services", "-n", self.namespace.name()]).unwrap();
        let names = services["items"].as_array().unwrap().iter();
        names.map(|service| service["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    }
}

fn has_sidecar(deployment: &Value) -> bool {
    deployment["template"]["spec"]["initContainers"][0]["name"] == "whichpod"
}

const UPSTREAM: [&str; 2] = ["--upstream", "backend-service:10000"];

#[test]
fn kubectl_takes_the_patch_as_it_is_printed() {
    let shop = Shop::open("patch", &json!({}));
    let ran = shop.whichpod(&[&["patch", "deploy/web"], UPSTREAM.as_slice()].concat());
    assert_eq!(ran.code, 0, "{ran:?}");
    shop.kubectl(&["patch", "deployment", "web", "--type=json", "-p", &ran.out]);
    assert!(has_sidecar(&shop.deployment()));
    let again = shop.whichpod(&["patch", "deploy/web"]);
    assert_eq!((again.code, again.json()), (0, json!([])), "{again:?}");
}

#[test]
fn kubectl_takes_the_manifests_as_they_are_printed() {
    let shop = Shop::open("inject", &json!({}));
    let ran = shop
        .whichpod(&[&["inject", "-f", "app.json", "-o", "yaml", "--twins"], UPSTREAM.as_slice()].concat());
    assert_eq!(ran.code, 0, "{ran:?}");
    shop.client.pipe(&["apply", "-n", shop.namespace.name(), "-f", "-"], &ran.out).unwrap();
    assert!(has_sidecar(&shop.deployment()));
    assert_eq!(shop.services(), ["backend-service", "backend-service-whichpod"]);
}

#[test]
fn what_was_put_in_can_be_upgraded_and_taken_out_again() {
    let shop = Shop::open("apply", &json!({}));
    let before = shop.deployment();
    let apply = [&["patch", "deploy/web", "--apply", "--twins"], UPSTREAM.as_slice()].concat();
    assert_eq!(shop.whichpod(&apply).code, 0);
    assert!(has_sidecar(&shop.deployment()));
    assert_eq!(shop.services(), ["backend-service", "backend-service-whichpod"]);

    let same = shop.whichpod(&["upgrade", "deploy/web"]);
    assert!(same.code == 0 && same.err.contains("deployment/web: unchanged"), "{same:?}");
    let other = shop.whichpod(&["upgrade", "deploy/web", "--image", "example.test/whichpod-sidecar:2"]);
    assert!(other.code == 0 && other.err.contains("deployment/web: injected"), "{other:?}");
    assert_eq!(
        shop.deployment()["template"]["spec"]["initContainers"][0]["image"],
        "example.test/whichpod-sidecar:2"
    );

    let used = shop.whichpod(&["cleanup", "--apply"]);
    assert!(used.err.contains("sidecars ask for it"), "{used:?}");
    let told = shop.whichpod(&["uninject"]);
    assert!(told.code == 0 && told.err.contains("nothing was changed"), "{told:?}");
    assert!(has_sidecar(&shop.deployment()));
    let out = shop.whichpod(&["uninject", "--apply"]);
    assert!(out.code == 0 && out.err.contains("deployment/web: removed"), "{out:?}");
    let after = shop.deployment();
    assert_eq!(after["template"], before["template"]);
    assert_eq!(shop.whichpod(&["cleanup", "--apply"]).code, 0);
    assert_eq!(shop.services(), ["backend-service"]);
}

#[test]
fn what_an_annotation_asks_for_is_kept_out_once_it_is_taken_out() {
    let shop = Shop::open("annotated", &json!({"whichpod.io/upstreams": "backend-service:10000"}));
    assert_eq!(shop.whichpod(&["patch", "deploy/web", "--apply"]).code, 0);
    assert_eq!(shop.whichpod(&["uninject", "deploy/web", "--apply"]).code, 0);
    let deployment = shop.deployment();
    assert_eq!(deployment["annotations"]["whichpod.io/inject"], "false");
    assert!(!has_sidecar(&deployment));
    let upgrade = shop.whichpod(&["upgrade", "deploy/web"]);
    assert!(upgrade.code == 1 && upgrade.err.contains("whichpod patch"), "{upgrade:?}");
}

#[test]
fn before_an_uninstall_the_whole_cluster_is_freed_at_once() {
    // Of its own: nobody else's sidecars are to go.
    let cluster = ControlPlane::start_own().unwrap();
    let asks = json!({"whichpod.io/upstreams": "backend-service:10000"});
    let shops = [("plain", json!({})), ("asking", asks)].map(|(prefix, annotations)| {
        let shop = Shop::open_in(&cluster, prefix, &annotations);
        let before = shop.deployment()["template"].clone();
        assert_eq!(
            shop.whichpod(&[&["patch", "deploy/web", "--apply"], UPSTREAM.as_slice()].concat()).code,
            0
        );
        assert!(has_sidecar(&shop.deployment()));
        (shop, before)
    });
    let kubeconfig = cluster.kubeconfig_path().to_str().unwrap();
    let all = |more: &[&str]| {
        let arguments = [&["uninject", "--all", "--kubeconfig", kubeconfig], more].concat();
        whichpod(shops[0].0.folder.path(), &arguments)
    };
    let told = all(&[]);
    assert!(told.code == 0 && told.err.contains("nothing was changed"), "{told:?}");
    assert!(shops.iter().all(|(shop, _)| has_sidecar(&shop.deployment())));
    let done = all(&["--apply"]);
    assert_eq!(done.code, 0, "{done:?}");
    for (shop, before) in &shops {
        let line = format!("deployment/web in {}: removed", shop.namespace.name());
        assert!(done.err.contains(&line), "{line}: {done:?}");
        assert_eq!(shop.deployment()["template"], *before);
    }
    assert_eq!(
        shops[1].0.deployment()["annotations"]["whichpod.io/inject"],
        "false",
        "a webhook would ask again"
    );
    let again = all(&["--apply"]);
    assert!(again.code == 0 && !again.err.contains("removed"), "{again:?}");
}

#[test]
fn pods_that_were_injected_for_life_are_left_over() {
    let shop = Shop::open("pods", &json!({}));
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "alone"},
        "spec": {"containers": [{"name": "a", "image": "example.test/a"}]}});
    std::fs::write(shop.folder.path().join("pod.json"), pod.to_string()).unwrap();
    let injected = shop.whichpod(&[&["inject", "-f", "pod.json"], UPSTREAM.as_slice()].concat());
    shop.client.pipe(&["create", "-n", shop.namespace.name(), "-f", "-"], &injected.out).unwrap();
    let ran = shop.whichpod(&["uninject", "--apply"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("pod/alone: skipped"), "{ran:?}");
}

#[test]
fn an_object_that_does_not_exist_is_named() {
    let shop = Shop::open("missing", &json!({}));
    let ran = shop.whichpod(&["patch", "deploy/nope"]);
    assert_eq!(ran.code, 66);
    assert!(ran.err.contains("deployment/nope") && ran.err.contains(shop.namespace.name()), "{ran:?}");
}
