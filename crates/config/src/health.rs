//! Which pods are left alone and how new ones are warmed up: from the document's form to what runs, and back.

use std::time::Duration;

use serde_json::Value;

use crate::error::{Fault, Problems};
use crate::kinds::print_duration;
use crate::raw;
use crate::resolve::unless_zero;
use crate::types::{Balance, CheckKind, CheckProtocol, HealthCheck, OutlierDetection, SlowStart, Upstream};

pub(crate) fn resolve_slow_start(
    path: &str,
    form: Option<raw::SlowStart>,
    balance: &Balance,
    problems: &mut Problems,
) -> Option<SlowStart> {
    let form = form?;
    let default = SlowStart::default();
    let window = form.window.map_or(Some(default.window), unless_zero)?;
    if matches!(balance, Balance::Maglev(_)) {
        let fault = Fault::new(
            "maglev sends each key to its pod at once",
            "remove slow_start, or choose another balance",
        );
        problems.about(path, &Value::from(print_duration(window)), fault);
    }
    Some(SlowStart {
        window,
        aggression: form.aggression.unwrap_or(default.aggression),
        min_weight_percent: form.min_weight_percent.unwrap_or(default.min_weight_percent),
    })
}

/// Ejection is on where the table is there, and has a threshold that is not zero.
pub(crate) fn resolve_outlier_detection(form: Option<raw::OutlierDetection>) -> Option<OutlierDetection> {
    let form = form?;
    let default = OutlierDetection::default();
    let rules = OutlierDetection {
        consecutive_5xx: form.consecutive_5xx.unwrap_or(default.consecutive_5xx),
        consecutive_gateway_failure: form
            .consecutive_gateway_failure
            .unwrap_or(default.consecutive_gateway_failure),
        consecutive_slow: form.consecutive_slow.unwrap_or(default.consecutive_slow),
        slow: form.slow.unwrap_or(default.slow),
        base_ejection_time: form.base_ejection_time.unwrap_or(default.base_ejection_time),
        max_ejection_time: form.max_ejection_time.unwrap_or(default.max_ejection_time),
        max_ejection_percent: form.max_ejection_percent.unwrap_or(default.max_ejection_percent),
        interval: form.interval.unwrap_or(default.interval),
    };
    let thresholds = [rules.consecutive_5xx, rules.consecutive_gateway_failure, rules.consecutive_slow];
    thresholds.iter().any(|threshold| *threshold > 0).then_some(rules)
}

/// The errors' path is that of the table.
pub(crate) fn resolve_health_check(
    path: &str,
    form: Option<raw::HealthCheck>,
    problems: &mut Problems,
) -> Option<HealthCheck> {
    let form = form?;
    let Some(protocol) = form.protocol else {
        if !problems.under(path) {
            problems.at(format!("{path}.protocol"), Fault::new("missing", "write http, tcp or grpc"));
        }
        return None;
    };
    let of_another: [(&str, bool, CheckProtocol); 4] = [
        ("path", form.path.is_some(), CheckProtocol::Http),
        ("host", form.host.is_some(), CheckProtocol::Http),
        ("expected_statuses", form.expected_statuses.is_some(), CheckProtocol::Http),
        ("service", form.service.is_some(), CheckProtocol::Grpc),
    ];
    for (key, _, of) in of_another.into_iter().filter(|(_, given, of)| *given && *of != protocol) {
        let fault =
            Fault::new(format!("only for checks over {of}"), format!("remove it, or write protocol: {of}"));
        problems.at(format!("{path}.{key}"), fault);
    }
    let kind = match (protocol, form.path) {
        (CheckProtocol::Http, Some(path)) => CheckKind::Http {
            path,
            host: form.host,
            expected_statuses: form
                .expected_statuses
                .filter(|all| !all.is_empty())
                .unwrap_or_else(|| vec![200]),
        },
        (CheckProtocol::Http, None) => {
            let at = format!("{path}.path");
            if !problems.under(&at) {
                problems.at(at, Fault::new("missing", "write path: /PATH, e.g. /healthz"));
            }
            return None;
        }
        (CheckProtocol::Tcp, _) => CheckKind::Tcp,
        (CheckProtocol::Grpc, _) => CheckKind::Grpc { service: form.service.unwrap_or_default() },
    };
    Some(HealthCheck {
        kind,
        port: form.port,
        interval: form.interval.unwrap_or(HealthCheck::INTERVAL),
        timeout: form.timeout.unwrap_or(HealthCheck::TIMEOUT),
        unhealthy_threshold: form.unhealthy_threshold.unwrap_or(HealthCheck::UNHEALTHY_THRESHOLD),
        healthy_threshold: form.healthy_threshold.unwrap_or(HealthCheck::HEALTHY_THRESHOLD),
        jitter_percent: form.jitter_percent.unwrap_or(HealthCheck::JITTER_PERCENT),
    })
}

