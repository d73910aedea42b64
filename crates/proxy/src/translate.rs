//! The configuration's words as the library's that finds and chooses pods.

use std::sync::Arc;

use whichpod_config as from;
use whichpod_upstream as to;

/// What is discovered, and how a pod is chosen.
#[must_use]
pub fn settings(upstream: &from::Upstream) -> to::Settings {
    to::Settings {
        name: Arc::clone(&upstream.name),
        target: target(&upstream.target),
        fallback: upstream.fallback.as_ref().map(target),
        balance: match upstream.balance {
            from::Balance::RoundRobin => to::Balance::RoundRobin,
            from::Balance::LeastRequest => to::Balance::LeastRequest,
            from::Balance::Ewma => to::Balance::Ewma,
            from::Balance::Random => to::Balance::Random,
            from::Balance::Maglev(_) => to::Balance::Maglev,
        },
        slow_start: upstream.slow_start.as_ref().map(|rule| to::SlowStart {
            window: rule.window,
            aggression: rule.aggression,
            min_weight: f64::from(rule.min_weight_percent) / 100.0,
        }),
        health: to::Health {
            outlier: upstream.outlier_detection.as_ref().map(outlier_rules),
            checked: upstream.health_check.is_some(),
            panic_threshold: upstream.healthy_panic_threshold,
        },
        lazy: upstream.lazy,
    }
}

fn target(target: &from::Target) -> to::Target {
    to::Target {
        host: match &target.host {
            from::Host::Name(name) => to::Host::Name(name.clone()),
            from::Host::Ip(ip) => to::Host::Ip(*ip),
        },
        port: match &target.port {
            from::TargetPort::Number(port) => to::TargetPort::Number(*port),
            from::TargetPort::Name(name) => to::TargetPort::Name(name.clone()),
        },
    }
}

fn outlier_rules(rules: &from::OutlierDetection) -> to::OutlierRules {
    to::OutlierRules {
        consecutive_5xx: rules.consecutive_5xx,
        consecutive_gateway_failure: rules.consecutive_gateway_failure,
        consecutive_slow: rules.consecutive_slow,
        slow: rules.slow,
        base_ejection_time: rules.base_ejection_time,
        max_ejection_time: rules.max_ejection_time,
        max_ejection_percent: rules.max_ejection_percent,
        interval: rules.interval,
    }
}
