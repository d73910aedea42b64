//! nginx in front of the backend, and the patch that people make by hand.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use whichpod_cluster::{Image, Node, http_get, images, programs, wait_for};

use super::Scenario;

const SIDECAR: &str = "whichpod.test/sidecar:1";
/// The line that a hand-patched Envoy would write.
const FORMAT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% \
    %BYTES_SENT% %DURATION% %REQ(X-REQUEST-ID)% \"%REQ(USER-AGENT)%\" \"%REQ(X-FORWARDED-FOR)%\" %UPSTREAM_HOST% \
    %UPSTREAM_CLUSTER% %RESPONSE_FLAGS%\n";

/// nginx in front of the backend, in the scenario's namespace; `upstream` is what its configuration says.
pub struct Nginx<'a> {
    scenario: &'a Scenario,
}

impl<'a> Nginx<'a> {
    pub fn start(scenario: &'a Scenario, node: &Node, upstream: &str) -> Self {
        node.import(&images::nginx().unwrap()).unwrap();
        let nginx = Self { scenario };
        nginx.configure(upstream);
        let labels = json!({ "app": "nginx-test" });
        nginx.apply(&json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "nginx-test" },
            "spec": {
                "selector": { "matchLabels": labels },
                "template": {
                    "metadata": { "labels": labels },
                    "spec": {
                        "terminationGracePeriodSeconds": 2,
                        "securityContext": { "runAsUser": 1000, "runAsNonRoot": true },
                        "volumes": [{ "name": "configuration", "configMap": { "name": "nginx" } }],
                        "containers": [{
                            "name": "nginx", "image": images::NGINX, "imagePullPolicy": "Never",
                            "volumeMounts": [{
                                "name": "configuration", "mountPath": "/etc/nginx/nginx.conf", "subPath": "nginx.conf",
                            }],
                            "readinessProbe": { "tcpSocket": { "port": 8080 }, "periodSeconds": 1 },
                        }],
                    },
                },
            },
        }));
        scenario.client.rolled_out(scenario.namespace.name(), "nginx-test").unwrap();
        nginx
    }

    fn configure(&self, upstream: &str) {
        let configuration = format!(
            "events {{}} http {{
            log_format upstream '$request_uri $status $upstream_addr'; access_log /dev/stdout upstream;
            server {{ listen 8080; location /test {{ proxy_pass http://{upstream}; }} }} }}"
        );
        self.apply(&json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "nginx" },
            "data": { "nginx.conf": configuration },
        }));
    }

    fn apply(&self, object: &Value) {
        let here = self.scenario.namespace.name();
        self.scenario.client.pipe(&["apply", "-n", here, "-f", "-"], &object.to_string()).unwrap();
    }

    /// `kubectl patch` with a sidecar whose upstream is this name.
    /// Waits until only the patched pod is left.
    pub fn patch(&self, node: &Node, target: &str) {
        let binary = programs::workspace_binary("whichpod-sidecar", "whichpod-sidecar", "release").unwrap();
        node.import(&Image::of_program(SIDECAR, &binary).unwrap()).unwrap();
        let document = json!({
            "upstreams": [{
                "name": "backend-service", "listen": "127.0.0.1:10000", "target": target,
                "routes": [{ "prefix": "/test" }], "timeouts": { "idle": "300s" },
            }],
            "access_log": { "format": FORMAT.replace("%UPSTREAM_HOST%", "%UPSTREAM_HOST% %UPSTREAM_POD%") },
        });
        self.apply(&json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "sidecar" },
            "data": { "sidecar.yaml": document.to_string() },
        }));
        self.configure("127.0.0.1:10000");
        let patch = json!([
            { "op": "add", "path": "/spec/template/spec/volumes/-",
              "value": { "name": "sidecar", "configMap": { "name": "sidecar" } } },
            { "op": "add", "path": "/spec/template/spec/containers/-", "value": {
                "name": "whichpod", "image": SIDECAR, "imagePullPolicy": "Never",
                "args": ["--config", "/etc/whichpod/sidecar.yaml"],
                "ports": [{ "containerPort": 10000 }, { "containerPort": 9901 }],
                "volumeMounts": [{ "name": "sidecar", "mountPath": "/etc/whichpod" }],
                "readinessProbe": { "httpGet": { "path": "/ready", "port": 9902 }, "periodSeconds": 1 },
                "securityContext": {
                    "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false,
                    "capabilities": { "drop": ["ALL"] },
                },
            } },
        ]);
        let client = &self.scenario.client;
        let here = self.scenario.namespace.name();
        let patch = patch.to_string();
        client.run(&["patch", "deployment/nginx-test", "-n", here, "--type=json", "-p", &patch]).unwrap();
        client.rolled_out(here, "nginx-test").unwrap();
        // `kubectl logs deployment/…` takes any pod, so wait for the end of the one without a sidecar.
        let alone = |pods: &Value| (pods["items"].as_array()?.len() == 1).then_some(());
        let all = ["pods", "-n", here, "-l", "app=nginx-test"];
        wait_for("the pod without a sidecar to end", Duration::from_secs(30), || {
            Ok(alone(&client.get(&all)?))
        })
        .unwrap();
    }

    /// Asks for `/test` so often, and gives the pods that answered.
    pub fn ask(&self, times: usize) -> Vec<String> {
        let client = &self.scenario.client;
        let address = self.address();
        let ask = || http_get(address, "/test").unwrap().body.trim().replace("i am backend in ", "");
        client.inside(|| (0..times).map(|_| ask()).collect()).unwrap()
    }

    /// Where the one nginx pod listens.
    pub fn address(&self) -> SocketAddr {
        let here = self.scenario.namespace.name();
        let pods = self.scenario.client.get(&["pods", "-n", here, "-l", "app=nginx-test"]).unwrap();
        let address = pods["items"][0]["status"]["podIP"].as_str().unwrap();
        format!("{address}:8080").parse().unwrap()
    }

    /// All that the sidecar has written.
    pub fn log(&self) -> String {
        let here = self.scenario.namespace.name();
        self.scenario.client.run(&["logs", "deploy/nginx-test", "-c", "whichpod", "-n", here]).unwrap()
    }

    /// The sidecar's lines about answered requests, once there are so many: address and pod name of each.
    pub fn lines(&self, at_least: usize) -> Vec<(String, String)> {
        let here = self.scenario.namespace.name();
        wait_for("the sidecar's lines", Duration::from_secs(10), || {
            let logs =
                self.scenario.client.run(&["logs", "deploy/nginx-test", "-c", "whichpod", "-n", here])?;
            let lines: Vec<_> =
                logs.lines().filter(|line| line.contains("\"GET /test HTTP/1.0\" 200 ")).collect();
            let pods = |line: &str| {
                let mut words = line.rsplit(' ').skip(2).map(str::to_owned);
                let (pod, address) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
                (address, pod)
            };
            Ok((lines.len() >= at_least).then(|| lines.into_iter().map(pods).collect()))
        })
        .unwrap()
    }
}
