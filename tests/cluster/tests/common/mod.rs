//! The reference scenario: a backend of two pods, a Service with a virtual IP, and a headless one.
#![allow(dead_code, reason = "each test file uses a part of it")]

pub mod explain;
pub mod nginx;
pub mod whichpod;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use explain::OnFailure;
use serde_json::{Value, json};
use whichpod_cluster::{Client, Namespace, http_get, images, wait_for};

/// How long what takes seconds may take on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How many lines of a log a failure shows.
const SHOWN: usize = 100;

/// A Deployment, a Service and so on, all in one.
pub fn list(items: &[Value]) -> Value {
    json!({ "apiVersion": "v1", "kind": "List", "items": items })
}

/// A workload of this kind that runs `container` (the apps' image, unless it says another) in pods labelled `app: NAME`.
pub fn workload(kind: &str, name: &str, container: &Value) -> Value {
    let mut whole = json!({ "name": name, "image": images::APP, "imagePullPolicy": "Never" });
    for (key, value) in container.as_object().unwrap() {
        whole[key] = value.clone();
    }
    let labels = json!({ "app": name });
    json!({
        "apiVersion": "apps/v1", "kind": kind, "metadata": { "name": name },
        "spec": {
            "selector": { "matchLabels": labels },
            "template": {
                "metadata": { "labels": labels },
                "spec": { "terminationGracePeriodSeconds": 1, "containers": [whole] },
            },
        },
    })
}

/// The backend of the scenario: `app serve`, ready when it answers.
pub fn backend(kind: &str, name: &str) -> Value {
    let container = json!({
        "ports": [{ "containerPort": 10000 }],
        "readinessProbe": { "httpGet": { "path": "/", "port": 10000 }, "periodSeconds": 1 },
    });
    let mut backend = workload(kind, name, &container);
    backend["spec"]["replicas"] = json!(2);
    backend
}

/// A service that calls another: neither nginx nor behind an ingress.
pub fn relay(name: &str, upstream: &str) -> Value {
    let container = json!({
        "command": ["/app", "relay", "8080", upstream],
        "ports": [{ "containerPort": 8080 }],
        "readinessProbe": { "tcpSocket": { "port": 8080 }, "periodSeconds": 1 },
    });
    workload("Deployment", name, &container)
}

/// The object with this annotation.
pub fn annotated(mut object: Value, name: &str, value: &str) -> Value {
    object["metadata"]["annotations"][name] = json!(value);
    object
}

/// A Service in front of the pods labelled `app: NAME`, with what `spec` adds.
pub fn service(name: &str, app: &str, spec: &Value) -> Value {
    let mut whole = json!({ "selector": { "app": app }, "ports": [{ "name": "http", "port": 10000 }] });
    for (key, value) in spec.as_object().unwrap() {
        whole[key] = value.clone();
    }
    json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name }, "spec": whole })
}

/// The names and addresses of the pods labelled `app: NAME` that are not on their way out.
pub fn pods_of(client: &Client, namespace: &str, app: &str) -> Vec<(String, String)> {
    let pods = client.get(&["pods", "-n", namespace, "-l", &format!("app={app}")]).unwrap();
    let items = pods["items"].as_array().into_iter().flatten();
    let alive = items.filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    alive.map(|pod| (text(&pod["metadata"]["name"]), text(&pod["status"]["podIP"]))).collect()
}

/// The names and addresses of the backend's pods.
pub fn pods(client: &Client, namespace: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    pods_of(client, namespace, "backend").into_iter().unzip()
}

/// Waits until a workload has rolled out and the pods it had before are gone.
pub fn rolled_out(client: &Client, namespace: &str, workload: &str) {
    let limit = format!("--timeout={}s", 2 * PATIENCE.as_secs());
    client.run(&["rollout", "status", workload, &limit, "-n", namespace]).unwrap();
    let wanted = client.get(&[workload, "-n", namespace]).unwrap()["spec"]["replicas"].as_u64();
    let app = format!("app={}", workload.rsplit('/').next().unwrap());
    let only = |pods: &Value| (pods["items"].as_array()?.len() as u64 == wanted?).then_some(());
    client.wait_until(&["pods", "-n", namespace, "-l", &app], only).unwrap();
}

/// Waits until these pods, and no others, answer at the address: kube-proxy takes a second to hear of them.
pub fn answered_by(client: &Client, address: SocketAddr, expected: &BTreeSet<String>) {
    let ask = || http_get(address, "/test").map(|answer| answer.body.trim().replace("i am backend in ", ""));
    wait_for("the right pods to answer", Duration::from_secs(30), || {
        let answers = client.inside(|| (0..20).map(|_| ask()).collect::<Result<BTreeSet<_>, _>>())?;
        Ok((answers.ok().as_ref() == Some(expected)).then_some(()))
    })
    .unwrap();
}

