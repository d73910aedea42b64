//! Where the pod is in each kind of object, and what stands in it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::json::{self, text};
use crate::names;

/// The kinds whose pods can get a sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `apps/v1`
    Deployment,
    /// `apps/v1`
    StatefulSet,
    /// `apps/v1`
    DaemonSet,
    /// `apps/v1`
    ReplicaSet,
    /// `batch/v1`
    Job,
    /// `batch/v1`
    CronJob,
    /// `v1`
    Pod,
}

impl Kind {
    /// The kind of an object; `None` if it has no pods that whichpod could serve.
    pub fn of(object: &Value) -> Option<Kind> {
        let version = text(object, "/apiVersion")?;
        let group = version.split_once('/').map_or("", |(group, _)| group);
        match (group, text(object, "/kind")?) {
            ("apps", "Deployment") => Some(Kind::Deployment),
            ("apps", "StatefulSet") => Some(Kind::StatefulSet),
            ("apps", "DaemonSet") => Some(Kind::DaemonSet),
            ("apps", "ReplicaSet") => Some(Kind::ReplicaSet),
            ("batch", "Job") => Some(Kind::Job),
            ("batch", "CronJob") => Some(Kind::CronJob),
            ("", "Pod") => Some(Kind::Pod),
            _ => None,
        }
    }

    /// The JSON Pointer to the pod or pod template.
    pub fn template(self) -> &'static str {
        match self {
            Kind::Pod => "",
            Kind::CronJob => "/spec/jobTemplate/spec/template",
            _ => "/spec/template",
        }
    }
}

/// Whether a controller made the object and keeps it as it wants it.
pub(crate) fn has_controller(object: &Value) -> bool {
    json::items(object, "/metadata/ownerReferences").iter().any(|owner| json::is_true(owner, "/controller"))
}

/// A pod or pod template.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pod<'a>(pub(crate) &'a Value);

/// Where containers are.
pub(crate) const CONTAINER_LISTS: [&str; 2] = ["/spec/containers", "/spec/initContainers"];

impl<'a> Pod<'a> {
    pub(crate) fn annotations(self) -> Option<&'a Map<String, Value>> {
        json::members(self.0, "/metadata/annotations")
    }

    pub(crate) fn annotation(self, key: &str) -> Option<&'a str> {
        self.annotations()?.get(key)?.as_str()
    }

    /// Bytes of all keys and values.
    pub(crate) fn annotations_size(self) -> usize {
        let annotations = self.annotations().into_iter().flatten();
        annotations.map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum()
    }

    pub(crate) fn labels(self) -> BTreeMap<&'a str, &'a str> {
        let labels = json::members(self.0, "/metadata/labels").into_iter().flatten();
        labels.filter_map(|(key, value)| Some((key.as_str(), value.as_str()?))).collect()
    }

    /// Every container with the list it is in, those of the app first.
    pub(crate) fn containers(self) -> impl Iterator<Item = (&'static str, &'a Value)> {
        CONTAINER_LISTS
            .into_iter()
            .flat_map(move |list| json::items(self.0, list).iter().map(move |container| (list, container)))
    }

    /// Whether two containers have one name, which the API server refuses: they could not be told apart.
    pub(crate) fn has_namesakes(self) -> bool {
        let mut names = BTreeSet::new();
        self.containers()
            .filter_map(|(_, container)| text(container, "/name"))
            .any(|name| !names.insert(name))
    }

    pub(crate) fn has_container(self, name: &str) -> bool {
        self.containers().any(|(_, container)| text(container, "/name") == Some(name))
    }

    pub(crate) fn has_init_containers(self) -> bool {
        !json::items(self.0, "/spec/initContainers").is_empty()
    }

    /// `Always` unless it says otherwise.
    pub(crate) fn restart_policy(self) -> &'a str {
        text(self.0, "/spec/restartPolicy").filter(|policy| !policy.is_empty()).unwrap_or("Always")
    }

    /// In seconds; 30 unless it says otherwise.
    pub(crate) fn grace_period(self) -> u64 {
        self.0.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_u64).unwrap_or(30)
    }

    pub(crate) fn host_network(self) -> bool {
        json::is_true(self.0, "/spec/hostNetwork")
    }

    /// Whether it can run on Windows nodes only.
    pub(crate) fn windows(self) -> bool {
        let selected = |label| json::member(self.0, "/spec/nodeSelector", label).and_then(Value::as_str);
        // It runs where one of the terms holds.
        let terms = json::items(self.0, NODE_TERMS);
        text(self.0, "/spec/os/name") == Some(WINDOWS)
            || json::is_true(self.0, "/spec/securityContext/windowsOptions/hostProcess")
            || OS_LABELS.into_iter().any(|label| selected(label) == Some(WINDOWS))
            || (!terms.is_empty() && terms.iter().all(needs_windows))
    }

    /// Whether its resolv.conf names the cluster's DNS: `ClusterFirst`, also under its host-network name.
    pub(crate) fn asks_cluster_dns(self) -> bool {
        matches!(self.dns_policy(), "ClusterFirst" | "ClusterFirstWithHostNet")
    }

    pub(crate) fn dns_policy(self) -> &'a str {
        text(self.0, "/spec/dnsPolicy").filter(|policy| !policy.is_empty()).unwrap_or("ClusterFirst")
    }

    /// Whether Kubernetes makes environment variables for Services.
    pub(crate) fn service_links(self) -> bool {
        self.0.pointer("/spec/enableServiceLinks").and_then(Value::as_bool).unwrap_or(true)
    }

    /// The lowest port that any user may bind, where the pod says it (the kernel's default if it says nonsense).
    pub(crate) fn lowest_port(self) -> Option<u16> {
        let sysctls = json::items(self.0, "/spec/securityContext/sysctls").iter();
        let mut lowest = sysctls.filter(|sysctl| text(sysctl, "/name") == Some(LOWEST_PORT));
        lowest
            .next()
            .map(|sysctl| text(sysctl, "/value").and_then(|port| port.trim().parse().ok()).unwrap_or(1024))
    }

    /// Whether every container has requests equal to limits for CPU and memory: the pod is `Guaranteed`.
    pub(crate) fn guaranteed(self) -> bool {
        let equal = |container: &Value, resource: &str| {
            let of = |side: &str| text(container, &format!("/resources/{side}/{resource}"));
            of("limits").is_some_and(|limit| {
                of("requests").is_none_or(|request| crate::quantity::equal(request, limit))
            })
        };
        let mut containers = self.containers().peekable();
        containers.peek().is_some()
            && containers.all(|(_, container)| equal(container, "cpu") && equal(container, "memory"))
    }

    /// Whether resources are given to the pod as a whole (Kubernetes 1.34), which then hold for the sidecar too.
    pub(crate) fn has_own_resources(self) -> bool {
        json::members(self.0, "/spec/resources").is_some_and(|resources| !resources.is_empty())
    }

    /// Whether it is one of whichpod's own.
    pub(crate) fn is_ours(self) -> bool {
        json::member(self.0, "/metadata/labels", names::COMPONENT_LABEL).is_some()
    }

    /// Whether a kubelet made it from a file.
    pub(crate) fn is_mirror(self) -> bool {
        self.annotation("kubernetes.io/config.mirror").is_some()
    }
}

