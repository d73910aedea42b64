//! Every name users meet, in one place.

/// What all labels and annotations of whichpod begin with.
pub const PREFIX: &str = "whichpod.io/";

/// Label on a namespace: `enabled` or `disabled`.
pub const NAMESPACE_LABEL: &str = "whichpod.io/injection";

/// Annotation written by whichpod: everything that was added, as JSON, so that it can be taken out again.
pub const STATUS: &str = "whichpod.io/status";

/// Annotation that `whichpod` writes into a workload's own metadata: which annotations it wrote there, as JSON. It is not
/// in the pod template, which so is what the webhook would make of it, byte for byte.
pub const BY_HAND: &str = "whichpod.io/by-hand";

/// Label written by whichpod: marks pods that carry the sidecar.
pub const INJECTED_LABEL: &str = "whichpod.io/injected";

/// Label of whichpod's own pods (any value), which never get a sidecar wherever they run.
pub const COMPONENT_LABEL: &str = "whichpod.io/component";

/// The sidecar's container.
pub const CONTAINER: &str = "whichpod";

pub use whichpod_config::names::{ADMIN_PORT, HEALTH_PORT, INLINE_DOCUMENT as CONFIG_VARIABLE};

/// The name of the health port in the container, for a `PodMonitor`.
pub const HEALTH_PORT_NAME: &str = "whichpod-health";

/// The key of a ConfigMap named by `whichpod.io/config`, unless it names another.
pub const CONFIG_KEY: &str = "config.yaml";

/// What the name of a headless twin ends with.
pub const TWIN_SUFFIX: &str = "-whichpod";

/// Label of a headless twin: the Service it stands for.
pub const TWIN_LABEL: &str = "whichpod.io/twin-of";

/// Label of everything whichpod creates in a cluster.
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";

/// The value of [`MANAGED_BY_LABEL`].
pub const MANAGED_BY: &str = "whichpod";

/// The namespaces that never get a sidecar, whatever is configured.
pub const SYSTEM_NAMESPACES: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];

/// The annotations users write, without the prefix.
pub mod annotation {
    /// `"true"` or `"false"`.
    pub const INJECT: &str = "inject";
    /// What the app calls: `backend-service:10000, users:80=users-headless:8080, tcp://db:5432` or `*`.
    pub const UPSTREAMS: &str = "upstreams";
    /// `hosts`, `env` or `none`.
    pub const REDIRECT: &str = "redirect";
    /// A preset or an Envoy format string.
    pub const LOG_FORMAT: &str = "log-format";
    /// A ConfigMap that holds the sidecar's whole configuration: `NAME` or `NAME/KEY`.
    pub const CONFIG: &str = "config";
    /// `requests.cpu=10m, requests.memory=32Mi, limits.memory=64Mi`.
    pub const RESOURCES: &str = "resources";
    /// `auto`, `true` or `false`.
    pub const NATIVE_SIDECAR: &str = "native-sidecar";
    /// Ports the app listens on without declaring them: `8080, 8443`.
    pub const APP_PORTS: &str = "app-ports";

    /// Volumes of the pod that the sidecar gets to read: `backend-ca=/etc/backend-ca`.
    pub const VOLUME_MOUNTS: &str = "volume-mounts";
    /// What holds for single upstreams, by the name the app calls: `{users: {timeouts: {request: 5s}}}`.
    pub const PER_UPSTREAM: &str = "per-upstream";

    /// Those that stand for a key of the sidecar's document, and are named after it.
    pub const DOCUMENT: [&str; 20] = [
        "protocol",
        "balance",
        "timeouts",
        "retry",
        "circuit-breakers",
        "limits",
        "outlier-detection",
        "health-check",
        "healthy-panic-threshold",
        "slow-start",
        "headers",
        "tls",
        "proxy-protocol",
        "lazy",
        "dns",
        "access-log",
        "workers",
        "memory",
        "shutdown",
        "log-level",
    ];

    const OTHERS: [&str; 9] = [
        UPSTREAMS,
        REDIRECT,
        PER_UPSTREAM,
        LOG_FORMAT,
        CONFIG,
        RESOURCES,
        NATIVE_SIDECAR,
        APP_PORTS,
        VOLUME_MOUNTS,
    ];

    /// Those that may also come from the namespace or from the operator's defaults.
    pub fn settings() -> impl Iterator<Item = &'static str> {
        OTHERS.into_iter().chain(DOCUMENT)
    }

    /// The name of the setting that an annotation is, by its whole key.
    pub fn setting(key: &str) -> Option<&'static str> {
        let name = key.strip_prefix(super::PREFIX)?;
        settings().find(|known| *known == name)
    }

    /// The whole key: `whichpod.io/` and the name.
    pub fn key(name: &str) -> String {
        format!("{}{name}", super::PREFIX)
    }
}
