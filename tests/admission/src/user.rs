//! Somebody who works with kubectl in a namespace that the webhook is asked about.

use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use whichpod_cluster::{Client, Namespace, wait_for};

use crate::Installation;

const PATIENCE: Duration = Duration::from_secs(60);

/// A user and their namespace, which goes with them.
pub struct User {
    client: Client,
    namespace: Namespace,
}

/// What kubectl did.
#[derive(Debug)]
pub struct Ran {
    /// Whether it ended with 0.
    pub ok: bool,
    /// Standard output.
    pub out: String,
    /// Standard error: warnings, and why it failed.
    pub err: String,
}

impl User {
    /// In a namespace without labels of whichpod's.
    pub fn new(installation: &Installation, prefix: &str) -> Result<Self> {
        let user =
            Self { client: installation.client().clone(), namespace: installation.user_namespace(prefix)? };
        // The API server learns of the namespace's label a moment later.
        wait_for("the API server to ask the webhook", PATIENCE, || {
            Ok(installation.is_asked(user.name())?.then_some(()))
        })?;
        Ok(user)
    }

    /// In a namespace with this label `whichpod.io/injection`.
    pub fn labelled(installation: &Installation, prefix: &str, label: &str) -> Result<Self> {
        let user = Self::new(installation, prefix)?;
        user.client.run(&["label", "namespace", user.name(), &format!("whichpod.io/injection={label}")])?;
        Ok(user)
    }

    /// The namespace.
    pub fn name(&self) -> &str {
        self.namespace.name()
    }

    /// Runs kubectl there, whatever comes of it.
    pub fn try_kubectl(&self, arguments: &[&str], input: Option<&Value>) -> Result<Ran> {
        let mut command = self.client.kubectl_command(&[arguments, &["-n", self.name()]].concat());
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut stdin = child.stdin.take().context("no pipe to kubectl")?;
        let input = input.map(Value::to_string).unwrap_or_default();
        let output = std::thread::scope(|scope| {
            // Whether kubectl read everything shows in its answer.
            scope.spawn(move || drop(stdin.write_all(input.as_bytes())));
            child.wait_with_output()
        })?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Ran { ok: output.status.success(), out: text(output.stdout), err: text(output.stderr) })
    }

    /// Runs kubectl there; an error if it fails.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<Ran> {
        self.with(arguments, None)
    }

    /// Makes an object; an error if it is refused.
    pub fn create(&self, object: &Value) -> Result<Ran> {
        self.with(&["create", "-f", "-"], Some(object))
    }

    /// Makes an object be as told, with more flags of `kubectl apply`.
    pub fn apply(&self, object: &Value, flags: &[&str]) -> Result<Ran> {
        self.with(&[&["apply", "-f", "-"], flags].concat(), Some(object))
    }

    /// The object as it would be stored, and what kubectl says about it.
    pub fn dry_run(&self, object: &Value) -> Result<(Value, String)> {
        let ran = self.with(&["create", "--dry-run=server", "-o", "json", "-f", "-"], Some(object))?;
        Ok((serde_json::from_str(&ran.out)?, ran.err))
    }

    /// An object as it is stored: `get("deployment/web")`.
    pub fn get(&self, name: &str) -> Result<Value> {
        self.client.get(&[name, "-n", self.name()])
    }

    /// All objects of a kind, once there are so many.
    pub fn get_all(&self, kind: &str, count: usize) -> Result<Vec<Value>> {
        self.client.wait_until(&[kind, "-n", self.name()], |list| {
            list["items"].as_array().filter(|items| items.len() == count).cloned()
        })
    }

    /// The first Event with this reason, once there is one.
    pub fn event(&self, reason: &str) -> Result<Value> {
        self.client.wait_until(&["events", "-n", self.name()], |events| {
            events["items"].as_array()?.iter().find(|event| event["reason"] == reason).cloned()
        })
    }

    /// Makes a Service and waits until the webhook has heard of it.
    pub fn serve(&self, service: &Value) -> Result<()> {
        self.create(service)?;
        self.known(service)
    }

    /// Waits until the webhook has heard of a Service.
    pub fn known(&self, service: &Value) -> Result<()> {
        let name = service["metadata"]["name"].as_str().context("a Service without a name")?;
        let port = service["spec"]["ports"][0]["port"].as_u64().unwrap_or(80);
        let asking = deployment(&json!({ "whichpod.io/upstreams": format!("{name}:{port}") }));
        wait_for("the webhook to know the Service", PATIENCE, || {
            Ok((!self.dry_run(&asking)?.1.contains("there is no Service")).then_some(()))
        })
    }

    fn with(&self, arguments: &[&str], input: Option<&Value>) -> Result<Ran> {
        let ran = self.try_kubectl(arguments, input)?;
        ensure!(ran.ok, "kubectl {}: {}", arguments.join(" "), ran.err);
        Ok(ran)
    }
}

/// A Deployment `nginx-test` with these annotations.
pub fn deployment(annotations: &Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": "nginx-test", "annotations": annotations },
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

/// One that asks for the upstream of the scenario.
pub fn asking() -> Value {
    deployment(&json!({ "whichpod.io/upstreams": "backend-service:10000" }))
}

/// A Service of this name with these ports, whose pods nobody has.
pub fn service(name: &str, ports: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
        "spec": { "selector": { "app": name }, "ports": ports },
    })
}

/// The Service of the scenario.
pub fn backend() -> Value {
    service("backend-service", &json!([{ "port": 10000 }]))
}

/// The sidecar in a pod's specification.
pub fn sidecar(pod: &Value) -> Option<&Value> {
    let lists = ["initContainers", "containers"].map(|list| pod[list].as_array());
    lists.into_iter().flatten().flatten().find(|container| container["name"] == "whichpod")
}

/// What the sidecar is told, as the document it is.
pub fn configuration(pod: &Value) -> Result<Value> {
    let text = sidecar(pod).context("no sidecar")?["env"][0]["value"].as_str().context("no configuration")?;
    Ok(serde_json::from_str(text)?)
}

/// `LISTEN PORT>TARGET|FALLBACK` of every upstream, without the namespace and the domain.
pub fn routes(pod: &Value) -> Result<Vec<String>> {
    let short = |target: &Value| {
        let target = target.as_str().unwrap_or_default();
        let (host, port) = target.rsplit_once(':').unwrap_or((target, ""));
        format!("{}:{port}", host.split('.').next().unwrap_or_default())
    };
    let configuration = configuration(pod)?;
    let upstreams = configuration["upstreams"].as_array().context("no upstreams")?.iter();
    let text = |upstream: &Value| {
        let listen = upstream["listen"].as_str().unwrap_or_default();
        let port = listen.rsplit_once(':').unwrap_or_default().1;
        let fallback = upstream.get("fallback").map(short).unwrap_or_default();
        format!("{port}>{}|{fallback}", short(&upstream["target"]))
    };
    Ok(upstreams.map(text).collect())
}