/// The backend in a namespace of its own, ready. A test that fails tells everything about that namespace.
pub struct Scenario {
    /// See [`Scenario`].
    pub client: Client,
    /// While there is something to explain: it is dropped first.
    _explain: OnFailure,
    /// See [`Scenario`].
    pub namespace: Namespace,
    /// See [`Scenario`].
    pub names: BTreeSet<String>,
    /// See [`Scenario`].
    pub addresses: BTreeSet<String>,
}

impl Scenario {
    /// With `backend-service`, which has a virtual IP, and `backend-headless`.
    pub fn start(client: &Client) -> Self {
        let scenario = Self::without_headless(client);
        scenario.apply(&service("backend-headless", "backend", &json!({ "clusterIP": "None" })));
        scenario
    }

    /// With `backend-service` alone, as most people have it.
    pub fn without_headless(client: &Client) -> Self {
        client.import(images::app).unwrap();
        let namespace = client.namespace("scenario").unwrap();
        let mut scenario = Self {
            client: client.clone(),
            _explain: OnFailure::of(client, &[namespace.name(), whichpod::NAMESPACE]),
            namespace,
            names: BTreeSet::new(),
            addresses: BTreeSet::new(),
        };
        let service = service("backend-service", "backend", &json!({ "type": "NodePort" }));
        scenario.apply(&list(&[backend("Deployment", "backend"), service]));
        scenario.rolled_out("deployment/backend");
        (scenario.names, scenario.addresses) = pods(client, scenario.here());
        assert_eq!((scenario.names.len(), scenario.addresses.len()), (2, 2));
        scenario
    }

    /// The namespace's name.
    pub fn here(&self) -> &str {
        self.namespace.name()
    }

    /// `kubectl` in the namespace; gives what it printed.
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        self.client.run(&[arguments, &["-n", self.here()]].concat()).unwrap()
    }

    /// `kubectl` in the namespace; gives what it warned of on standard error.
    pub fn warnings(&self, arguments: &[&str]) -> String {
        let output = self.client.kubectl(&[arguments, &["-n", self.here()]].concat()).unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "kubectl {arguments:?}: {text}");
        text
    }

    pub fn apply(&self, object: &Value) {
        self.client.pipe(&["apply", "-n", self.here(), "-f", "-"], &object.to_string()).unwrap();
    }

    pub fn get(&self, what: &[&str]) -> Value {
        self.client.get(&[what, &["-n", self.here()]].concat()).unwrap()
    }

    /// See [`rolled_out`].
    pub fn rolled_out(&self, workload: &str) {
        rolled_out(&self.client, self.here(), workload);
    }

    pub fn service(&self) -> Value {
        self.get(&["service", "backend-service"])
    }

    pub fn cluster_ip(&self) -> SocketAddr {
        format!("{}:10000", self.service()["spec"]["clusterIP"].as_str().unwrap()).parse().unwrap()
    }

    /// What a program prints that runs in the first pod.
    pub fn inside(&self, command: &[&str]) -> String {
        let exec = ["exec", self.names.first().unwrap(), "-n", self.here(), "--"];
        self.client.run(&[exec.as_slice(), command].concat()).unwrap()
    }

    /// What `find` finds in the log of this container: a log follows its program a moment later.
    pub fn logged<T>(&self, of: &str, container: &str, what: &str, find: impl Fn(&str) -> Option<T>) -> T {
        let mut log = String::new();
        let found = wait_for(what, PATIENCE, || {
            log = self.kubectl(&["logs", of, "-c", container]);
            Ok(find(&log))
        });
        let last = || log.lines().rev().take(SHOWN).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>();
        assert!(
            found.is_ok(),
            "no {what} in the log of {container} in {of}, which ends so:\n{}",
            last().join("\n")
        );
        found.unwrap()
    }

    /// Asks this URL so often, from a pod; gives the pods that answered.
    pub fn ask(&self, url: &str, times: usize) -> Vec<String> {
        let script =
            format!("i=0; while [ $i -lt {times} ]; do wget -q -O - {url} || exit; i=$((i+1)); done");
        let answers = self.inside(&["sh", "-c", &script]);
        answers.lines().map(|line| line.replace("i am backend in ", "")).collect()
    }

    /// Waits until the answer has all of these: CoreDNS hears of a pod a moment after the pod is ready.
    pub fn asked_until(&self, command: &[&str], contained: &BTreeSet<String>) {
        let mut last = String::new();
        let answered = wait_for("DNS to know every pod", Duration::from_secs(30), || {
            last = self.inside(command);
            Ok(contained.iter().all(|part| last.contains(part)).then_some(()))
        });
        assert!(answered.is_ok(), "{contained:?} not all in:\n{last}");
    }

    pub fn headless(&self) -> String {
        format!("backend-headless.{}.svc.cluster.local", self.here())
    }

    /// The pods' addresses with the backend's port, as the log has them.
    pub fn endpoints(&self) -> BTreeSet<String> {
        self.addresses.iter().map(|address| format!("{address}:10000")).collect()
    }
}
