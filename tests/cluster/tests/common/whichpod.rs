//! whichpod itself, installed by its chart from images that are built here.

use std::collections::HashMap;
use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};
use whichpod_cluster::{Client, images};

use super::explain::OnFailure;
use super::{Scenario, pods_of, workload};

/// Where it is installed.
pub const NAMESPACE: &str = "whichpod-system";

/// `helm install`, or upgrade, with these values, until every pod of the webhook is ready and asked, and those of before
/// are gone: they answer for a few seconds more.
pub fn install(client: &Client, values: &[&str]) {
    let _explain = OnFailure::of(client, &[NAMESPACE]);
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts/whichpod");
    let set: Vec<_> = values.iter().flat_map(|value| ["--set", value]).collect();
    let words =
        ["upgrade", "--install", "whichpod", chart.to_str().unwrap(), "-n", NAMESPACE, "--create-namespace"];
    let wait = ["--wait", "--timeout", "2m"];
    client.helm(&[words.as_slice(), &set, &wait].concat()).unwrap();
    // Helm has waited for it: kube-proxy and the API server hear of a ready webhook a moment later, and until then the
    // chart's `failurePolicy: Ignore` would let everything pass.
    assert!(is_asked(client).unwrap(), "who annotates right after the installation gets no sidecar");
    let all = ["pods", "-n", NAMESPACE, "-l", "whichpod.io/component=webhook"];
    let stays = |pod: &Value| pod["metadata"]["deletionTimestamp"].is_null();
    client.wait_until(&all, |pods| pods["items"].as_array()?.iter().all(stays).then_some(())).unwrap();
}

/// Whether an annotated Deployment would get its sidecar.
fn is_asked(client: &Client) -> Result<bool> {
    let mut trial = workload("Deployment", "trial", &json!({}));
    trial["metadata"]["annotations"] = json!({ "whichpod.io/upstreams": "trial:80" });
    let dry_run = ["create", "--dry-run=server", "-o", "json", "-n", NAMESPACE, "-f", "-"];
    Ok(has_sidecar(&serde_json::from_str(&client.pipe(&dry_run, &trial.to_string())?)?))
}

/// Brings the images to the cluster.
pub fn import(client: &Client) {
    client.import(images::sidecar).unwrap();
    client.import(images::webhook).unwrap();
}

/// `helm uninstall`, whatever still has a sidecar.
pub fn uninstall(client: &Client) {
    client
        .helm(&["uninstall", "whichpod", "-n", NAMESPACE, "--no-hooks", "--wait", "--ignore-not-found"])
        .unwrap();
}

/// A line of the sidecar in the default format, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// `GET /test HTTP/1.0`
    pub request: String,
    pub status: String,
    pub flags: String,
    pub id: String,
    /// `address:port`, or `-`.
    pub upstream: String,
    pub pod: String,
    /// `address:port status ms reason`, comma separated.
    pub attempts: String,
}

impl Line {
    /// `None` for what is no line about a request.
    pub fn parse(line: &str) -> Option<Self> {
        // [time] "request" status flags received sent ms ms "forwarded" "agent" "id" "authority" "upstream" pod attempts
        let quoted: Vec<&str> = line.strip_prefix('[')?.split('"').collect();
        let [_, request, numbers, _, _, _, _, id, _, _, _, upstream, rest] = quoted[..] else { return None };
        let mut numbers = numbers.split_whitespace();
        let (pod, attempts) = rest.trim().split_once(' ')?;
        Some(Self {
            request: request.to_owned(),
            status: numbers.next()?.to_owned(),
            flags: numbers.next()?.to_owned(),
            id: id.to_owned(),
            upstream: upstream.to_owned(),
            pod: pod.to_owned(),
            attempts: attempts.to_owned(),
        })
    }
}

impl Scenario {
    /// All that the sidecar of this workload or pod has written.
    pub fn log(&self, of: &str) -> String {
        self.kubectl(&["logs", of, "-c", "whichpod"])
    }

    /// The sidecar's lines about this path, once there are so many.
    pub fn lines(&self, of: &str, path: &str, at_least: usize) -> Vec<Line> {
        let about = format!(" {path} ");
        self.logged(of, "whichpod", &format!("{at_least} lines about {path}"), |log| {
            let all = log.lines().filter_map(Line::parse);
            let lines: Vec<_> = all.filter(|line| line.request.contains(&about)).collect();
            (lines.len() >= at_least).then_some(lines)
        })
    }

    /// Asks this URL so often; gives the pods that answered, and the sidecar's lines about these requests for `/test`.
    pub fn asked(&self, of: &str, url: &str, times: usize) -> (Vec<String>, Vec<Line>) {
        let so_far = self.lines(of, "/test", 0).len();
        let answered = self.ask(url, times);
        let lines = self.lines(of, "/test", so_far + times).split_off(so_far);
        assert_eq!(lines.len(), times, "one line for each request: {lines:?}");
        (answered, lines)
    }

    /// Asks through the one pod of this app so often; gives the lines of its sidecar, which must name the pods that
    /// answered.
    pub fn asked_through(&self, app: &str, times: usize) -> Vec<Line> {
        let pods = pods_of(&self.client, self.here(), app);
        assert_eq!(pods.len(), 1, "{pods:?}");
        let url = format!("http://{}:8080/test", pods[0].1);
        let (answered, lines) = self.asked(&format!("pod/{}", pods[0].0), &url, times);
        self.names_are_right(&answered, &lines);
        lines
    }

    /// Each line names the pod that answered, by its address always, by its name where it has one.
    pub fn names_are_right(&self, answered: &[String], lines: &[Line]) {
        let addresses: HashMap<_, _> = pods_of(&self.client, self.here(), "backend").into_iter().collect();
        for (pod, line) in std::iter::zip(answered, lines) {
            assert_eq!(line.upstream, format!("{}:10000", addresses[pod]), "{pod} answered: {line:?}");
            assert!(line.pod == *pod || line.pod == "-", "{pod} answered: {line:?}");
        }
    }

    /// Waits until the sidecar's diagnostics contain all of these.
    pub fn says(&self, of: &str, parts: &[&str]) {
        let all = |log: &str| parts.iter().all(|part| log.contains(part)).then_some(());
        self.logged(of, "whichpod", &format!("{parts:?}"), all);
    }

    /// Whether a workload's template, or a pod, has the sidecar.
    pub fn has_sidecar(&self, object: &[&str]) -> bool {
        has_sidecar(&self.get(object))
    }
}

/// Whether a workload's template, or a pod, has the sidecar.
pub fn has_sidecar(object: &Value) -> bool {
    let specs = ["/spec", "/spec/template/spec", "/spec/jobTemplate/spec/template/spec"];
    let containers = specs.iter().filter_map(|spec| object.pointer(spec)).flat_map(|spec| {
        ["initContainers", "containers"]
            .into_iter()
            .flat_map(|kind| spec[kind].as_array().into_iter().flatten())
    });
    containers.into_iter().any(|container| container["name"] == "whichpod")
}
