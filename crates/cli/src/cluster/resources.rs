//! The kinds whose pods can get a sidecar: where the API server has them, and what kubectl's users call them. Pure.

use std::fmt;

use serde_json::Value;
use whichpod_injection::Kind;

use crate::exit::Failure;

/// One kind.
#[derive(Debug, PartialEq, Eq)]
pub struct Resource {
    /// The kind.
    pub kind: Kind,
    /// `Deployment`
    pub name: &'static str,
    /// `apps/v1`
    pub api_version: &'static str,
    /// `deployments`
    plural: &'static str,
    /// `deploy`
    short: &'static str,
}

/// Every kind, in the order in which they are looked through: owners before what they own.
pub const RESOURCES: [Resource; 7] = [
    Resource {
        kind: Kind::Deployment,
        name: "Deployment",
        api_version: "apps/v1",
        plural: "deployments",
        short: "deploy",
    },
    Resource {
        kind: Kind::StatefulSet,
        name: "StatefulSet",
        api_version: "apps/v1",
        plural: "statefulsets",
        short: "sts",
    },
    Resource {
        kind: Kind::DaemonSet,
        name: "DaemonSet",
        api_version: "apps/v1",
        plural: "daemonsets",
        short: "ds",
    },
    Resource {
        kind: Kind::ReplicaSet,
        name: "ReplicaSet",
        api_version: "apps/v1",
        plural: "replicasets",
        short: "rs",
    },
    Resource {
        kind: Kind::CronJob,
        name: "CronJob",
        api_version: "batch/v1",
        plural: "cronjobs",
        short: "cj",
    },
    Resource { kind: Kind::Job, name: "Job", api_version: "batch/v1", plural: "jobs", short: "job" },
    Resource { kind: Kind::Pod, name: "Pod", api_version: "v1", plural: "pods", short: "po" },
];

impl Resource {
    /// The path of all its objects, in a namespace or everywhere.
    pub fn collection(&self, namespace: Option<&str>) -> String {
        let api = if self.api_version.contains('/') { "apis" } else { "api" };
        match namespace {
            Some(namespace) => format!("/{api}/{}/namespaces/{namespace}/{}", self.api_version, self.plural),
            None => format!("/{api}/{}/{}", self.api_version, self.plural),
        }
    }

    /// Whether what the pods are made from can be changed once the object exists.
    pub fn is_changeable(&self) -> bool {
        !matches!(self.kind, Kind::Pod | Kind::Job)
    }

    fn is_called(&self, word: &str) -> bool {
        let word = word.to_lowercase();
        let (word, rest) = word.split_once('.').unwrap_or((word.as_str(), ""));
        let (group, version) = self.api_version.split_once('/').unwrap_or(("", self.api_version));
        let named = word == self.plural || word == self.short || word == self.name.to_lowercase();
        named && (rest.is_empty() || rest == group || rest == format!("{version}.{group}"))
    }
}

/// One object, as the command line names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its kind.
    pub resource: &'static Resource,
    /// Its name.
    pub name: String,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.resource.name.to_lowercase(), self.name)
    }
}

impl std::str::FromStr for Target {
    type Err = Failure;

    /// Reads `KIND/NAME`, the kind as kubectl takes it.
    fn from_str(text: &str) -> Result<Target, Failure> {
        let Some((kind, name)) = text.split_once('/') else {
            return Err(Failure::usage(format!("{text:?} is no KIND/NAME, such as deploy/nginx-test")));
        };
        let resource = RESOURCES.iter().find(|resource| resource.is_called(kind)).ok_or_else(|| {
            let kinds = RESOURCES.each_ref().map(|resource| resource.name.to_lowercase()).join(", ");
            Failure::usage(format!(
                "{kind:?} is no kind with pods; accepted: {kinds}, and kubectl's short names"
            ))
        })?;
        let allowed = |char: char| char.is_ascii_lowercase() || char.is_ascii_digit() || "-.".contains(char);
        if name.is_empty() || !name.chars().all(allowed) {
            return Err(Failure::usage(format!("{name:?} is no name of an object, such as nginx-test")));
        }
        Ok(Target { resource, name: name.to_owned() })
    }
}

/// The kind and name of the controller that owns an object.
pub fn controller(object: &Value) -> Option<(&str, &str)> {
    let owners = object.pointer("/metadata/ownerReferences")?.as_array()?;
    let owner = owners.iter().find(|owner| owner["controller"] == true)?;
    Some((owner["kind"].as_str()?, owner["name"].as_str()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_object_can_be_named_as_for_kubectl() {
        for word in
            ["deploy", "deployment", "deployments", "Deployment", "deployments.apps", "deployment.v1.apps"]
        {
            let target: Target = format!("{word}/nginx-test").parse().unwrap();
            assert_eq!((target.resource.name, target.name.as_str()), ("Deployment", "nginx-test"), "{word}");
        }
        let target: Target = "sts/db".parse().unwrap();
        assert_eq!(target.resource.collection(Some("shop")), "/apis/apps/v1/namespaces/shop/statefulsets");
        let target: Target = "po/x".parse().unwrap();
        assert_eq!(target.resource.collection(None), "/api/v1/pods");
    }

    #[test]
    fn what_is_no_workload_is_told_apart_by_its_message() {
        let message = |text: &str| text.parse::<Target>().unwrap_err().message;
        assert!(message("nginx").contains("KIND/NAME"));
        assert!(message("service/backend").contains("deployment, statefulset"));
        assert!(message("jobs.batch.volcano.sh/x").contains("no kind"));
        for text in ["deploy/", "deploy/a/b", "deploy/A", "deploy/a?b=c"] {
            assert!(message(text).contains("no name"), "{text}");
        }
    }

    #[test]
    fn the_controller_is_one_of_the_owners() {
        let owned = |owners: Value| json!({"metadata": {"ownerReferences": owners}});
        let object = owned(
            json!([{"kind": "A", "name": "a"}, {"kind": "ReplicaSet", "name": "b", "controller": true}]),
        );
        assert_eq!(controller(&object), Some(("ReplicaSet", "b")));
        assert_eq!(controller(&owned(json!([{"kind": "A", "name": "a"}]))), None);
        assert_eq!(controller(&json!({})), None);
    }
}
