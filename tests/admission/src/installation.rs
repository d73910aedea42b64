//! One installation: a namespace of its own and, because some objects belong to the whole cluster, names of its own.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use whichpod_cluster::{Client, ControlPlane, Namespace, wait_for};

use crate::Replica;

const MANIFEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../charts/whichpod.yaml");
/// What the manifest calls its namespace and its objects.
const NAMESPACE: &str = "whichpod-system";
const NAME: &str = "whichpod";
/// A namespace with this label and the installation's name is one that its webhook is asked about.
const TESTED_BY: &str = "whichpod-tested-by";
const PATIENCE: Duration = Duration::from_secs(60);

/// An installation; its objects go when this is dropped.
pub struct Installation {
    client: Client,
    system: Namespace,
    /// With the rights of the webhook's service account, and no others.
    kubeconfig: NamedTempFile,
    configuration: Value,
    of_the_cluster: Vec<String>,
}

impl Installation {
    /// Makes everything but the Deployment and the webhook's registration, which need a running replica.
    pub fn new(prefix: &str) -> Result<Self> {
        Self::on(ControlPlane::shared(), prefix)
    }

    /// The same on another control plane.
    pub fn on(control_plane: &ControlPlane, prefix: &str) -> Result<Self> {
        let client = control_plane.client().clone();
        let system = client.namespace(prefix)?;
        let name = system.name().to_owned();
        let manifest = client.run(&["create", "--dry-run=client", "-o", "json", "-f", MANIFEST])?;
        let mut objects: Vec<Value> = parse_all(&manifest)?;
        objects.iter_mut().for_each(|object| rename(object, &name));
        let mut configuration = None;
        let mut of_the_cluster = Vec::new();
        for object in objects {
            match object["kind"].as_str().unwrap_or_default() {
                "MutatingWebhookConfiguration" => configuration = Some(object),
                kind @ ("ClusterRole" | "ClusterRoleBinding") => {
                    of_the_cluster.push(kind.to_lowercase());
                    client.create(&object.to_string())?;
                }
                "ServiceAccount" | "Role" | "RoleBinding" | "Lease" | "Secret" => {
                    client.create(&object.to_string())?;
                }
                _ => {}
            }
        }
        of_the_cluster.push("mutatingwebhookconfiguration".to_owned());
        let kubeconfig = kubeconfig(control_plane.kubeconfig_path(), &client, &name)?;
        let configuration = configuration.context("the manifest registers no webhook")?;
        Ok(Self { client, system, kubeconfig, configuration, of_the_cluster })
    }

    /// Somebody with all rights.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The webhook's own namespace; objects of the cluster bear the same name.
    pub fn name(&self) -> &str {
        self.system.name()
    }

    /// A file by which the webhook reaches the API server.
    pub fn kubeconfig(&self) -> &Path {
        self.kubeconfig.path()
    }

    /// Registers a replica, or has the API server call this one from now on: the first entry's and the second one's.
    pub fn register(&self, replica: &Replica) -> Result<()> {
        self.register_at(replica.address())
    }

    /// The same for whatever listens there.
    pub fn register_at(&self, address: SocketAddr) -> Result<()> {
        let url = format!("https://{address}/mutate");
        if self.client.kubectl(&["get", "mutatingwebhookconfiguration", self.name()])?.status.success() {
            let paths = [0, 1].map(|entry| format!("/webhooks/{entry}/clientConfig/url"));
            let patch = json!(paths.map(|path| json!({ "op": "replace", "path": path, "value": url })));
            return self.patch_configuration(&patch);
        }
        let mut configuration = self.configuration.clone();
        for webhook in configuration["webhooks"].as_array_mut().into_iter().flatten() {
            webhook["clientConfig"] = json!({ "url": url });
            let only_tested = json!({ "key": TESTED_BY, "operator": "In", "values": [self.name()] });
            if let Some(expressions) = webhook["namespaceSelector"]["matchExpressions"].as_array_mut() {
                expressions.push(only_tested);
            }
        }
        self.client.create(&configuration.to_string()).map(drop)
    }

    /// Gives a field of both entries a value.
    pub fn set(&self, field: &str, value: &Value) -> Result<()> {
        let set =
            |entry| json!({ "op": "add", "path": format!("/webhooks/{entry}/{field}"), "value": value });
        self.patch_configuration(&json!([0, 1].map(set)))
    }

    /// Has the API server trust these certificates (PEM), as whoever brings certificates of their own does.
    pub fn trust(&self, bundle: &str) -> Result<()> {
        self.set("clientConfig/caBundle", &json!(STANDARD.encode(bundle)))
    }

    /// Changes the registration by a JSON Patch.
    pub fn patch_configuration(&self, patch: &Value) -> Result<()> {
        let patch = patch.to_string();
        self.client
            .run(&["patch", "mutatingwebhookconfiguration", self.name(), "--type=json", "-p", &patch])
            .map(drop)
    }

    /// The registration as it is now.
    pub fn configuration(&self) -> Result<Value> {
        self.client.get(&["mutatingwebhookconfiguration", self.name()])
    }

    /// The `caBundle` of every entry, in base64.
    pub fn bundles(&self) -> Result<Vec<String>> {
        let configuration = self.configuration()?;
        let webhooks = configuration["webhooks"].as_array().cloned().unwrap_or_default();
        let bundle =
            |webhook: &Value| webhook["clientConfig"]["caBundle"].as_str().unwrap_or_default().to_owned();
        Ok(webhooks.iter().map(bundle).collect())
    }