pub(crate) fn write_slow_start(rule: &SlowStart) -> raw::SlowStart {
    raw::SlowStart {
        window: Some(rule.window),
        aggression: Some(rule.aggression),
        min_weight_percent: Some(rule.min_weight_percent),
    }
}

pub(crate) fn write_outlier_detection(rules: &OutlierDetection) -> raw::OutlierDetection {
    raw::OutlierDetection {
        consecutive_5xx: Some(rules.consecutive_5xx),
        consecutive_gateway_failure: Some(rules.consecutive_gateway_failure),
        consecutive_slow: Some(rules.consecutive_slow),
        slow: Some(rules.slow),
        base_ejection_time: Some(rules.base_ejection_time),
        max_ejection_time: Some(rules.max_ejection_time),
        max_ejection_percent: Some(rules.max_ejection_percent),
        interval: Some(rules.interval),
    }
}

pub(crate) fn write_health_check(check: &HealthCheck) -> raw::HealthCheck {
    let mut form = raw::HealthCheck {
        protocol: Some(check.kind.protocol()),
        port: check.port,
        interval: Some(check.interval),
        timeout: Some(check.timeout),
        unhealthy_threshold: Some(check.unhealthy_threshold),
        healthy_threshold: Some(check.healthy_threshold),
        jitter_percent: Some(check.jitter_percent),
        ..raw::HealthCheck::default()
    };
    match &check.kind {
        CheckKind::Http { path, host, expected_statuses } => {
            form.path = Some(path.clone());
            form.host.clone_from(host);
            form.expected_statuses = Some(expected_statuses.clone());
        }
        CheckKind::Tcp => {}
        CheckKind::Grpc { service } => form.service = Some(service.clone()).filter(|name| !name.is_empty()),
    }
    form
}

/// One line for people; `None` where nothing is set.
pub(crate) fn describe(upstream: &Upstream) -> [(&'static str, Option<String>); 3] {
    let time = |duration: Duration| print_duration(duration);
    let slow_start = upstream.slow_start.as_ref().map(|rule| {
        format!(
            "new pods from {} % to all of their share within {}",
            rule.min_weight_percent,
            time(rule.window)
        )
    });
    let ejects = upstream.outlier_detection.as_ref().map(|rules| {
        let causes = [
            (rules.consecutive_5xx, "5xx".to_owned()),
            (rules.consecutive_gateway_failure, "gateway failures".to_owned()),
            (rules.consecutive_slow, format!("answers after more than {}", time(rules.slow))),
        ];
        let causes: Vec<_> = causes
            .into_iter()
            .filter(|(threshold, _)| *threshold > 0)
            .map(|(threshold, what)| format!("{threshold} {what}"))
            .collect();
        format!(
            "a pod after {} in a row, for {} to {}, at most {} % of the pods",
            causes.join(" or "),
            time(rules.base_ejection_time),
            time(rules.max_ejection_time.max(rules.base_ejection_time)),
            rules.max_ejection_percent
        )
    });
    let check = upstream.health_check.as_ref().map(|check| {
        let what = match &check.kind {
            CheckKind::Http { path, expected_statuses, .. } => {
                let statuses: Vec<_> = expected_statuses.iter().map(ToString::to_string).collect();
                format!("http {path} gives {}", statuses.join(" or "))
            }
            CheckKind::Tcp => "tcp connects".to_owned(),
            CheckKind::Grpc { service } if service.is_empty() => "grpc says SERVING".to_owned(),
            CheckKind::Grpc { service } => format!("grpc says SERVING for {service}"),
        };
        let port = check.port.map_or_else(String::new, |port| format!(" on port {port}"));
        format!(
            "{what}{port} within {}, every {}; out after {} failures, back after {} successes",
            time(check.timeout),
            time(check.interval),
            check.unhealthy_threshold,
            check.healthy_threshold
        )
    });
    [("slow start", slow_start), ("ejects", ejects), ("checks", check)]
}
