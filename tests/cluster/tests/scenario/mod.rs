//! The reference scenario: a backend of two pods, a Service with a virtual IP, and a headless one.
#![allow(dead_code, reason = "each test file uses a part of it")]

pub mod nginx;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use whichpod_cluster::{Client, Namespace, Node, http_get, images, wait_for};

fn objects() -> Value {
    let service = |name: &str, spec: &Value| json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name }, "spec": spec });
    let selector = json!({ "app": "backend" });
    let ports = json!([{ "name": "http", "port": 10000 }]);
    json!({
        "apiVersion": "v1", "kind": "List",
        "items": [
            {
                "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "backend" },
                "spec": {
                    "replicas": 2,
                    "selector": { "matchLabels": selector },
                    "template": {
                        "metadata": { "labels": selector },
                        "spec": {
                            "terminationGracePeriodSeconds": 1,
                            "containers": [{
                                "name": "backend", "image": images::BACKEND, "imagePullPolicy": "Never",
                                "ports": [{ "containerPort": 10000 }],
                                "readinessProbe": {
                                    "httpGet": { "path": "/", "port": 10000 }, "periodSeconds": 1,
                                },
                            }],
                        },
                    },
                },
            },
            service("backend-service", &json!({ "type": "NodePort", "selector": selector, "ports": ports })),
            service("backend-headless", &json!({ "clusterIP": "None", "selector": selector, "ports": ports })),
        ],
    })
}

/// The names and addresses of the backend's pods.
pub fn pods(client: &Client, namespace: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let pods = client.get(&["pods", "-n", namespace, "-l", "app=backend"]).unwrap();
    let all = |pointer: &str| {
        let items = pods["items"].as_array().into_iter().flatten();
        items.filter_map(|pod| pod.pointer(pointer)?.as_str().map(str::to_owned)).collect()
    };
    (all("/metadata/name"), all("/status/podIP"))
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

/// The backend in a namespace of its own, ready.
pub struct Scenario {
    /// See [`Scenario`].
    pub client: Client,
    /// See [`Scenario`].
    pub namespace: Namespace,
    /// See [`Scenario`].
    pub names: BTreeSet<String>,
    /// See [`Scenario`].
    pub addresses: BTreeSet<String>,
}

impl Scenario {
    pub fn start(node: &Node) -> Self {
        let client = node.client().clone();
        node.import(&images::backend().unwrap()).unwrap();
        let namespace = client.namespace("node").unwrap();
        client.pipe(&["apply", "-n", namespace.name(), "-f", "-"], &objects().to_string()).unwrap();
        client.rolled_out(namespace.name(), "backend").unwrap();
        let (names, addresses) = pods(&client, namespace.name());
        assert_eq!((names.len(), addresses.len()), (2, 2));
        Self { client, namespace, names, addresses }
    }

    pub fn service(&self) -> Value {
        self.client.get(&["service", "backend-service", "-n", self.namespace.name()]).unwrap()
    }

    pub fn cluster_ip(&self) -> SocketAddr {
        format!("{}:10000", self.service()["spec"]["clusterIP"].as_str().unwrap()).parse().unwrap()
    }

    /// What a program prints that runs in the first pod.
    pub fn inside(&self, command: &[&str]) -> String {
        let exec = ["exec", self.names.first().unwrap(), "-n", self.namespace.name(), "--"];
        self.client.run(&[exec.as_slice(), command].concat()).unwrap()
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
        format!("backend-headless.{}.svc.cluster.local", self.namespace.name())
    }
}
