//! The checked configuration: what the sidecar runs with.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Everything the sidecar needs to start.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// At least one; no two listen on one address.
    pub upstreams: Vec<Upstream>,
    /// How names are resolved.
    pub dns: Dns,
    /// What is written about each request.
    pub access_log: AccessLog,
    /// The admin server; loopback only.
    pub admin: SocketAddr,
    /// `/ready` and `/metrics`.
    pub health: SocketAddr,
    /// Worker threads; `None` takes the cgroup's CPU limit, at most 2.
    pub workers: Option<NonZeroUsize>,
    /// How the process ends.
    pub shutdown: Shutdown,
    /// When new requests are shed.
    pub memory: Memory,
    /// Filter for diagnostics on stderr, in `tracing`'s directive syntax.
    pub log_level: String,
}

/// One address the app connects to, and what is behind it.
#[derive(Debug, Clone, PartialEq)]
pub struct Upstream {
    /// In the log and the metrics.
    pub name: Arc<str>,
    /// Where the app connects to.
    pub listen: SocketAddr,
    /// What is discovered.
    pub target: Target,
    /// Used while the target does not exist: the Service's own name (a virtual IP).
    pub fallback: Option<Target>,
    /// What the pods speak.
    pub protocol: Protocol,
    /// How a pod is chosen.
    pub balance: Balance,
    /// How new pods are warmed up; `None`: they get their whole share at once.
    pub slow_start: Option<SlowStart>,
    /// When a pod's failed requests eject it; `None`: never. (A failed connect always puts a pod aside.)
    pub outlier_detection: Option<OutlierDetection>,
    /// How pods are checked; `None`: not at all.
    pub health_check: Option<HealthCheck>,
    /// With fewer than this percentage of pods well, all are used whatever their health (default 50; 0: never).
    pub healthy_panic_threshold: u32,
    /// How much may be under way.
    pub circuit_breakers: CircuitBreakers,
    /// Path prefixes that are served; empty means everything.
    pub routes: Vec<Route>,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// What is tried again.
    pub retry: Retry,
    /// What clients may do.
    pub limits: Limits,
    /// What is added to requests and responses.
    pub headers: Headers,
    /// TLS towards the pods; `None`: clear text.
    pub tls: Option<Tls>,
    /// How the pods are told who the client is; `None`: not below HTTP.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Resolved at the first connection only, and not waited for by `/ready` (upstreams of `"*"`).
    pub lazy: bool,
}

/// A name (or address) and port to discover.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// A DNS name as the user wrote it, or a literal address.
    pub host: Host,
    /// A number is asked as A/AAAA, a name as SRV (RFC 2782).
    pub port: TargetPort,
}

/// A DNS name or a literal address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// Lower case, without a trailing dot unless the user wrote one (then it is absolute).
    Name(String),
    /// Needs no discovery.
    Ip(IpAddr),
}

/// The port of a [`Target`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetPort {
    /// Asked as A/AAAA.
    Number(u16),
    /// Asked as SRV `_name._tcp.host`.
    Name(String),
}

/// What the pods speak. The app may speak HTTP/1 or HTTP/2 to any of them: its first bytes tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// What the app speaks, decided by its first bytes; when it stays silent for 250 ms, a pod is connected to, and
    /// whoever speaks first decides.
    #[default]
    Auto,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 in clear text, with prior knowledge.
    H2c,
    /// gRPC: HTTP/2 in clear text.
    Grpc,
    /// Bytes, whatever they mean: one pod a connection.
    Tcp,
}

/// TLS towards the pods. Files are read by whoever runs with this, and read again when they change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// SNI, and the name that the certificate must have (default: the target's host).
    pub server_name: String,
    /// Authorities that are trusted (PEM); `None`: the system's.
    pub ca_file: Option<PathBuf>,
    /// Our own certificate and its private key (PEM).
    pub client_certificate: Option<ClientCertificate>,
    /// Protocols that are offered, the favourite first (default: `http/1.1` in protocol http1, `h2` in h2c and grpc, else none).
    pub alpn: Vec<String>,
    /// Trusts whoever answers.
    pub insecure_skip_verify: bool,
}

/// A certificate and its private key, as PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The chain, our own certificate first.
    pub cert_file: PathBuf,
    /// The private key.
    pub key_file: PathBuf,
}

/// A version of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// How a pod is chosen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Balance {
    /// In turn, exact over all workers.
    #[default]
    RoundRobin,
    /// The one of two random pods with fewer requests under way.
    LeastRequest,
    /// The one of two random pods that is expected to answer sooner (peak EWMA of its latency).
    Ewma,
    /// Any of them.
    Random,
    /// The same pod for the same key; any of them for a request without one.
    Maglev(HashOn),
}

/// What of a request is hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashOn {
    /// The value of this header (lower case).
    Header(String),
    /// The value of this cookie.
    Cookie(String),
    /// The caller's address, without its port.
    SourceAddress,
}

