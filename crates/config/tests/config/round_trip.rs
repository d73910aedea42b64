//! A configuration that was written is read as the same one, and nothing that is read makes a panic.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::Value;
use whichpod_config::{
    AccessLog, Balance, CheckKind, CircuitBreakers, ClientCertificate, Config, Dns, Document, HashOn,
    HeaderMatch, Headers, HealthCheck, Host, Limits, LogFilter, Memory, OutlierDetection, Protocol,
    ProxyProtocol, Retry, RetryOn, Route, SETTINGS, Shutdown, SlowStart, Target, TargetPort, Timeouts, Tls,
    Upstream,
};

use crate::{inline, start};

/// Up to a year, in whole units or with a fraction.
fn duration() -> impl Strategy<Value = Duration> {
    let nanos = 1..=366 * 24 * 3600 * 1_000_000_000_u64;
    prop_oneof![(1..=86_400_u64).prop_map(Duration::from_secs), nanos.prop_map(Duration::from_nanos)]
}

fn target() -> impl Strategy<Value = Target> {
    let name = "[a-z_]([a-z0-9-]{0,8}[a-z])?(\\.[a-z]{1,5}){0,3}\\.?";
    let number = (1..=u16::MAX).prop_map(TargetPort::Number);
    let by_name = (
        name.prop_map(Host::Name),
        prop_oneof![number.clone(), "[a-z][a-z0-9]{0,8}".prop_map(TargetPort::Name)],
    );
    let by_address =
        (any::<IpAddr>().prop_filter("could be our own", |ip| !is_own(*ip)).prop_map(Host::Ip), number);
    prop_oneof![by_name, by_address].prop_map(|(host, port)| Target { host, port })
}

fn is_own(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback() || ip.is_unspecified()
}

fn timeouts() -> impl Strategy<Value = Timeouts> {
    let optional = || option::of(duration());
    (duration(), optional(), optional(), optional(), optional(), duration()).prop_map(
        |(connect, request, idle, head, downstream_idle, upstream_idle)| Timeouts {
            connect,
            request,
            idle,
            head,
            downstream_idle,
            upstream_idle,
        },
    )
}

fn retry() -> impl Strategy<Value = Retry> {
    let all = vec![
        RetryOn::ConnectFailure,
        RetryOn::RefusedStream,
        RetryOn::Reset,
        RetryOn::ServerError,
        RetryOn::GatewayError,
        RetryOn::Retriable4xx,
        RetryOn::StatusCodes,
        RetryOn::Headers,
        RetryOn::GrpcCancelled,
        RetryOn::GrpcDeadlineExceeded,
        RetryOn::GrpcResourceExhausted,
        RetryOn::GrpcInternal,
        RetryOn::GrpcUnavailable,
    ];
    let what =
        (subsequence(all, 0..=13), vec(100..=599_u16, 0..4), vec("[a-z][a-z0-9-]{0,8}", 0..3), 0..=100_u32);
    let how = (option::of(duration()), any::<bool>(), 0..=16_777_216_usize);
    let when = (0..=100_u32, 0..=1_000_000_000_u32, duration(), duration());
    (what, how, when).prop_map(|(what, how, when)| {
        let (on, status_codes, headers, attempts) = what;
        let (per_try_timeout, non_idempotent, buffer_bytes) = how;
        let (budget_percent, min_concurrency, back_off_base, back_off_max) = when;
        Retry {
            on,
            status_codes,
            headers,
            attempts,
            per_try_timeout,
            non_idempotent,
            buffer_bytes,
            budget_percent,
            min_concurrency,
            back_off_base,
            back_off_max,
        }
    })
}

fn balance() -> impl Strategy<Value = Balance> {
    prop_oneof![
        select(vec![Balance::RoundRobin, Balance::LeastRequest, Balance::Ewma, Balance::Random]),
        "[a-z][a-z0-9-]{0,8}".prop_map(|name| Balance::Maglev(HashOn::Header(name))),
        "[a-zA-Z0-9_-]{1,8}".prop_map(|name| Balance::Maglev(HashOn::Cookie(name))),
        Just(Balance::Maglev(HashOn::SourceAddress)),
    ]
}

