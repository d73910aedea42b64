//! The flags and their variables.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use jiff::SignedDuration;

/// The admission webhook that adds whichpod's sidecar to annotated workloads
#[derive(Debug, Parser)]
#[command(name = "whichpod-webhook", version, max_term_width = 110)]
pub(super) struct Flags {
    /// Where the API server reaches the webhook (HTTPS)
    #[arg(long, env = "WHICHPOD_WEBHOOK_LISTEN", value_name = "ADDRESS", default_value = "[::]:8443")]
    pub(super) listen: SocketAddr,
    /// Where kubelet and Prometheus reach /ready and /metrics
    #[arg(long, env = "WHICHPOD_WEBHOOK_HEALTH", value_name = "ADDRESS", default_value = "[::]:9902")]
    pub(super) health: SocketAddr,
    /// off, error, warn, info, debug or trace; also by target: info,kube=debug
    #[arg(long, env = "WHICHPOD_WEBHOOK_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    pub(super) log_level: String,

    /// How to reach the API server, outside of a cluster
    #[arg(long, env = "WHICHPOD_WEBHOOK_KUBECONFIG", value_name = "FILE")]
    pub(super) kubeconfig: Option<PathBuf>,
    /// The webhook's own namespace [default: that of the service account]
    #[arg(long, env = "WHICHPOD_WEBHOOK_NAMESPACE", value_name = "NAME")]
    pub(super) namespace: Option<String>,
    /// This replica, in the Lease and in Events [default: the host name, which is the pod's]
    #[arg(long, env = "WHICHPOD_WEBHOOK_IDENTITY", value_name = "NAME")]
    pub(super) identity: Option<String>,
    /// The Service that the API server calls
    #[arg(
        long,
        env = "WHICHPOD_WEBHOOK_SERVICE_NAME",
        value_name = "NAME",
        default_value = "whichpod-webhook"
    )]
    pub(super) service_name: String,
    /// The MutatingWebhookConfiguration that names this webhook; may be given more than once
    #[arg(
        long,
        env = "WHICHPOD_WEBHOOK_CONFIGURATION_NAME",
        value_name = "NAME",
        value_delimiter = ',',
        default_value = "whichpod"
    )]
    pub(super) webhook_configuration: Vec<String>,
    /// The Lease by which replicas agree on who writes
    #[arg(
        long,
        env = "WHICHPOD_WEBHOOK_LEASE_NAME",
        value_name = "NAME",
        default_value = "whichpod-webhook"
    )]
    pub(super) lease_name: String,

    /// The Secret with the certificates that the webhook makes for itself
    #[arg(
        long,
        env = "WHICHPOD_WEBHOOK_SECRET_NAME",
        value_name = "NAME",
        default_value = "whichpod-webhook-certificates"
    )]
    pub(super) secret_name: String,
    /// A further name or address in the certificate, where the webhook is registered by URL; may be given more than once
    #[arg(long, env = "WHICHPOD_WEBHOOK_TLS_SAN", value_name = "NAME", value_delimiter = ',')]
    pub(super) tls_san: Vec<String>,
    /// How long a certificate that the webhook makes is valid
    #[arg(
        long,
        env = "WHICHPOD_WEBHOOK_CERTIFICATE_LIFETIME",
        value_name = "DURATION",
        default_value = "720h"
    )]
    pub(super) certificate_lifetime: SignedDuration,
    /// How long the authority that signs it is valid; at least three times as long
    #[arg(
        long,
        env = "WHICHPOD_WEBHOOK_AUTHORITY_LIFETIME",
        value_name = "DURATION",
        default_value = "8760h"
    )]
    pub(super) authority_lifetime: SignedDuration,
    /// A certificate chain in PEM that somebody else makes; read again when it changes
    #[arg(long, env = "WHICHPOD_WEBHOOK_TLS_CERT", value_name = "FILE")]
    pub(super) tls_cert: Option<PathBuf>,
    /// Its private key in PEM
    #[arg(long, env = "WHICHPOD_WEBHOOK_TLS_KEY", value_name = "FILE")]
    pub(super) tls_key: Option<PathBuf>,

    /// The longest time for one review; less than the timeoutSeconds of the MutatingWebhookConfiguration
    #[arg(long, env = "WHICHPOD_WEBHOOK_REQUEST_TIMEOUT", value_name = "DURATION", default_value = "4s")]
    pub(super) request_timeout: SignedDuration,
    /// How long to go on after SIGTERM before new connections are refused: endpoints lag behind
    #[arg(long, env = "WHICHPOD_WEBHOOK_SHUTDOWN_DELAY", value_name = "DURATION", default_value = "5s")]
    pub(super) shutdown_delay: SignedDuration,
    /// How long reviews that are under way then may take
    #[arg(long, env = "WHICHPOD_WEBHOOK_SHUTDOWN_TIMEOUT", value_name = "DURATION", default_value = "10s")]
    pub(super) shutdown_timeout: SignedDuration,

    /// The sidecar's image
    #[arg(long, env = "WHICHPOD_WEBHOOK_IMAGE", value_name = "IMAGE")]
    pub(super) image: String,
    /// Always, IfNotPresent or Never
    #[arg(
        long,
        env = "WHICHPOD_WEBHOOK_IMAGE_PULL_POLICY",
        value_name = "POLICY",
        default_value = "IfNotPresent"
    )]
    pub(super) image_pull_policy: String,
    /// A Secret for pulling the image, in each workload's namespace; may be given more than once
    #[arg(long, env = "WHICHPOD_WEBHOOK_IMAGE_PULL_SECRET", value_name = "NAME", value_delimiter = ',')]
    pub(super) image_pull_secret: Vec<String>,
    /// The sidecar's CPU request
    #[arg(long, env = "WHICHPOD_WEBHOOK_CPU_REQUEST", value_name = "QUANTITY")]
    pub(super) cpu_request: Option<String>,
    /// The sidecar's CPU limit [default: none, because throttling stalls traffic]
    #[arg(long, env = "WHICHPOD_WEBHOOK_CPU_LIMIT", value_name = "QUANTITY")]
    pub(super) cpu_limit: Option<String>,
    /// The sidecar's memory request
    #[arg(long, env = "WHICHPOD_WEBHOOK_MEMORY_REQUEST", value_name = "QUANTITY")]
    pub(super) memory_request: Option<String>,
    /// The sidecar's memory limit
    #[arg(long, env = "WHICHPOD_WEBHOOK_MEMORY_LIMIT", value_name = "QUANTITY")]
    pub(super) memory_limit: Option<String>,
    /// The sidecar's user, or none to leave it to the cluster [default: 65532]
    #[arg(long, env = "WHICHPOD_WEBHOOK_RUN_AS_USER", value_name = "UID")]
    pub(super) run_as_user: Option<String>,

    /// What to do about a Service without a headless twin
    #[arg(long, env = "WHICHPOD_WEBHOOK_HEADLESS_SERVICES", value_enum, default_value = "create")]
    pub(super) headless_services: HeadlessServices,
    /// Whether API server and kubelets know native sidecars (Kubernetes 1.29)
    #[arg(long, env = "WHICHPOD_WEBHOOK_NATIVE_SIDECAR", value_enum, default_value = "auto")]
    pub(super) native_sidecar: NativeSidecar,
    /// The cluster's domain [default: found out, else cluster.local]
    #[arg(long, env = "WHICHPOD_WEBHOOK_CLUSTER_DOMAIN", value_name = "DOMAIN")]
    pub(super) cluster_domain: Option<String>,
    /// An address of the cluster's DNS [default: found out]; may be given more than once
    #[arg(long, env = "WHICHPOD_WEBHOOK_CLUSTER_DNS", value_name = "IP", value_delimiter = ',')]
    pub(super) cluster_dns: Vec<IpAddr>,
    /// A namespace that never gets sidecars; may be given more than once
    #[arg(long, env = "WHICHPOD_WEBHOOK_PROTECTED_NAMESPACE", value_name = "NAME", value_delimiter = ',')]
    pub(super) protected_namespace: Vec<String>,
    /// A default for an annotation, such as redirect=env or log-format=json; may be given more than once (in the variable:
    /// one a line)
    #[arg(
        long = "default",
        env = "WHICHPOD_WEBHOOK_DEFAULTS",
        value_name = "NAME=VALUE",
        value_delimiter = '\n'
    )]
    pub(super) defaults: Vec<String>,
}

/// What is done about a Service without a headless twin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum HeadlessServices {
    /// Make one
    Create,
    /// Use the virtual IP, with a warning
    Warn,
    /// Refuse the workload
    Deny,
}

/// Whether native sidecars are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum NativeSidecar {
    /// Find out
    Auto,
    /// They work
    True,
    /// They don't
    False,
}
