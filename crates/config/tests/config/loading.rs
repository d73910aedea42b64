//! What a start does, by flags, environment, file and inline document.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::time::Duration;

use whichpod_config::{
    Balance, Checks, Document, Headers, Host, Outcome, Protocol, RetryOn, SETTINGS, Takes, Target,
    TargetPort, load, names, raw,
};

use crate::{inline, run, start};

fn target(host: &str, port: u16) -> Target {
    Target { host: Host::Name(host.to_owned()), port: TargetPort::Number(port) }
}

const EXAMPLE: &str = r#"
upstreams:
  - name: backend-service
    listen: 127.77.0.1:10000
    target: backend-headless.default.svc.cluster.local:10000
    fallback: backend-service.default.svc.cluster.local:10000
    protocol: auto
    balance: round_robin
    routes: [{prefix: /test}]
    timeouts: {connect: 1s, request: 0s, idle: 0s}
    retry: {on: [connect-failure, refused-stream], attempts: 2}
dns: {servers: ["10.96.0.10"], refresh_floor: 1s, hold_empty: 5s, allow_loopback: false}
access_log: {format: text, path: /dev/stdout}
admin: {address: "127.0.0.1:9901"}
health: {address: "[::]:9902"}
workers: 1
"#;

#[test]
fn the_documented_example_runs_as_it_says() {
    let config = inline(EXAMPLE).unwrap();
    let [upstream] = config.upstreams.as_slice() else { panic!("{config:?}") };
    assert_eq!(&*upstream.name, "backend-service");
    assert_eq!(upstream.listen.to_string(), "127.77.0.1:10000");
    assert_eq!(upstream.target, target("backend-headless.default.svc.cluster.local", 10000));
    assert_eq!(upstream.fallback, Some(target("backend-service.default.svc.cluster.local", 10000)));
    assert_eq!((upstream.protocol, &upstream.balance), (Protocol::Auto, &Balance::RoundRobin));
    assert_eq!(upstream.routes.iter().map(|route| route.prefix.as_str()).collect::<Vec<_>>(), ["/test"]);
    assert_eq!((upstream.timeouts.request, upstream.timeouts.idle), (None, None));
    assert_eq!(upstream.retry.on, [RetryOn::ConnectFailure, RetryOn::RefusedStream]);
    assert_eq!(config.dns.servers, ["10.96.0.10:53".parse().unwrap()]);
    assert_eq!(config.workers.map(Into::into), Some(1_usize));
}

#[test]
fn one_upstream_is_all_that_must_be_said() {
    let (config, warnings) = run(&["--upstream", "backend-service:10000"], &[]).unwrap();
    assert_eq!(warnings, Vec::<String>::new());
    let [upstream] = config.upstreams.as_slice() else { panic!("{config:?}") };
    assert_eq!(&*upstream.name, "backend-service");
    assert_eq!(upstream.listen.to_string(), "127.0.0.1:10000");
    let timeouts = upstream.timeouts;
    assert_eq!((timeouts.connect, timeouts.upstream_idle), (Duration::from_secs(1), Duration::from_secs(4)));
    assert_eq!((timeouts.request, timeouts.idle), (None, None));
    assert_eq!(
        (timeouts.head, timeouts.downstream_idle),
        (Some(Duration::from_secs(10)), Some(Duration::from_secs(3600)))
    );
    assert_eq!(
        (upstream.limits.head_bytes, upstream.limits.headers, upstream.limits.streams),
        (61_440, 100, 1024)
    );
    assert_eq!(upstream.retry.attempts, 2);
    assert_eq!(upstream.headers, Headers::default());
    assert!(upstream.routes.is_empty() && !upstream.lazy);
    assert_eq!((config.admin, config.health), (names::DEFAULT_ADMIN, names::DEFAULT_HEALTH));
    assert_eq!(
        (config.access_log.format.as_str(), config.access_log.path),
        ("text", Some("/dev/stdout".into()))
    );
    assert_eq!((config.log_level.as_str(), config.workers), ("info", None));
    assert_eq!(
        (config.shutdown.grace_period, config.shutdown.native_sidecar),
        (Duration::from_secs(30), false)
    );
    let dns = config.dns;
    assert_eq!((dns.refresh_floor, dns.refresh_cap), (Duration::from_secs(1), Duration::from_secs(30)));
    assert_eq!((dns.hold_empty, dns.allow_loopback), (Duration::from_secs(5), false));
    assert_eq!((dns.servers.len(), dns.resolv_conf.to_str()), (0, Some("/etc/resolv.conf")));
}

