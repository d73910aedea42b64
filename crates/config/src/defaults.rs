//! What holds where nobody says anything.

use std::path::PathBuf;
use std::time::Duration;

use crate::names;
use crate::types::{
    AccessLog, Dns, Limits, LogFilter, Memory, OutlierDetection, Retry, RetryOn, Shutdown, SlowStart,
    Timeouts,
};

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(1),
            request: None,
            idle: None,
            head: Some(Duration::from_secs(10)),
            downstream_idle: Some(Duration::from_secs(60 * 60)),
            // Below the 5 s after which common servers (Node, gunicorn, Apache) close.
            upstream_idle: Duration::from_secs(4),
        }
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            on: vec![RetryOn::ConnectFailure, RetryOn::RefusedStream],
            status_codes: Vec::new(),
            headers: Vec::new(),
            attempts: 2,
            per_try_timeout: None,
            non_idempotent: false,
            buffer_bytes: 64 * 1024,
            budget_percent: 20,
            // Several pods may end at the same moment, and a few callers try again at once; linkerd admits as many a second.
            min_concurrency: 10,
            // Envoy's.
            back_off_base: Duration::from_millis(25),
            back_off_max: Duration::from_millis(250),
        }
    }
}

impl Default for SlowStart {
    fn default() -> Self {
        Self { window: Duration::from_secs(30), aggression: 1.0, min_weight_percent: 10 }
    }
}

impl Default for OutlierDetection {
    fn default() -> Self {
        Self {
            consecutive_5xx: 5,
            consecutive_gateway_failure: 0,
            consecutive_slow: 0,
            slow: Duration::from_secs(1),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_time: Duration::from_secs(5 * 60),
            max_ejection_percent: 50,
            interval: Duration::from_secs(10),
        }
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self { limit: None, shed_at_percent: 90 }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { head_bytes: 60 * 1024, headers: 100, streams: 1024, connections: None }
    }
}

impl Default for Dns {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            resolv_conf: PathBuf::from(names::DEFAULT_RESOLV_CONF),
            cluster_domain: None,
            namespace: None,
            refresh_floor: Duration::from_secs(1),
            refresh_cap: Duration::from_secs(30),
            hold_empty: Duration::from_secs(5),
            allow_loopback: false,
        }
    }
}

impl Default for AccessLog {
    fn default() -> Self {
        Self {
            format: names::DEFAULT_LOG_FORMAT.to_owned(),
            path: Some(PathBuf::from(names::DEFAULT_ACCESS_LOG)),
            filter: LogFilter::default(),
        }
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { grace_period: names::DEFAULT_GRACE_PERIOD, native_sidecar: false }
    }
}