fn slow_start() -> impl Strategy<Value = SlowStart> {
    (duration(), 0.01..=100.0_f64, 0..=100_u32).prop_map(|(window, aggression, min_weight_percent)| {
        SlowStart { window, aggression, min_weight_percent }
    })
}

fn outlier_detection() -> impl Strategy<Value = OutlierDetection> {
    let count = 0..=1_000_000_000_u32;
    let thresholds = (1..=1_000_000_000_u32, count.clone(), count);
    (thresholds, [duration(), duration(), duration(), duration()], 0..=100_u32).prop_map(
        |((consecutive_5xx, consecutive_gateway_failure, consecutive_slow), times, max_ejection_percent)| {
            let [slow, base_ejection_time, max_ejection_time, interval] = times;
            OutlierDetection {
                consecutive_5xx,
                consecutive_gateway_failure,
                consecutive_slow,
                slow,
                base_ejection_time,
                max_ejection_time,
                max_ejection_percent,
                interval,
            }
        },
    )
}

fn health_check() -> impl Strategy<Value = HealthCheck> {
    let http = ("/[!-~&&[^?#]]{0,10}", option::of("[a-z.]{1,9}"), vec(100..=599_u16, 1..4));
    let kind = prop_oneof![
        http.prop_map(|(path, host, expected_statuses)| CheckKind::Http { path, host, expected_statuses }),
        Just(CheckKind::Tcp),
        "([a-z.]{1,9})?".prop_map(|service| CheckKind::Grpc { service }),
    ];
    let interval = (10_000_000..1_u64 << 50).prop_map(Duration::from_nanos);
    let threshold = 1..=1_000_000_000_u32;
    (kind, option::of(1..=u16::MAX), interval, duration(), threshold.clone(), threshold, 0..=100_u32)
        .prop_map(
            |(kind, port, interval, timeout, unhealthy_threshold, healthy_threshold, jitter_percent)| {
                HealthCheck {
                    kind,
                    port,
                    interval,
                    timeout,
                    unhealthy_threshold,
                    healthy_threshold,
                    jitter_percent,
                }
            },
        )
}

fn circuit_breakers() -> impl Strategy<Value = CircuitBreakers> {
    let limit = || option::of(1..=1_000_000_000_u32);
    (limit(), option::of(0..=9_u32), limit(), option::of(0..=9_u32)).prop_map(
        |(max_connections, max_pending_requests, max_requests, max_retries)| CircuitBreakers {
            max_connections,
            max_pending_requests,
            max_requests,
            max_retries,
        },
    )
}

fn tls() -> impl Strategy<Value = Tls> {
    let path = || "(/[a-z.]{1,8}){1,2}".prop_map(PathBuf::from);
    let certificate =
        (path(), path()).prop_map(|(cert_file, key_file)| ClientCertificate { cert_file, key_file });
    let trusted = prop_oneof![option::of(path()).prop_map(|file| (file, false)), Just((None, true))];
    (
        "[a-z]{1,8}(\\.[a-z]{1,5})?|10\\.0\\.0\\.1|::1",
        trusted,
        option::of(certificate),
        vec("[!-~]{1,9}", 0..3),
    )
        .prop_map(|(server_name, (ca_file, insecure_skip_verify), client_certificate, alpn)| Tls {
            server_name,
            ca_file,
            client_certificate,
            alpn,
            insecure_skip_verify,
        })
}