#[test]
fn listen_address_and_named_port_are_read_from_a_flag() {
    let (config, _) = run(&["--upstream", "127.77.0.1:8080=Users.shared:http"], &[]).unwrap();
    assert_eq!(config.upstreams[0].listen.to_string(), "127.77.0.1:8080");
    assert_eq!(config.upstreams[0].target.to_string(), "users.shared:http");
}

#[test]
fn flags_beat_the_environment_which_beats_the_document() {
    let document =
        "{upstreams: [{target: 'a:1'}], workers: 3, dns: {namespace: doc, cluster_domain: doc.local}}";
    let variables = [("WHICHPOD_CONFIG", document), ("WHICHPOD_WORKERS", "2"), ("WHICHPOD_NAMESPACE", "env")];
    let (config, _) = run(&["--workers", "1"], &variables).unwrap();
    assert_eq!(config.workers.map(Into::into), Some(1_usize));
    assert_eq!(config.dns.namespace.as_deref(), Some("env"));
    assert_eq!(config.dns.cluster_domain.as_deref(), Some("doc.local"));
    let (config, _) = run(&[], &variables).unwrap();
    assert_eq!(config.workers.map(Into::into), Some(2_usize));
    let (config, _) = run(&[], &variables[..1]).unwrap();
    assert_eq!(config.workers.map(Into::into), Some(3_usize));
}

#[test]
fn an_upstream_is_stronger_than_the_documents_top_and_weaker_than_a_flag() {
    let document = "{upstreams: [{target: 'a:1', timeouts: {connect: 2s}}, {target: 'b:2'}], \
                    timeouts: {connect: 3s, request: 4s}, balance: least_request}";
    let connect = |args: &[&str], variables: &[(&str, &str)]| {
        let variables = [&[("WHICHPOD_CONFIG", document)], variables].concat();
        let (config, _) = run(args, &variables).unwrap();
        assert!(config.upstreams.iter().all(|upstream| upstream.balance == Balance::LeastRequest));
        assert!(
            config.upstreams.iter().all(|upstream| upstream.timeouts.request == Some(Duration::from_secs(4)))
        );
        config.upstreams.iter().map(|upstream| upstream.timeouts.connect.as_secs()).collect::<Vec<_>>()
    };
    assert_eq!(connect(&[], &[]), [2, 3]);
    assert_eq!(connect(&[], &[("WHICHPOD_CONNECT_TIMEOUT", "5s")]), [5, 5]);
    assert_eq!(connect(&["--connect-timeout=6s"], &[("WHICHPOD_CONNECT_TIMEOUT", "5s")]), [6, 6]);
}

#[test]
fn upstreams_by_flag_replace_the_documents_and_say_so() {
    let variables = [("WHICHPOD_CONFIG", EXAMPLE), ("WHICHPOD_UPSTREAM", "a:1, b:2\tc:3")];
    let (config, warnings) = run(&[], &variables).unwrap();
    let names: Vec<&str> = config.upstreams.iter().map(|upstream| &*upstream.name).collect();
    assert_eq!(names, ["a", "b", "c"]);
    assert_eq!(warnings, ["WHICHPOD_UPSTREAM takes the place of the document's upstreams (1)"]);
    let (config, warnings) = run(&["--upstream=d:4", "--upstream", "e:5"], &variables).unwrap();
    let names: Vec<&str> = config.upstreams.iter().map(|upstream| &*upstream.name).collect();
    assert_eq!(names, ["d", "e"]);
    assert_eq!(warnings, ["--upstream takes the place of the document's upstreams (1)"]);
}

#[test]
fn one_document_is_read_and_the_others_are_named() {
    let file = |namespace: &str| {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(
            file.path(),
            format!("{{upstreams: [{{target: 'a:1'}}], dns: {{namespace: {namespace}}}}}"),
        )
        .unwrap();
        file
    };
    let (by_flag, by_variable) = (file("flag"), file("variable"));
    let (flag, variable) = (by_flag.path().to_str().unwrap(), by_variable.path().to_str().unwrap());
    let inline = ("WHICHPOD_CONFIG", "{upstreams: [{target: 'a:1'}], dns: {namespace: inline}}");
    let all = [inline, ("WHICHPOD_CONFIG_FILE", variable)];

    let (config, warnings) = run(&["--config", flag], &all).unwrap();
    assert_eq!(config.dns.namespace.as_deref(), Some("flag"));
    let not_read = [
        "WHICHPOD_CONFIG is not read, since --config is given",
        "WHICHPOD_CONFIG_FILE is not read, since --config is given",
    ];
    assert_eq!(warnings, not_read);

    let (config, warnings) = run(&[], &all).unwrap();
    assert_eq!(config.dns.namespace.as_deref(), Some("inline"));
    assert_eq!(warnings, ["WHICHPOD_CONFIG_FILE is not read, since WHICHPOD_CONFIG is given"]);

    let (config, warnings) = run(&[], &all[1..]).unwrap();
    assert_eq!(config.dns.namespace.as_deref(), Some("variable"));
    assert!(warnings.is_empty());
}