/// Whether nodes of other systems don't satisfy a `nodeSelectorTerm`.
fn needs_windows(term: &Value) -> bool {
    json::items(term, "/matchExpressions").iter().any(|expression| {
        let values = json::items(expression, "/values");
        text(expression, "/key").is_some_and(|key| OS_LABELS.contains(&key))
            && text(expression, "/operator") == Some("In")
            && !values.is_empty()
            && values.iter().all(|value| value == WINDOWS)
    })
}

const WINDOWS: &str = "windows";
const OS_LABELS: [&str; 2] = ["kubernetes.io/os", "beta.kubernetes.io/os"];
const NODE_TERMS: &str =
    "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";

/// The sysctl that lets any user bind low ports (a safe one since Kubernetes 1.22).
pub(crate) const LOWEST_PORT: &str = "net.ipv4.ip_unprivileged_port_start";

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_kind_is_known_by_its_group() {
        let kind = |version: &str, kind: &str| Kind::of(&json!({"apiVersion": version, "kind": kind}));
        assert_eq!(kind("apps/v1", "Deployment"), Some(Kind::Deployment));
        assert_eq!(kind("v1", "Pod"), Some(Kind::Pod));
        assert_eq!(kind("batch/v1", "CronJob").map(Kind::template), Some("/spec/jobTemplate/spec/template"));
        assert_eq!(kind("batch.volcano.sh/v1alpha1", "Job"), None, "another group's Job has another shape");
        assert_eq!(kind("v1", "Service"), None);
        assert_eq!(Kind::of(&json!([])), None);
    }

    #[test]
    fn a_pod_that_only_windows_can_run_is_known_however_it_says_so() {
        let term = |operator: &str, values: Value| {
            json!({"matchExpressions": [{"key": "x", "operator": "Exists"},
            {"key": "kubernetes.io/os", "operator": operator, "values": values}]})
        };
        let terms = |terms: Value| {
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": terms}}}})
        };
        for (spec, windows) in [
            (json!({"os": {"name": "windows"}}), true),
            (json!({"nodeSelector": {"kubernetes.io/os": "windows"}}), true),
            (json!({"nodeSelector": {"beta.kubernetes.io/os": "windows"}}), true),
            (json!({"securityContext": {"windowsOptions": {"hostProcess": true}}}), true),
            (terms(json!([term("In", json!(["windows"]))])), true),
            (terms(json!([term("In", json!(["windows"])), term("In", json!(["linux"]))])), false),
            (terms(json!([term("In", json!(["linux", "windows"]))])), false),
            (terms(json!([term("NotIn", json!(["windows"]))])), false),
            (terms(json!([])), false),
            (json!({"os": {"name": "linux"}, "nodeSelector": {"kubernetes.io/os": "linux"}}), false),
            (json!({}), false),
        ] {
            let pod = json!({"spec": spec});
            assert_eq!(Pod(&pod).windows(), windows, "{pod}");
        }
    }

    #[test]
    fn a_pod_is_guaranteed_only_if_every_container_is() {
        let container = |requests: Value| json!({"resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": requests}});
        let pod = |containers: Value, init: Value| json!({"spec": {"containers": containers, "initContainers": init}});
        let guaranteed = |pod: Value| Pod(&pod).guaranteed();
        let same = container(json!({"cpu": "1000m", "memory": "1024Mi"}));
        assert!(guaranteed(pod(json!([same, container(json!(null))]), json!([]))));
        assert!(!guaranteed(pod(json!([same]), json!([{"name": "init"}]))));
        assert!(!guaranteed(pod(json!([container(json!({"cpu": "500m"}))]), json!(null))));
        assert!(!guaranteed(json!({})));
    }
}
