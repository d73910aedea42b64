//! What is needed to understand why a test failed: objects, events, and the log of every container.

use serde_json::Value;
use whichpod_cluster::Client;

/// Lines of each of the node's programs.
const LAST_WORDS: usize = 8;

/// Tells everything about these namespaces when a test fails, and has the node's own logs kept.
pub struct OnFailure {
    client: Client,
    namespaces: Vec<String>,
}

impl OnFailure {
    pub fn of(client: &Client, namespaces: &[&str]) -> Self {
        Self { client: client.clone(), namespaces: namespaces.iter().map(ToString::to_string).collect() }
    }
}

impl Drop for OnFailure {
    fn drop(&mut self) {
        if std::thread::panicking() {
            everything(&self.client, &self.namespaces);
        }
    }
}

#[expect(clippy::print_stderr, reason = "a failed test's output is where one looks")]
fn everything(client: &Client, namespaces: &[String]) {
    eprintln!("---- what the cluster says ----");
    for namespace in namespaces {
        for about in [
            ["get", "all,endpointslices", "-o", "wide"].as_slice(),
            &["get", "events", "--sort-by=.metadata.creationTimestamp"],
        ] {
            let output = client.kubectl(&[about, &["-n", namespace]].concat());
            let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
            eprintln!("$ kubectl {} -n {namespace}\n{}", about.join(" "), text.unwrap_or_default());
        }
        for (pod, container) in containers(client, namespace) {
            let logs = ["logs", &pod, "-c", &container, "--tail=40", "-n", namespace];
            // Of one that has started again, also why.
            for logs in [logs.as_slice(), &[logs.as_slice(), &["--previous"]].concat()] {
                let Ok(output) = client.kubectl(logs) else { continue };
                if output.status.success() {
                    eprintln!("$ kubectl {}\n{}", logs.join(" "), String::from_utf8_lossy(&output.stdout));
                }
            }
        }
    }
    for (program, text) in client.last_words(LAST_WORDS) {
        eprintln!("---- the node's {program} said last\n{text}");
    }
    if let Err(error) = client.keep_logs() {
        eprintln!("the node's logs cannot be kept: {error:#}");
    }
}

fn containers(client: &Client, namespace: &str) -> Vec<(String, String)> {
    let Ok(pods) = client.get(&["pods", "-n", namespace]) else { return Vec::new() };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut all = Vec::new();
    for pod in pods["items"].as_array().into_iter().flatten() {
        for kind in ["initContainers", "containers"] {
            let containers = pod["spec"][kind].as_array().into_iter().flatten();
            all.extend(
                containers.map(|container| (text(&pod["metadata"]["name"]), text(&container["name"]))),
            );
        }
    }
    all
}