#[test]
fn a_file_that_is_wrong_is_named_with_line_and_column() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    std::fs::write(path, "workers: 1\ndns: {").unwrap();
    let failure = start(&["--config", path], &[]).unwrap_err();
    assert!(failure.problems[0].path.starts_with(&format!("{path}:2:")), "{failure}");
    assert_eq!(failure.problems.len(), 1, "what could not be read is not missed: {failure}");
    std::fs::write(path, b"workers: \xff").unwrap();
    let failure = start(&["--config", path], &[]).unwrap_err();
    assert_eq!(failure.problems[0].to_string(), format!("{path}: not UTF-8; write it in UTF-8"));
}

#[test]
fn json_is_read_as_it_is_usually_written() {
    let tabs = "{\n\t\"upstreams\": [\n\t\t{ \"target\": \"a:1\", \"routes\": [{\"prefix\": \"\\/x\", \"name\": \"\\ud83d\\ude00\"}] }\n\t]\n}\n";
    let config = inline(tabs).unwrap();
    assert_eq!(config.upstreams[0].routes[0].prefix, "/x");
    assert_eq!(config.upstreams[0].routes[0].name, "\u{1f600}");
    let not_in_yaml =
        "{\"upstreams\":[{\"target\":\"a:1\"}],\"access_log\":{\"format\":\"\u{7f}\u{85}\u{fffe}\"}}";
    assert_eq!(inline(not_in_yaml).unwrap().access_log.format, "\u{7f}\u{85}\u{fffe}");
}

#[test]
fn a_document_that_was_built_is_written_compactly_and_runs() {
    let document = Document {
        upstreams: Some(vec![raw::Upstream {
            listen: Some("127.77.0.1:80".parse().unwrap()),
            target: Some("users-whichpod.shared.svc.cluster.local:http".parse().unwrap()),
            lazy: Some(true),
            ..raw::Upstream::default()
        }]),
        shutdown: Some(raw::Shutdown {
            grace_period: Some(Duration::from_secs(90)),
            native_sidecar: Some(true),
        }),
        ..Document::default()
    };
    let json = serde_json::to_string(&document).unwrap();
    let expected = r#"{"upstreams":[{"listen":"127.77.0.1:80","target":"users-whichpod.shared.svc.cluster.local:http","lazy":true}],"shutdown":{"grace_period":"1m30s","native_sidecar":true}}"#;
    assert_eq!(json, expected);
    assert_eq!(&*inline(&json).unwrap().upstreams[0].name, "users-whichpod");
}

