//! The document form: what a configuration file or `WHICHPOD_CONFIG` holds, as YAML or JSON.
//!
//! Every field is optional: what is not set here is taken from a weaker source or is the default. Values
//! are typed, so a document that was built here is well formed; [`crate::load`] checks what concerns
//! several values. Serialization writes what is set; deserialization refuses unknown keys and reports
//! every problem at once.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::balance::{self, Policy};
use crate::error::{Problem, Problems};
use crate::form::{self, Form, List, Reader as _, Table, Written, overlay_field, read, read_field};
use crate::kinds;
use crate::types::{Balance, CheckProtocol, Protocol, ProxyProtocol, RetryOn, Target};

form! {
    /// The whole document. `protocol`, `balance`, `timeouts`, `retry`, `limits` and `headers` at the top
    /// hold for every upstream that does not say otherwise.
    pub struct Document {
        /// What the app connects to.
        upstreams: Vec<Upstream> = List(Table),
        /// What the pods speak.
        protocol: Protocol = kinds::PROTOCOL,
        /// How a pod is chosen.
        balance: Balance = balance::Either,
        /// How new pods are warmed up.
        slow_start: SlowStart = Table,
        /// When a pod's failed requests eject it.
        outlier_detection: OutlierDetection = Table,
        /// How pods are checked.
        health_check: HealthCheck = Table,
        /// With fewer than this percentage of pods well, all are used; 0 is never.
        healthy_panic_threshold: u32 = kinds::PERCENT,
        /// How much may be under way.
        circuit_breakers: CircuitBreakers = Table,
        /// How long things may take.
        timeouts: Timeouts = Table,
        /// What is tried again.
        retry: Retry = Table,
        /// What clients may do.
        limits: Limits = Table,
        /// What is added to requests and responses.
        headers: Headers = Table,
        /// How names are resolved.
        dns: Dns = Table,
        /// What is written about each request.
        access_log: AccessLog = Table,
        /// The admin server.
        admin: Admin = Table,
        /// `/ready` and `/metrics`.
        health: Health = Table,
        /// Worker threads, 1 to 64.
        workers: NonZeroUsize = kinds::WORKERS,
        /// How the process ends.
        shutdown: Shutdown = Table,
        /// When new requests are shed.
        memory: Memory = Table,
        /// Filter for diagnostics on stderr, in `tracing`'s directive syntax.
        log_level: String = kinds::LOG_LEVEL,
    }

    /// One address the app connects to, and what is behind it.
    pub struct Upstream {
        /// In the log and the metrics; the target's first label unless given.
        name: String = kinds::NAME,
        /// Where the app connects to; `127.0.0.1` and the target's port unless given. Port 0: the kernel chooses.
        listen: SocketAddr = kinds::ADDRESS,
        /// What is discovered; required.
        target: Target = kinds::TARGET,
        /// Used while the target does not exist.
        fallback: Target = kinds::TARGET,
        /// What the pods speak.
        protocol: Protocol = kinds::PROTOCOL,
        /// How a pod is chosen.
        balance: Balance = balance::Either,
        /// How new pods are warmed up.
        slow_start: SlowStart = Table,
        /// When a pod's failed requests eject it.
        outlier_detection: OutlierDetection = Table,
        /// How pods are checked.
        health_check: HealthCheck = Table,
        /// With fewer than this percentage of pods well, all are used; 0 is never.
        healthy_panic_threshold: u32 = kinds::PERCENT,
        /// How much may be under way.
        circuit_breakers: CircuitBreakers = Table,
        /// Path prefixes that are served; empty means everything.
        routes: Vec<Route> = List(Table),
        /// How long things may take.
        timeouts: Timeouts = Table,
        /// What is tried again.
        retry: Retry = Table,
        /// What clients may do.
        limits: Limits = Table,
        /// What is added to requests and responses.
        headers: Headers = Table,
        /// TLS towards the pods; `{}` is TLS with its defaults.
        tls: Tls = Table,
        /// How the pods are told who the client is, below HTTP.
        proxy_protocol: ProxyProtocol = kinds::PROXY_PROTOCOL,
        /// Resolved at the first connection only.
        lazy: bool = kinds::SWITCH,
    }

    /// A path prefix that is served.
    pub struct Route {
        /// Starts with `/`; required.
        prefix: String = kinds::PREFIX,
        /// In the log.
        name: String = kinds::NAME,
    }

    /// How long things may take; zero means no limit, except for `connect` and `upstream_idle`.
    pub struct Timeouts {
        /// For one TCP connect; cannot be zero.
        connect: Duration = kinds::POSITIVE_DURATION,
        /// From the end of the request to the end of the response.
        request: Duration = kinds::DURATION,
        /// Without a byte in either direction within a request, a tunnel or a TCP connection.
        idle: Duration = kinds::DURATION,
        /// For a request head, from its first byte.
        head: Duration = kinds::DURATION,
        /// A client's connection between requests.
        downstream_idle: Duration = kinds::DURATION,
        /// A pod's connection between requests; cannot be zero.
        upstream_idle: Duration = kinds::POSITIVE_DURATION,
    }

    /// What is tried again.
    pub struct Retry {
        /// The conditions, in Envoy's words.
        on: Vec<RetryOn> = List(kinds::RETRY_ON),
        /// The codes of `retriable-status-codes`.
        status_codes: Vec<u16> = List(kinds::STATUS),
        /// The headers of `retriable-headers`.
        headers: Vec<String> = List(kinds::HEADER_NAME),
        /// More attempts after the first, 0 to 100.
        attempts: u32 = kinds::ATTEMPTS,
        /// For one attempt; zero is off.
        per_try_timeout: Duration = kinds::DURATION,
        /// POST, PATCH and unknown methods are tried again too, on the conditions of `on`.
        non_idempotent: bool = kinds::SWITCH,
        /// Bytes of a request's body that are kept to be sent again, up to 16 MiB; 0 keeps none.
        buffer_bytes: usize = kinds::BUFFER_BYTES,
        /// How many retries may be under way.
        budget: Budget = Table,
        /// How long the pause before a retry is.
        back_off: BackOff = Table,
    }

    /// How many retries may be under way: the greater of the two.
    pub struct Budget {
        /// Of the requests under way.
        percent: u32 = kinds::PERCENT,
        /// At least so many.
        min_concurrency: u32 = kinds::COUNT,
    }

    /// How long the pause before a retry is.
    pub struct BackOff {
        /// The first; the next is twice as long, and so on.
        base: Duration = kinds::POSITIVE_DURATION,
        /// None is longer.
        max: Duration = kinds::POSITIVE_DURATION,
    }

    /// A policy with what it needs.
    pub struct Balancing {
        /// Required.
        policy: Policy = balance::POLICY,
        /// For `maglev`, and required there.
        hash: HashOn = Table,
    }

    /// What of a request is hashed: one of these.
    pub struct HashOn {
        /// The value of this header.
        header: String = kinds::HEADER_NAME,
        /// The value of this cookie.
        cookie: String = balance::COOKIE_NAME,
        /// The caller's address.
        source_address: bool = kinds::SWITCH,
    }

    /// How new pods are warmed up.
    pub struct SlowStart {
        /// For how long; zero is off.
        window: Duration = kinds::DURATION,
        /// How soon the share grows, 0.01 to 100.
        aggression: f64 = kinds::AGGRESSION,
        /// The least share of its turns that a pod takes.
        min_weight_percent: u32 = kinds::PERCENT,
    }

    /// When a pod's failed requests eject it; a threshold of zero is off.
    pub struct OutlierDetection {
        /// So many requests in a row got 500 or more, or no response.
        consecutive_5xx: u32 = kinds::COUNT,
        /// So many requests in a row got 502, 503 or 504, or no response.
        consecutive_gateway_failure: u32 = kinds::COUNT,
        /// So many requests in a row took longer than `slow`.
        consecutive_slow: u32 = kinds::COUNT,
        /// See `consecutive_slow`.
        slow: Duration = kinds::POSITIVE_DURATION,
        /// The first ejection's time; the next in a row lasts twice, three times as long.
        base_ejection_time: Duration = kinds::POSITIVE_DURATION,
        /// No ejection lasts longer.
        max_ejection_time: Duration = kinds::POSITIVE_DURATION,
        /// Never more than this part of the pods is ejected.
        max_ejection_percent: u32 = kinds::PERCENT,
        /// A pod that was not ejected for this long is forgiven one ejection.
        interval: Duration = kinds::POSITIVE_DURATION,
    }

    /// How pods are checked.
    pub struct HealthCheck {
        /// Required.
        protocol: CheckProtocol = kinds::CHECK_PROTOCOL,
        /// For `http`, and required there.
        path: String = kinds::PREFIX,
        /// For `http`: the `host` header.
        host: String = kinds::HEADER_VALUE,
        /// For `http`.
        expected_statuses: Vec<u16> = List(kinds::STATUS),
        /// For `grpc`; the server as a whole unless given.
        service: String = kinds::NAME,
        /// Instead of the pod's own port.
        port: u16 = kinds::PORT,
        /// From the end of a check to the next.
        interval: Duration = kinds::CHECK_INTERVAL,
        /// For a whole check.
        timeout: Duration = kinds::POSITIVE_DURATION,
        /// A pod is out after so many failures in a row.
        unhealthy_threshold: u32 = kinds::POSITIVE_COUNT,
        /// A pod is back after so many successes in a row.
        healthy_threshold: u32 = kinds::POSITIVE_COUNT,
        /// The interval varies by up to this percentage.
        jitter_percent: u32 = kinds::PERCENT,
    }

    /// How much may be under way for one upstream, in Envoy's words; no limit unless given.
    pub struct CircuitBreakers {
        /// Connections to pods.
        max_connections: u32 = kinds::POSITIVE_COUNT,
        /// Requests that wait for a connection.
        max_pending_requests: u32 = kinds::COUNT,
        /// Requests under way.
        max_requests: u32 = kinds::POSITIVE_COUNT,
        /// Retries under way.
        max_retries: u32 = kinds::COUNT,
    }

    /// When new requests are shed.
    pub struct Memory {
        /// Bytes, instead of the cgroup's limit.
        limit: u64 = kinds::MEMORY,
        /// The share of the limit; 0 is never.
        shed_at_percent: u32 = kinds::PERCENT,
    }

    /// What clients may do.
    pub struct Limits {
        /// Bytes of a head, 8 KiB to 1 MiB.
        head_bytes: usize = kinds::HEAD_BYTES,
        /// Header fields, 1 to 10,000.
        headers: usize = kinds::HEADERS,
        /// HTTP/2 streams at a time on one client's connection, 1 to 65,536.
        streams: u32 = kinds::STREAMS,
        /// Clients' connections; no limit unless given.
        connections: u32 = kinds::POSITIVE_COUNT,
    }

    /// What is added to requests and responses.
    pub struct Headers {
        /// Append the caller's address to `x-forwarded-for`.
        append_x_forwarded_for: bool = kinds::SWITCH,
        /// Add `x-whichpod-upstream` and `x-whichpod-pod` to responses.
        expose_upstream: bool = kinds::SWITCH,
    }

    /// TLS towards the pods.
    pub struct Tls {
        /// SNI, and the name that the certificate must have; the target's host unless given.
        server_name: String = kinds::SERVER_NAME,
        /// Authorities that are trusted (PEM); the system's unless given.
        ca_file: PathBuf = kinds::PATH,
        /// Our own certificate (PEM); goes with `key_file`.
        cert_file: PathBuf = kinds::PATH,
        /// Its private key (PEM).
        key_file: PathBuf = kinds::PATH,
        /// Protocols that are offered, the favourite first.
        alpn: Vec<String> = List(kinds::ALPN),
        /// Trusts whoever answers; for tests.
        insecure_skip_verify: bool = kinds::SWITCH,
    }

    /// How names are resolved.
    pub struct Dns {
        /// Asked instead of resolv.conf's; written `IP` or `IP:PORT`.
        servers: Vec<SocketAddr> = List(kinds::DNS_SERVER),
        /// Where nameservers and the search list come from.
        resolv_conf: PathBuf = kinds::PATH,
        /// Instead of the one told by the search list.
        cluster_domain: String = kinds::DOMAIN,
        /// Instead of the one told by the search list.
        namespace: String = kinds::NAMESPACE,
        /// Least time between two refreshes; 10 ms or more, at most `refresh_cap`.
        refresh_floor: Duration = kinds::REFRESH,
        /// Most time between two refreshes.
        refresh_cap: Duration = kinds::REFRESH,
        /// How long an empty answer must last before the set is empty.
        hold_empty: Duration = kinds::DURATION,
        /// Accept loopback answers; for tests and demos.
        allow_loopback: bool = kinds::SWITCH,
    }

    /// What is written about each request.
    pub struct AccessLog {
        /// A preset or an Envoy format string.
        format: String = kinds::FORMAT,
        /// `/dev/stdout`, `/dev/stderr`, a file, or `off`.
        path: PathBuf = kinds::PATH,
        /// Which lines are written.
        filter: LogFilter = Table,
    }

    /// Which lines are written; all conditions that are set must hold.
    pub struct LogFilter {
        /// Status at least this.
        min_status: u16 = kinds::STATUS,
        /// Duration at least this.
        min_duration: Duration = kinds::DURATION,
        /// Any of these response flags; `*` is any flag at all.
        flags: Vec<String> = List(kinds::RESPONSE_FLAG),
        /// A request header.
        header: HeaderMatch = Table,
        /// This share of the lines, 0.0 to 1.0.
        sample: f64 = kinds::SAMPLE,
    }

    /// A header that is present, or has this exact value.
    pub struct HeaderMatch {
        /// Required.
        name: String = kinds::HEADER_NAME,
        /// Not set: present.
        value: String = kinds::HEADER_VALUE,
    }

    /// The admin server.
    pub struct Admin {
        /// Loopback only. Port 0: the kernel chooses.
        address: SocketAddr = kinds::ADMIN_ADDRESS,
    }

    /// `/ready` and `/metrics`.
    pub struct Health {
        /// Port 0: the kernel chooses.
        address: SocketAddr = kinds::ADDRESS,
    }

    /// How the process ends.
    pub struct Shutdown {
        /// The pod's `terminationGracePeriodSeconds`.
        grace_period: Duration = kinds::DURATION,
        /// A native sidecar gets SIGTERM after the app's end.
        native_sidecar: bool = kinds::SWITCH,
    }
}

impl Document {
    /// What holds for every upstream, as an upstream.
    pub(crate) fn for_every_upstream(&self) -> Upstream {
        Upstream {
            protocol: self.protocol,
            balance: self.balance.clone(),
            slow_start: self.slow_start.clone(),
            outlier_detection: self.outlier_detection.clone(),
            health_check: self.health_check.clone(),
            healthy_panic_threshold: self.healthy_panic_threshold,
            circuit_breakers: self.circuit_breakers.clone(),
            timeouts: self.timeouts.clone(),
            retry: self.retry.clone(),
            limits: self.limits.clone(),
            headers: self.headers.clone(),
            ..Upstream::default()
        }
    }
}

impl Upstream {
    /// Reads a mapping, in YAML or JSON, of whatever names to what is said about each.
    ///
    /// # Errors
    /// Every problem, at a path that begins with the name.
    pub fn read_each(text: &str) -> Result<Vec<(String, Self)>, Vec<Problem>> {
        let mut problems = Problems::default();
        let each = form::read_each(text, &mut problems);
        problems.none_or(each)
    }
}
