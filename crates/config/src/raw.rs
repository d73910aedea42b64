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

use crate::error::Problems;
use crate::form::{Form as _, List, Reader as _, Table, overlay_field, read, read_field};
use crate::kinds;
use crate::types::{Balance, Protocol, RetryOn, Target};

form! {
    /// The whole document. `protocol`, `balance`, `timeouts`, `retry`, `limits` and `headers` at the top
    /// hold for every upstream that does not say otherwise.
    pub struct Document {
        /// What the app connects to.
        upstreams: Vec<Upstream> = List(Table),
        /// What the pods speak.
        protocol: Protocol = kinds::PROTOCOL,
        /// How a pod is chosen.
        balance: Balance = kinds::BALANCE,
        /// How long things may take.
        timeouts: Timeouts = Table,
        /// What is tried again.
        retry: Retry = Table,
        /// What a request head may measure.
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
        balance: Balance = kinds::BALANCE,
        /// Path prefixes that are served; empty means everything.
        routes: Vec<Route> = List(Table),
        /// How long things may take.
        timeouts: Timeouts = Table,
        /// What is tried again.
        retry: Retry = Table,
        /// What a request head may measure.
        limits: Limits = Table,
        /// What is added to requests and responses.
        headers: Headers = Table,
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
        /// Without a byte in either direction within a request.
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
        /// More attempts after the first, 0 to 100.
        attempts: u32 = kinds::ATTEMPTS,
    }

    /// What a request head may measure.
    pub struct Limits {
        /// Bytes of a head, 8 KiB to 1 MiB.
        head_bytes: usize = kinds::HEAD_BYTES,
        /// Header fields, 1 to 10,000.
        headers: usize = kinds::HEADERS,
        /// HTTP/2 streams at a time on one client's connection, 1 to 65,536.
        streams: u32 = kinds::STREAMS,
    }

    /// What is added to requests and responses.
    pub struct Headers {
        /// Append the caller's address to `x-forwarded-for`.
        append_x_forwarded_for: bool = kinds::SWITCH,
        /// Add `x-whichpod-upstream` and `x-whichpod-pod` to responses.
        expose_upstream: bool = kinds::SWITCH,
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
            balance: self.balance,
            timeouts: self.timeouts.clone(),
            retry: self.retry.clone(),
            limits: self.limits.clone(),
            headers: self.headers.clone(),
            ..Upstream::default()
        }
    }
}