/// How new pods are warmed up, as Envoy's slow start does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SlowStart {
    /// For how long (default 30 s).
    pub window: Duration,
    /// How soon the share grows: 1 (the default) is in step with time, more is sooner.
    pub aggression: f64,
    /// The least share of its turns that a pod takes (default 10).
    pub min_weight_percent: u32,
}

/// When a pod's failed requests eject it, as in Envoy's outlier detection; a threshold of zero is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutlierDetection {
    /// So many requests in a row got 500 or more, or no response (default 5).
    pub consecutive_5xx: u32,
    /// So many requests in a row got 502, 503 or 504, or no response (default 0: off).
    pub consecutive_gateway_failure: u32,
    /// So many requests in a row took longer than `slow` (default 0: off).
    pub consecutive_slow: u32,
    /// See `consecutive_slow` (default 1 s).
    pub slow: Duration,
    /// The first ejection's time; the next in a row lasts twice, three times as long (default 30 s).
    pub base_ejection_time: Duration,
    /// No ejection lasts longer (default 5 min).
    pub max_ejection_time: Duration,
    /// Never more than this part of the pods is ejected (default 50).
    pub max_ejection_percent: u32,
    /// A pod that was not ejected for this long is forgiven one ejection (default 10 s).
    pub interval: Duration,
}

/// How pods are checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is asked.
    pub kind: CheckKind,
    /// Instead of the pod's own port.
    pub port: Option<u16>,
    /// From the end of a check to the next (default 10 s).
    pub interval: Duration,
    /// For a whole check (default 1 s).
    pub timeout: Duration,
    /// A pod is out after so many failures in a row (default 3).
    pub unhealthy_threshold: u32,
    /// A pod is back after so many successes in a row (default 2).
    pub healthy_threshold: u32,
    /// The interval varies by up to this percentage (default 10).
    pub jitter_percent: u32,
}

impl HealthCheck {
    /// The default of `interval`.
    pub const INTERVAL: Duration = Duration::from_secs(10);
    /// The default of `timeout`.
    pub const TIMEOUT: Duration = Duration::from_secs(1);
    /// The default of `unhealthy_threshold`.
    pub const UNHEALTHY_THRESHOLD: u32 = 3;
    /// The default of `healthy_threshold`.
    pub const HEALTHY_THRESHOLD: u32 = 2;
    /// The default of `jitter_percent`.
    pub const JITTER_PERCENT: u32 = 10;
}

/// What a check asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckKind {
    /// `GET` over HTTP/1.1.
    Http {
        /// Starts with `/`.
        path: String,
        /// The `host` header; the target's name unless given.
        host: Option<String>,
        /// A status of these passes (default 200).
        expected_statuses: Vec<u16>,
    },
    /// A connect.
    Tcp,
    /// `grpc.health.v1.Health/Check` over clear-text HTTP/2.
    Grpc {
        /// Empty: the server as a whole.
        service: String,
    },
}

impl CheckKind {
    /// Over what it goes.
    #[must_use]
    pub const fn protocol(&self) -> CheckProtocol {
        match self {
            Self::Http { .. } => CheckProtocol::Http,
            Self::Tcp => CheckProtocol::Tcp,
            Self::Grpc { .. } => CheckProtocol::Grpc,
        }
    }
}

/// What a check goes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckProtocol {
    /// `http`
    Http,
    /// `tcp`
    Tcp,
    /// `grpc`
    Grpc,
}

/// How much may be under way for one upstream, over all workers; `None`: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CircuitBreakers {
    /// Connections to pods, in use or idle.
    pub max_connections: Option<u32>,
    /// Requests that wait for a connection because there may be no more.
    pub max_pending_requests: Option<u32>,
    /// Requests under way.
    pub max_requests: Option<u32>,
    /// Retries under way, beside the budget.
    pub max_retries: Option<u32>,
}

/// When new requests are shed because memory runs short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Bytes; `None`: the cgroup's limit, if it has one.
    pub limit: Option<u64>,
    /// The share of the limit from which on new requests get 503 (default 90; 0: never); sooner where that leaves less than
    /// 12 MiB.
    pub shed_at_percent: u32,
}

/// A path prefix that is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Starts with `/`; compared to the path byte for byte, as Envoy's `prefix` does.
    pub prefix: String,
    /// In the log as `%ROUTE_NAME%`; empty if none was given.
    pub name: String,
}

/// How long things may take; a zero duration in the document means "no limit" and is `None` here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For one TCP connect (default 1 s; cannot be off).
    pub connect: Duration,
    /// From the end of the request to the end of the response (default off).
    pub request: Option<Duration>,
    /// Without a byte in either direction within a request, a tunnel or a TCP connection (default off).
    pub idle: Option<Duration>,
    /// For a request head, from its first byte (default 10 s).
    pub head: Option<Duration>,
    /// A client's connection between requests (default 1 h).
    pub downstream_idle: Option<Duration>,
    /// A pod's connection between requests (default 4 s; the pod's `Keep-Alive: timeout` less 1 s wins).
    pub upstream_idle: Duration,
}