/// Name and address are given by the place in the list, so that no two are alike.
fn upstream() -> impl Strategy<Value = Upstream> {
    let route =
        ("/[!-~&&[^?#]]{0,10}", "([!-~é😀]{1,10})?").prop_map(|(prefix, name)| Route { prefix, name });
    let what = (
        target(),
        option::of(target()),
        select(vec![Protocol::Auto, Protocol::Http1, Protocol::H2c, Protocol::Grpc, Protocol::Tcp]),
        balance(),
        vec(route, 0..3),
    );
    let limits =
        (8192..=1_048_576_usize, 1..=10_000_usize, 1..=65_536_u32, option::of(1..=1_000_000_000_u32));
    let proxy_protocol = option::of(select(vec![ProxyProtocol::V1, ProxyProtocol::V2]));
    let how = (timeouts(), retry(), limits, any::<[bool; 3]>(), option::of(tls()), proxy_protocol);
    let health = (
        option::of(slow_start()),
        option::of(outlier_detection()),
        option::of(health_check()),
        0..=100_u32,
        circuit_breakers(),
    );
    ("[!-~é😀]{1,12}", what, how, health).prop_map(|(name, what, how, health)| {
        let (target, fallback, protocol, balance, routes) = what;
        let (slow_start, outlier_detection, health_check, healthy_panic_threshold, circuit_breakers) = health;
        let slow_start = slow_start.filter(|_| !matches!(balance, Balance::Maglev(_)));
        let routes = if protocol == Protocol::Tcp { Vec::new() } else { routes };
        let (timeouts, retry, limits, switches, tls, proxy_protocol) = how;
        let (head_bytes, headers, streams, connections) = limits;
        let [append_x_forwarded_for, expose_upstream, lazy] = switches;
        Upstream {
            name: name.into(),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            target,
            fallback,
            protocol,
            balance,
            slow_start,
            outlier_detection,
            health_check,
            healthy_panic_threshold,
            circuit_breakers,
            routes,
            timeouts,
            retry,
            limits: Limits { head_bytes, headers, streams, connections },
            headers: Headers { append_x_forwarded_for, expose_upstream },
            tls,
            proxy_protocol,
            lazy,
        }
    })
}

fn dns() -> impl Strategy<Value = Dns> {
    let server = (any::<IpAddr>().prop_filter("no server", |ip| !ip.is_unspecified()), 1..=u16::MAX);
    let refresh = (10_000_000_u64..1 << 45, 0_u64..1 << 45);
    let domain = option::of("[a-z]{1,8}(\\.[a-z]{1,8}){0,2}");
    (
        vec(server.prop_map(SocketAddr::from), 0..3),
        "(/[a-zA-Z0-9._ -]{1,8}){1,3}",
        domain,
        option::of("[a-z]{1,8}"),
        refresh,
        duration(),
        any::<bool>(),
    )
        .prop_map(
            |(servers, resolv_conf, cluster_domain, namespace, (floor, more), hold_empty, allow_loopback)| {
                Dns {
                    servers,
                    resolv_conf: PathBuf::from(resolv_conf),
                    cluster_domain,
                    namespace,
                    refresh_floor: Duration::from_nanos(floor),
                    refresh_cap: Duration::from_nanos(floor)
                        .saturating_add(Duration::from_nanos(more))
                        .min(duration_limit()),
                    hold_empty,
                    allow_loopback,
                }
            },
        )
}

fn duration_limit() -> Duration {
    Duration::from_secs(366 * 24 * 3600)
}

fn access_log() -> impl Strategy<Value = AccessLog> {
    let header = ("[a-z][a-z0-9-]{0,8}", option::of("[!-~]([ -~]{0,8}[!-~])?"))
        .prop_map(|(name, value)| HeaderMatch { name, value });
    let filter = (
        option::of(100..=599_u16),
        option::of(duration()),
        vec(select(vec!["UH", "UF", "*"]).prop_map(str::to_owned), 0..3),
        option::of(header),
        option::of(0.0..=1.0_f64),
    )
        .prop_map(|(min_status, min_duration, flags, header, sample)| LogFilter {
            min_status,
            min_duration,
            flags,
            header,
            sample,
        });
    ("(?s).{1,40}", option::of("(/[!-~]{1,8}){1,3}"), filter).prop_map(|(format, path, filter)| AccessLog {
        format,
        path: path.map(PathBuf::from),
        filter,
    })
}

prop_compose! {
    fn config()(
        mut upstreams in vec(upstream(), 1..4),
        dns in dns(),
        access_log in access_log(),
        memory in (option::of(16_777_216..=1_u64 << 50), 0..=100_u32),
        workers in option::of(1..=64_usize),
        grace_period in duration(),
        native_sidecar: bool,
        log_level in select(vec!["info", "whichpod=debug,warn", "OFF"]),
        kernel_chooses: bool,
    ) -> Config {
        for (port, upstream) in (20_000_u16..).zip(&mut upstreams) {
            upstream.listen.set_port(if kernel_chooses { 0 } else { port });
            upstream.name = format!("{}-{port}", upstream.name).into();
        }
        Config {
            upstreams,
            dns,
            access_log,
            admin: SocketAddr::from(([127, 0, 0, 1], 9901)),
            health: SocketAddr::from(([0, 0, 0, 0], 9902)),
            workers: workers.and_then(NonZeroUsize::new),
            shutdown: Shutdown { grace_period, native_sidecar },
            memory: Memory { limit: memory.0, shed_at_percent: memory.1 },
            log_level: log_level.to_owned(),
        }
    }
}