    /// A namespace of a user, which the webhook is asked about.
    pub fn user_namespace(&self, prefix: &str) -> Result<Namespace> {
        let namespace = self.client.namespace(prefix)?;
        let label = format!("{TESTED_BY}={}", self.name());
        self.client.run(&["label", "namespace", namespace.name(), &label])?;
        Ok(namespace)
    }

    /// Starts a replica, registers it, and waits until the API server reaches it.
    pub fn start(&self, flags: &[&str]) -> Result<Replica> {
        let replica = self.start_unreached(flags)?;
        self.reached()?;
        Ok(replica)
    }

    /// The same without the waiting, for a replica that would refuse what is asked then.
    pub fn start_unreached(&self, flags: &[&str]) -> Result<Replica> {
        let replica = Replica::start(self, "one", flags)?;
        self.register(&replica)?;
        replica.ready()?;
        Ok(replica)
    }

    /// Waits until the API server goes by the registration: it learns of changes a little later.
    pub fn reached(&self) -> Result<()> {
        let namespace = self.user_namespace("reached")?;
        wait_for("the API server to ask the webhook", PATIENCE, || {
            Ok(self.is_asked(namespace.name())?.then_some(()))
        })
    }

    /// Whether a Deployment that asks for a sidecar would get one now.
    pub fn is_asked(&self, namespace: &str) -> Result<bool> {
        let deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": { "name": "probe", "annotations": { "whichpod.io/upstreams": "probe:80" } },
            "spec": {
                "selector": { "matchLabels": { "app": "probe" } },
                "template": {
                    "metadata": { "labels": { "app": "probe" } },
                    "spec": { "containers": [{ "name": "probe", "image": "example.test/probe" }] },
                },
            },
        });
        let arguments = ["create", "--dry-run=server", "-o", "json", "-n", namespace, "-f", "-"];
        let created = self.client.pipe(&arguments, &deployment.to_string())?;
        let created: Value = serde_json::from_str(&created)?;
        Ok(created.pointer("/spec/template/metadata/labels/whichpod.io~1injected").is_some())
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        // The cluster may be gone already, and everything with it.
        for kind in &self.of_the_cluster {
            let _ = self.client.kubectl(&["delete", kind, self.system.name(), "--ignore-not-found"]);
        }
    }
}

/// kubectl prints one object after the other, or a List.
fn parse_all(text: &str) -> Result<Vec<Value>> {
    let mut all = Vec::new();
    for document in serde_json::Deserializer::from_str(text).into_iter::<Value>() {
        let mut document = document?;
        match document.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) => all.extend(items),
            _ => all.push(document),
        }
    }
    Ok(all)
}

/// Puts an object of the manifest into this installation.
fn rename(object: &mut Value, name: &str) {
    let of_the_cluster = object.pointer("/metadata/namespace").is_none();
    if of_the_cluster && object.pointer("/metadata/name") == Some(&json!(NAME)) {
        object["metadata"]["name"] = name.into();
    }
    if object.pointer("/roleRef/kind") == Some(&json!("ClusterRole")) {
        object["roleRef"]["name"] = name.into();
    }
    for rule in object.get_mut("rules").and_then(Value::as_array_mut).into_iter().flatten() {
        if rule["resources"] == json!(["mutatingwebhookconfigurations"]) {
            rule["resourceNames"] = json!([name]);
        }
    }
    replace_all(object, NAMESPACE, name);
}

fn replace_all(value: &mut Value, from: &str, to: &str) {
    match value {
        Value::String(text) if text == from => to.clone_into(text),
        Value::Array(items) => items.iter_mut().for_each(|item| replace_all(item, from, to)),
        Value::Object(members) => members.values_mut().for_each(|member| replace_all(member, from, to)),
        _ => {}
    }
}

/// A kubeconfig with the token of the webhook's service account.
fn kubeconfig(admin: &Path, client: &Client, namespace: &str) -> Result<NamedTempFile> {
    let token = client.run(&["create", "token", NAME, "-n", namespace])?;
    let mut config: Value = serde_json::from_slice(&std::fs::read(admin)?)
        .context("the harness writes its kubeconfig as JSON")?;
    config["users"][0]["user"] = json!({ "token": token.trim() });
    config["contexts"][0]["context"]["namespace"] = namespace.into();
    let mut file = NamedTempFile::new()?;
    file.write_all(config.to_string().as_bytes())?;
    Ok(file)
}

/// What the audit log says that the webhook told about an object, once it says something.
pub fn audit_annotations(control_plane: &ControlPlane, namespace: &str, resource: &str) -> Result<Value> {
    let log =
        control_plane.dir().context("the control plane keeps no audit log here")?.join("logs/audit.log");
    wait_for("the audit log", PATIENCE, || {
        let log = std::fs::read_to_string(&log)?;
        let events = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut ours = events.filter(|event| {
            event["objectRef"]["namespace"] == namespace
                && event["objectRef"]["resource"] == resource
                && event["annotations"]["annotated.whichpod.io/reason"].is_string()
        });
        Ok(ours.next().map(|event| event["annotations"].clone()))
    })
}