/// What is tried again, beyond fail-over of connects, which always happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// The conditions (default `connect-failure`, `refused-stream`).
    pub on: Vec<RetryOn>,
    /// The codes of `retriable-status-codes`.
    pub status_codes: Vec<u16>,
    /// The headers of `retriable-headers`: a response that has one of them is not good enough.
    pub headers: Vec<String>,
    /// More attempts after the first (default 2).
    pub attempts: u32,
    /// For one attempt, from the whole request to the response's head (default off).
    pub per_try_timeout: Option<Duration>,
    /// POST, PATCH and unknown methods are tried again too, on the conditions of `on` (default false).
    pub non_idempotent: bool,
    /// Bytes of a request's body that are kept to be sent again (default 64 KiB); a longer body is sent once.
    pub buffer_bytes: usize,
    /// Retries under way may be this percentage of the requests under way (default 20) ...
    pub budget_percent: u32,
    /// ... or so many, if that is more (default 10).
    pub min_concurrency: u32,
    /// The first pause is up to this long, the next up to twice as long, and so on (default 25 ms) ...
    pub back_off_base: Duration,
    /// ... but not longer than this (default 250 ms).
    pub back_off_max: Duration,
}

/// A condition, in Envoy's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryOn {
    /// `connect-failure`
    ConnectFailure,
    /// `refused-stream`
    RefusedStream,
    /// `reset`: no response at all
    Reset,
    /// `5xx`: any 5xx, or no response at all
    ServerError,
    /// `gateway-error`: 502, 503, 504
    GatewayError,
    /// `retriable-4xx`: 409
    Retriable4xx,
    /// `retriable-status-codes`
    StatusCodes,
    /// `retriable-headers`
    Headers,
    /// `cancelled`: gRPC status 1
    GrpcCancelled,
    /// `deadline-exceeded`: gRPC status 4
    GrpcDeadlineExceeded,
    /// `resource-exhausted`: gRPC status 8
    GrpcResourceExhausted,
    /// `internal`: gRPC status 13
    GrpcInternal,
    /// `unavailable`: gRPC status 14
    GrpcUnavailable,
}

/// What clients may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a head (default 60 KiB; at least 8 KiB).
    pub head_bytes: usize,
    /// Header fields (default 100).
    pub headers: usize,
    /// HTTP/2 streams at a time on one client's connection (default 1,024).
    pub streams: u32,
    /// Clients' connections to this upstream; further ones are closed at once. `None`: no limit.
    pub connections: Option<u32>,
}

/// What is added to requests and responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Headers {
    /// Append the caller's address to `x-forwarded-for`.
    pub append_x_forwarded_for: bool,
    /// Add `x-whichpod-upstream` and `x-whichpod-pod` to responses.
    pub expose_upstream: bool,
}

/// How names are resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct Dns {
    /// Asked instead of resolv.conf's; port 53 unless given.
    pub servers: Vec<SocketAddr>,
    /// Where nameservers and the search list come from (default `/etc/resolv.conf`).
    pub resolv_conf: PathBuf,
    /// Instead of the one told by the search list, e.g. `cluster.local`.
    pub cluster_domain: Option<String>,
    /// Instead of the one told by the search list.
    pub namespace: Option<String>,
    /// Least time between two refreshes (default 1 s).
    pub refresh_floor: Duration,
    /// Most time between two refreshes (default 30 s).
    pub refresh_cap: Duration,
    /// How long an empty answer must last before the set is empty (default 5 s).
    pub hold_empty: Duration,
    /// Accept loopback answers; for tests and demos.
    pub allow_loopback: bool,
}

/// What is written about each request.
#[derive(Debug, Clone, PartialEq)]
pub struct AccessLog {
    /// A preset or an Envoy format string.
    pub format: String,
    /// `/dev/stdout`, `/dev/stderr`, a file, or `None` for no log (`off`).
    pub path: Option<PathBuf>,
    /// Which lines are written; all conditions must hold.
    pub filter: LogFilter,
}

/// Which lines are written; all conditions that are set must hold.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LogFilter {
    /// Status at least this.
    pub min_status: Option<u16>,
    /// Duration at least this.
    pub min_duration: Option<Duration>,
    /// Any of these response flags; `*` is any flag at all.
    pub flags: Vec<String>,
    /// A request header that is present, or has this exact value.
    pub header: Option<HeaderMatch>,
    /// This share of the lines, 0.0 to 1.0.
    pub sample: Option<f64>,
}

/// A header that is present, or has this exact value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderMatch {
    /// Lower case.
    pub name: String,
    /// `None`: present.
    pub value: Option<String>,
}

/// How the process ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shutdown {
    /// The pod's `terminationGracePeriodSeconds` (default 30 s).
    pub grace_period: Duration,
    /// A native sidecar gets SIGTERM after the app's end and leaves as soon as no request runs.
    pub native_sidecar: bool,
}
