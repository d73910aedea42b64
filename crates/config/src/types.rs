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
    /// Path prefixes that are served; empty means everything.
    pub routes: Vec<Route>,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// What is tried again.
    pub retry: Retry,
    /// What a request head may measure.
    pub limits: Limits,
    /// What is added to requests and responses.
    pub headers: Headers,
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
    /// What the app speaks, which is decided by its first bytes.
    #[default]
    Auto,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 in clear text, with prior knowledge.
    H2c,
    /// gRPC: HTTP/2 in clear text.
    Grpc,
}

/// How a pod is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Balance {
    /// In turn, exact over all workers.
    #[default]
    RoundRobin,
    /// The one of two random pods with fewer requests under way.
    LeastRequest,
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
    /// Without a byte in either direction within a request (default off).
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
    /// More attempts after the first (default 2).
    pub attempts: u32,
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

/// What a request head may measure, and how many requests a client's connection may carry at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a head (default 60 KiB; at least 8 KiB).
    pub head_bytes: usize,
    /// Header fields (default 100).
    pub headers: usize,
    /// HTTP/2 streams at a time on one client's connection (default 1,024).
    pub streams: u32,
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
