//! What the operator decides for the whole cluster: the chart's values and what the webhook found out about it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::names::annotation;
use crate::quantity::Quantity;
use crate::settings::Settings;

/// The operator's options; as JSON with camelCase keys, so that webhook and command line can share one document.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Options {
    /// The version that is written into the status.
    pub version: String,
    /// The sidecar's image.
    pub image: String,
    /// `IfNotPresent`, `Always` or `Never`.
    pub image_pull_policy: String,
    /// Names of Secrets that are appended to the pod's.
    pub image_pull_secrets: Vec<String>,
    /// The sidecar's resources unless `whichpod.io/resources` says otherwise.
    pub resources: Resources,
    /// Whether API server and all kubelets know native sidecars (Kubernetes 1.29 and later).
    pub native_sidecars: bool,
    /// The sidecar's user; `None` leaves it to the cluster (OpenShift).
    pub run_as_user: Option<u32>,
    /// What is done about a Service without a headless twin.
    pub headless_services: HeadlessServices,
    /// The cluster's DNS domain.
    pub cluster_domain: String,
    /// The cluster's DNS servers, for pods that don't ask them.
    pub cluster_dns: Vec<IpAddr>,
    /// Namespaces that never get a sidecar, besides `kube-system`, `kube-public` and `kube-node-lease`.
    pub protected_namespaces: Vec<String>,
    /// Defaults for annotations, by their name without `whichpod.io/`.
    pub defaults: BTreeMap<String, String>,
    /// Says what is wrong with a log format; without it any text is taken.
    #[serde(skip)]
    pub check_log_format: Option<CheckLogFormat>,
    /// Whether there is such a response flag (`UH`); without it any text is taken.
    #[serde(skip)]
    pub is_response_flag: Option<fn(&str) -> bool>,
}

/// Whether a log format can be compiled; the error says why not.
pub type CheckLogFormat = fn(&str) -> Result<(), String>;

impl Default for Options {
    fn default() -> Options {
        Options {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            image: concat!("whichpod-sidecar:", env!("CARGO_PKG_VERSION")).to_owned(),
            image_pull_policy: "IfNotPresent".to_owned(),
            image_pull_secrets: Vec::new(),
            resources: Resources::default(),
            native_sidecars: true,
            run_as_user: Some(65532),
            headless_services: HeadlessServices::default(),
            cluster_domain: "cluster.local".to_owned(),
            cluster_dns: Vec::new(),
            protected_namespaces: Vec::new(),
            defaults: BTreeMap::new(),
            check_log_format: None,
            is_response_flag: None,
        }
    }
}

/// What is done about a ClusterIP Service that has no headless twin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeadlessServices {
    /// A controller makes one.
    #[default]
    Create,
    /// The virtual IP is used, with a warning.
    Warn,
    /// The workload is refused.
    Deny,
}

/// The sidecar's resources, as Kubernetes quantities.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Resources {
    /// `requests.cpu`
    pub cpu_request: String,
    /// `requests.memory`
    pub memory_request: String,
    /// `limits.memory`
    pub memory_limit: String,
    /// `limits.cpu`; none by default, because throttling stalls traffic.
    pub cpu_limit: Option<String>,
}

impl Default for Resources {
    fn default() -> Resources {
        Resources {
            cpu_request: "50m".to_owned(),
            memory_request: "32Mi".to_owned(),
            memory_limit: "64Mi".to_owned(),
            cpu_limit: None,
        }
    }
}

impl Resources {
    /// Says what is wrong: no quantity, zero, or a request above its limit.
    pub(crate) fn check(&self) -> Result<(), String> {
        let positive = |name: &str, text: &str| match Quantity::parse(text) {
            Some(quantity) if quantity > Quantity(0) => Ok(quantity),
            _ => Err(format!("{name} {text:?} is no positive quantity such as 50m or 64Mi")),
        };
        let within = |name: &str, request: &str, limit: &str| {
            let (request_is, limit_is) = (
                positive(&format!("requests.{name}"), request)?,
                positive(&format!("limits.{name}"), limit)?,
            );
            if request_is > limit_is {
                return Err(format!("requests.{name} {request} is above limits.{name} {limit}"));
            }
            Ok(())
        };
        within("memory", &self.memory_request, &self.memory_limit)?;
        within("cpu", &self.cpu_request, self.cpu_limit.as_deref().unwrap_or(&self.cpu_request))
    }
}

/// Users that other meshes exempt from their own redirection: traffic of such a user would pass them by.
const USERS_OF_MESHES: [u32; 3] = [1337, 2102, 5678];

impl Options {
    /// Every error at once, each with the option, its value, the reason and the remedy.
    pub fn errors(&self) -> Vec<String> {
        let mut errors = Vec::new();
        if self.image.trim().is_empty() {
            errors.push("image is empty; name the sidecar's image".to_owned());
        }
        if !["IfNotPresent", "Always", "Never"].contains(&self.image_pull_policy.as_str()) {
            errors.push(format!(
                "imagePullPolicy is {:?}; accepted: IfNotPresent, Always, Never",
                self.image_pull_policy
            ));
        }
        if let Some(user) = self.run_as_user.filter(|user| *user == 0 || USERS_OF_MESHES.contains(user)) {
            errors.push(format!(
                "runAsUser is {user}, which is root or a mesh's proxy; use 65532, or leave it out"
            ));
        }
        if let Err(reason) = self.resources.check() {
            errors.push(format!("resources: {reason}"));
        }
        if !crate::upstreams::is_dns_name(&self.cluster_domain) {
            errors.push(format!(
                "clusterDomain is {:?}, which is no DNS name; use the kubelet's --cluster-domain",
                self.cluster_domain
            ));
        }
        for name in self.defaults.keys() {
            if !annotation::settings().any(|known| known == name) {
                let all: Vec<&str> = annotation::settings().collect();
                errors.push(format!("defaults.{name} is no setting; accepted: {}", all.join(", ")));
            }
        }
        let wrong = Settings::parse(&self.defaults, self).err().into_iter().flatten();
        errors.extend(wrong.map(|wrong| format!("defaults.{wrong}")));
        errors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(Options::default().errors(), Vec::<String>::new());
        assert_eq!(Options::default().run_as_user, Some(65532));
    }

    #[test]
    fn every_wrong_option_is_reported_in_one_start() {
        let mut options = Options {
            image: " ".to_owned(),
            image_pull_policy: "Sometimes".to_owned(),
            run_as_user: Some(1337),
            cluster_domain: "cluster local".to_owned(),
            ..Options::default()
        };
        options.resources.memory_request = "128Mi".to_owned();
        options.defaults =
            BTreeMap::from([("redirects".into(), "hosts".into()), ("redirect".into(), "host".into())]);
        let errors = options.errors().join("\n");
        for named in [
            "image is empty",
            "\"Sometimes\"",
            "1337",
            "requests.memory 128Mi is above limits.memory 64Mi",
            "clusterDomain",
            "defaults.redirects",
            "defaults.redirect is \"host\"",
        ] {
            assert!(errors.contains(named), "{named} in\n{errors}");
        }
    }

    #[test]
    fn unknown_options_are_refused() {
        assert!(serde_json::from_str::<Options>(r#"{"imagePullPolicy": "Always"}"#).is_ok());
        assert!(serde_json::from_str::<Options>(r#"{"imagePolicy": "Always"}"#).is_err());
        assert!(serde_json::from_str::<Options>(r#"{"headlessServices": "maybe"}"#).is_err());
    }
}