/// Documents of known keys with values of any kind: what a person's slips look like.
fn odd_document() -> impl Strategy<Value = Value> {
    let keys = [
        "upstreams",
        "name",
        "listen",
        "target",
        "fallback",
        "protocol",
        "balance",
        "routes",
        "prefix",
        "timeouts",
        "connect",
        "request",
        "retry",
        "on",
        "status_codes",
        "attempts",
        "limits",
        "head_bytes",
        "streams",
        "headers",
        "lazy",
        "dns",
        "servers",
        "refresh_floor",
        "refresh_cap",
        "access_log",
        "format",
        "path",
        "filter",
        "min_duration",
        "flags",
        "header",
        "value",
        "sample",
        "admin",
        "health",
        "address",
        "workers",
        "shutdown",
        "memory",
        "policy",
        "hash",
        "source_address",
        "slow_start",
        "window",
        "aggression",
        "outlier_detection",
        "consecutive_5xx",
        "health_check",
        "interval",
        "circuit_breakers",
        "max_requests",
        "budget",
        "percent",
        "log_level",
        "zz",
    ];
    let text = select(vec![
        "a:1",
        "a:http",
        "127.0.0.1:80",
        "5",
        "1s",
        "-1s",
        "",
        "/x",
        "off",
        "[::]:9902",
        "info",
        "é",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text.prop_map(Value::from),
        ".*".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 60, 8, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((select(keys.to_vec()), inner), 0..8).prop_map(|entries| entries
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value))
                .collect()),
        ]
    })
}

proptest! {
    #[test]
    fn what_was_written_is_what_runs(config in config()) {
        let document = config.to_document();
        let json = serde_json::to_string(&document).unwrap();
        let value = serde_json::to_value(&document).unwrap();
        prop_assert_eq!(serde_json::from_value::<Document>(value).unwrap(), document.clone());
        prop_assert_eq!(inline(&json), Ok(config.clone()));
        let yaml = serde_saphyr::to_string(&document).unwrap();
        prop_assert_eq!(inline(&yaml), Ok(config.clone()));
        prop_assert!(!config.describe().is_empty());
    }

    #[test]
    fn no_text_makes_a_panic(text in "(?s).*") {
        let _ = inline(&text);
    }

    #[test]
    fn no_yaml_makes_a_panic(text in "([a-z_]{1,9}(:|: |\n|\n  |\n- |[\\[\\]{},&*!|>'\"%@#-])){0,30}") {
        let _ = inline(&text);
    }

    #[test]
    fn no_document_makes_a_panic_and_both_readers_agree(value in odd_document()) {
        if let Ok(config) = inline(&value.to_string()) {
            let written = serde_json::to_string(&config.to_document()).unwrap();
            prop_assert_eq!(inline(&written), Ok(config));
            prop_assert!(serde_json::from_value::<Document>(value).is_ok());
        }
    }

    #[test]
    fn no_arguments_and_variables_make_a_panic(
        args in vec(prop_oneof![
            ".*".boxed(),
            (select(SETTINGS.iter().map(|setting| setting.flag).collect::<Vec<_>>()), ".*")
                .prop_map(|(flag, value)| format!("--{flag}={value}")).boxed(),
            "--?[a-z]{0,9}(=.*)?".boxed(),
        ], 0..6),
        variable in select(SETTINGS.iter().map(|setting| setting.variable).collect::<Vec<_>>()),
        value in ".*",
    ) {
        // Whatever file a name may mean, none is read here.
        let args: Vec<&str> = args.iter().map(String::as_str).filter(|arg| !arg.contains("conf")).collect();
        prop_assume!(!variable.contains("CONFIG_FILE"));
        if let Err(failure) = start(&args, &[(variable, &value)]) {
            prop_assert!(!failure.problems.is_empty());
        }
    }
}
