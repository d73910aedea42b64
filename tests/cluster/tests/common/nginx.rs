//! nginx in front of the backend, and the patch that people make by hand.

use std::net::SocketAddr;

use serde_json::{Value, json};
use whichpod_cluster::images;

use super::{Scenario, list, pods_of, service, workload};

/// The line that a hand-patched Envoy would write.
const FORMAT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% \
    %BYTES_SENT% %DURATION% %REQ(X-REQUEST-ID)% \"%REQ(USER-AGENT)%\" \"%REQ(X-FORWARDED-FOR)%\" %UPSTREAM_HOST% \
    %UPSTREAM_CLUSTER% %RESPONSE_FLAGS%\n";

/// The objects of an nginx that proxies `/test` to `upstream`, called `name`.
pub fn objects(name: &str, upstream: &str) -> Vec<Value> {
    let configuration = format!(
        "events {{}} http {{
        log_format upstream '$request_uri $status $upstream_addr'; access_log /dev/stdout upstream;
        server {{ listen 8080; location /test {{ proxy_pass http://{upstream}; }} }} }}"
    );
    let container = json!({
        "image": images::NGINX,
        "ports": [{ "containerPort": 8080 }],
        "volumeMounts": [{ "name": "configuration", "mountPath": "/etc/nginx/nginx.conf", "subPath": "nginx.conf" }],
        "readinessProbe": { "tcpSocket": { "port": 8080 }, "periodSeconds": 1 },
    });
    let mut deployment = workload("Deployment", name, &container);
    let pod = &mut deployment["spec"]["template"]["spec"];
    pod["securityContext"] = json!({ "runAsUser": 1000, "runAsNonRoot": true });
    pod["volumes"] = json!([{ "name": "configuration", "configMap": { "name": name } }]);
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name },
        "data": { "nginx.conf": configuration },
    });
    let ports = json!({ "type": "NodePort", "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }] });
    vec![map, deployment, service(name, name, &ports)]
}

/// The Deployment `nginx-test` in front of the backend, in the scenario's namespace.
pub struct Nginx<'a> {
    scenario: &'a Scenario,
}

impl<'a> Nginx<'a> {
    /// `upstream` is what its configuration says.
    pub fn start(scenario: &'a Scenario, upstream: &str) -> Self {
        scenario.client.import(images::nginx).unwrap();
        scenario.apply(&list(&objects("nginx-test", upstream)));
        scenario.rolled_out("deployment/nginx-test");
        Self { scenario }
    }

    /// `kubectl patch` with a sidecar whose upstream is this name, and nginx's upstream edited. Waits until only the
    /// patched pod is left.
    pub fn patch(&self, target: &str, retry: &Value) {
        self.scenario.client.import(images::sidecar).unwrap();
        self.configure_sidecar(target, retry);
        self.scenario.apply(&objects("nginx-test", "127.0.0.1:10000")[0]);
        let patch = json!([
            { "op": "add", "path": "/spec/template/spec/volumes/-",
              "value": { "name": "sidecar", "configMap": { "name": "sidecar" } } },
            { "op": "add", "path": "/spec/template/spec/containers/-", "value": {
                "name": "whichpod", "image": images::SIDECAR, "imagePullPolicy": "Never",
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
        self.scenario.kubectl(&["patch", "deployment/nginx-test", "--type=json", "-p", &patch.to_string()]);
        // `kubectl logs deployment/…` takes any pod, so this also waits for the end of the one without a sidecar.
        self.scenario.rolled_out("deployment/nginx-test");
    }

    /// Edits the sidecar's upstream, and starts the pod anew.
    pub fn retarget(&self, target: &str) {
        self.configure_sidecar(target, &json!({}));
        self.scenario.kubectl(&["rollout", "restart", "deployment/nginx-test"]);
        self.scenario.rolled_out("deployment/nginx-test");
    }

    fn configure_sidecar(&self, target: &str, retry: &Value) {
        let document = json!({
            "upstreams": [{
                "name": "backend-service", "listen": "127.0.0.1:10000", "target": target,
                "routes": [{ "prefix": "/test" }], "timeouts": { "idle": "300s" },
                "retry": retry,
            }],
            "access_log": { "format": FORMAT.replace("%UPSTREAM_HOST%", "%UPSTREAM_HOST% %UPSTREAM_POD%") },
        });
        self.scenario.apply(&json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "sidecar" },
            "data": { "sidecar.yaml": document.to_string() },
        }));
    }

    /// Asks for `/test` so often, and gives the pods that answered.
    pub fn ask(&self, times: usize) -> Vec<String> {
        self.scenario.ask(&format!("http://{}/test", self.address()), times)
    }

    /// Asks so often; gives the pods that answered, and the hand-patched sidecar's lines about these requests.
    pub fn asked_by_hand(&self, times: usize) -> (Vec<String>, Vec<(String, String)>) {
        let so_far = self.patched_lines(0).len();
        let answered = self.ask(times);
        (answered, self.patched_lines(so_far + times).split_off(so_far))
    }

    /// Where the one nginx pod listens.
    pub fn address(&self) -> SocketAddr {
        let pods = pods_of(&self.scenario.client, self.scenario.here(), "nginx-test");
        assert_eq!(pods.len(), 1, "{pods:?}");
        format!("{}:8080", pods[0].1).parse().unwrap()
    }

    /// All that nginx itself has written.
    pub fn own_log(&self) -> String {
        self.scenario.kubectl(&["logs", "deploy/nginx-test", "-c", "nginx-test"])
    }

    /// How often nginx itself has written this, once it is so often.
    pub fn own_lines(&self, containing: &str, at_least: usize) -> usize {
        let what = format!("{containing:?} at least {at_least} times");
        self.scenario.logged("deploy/nginx-test", "nginx-test", &what, |log| {
            let count = log.matches(containing).count();
            (count >= at_least).then_some(count)
        })
    }

    /// The hand-patched sidecar's lines about answered requests, once there are so many: address and pod name of each.
    pub fn patched_lines(&self, at_least: usize) -> Vec<(String, String)> {
        self.scenario.logged("deploy/nginx-test", "whichpod", &format!("{at_least} lines"), |log| {
            let lines: Vec<_> =
                log.lines().filter(|line| line.contains("\"GET /test HTTP/1.0\" 200 ")).collect();
            let pods = |line: &str| {
                let mut words = line.rsplit(' ').skip(2).map(str::to_owned);
                let (pod, address) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
                (address, pod)
            };
            (lines.len() >= at_least).then(|| lines.into_iter().map(pods).collect())
        })
    }
}