#[test]
fn serde_refuses_what_a_start_refuses_and_tells_all_of_it() {
    let error =
        serde_json::from_str::<Document>(r#"{"workers": 0, "upstreams": [{"tarket": "a:1"}]}"#).unwrap_err();
    let expected = "workers: 0: out of range; write a whole number from 1 to 64\n\
                    upstreams[0].tarket: unknown key; did you mean target?";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn off_without_quotes_turns_the_access_log_off() {
    let config = inline("{upstreams: [{target: 'a:1'}], access_log: {path: off}}").unwrap();
    assert_eq!(config.access_log.path, None);
}

#[test]
fn null_and_empty_mean_not_set() {
    let (config, _) =
        run(&["--upstream=a:1"], &[("WHICHPOD_CONFIG", "workers:\ndns:\n"), ("WHICHPOD_ADMIN", "")]).unwrap();
    let (plain, _) = run(&["--upstream=a:1"], &[("WHICHPOD_CONFIG", "")]).unwrap();
    assert_eq!(config, plain);
}

#[test]
fn zero_turns_a_limit_off() {
    let document =
        "{upstreams: [{target: 'a:1'}], timeouts: {request: 0s, head: 0s, downstream_idle: 0ms, idle: 5s}}";
    let timeouts = inline(document).unwrap().upstreams[0].timeouts;
    assert_eq!((timeouts.request, timeouts.head, timeouts.downstream_idle), (None, None, None));
    assert_eq!(timeouts.idle, Some(Duration::from_secs(5)));
}

#[test]
fn names_tell_upstreams_apart() {
    let names = |upstreams: &str| -> Vec<String> {
        let config = inline(&format!("upstreams: {upstreams}")).unwrap();
        config.upstreams.iter().map(|upstream| upstream.name.to_string()).collect()
    };
    assert_eq!(names("[{target: 'db.a:1'}, {target: 'db.b:2'}, {target: 'c:3'}]"), ["db-1", "db-2", "c"]);
    let alike = "[{target: 'db.a:1'}, {target: 'db.b:1', listen: '127.0.0.2:1'}, {target: 'db.c:1', listen: '127.0.0.3:1'}]";
    assert_eq!(names(alike), ["db-1", "db-1-2", "db-1-3"]);
    assert_eq!(names("[{target: 'db:1'}, {target: 'x:2', name: db}]"), ["db-1", "db"]);
    assert_eq!(
        names("[{target: 'db:1'}, {target: 'db:2'}, {target: 'x:3', name: db-1}]"),
        ["db-1-2", "db-2", "db-1"]
    );
    assert_eq!(
        names("[{target: 'db:pg', listen: '127.0.0.1:5'}, {target: '10.0.0.1:6'}]"),
        ["db", "10.0.0.1"]
    );
}

#[test]
fn ports_of_databases_are_tcp_unless_somebody_says_otherwise() {
    let protocol = |document: &str| inline(document).unwrap().upstreams[0].protocol;
    assert_eq!(protocol("upstreams: [{target: 'db:5432'}]"), Protocol::Tcp);
    assert_eq!(protocol("upstreams: [{target: 'db:sql', listen: '127.0.0.1:3306'}]"), Protocol::Tcp);
    assert_eq!(protocol("upstreams: [{target: 'db:5432', protocol: auto}]"), Protocol::Auto);
    assert_eq!(protocol("{protocol: http1, upstreams: [{target: 'db:5432'}]}"), Protocol::Http1);
    assert_eq!(protocol("upstreams: [{target: 'db:5433'}]"), Protocol::Auto);
}

#[test]
fn tls_names_the_target_unless_told_otherwise_and_says_loudly_when_it_trusts_anybody() {
    let tls = |document: &str| inline(document).unwrap().upstreams.remove(0).tls.unwrap();
    let usual = tls("upstreams: [{target: 'api.example.org.:443', tls: {}}]");
    assert_eq!((usual.server_name.as_str(), usual.ca_file, usual.alpn.len()), ("api.example.org", None, 0));
    let told = tls("upstreams: [{target: '10.0.0.1:443', protocol: http1, tls: {server_name: a.b}}]");
    assert_eq!((told.server_name.as_str(), told.alpn.join(",").as_str()), ("a.b", "http/1.1"));
    let loud = "upstreams: [{target: 'a:443', tls: {insecure_skip_verify: true}}]";
    let (config, warnings) = run(&[], &[("WHICHPOD_CONFIG", loud)]).unwrap();
    assert!(warnings.iter().any(|warning| warning.contains("TLS WITHOUT VERIFICATION")), "{warnings:?}");
    assert!(config.describe().contains("WITHOUT VERIFICATION"));
}

#[test]
fn port_zero_is_left_to_the_kernel_and_never_clashes() {
    let document = "{upstreams: [{target: 'a:1', listen: '127.0.0.1:0'}, {target: 'b:1', listen: '127.0.0.1:0'}], \
                    admin: {address: '127.0.0.1:0'}, health: {address: '127.0.0.1:0'}}";
    assert_eq!(inline(document).unwrap().upstreams.len(), 2);
}

#[test]
fn a_misspelt_variable_draws_the_nearest_name() {
    let variables = [
        ("WHICHPOD_UPSTREAM", "a:1"),
        ("WHICHPOD_WORKER", "2"),
        ("WHICHPOD_SOMETHING_ELSE", "x"),
        // What Kubernetes sets for Services named whichpod-webhook and whichpod.
        ("WHICHPOD_WEBHOOK_SERVICE_HOST", "10.0.0.1"),
        ("WHICHPOD_WEBHOOK_SERVICE_PORT", "443"),
        ("WHICHPOD_WEBHOOK_SERVICE_PORT_HTTPS", "443"),
        ("WHICHPOD_WEBHOOK_PORT", "tcp://10.0.0.1:443"),
        ("WHICHPOD_WEBHOOK_PORT_443_TCP", "tcp://10.0.0.1:443"),
        ("WHICHPOD_SERVICE_HOST", "10.0.0.2"),
        ("WHICHPOD_PORT", "tcp://10.0.0.2:80"),
        ("OTHER_WORKER", "x"),
    ];
    let (_, warnings) = run(&[], &variables).unwrap();
    let expected = [
        "WHICHPOD_SOMETHING_ELSE: unknown variable, which is ignored",
        "WHICHPOD_WORKER: unknown variable; did you mean WHICHPOD_WORKERS?",
    ];
    assert_eq!(warnings, expected);
}

#[test]
fn settings_without_effect_are_warned_of() {
    let warnings = |retry: &str| {
        let document = format!("upstreams: [{{target: 'a:1', retry: {retry}}}]");
        run(&[], &[("WHICHPOD_CONFIG", &document)]).unwrap().1
    };
    assert_eq!(
        warnings("{on: [retriable-status-codes]}"),
        ["upstream a: retriable-status-codes does nothing without codes; set retry.status_codes"]
    );
    assert_eq!(
        warnings("{status_codes: [503]}"),
        ["upstream a: retry.status_codes does nothing; add retriable-status-codes to retry.on"]
    );
    assert!(warnings("{on: [retriable-status-codes], status_codes: [503]}").is_empty());
}

/// A value for each setting that is not its default.
fn other_than_default(flag: &str) -> &'static str {
    match flag {
        names::flag::UPSTREAM => "127.0.0.1:7=other:8",
        names::flag::PROTOCOL => "http1",
        names::flag::BALANCE => "least_request",
        names::flag::CONNECT_TIMEOUT | names::flag::REQUEST_TIMEOUT | names::flag::IDLE_TIMEOUT => "7s",
        names::flag::RETRY_ON => "5xx,reset",
        names::flag::RETRY_ATTEMPTS | names::flag::WORKERS => "5",
        names::flag::DNS_SERVER => "10.0.0.1,10.0.0.2:5353",
        names::flag::RESOLV_CONF => "/tmp/resolv.conf",
        names::flag::CLUSTER_DOMAIN => "example.org",
        names::flag::NAMESPACE => "other",
        names::flag::LOG_FORMAT => "json",
        names::flag::ACCESS_LOG => "off",
        names::flag::ADMIN => "127.0.0.2:7",
        names::flag::HEALTH => "127.0.0.1:7",
        names::flag::GRACE_PERIOD => "7s",
        names::flag::LOG_LEVEL => "debug",
        _ => "true",
    }
}

#[test]
fn every_flag_and_its_variable_do_the_same_and_check_shows_it() {
    let (default, _) = run(&[], &[("WHICHPOD_CONFIG", "upstreams: [{target: 'a:1'}]")]).unwrap();
    for setting in SETTINGS.iter().filter(|setting| !setting.key.is_empty()) {
        let value = other_than_default(setting.flag);
        let document = ("WHICHPOD_CONFIG", "upstreams: [{target: 'a:1'}]");
        let (by_flag, _) = run(&[&format!("--{}={value}", setting.flag)], &[document]).unwrap();
        let (by_variable, _) = run(&[], &[document, (setting.variable, value)]).unwrap();
        assert_eq!(by_flag, by_variable, "{}", setting.flag);
        assert_ne!(by_flag, default, "{}", setting.flag);
        assert_ne!(by_flag.describe(), default.describe(), "{}", setting.flag);
        if setting.takes == Takes::Switch {
            let (alone, _) = run(&[&format!("--{}", setting.flag)], &[document]).unwrap();
            assert_eq!(alone, by_flag, "{}", setting.flag);
        }
    }
}

#[test]
fn check_is_told_from_run_by_flag_and_by_variable() {
    let is_check = |args: &[&str], variables: &[(&str, &str)]| {
        matches!(start(&[&["--upstream=a:1"], args].concat(), variables), Ok(Outcome::Check { .. }))
    };
    assert!(!is_check(&[], &[]));
    assert!(is_check(&["--check"], &[]));
    assert!(is_check(&[], &[("WHICHPOD_CHECK", "true")]));
    assert!(!is_check(&["--check=false"], &[("WHICHPOD_CHECK", "true")]));
}

#[test]
fn help_and_version_are_printed_whatever_else_is_wrong() {
    let Ok(Outcome::Print(help)) = start(&["--help"], &[("WHICHPOD_WORKERS", "x")]) else { panic!() };
    for setting in SETTINGS {
        assert!(help.contains(&format!("--{}", setting.flag)), "{}", setting.flag);
        assert!(help.contains(setting.variable), "{}", setting.variable);
    }
    assert!(help.contains("WHICHPOD_CONFIG holds the document itself"));
    let Ok(Outcome::Print(version)) = start(&["--version"], &[]) else { panic!() };
    assert_eq!(version, format!("whichpod-sidecar {}\n", env!("CARGO_PKG_VERSION")));
}

#[cfg(unix)]
#[test]
fn bytes_that_are_no_text_are_an_error_and_not_a_crash() {
    use std::os::unix::ffi::OsStringExt as _;
    let bad = OsString::from_vec(b"a\xff:1".to_vec());
    let checks = Checks { log_format: &|_| Ok(()), response_flag: &|_| true };
    let args = ["x".into(), "--upstream".into(), bad.clone()];
    let env =
        BTreeMap::from([("WHICHPOD_ADMIN".to_owned(), bad.clone()), ("WHICHPOD_CONFIG".to_owned(), bad)]);
    let failure = load(args, &env, &checks).unwrap_err();
    let lines: Vec<String> = failure.problems.iter().map(ToString::to_string).collect();
    let expected = [
        "--upstream: \"a\u{fffd}:1\": not UTF-8; write it in UTF-8",
        "WHICHPOD_ADMIN: \"a\u{fffd}:1\": not UTF-8; write it in UTF-8",
        "WHICHPOD_CONFIG: not UTF-8; write it in UTF-8",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn check_prints_what_would_run() {
    let document = "
upstreams:
  - {target: 'db.shared:pg', listen: '127.77.0.2:5432', lazy: true, routes: [{prefix: /a, name: first}, {prefix: /b}],
     fallback: '10.0.0.1:5432', headers: {expose_upstream: true}, timeouts: {request: 90s},
     retry: {on: [retriable-status-codes], status_codes: [503, 429], attempts: 1},
     balance: 'maglev:cookie:id', outlier_detection: {consecutive_5xx: 7}, circuit_breakers: {max_requests: 9},
     health_check: {protocol: http, path: /healthz, port: 8081}}
dns: {namespace: default}
access_log: {format: \"%REQ(:METHOD)%\\n\", filter: {min_status: 500, flags: ['*'], header: {name: X-Debug}, sample: 0.5}}
shutdown: {native_sidecar: true}
";
    let expected = "\
upstream db
  listen       127.77.0.2:5432
  target       db.shared:pg (SRV _pg._tcp.db.shared)
  fallback     10.0.0.1:5432 (a fixed address) while the target does not exist
  resolved     at the first connection
  protocol     auto
  balance      maglev by cookie id
  ejects       a pod after 7 5xx in a row, for 30s to 5m, at most 50 % of the pods
  checks       http /healthz gives 200 on port 8081 within 1s, every 10s; out after 3 failures, back after 2 successes
  panic        all pods are used with less than 50 % of them well
  routes       /a (first), /b; anything else is 404
  timeouts     connect 1s, request 1m30s, idle off, head 10s, client's connection 1h, pod's connection 4s
  retry        on retriable-status-codes (503, 429); 1 more attempts at most
  limits       head 61440 bytes, 100 headers, 1024 streams a connection
  at most      9 requests
  adds headers x-whichpod-upstream, x-whichpod-pod (response)
dns
  servers      those of /etc/resolv.conf
  search list  that of /etc/resolv.conf
  domain       as the search list tells
  namespace    default
  refresh      when the TTL ends, after 1s to 30s
  empty answer must last 5s
  loopback     answers are refused
access log
  path         /dev/stdout
  format       %REQ(:METHOD)%\\n
  lines        where status is at least 500 and a flag is one of * and header x-debug is present and by chance, a share of 0.5
process
  admin        127.0.0.1:9901
  health       [::]:9902 (0.0.0.0 where there is no IPv6)
  workers      the cgroup's CPU limit, at most 2
  shutdown     native sidecar: leaves as soon as no request runs, within 30s
  memory       sheds requests from 90 % of the cgroup's limit on
  log level    info
";
    assert_eq!(inline(document).unwrap().describe(), expected);
}
