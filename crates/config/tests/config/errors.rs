//! What a start says when something is wrong.

use whichpod_config::EXIT_USAGE;

use crate::{problems, start};

/// What each document is answered with: every line, in order.
#[rustfmt::skip]
const DOCUMENT_ERRORS: &[(&str, &[&str])] = &[
    (
        "{}",
        &[
            "upstreams: no upstream; name one: --upstream HOST:PORT, WHICHPOD_UPSTREAM=HOST:PORT, or upstreams in the document",
        ],
    ),
    (
        "upstreams: []",
        &[
            "upstreams: no upstream; name one: --upstream HOST:PORT, WHICHPOD_UPSTREAM=HOST:PORT, or upstreams in the document",
        ],
    ),
    ("upstreams: [{}]", &["upstreams[0].target: missing; write target: HOST:PORT"]),
    (
        "upstreams: [a]",
        &[
            "upstreams[0]: \"a\": a text, not a mapping; accepted keys: name, listen, target, fallback, protocol, balance, slow_start, outlier_detection, health_check, healthy_panic_threshold, circuit_breakers, routes, timeouts, retry, limits, headers, tls, proxy_protocol, lazy",
        ],
    ),
    ("upstreams: a:1", &["upstreams: \"a:1\": a text, not a list; write [...], or one \"- \" per item"]),
    (
        "[]",
        &[
            "document: []: a list, not a mapping; accepted keys: upstreams, protocol, balance, slow_start, outlier_detection, health_check, healthy_panic_threshold, circuit_breakers, timeouts, retry, limits, headers, dns, access_log, admin, health, workers, shutdown, memory, log_level",
        ],
    ),
    (
        "upstreams: [{target: 'a:1', listen: 127.0.0.1}]",
        &["upstreams[0].listen: \"127.0.0.1\": no port; write IP:PORT, e.g. 127.0.0.1:10000"],
    ),
    (
        "upstreams: [{target: 'a:1', listen: 80}]",
        &["upstreams[0].listen: 80: no IP; write IP:PORT, e.g. 127.0.0.1:80"],
    ),
    (
        "upstreams: [{target: 'a:http'}]",
        &[
            "upstreams[0].listen: \"a:http\": a port name does not tell where to listen; write listen: IP:PORT, e.g. 127.0.0.1:10000",
        ],
    ),
    (
        "upstreams: [{target: a}]",
        &["upstreams[0].target: \"a\": no port; write HOST:PORT, e.g. backend:10000, or HOST:PORTNAME"],
    ),
    (
        "upstreams: [{target: '10.0.0.1:http'}]",
        &[
            "upstreams[0].target: \"10.0.0.1:http\": a port name is looked up in DNS, which an address is not; write the port's number, or the Service's name",
        ],
    ),
    (
        "upstreams: [{target: 'a:1', fallback: 'tcp://a:1'}]",
        &[
            "upstreams[0].fallback: \"tcp://a:1\": a scheme is no part of it; write HOST:PORT; the protocol is set by protocol",
        ],
    ),
    (
        "upstreams: [{target: 'a:1', name: 'a b'}]",
        &["upstreams[0].name: \"a b\": a name with a space or control character; use '-' in its place"],
    ),
    (
        "upstreams: [{target: 'a:1', name: 5}]",
        &["upstreams[0].name: 5: a number, not a text; put it in quotes"],
    ),
    (
        "upstreams: [{target: 'a:1', name: x}, {target: 'b:2', name: x}]",
        &["upstreams[1].name: \"x\": another upstream has this name; give each a name of its own"],
    ),
    (
        "upstreams: [{target: 'a:1', protocol: http}]",
        &["upstreams[0].protocol: \"http\": not known here; did you mean http1? accepted: auto, http1, h2c, grpc, tcp"],
    ),
    (
        "upstreams: [{target: 'a:1', protocol: tcp, routes: [{prefix: /a}]}]",
        &[
            "upstreams[0].routes: there are no paths in protocol tcp; set protocol: http1, or take the routes out",
        ],
    ),
    (
        "upstreams: [{target: 'a:1', tls: {cert_file: /a}}]",
        &["upstreams[0].tls.key_file: missing, and cert_file is of no use alone; give both or none"],
    ),
    (
        "upstreams: [{target: 'a:1', tls: {ca_file: /a, insecure_skip_verify: true}}]",
        &[
            "upstreams[0].tls.insecure_skip_verify: set together with ca_file, which it makes useless; take one of them out",
        ],
    ),
    (
        "upstreams: [{target: 'a:1', tls: {server_name: 'a:443', alpn: ['']}}]",
        &[
            "upstreams[0].tls.server_name: \"a:443\": a name has no port; write the name alone, e.g. backend.default.svc",
            "upstreams[0].tls.alpn[0]: \"\": no protocol's name; write one such as http/1.1 or postgresql",
        ],
    ),
    (
        "upstreams: [{target: 'a:1', proxy_protocol: v3}]",
        &["upstreams[0].proxy_protocol: \"v3\": not known here; did you mean v1? accepted: v1, v2"],
    ),
    (
        "upstreams: [{target: 'a:1', balance: fastest}]",
        &[
            "upstreams[0].balance: \"fastest\": not known here; accepted: round_robin, least_request, ewma, random, maglev",
        ],
    ),
    (
        "upstreams: [{target: 'a:1', balance: {policy: maglev, hash: {headr: x}}}]",
        &["upstreams[0].balance.hash.headr: unknown key; did you mean header?"],
    ),
    (
        "upstreams: [{target: 'a:1', balance: {policy: maglev, hash: {header: x}}, slow_start: {window: 10s}}]",
        &[
            "upstreams[0].slow_start: \"10s\": maglev sends each key to its pod at once; remove slow_start, or choose another balance",
        ],
    ),
    (
        "upstreams: [{target: 'a:1', slow_start: {aggression: 0}}]",
        &[
            "upstreams[0].slow_start.aggression: 0: out of range; write a number from 0.01 to 100; 1 is in step with time",
        ],
    ),
    (
        "upstreams: [{target: 'a:1', outlier_detection: {max_ejection_percent: 101}}]",
        &[
            "upstreams[0].outlier_detection.max_ejection_percent: 101: out of range; write a whole number from 0 to 100",
        ],
    ),
    (
        "upstreams: [{target: 'a:1', health_check: {path: /x}}]",
        &["upstreams[0].health_check.protocol: missing; write http, tcp or grpc"],
    ),
    (
        "upstreams: [{target: 'a:1', health_check: {protocol: http}}]",
        &["upstreams[0].health_check.path: missing; write path: /PATH, e.g. /healthz"],
    ),
    (
        "upstreams: [{target: 'a:1', health_check: {protocol: tcp, path: /x, service: y}}]",
        &[
            "upstreams[0].health_check.path: only for checks over http; remove it, or write protocol: http",
            "upstreams[0].health_check.service: only for checks over grpc; remove it, or write protocol: grpc",
        ],
    ),
    (
        "upstreams: [{target: 'a:1', circuit_breakers: {max_connections: 0, max_retry: 1}}]",
        &[
            "upstreams[0].circuit_breakers.max_connections: 0: out of range; write a whole number from 1 to 1000000000",
            "upstreams[0].circuit_breakers.max_retry: unknown key; did you mean max_retries?",
        ],
    ),
    (
        "{upstreams: [{target: 'a:1'}], memory: {limit: 5}}",
        &["memory.limit: 5: out of range; write a whole number from 16777216 to 1125899906842624"],
    ),
    (
        "upstreams: [{target: 'a:1', lazy: 'true'}]",
        &["upstreams[0].lazy: \"true\": a text, not true or false; write it without quotes"],
    ),
    (
        "upstreams: [{target: 'a:1', lazy: yes}]",
        &["upstreams[0].lazy: \"yes\": neither true nor false; write true or false"],
    ),
    (
        "upstreams: [{target: 'a:1', routes: [{prefix: test}]}]",
        &["upstreams[0].routes[0].prefix: \"test\": a path prefix begins with a slash; write /test"],
    ),
    (
        "upstreams: [{target: 'a:1', routes: [{prefix: '/a?b'}]}]",
        &[
            "upstreams[0].routes[0].prefix: \"/a?b\": '?' is in no path, so that this would never match; write the path alone, percent-encoded as the client sends it",
        ],
    ),
    (
        "upstreams: [{target: 'a:1', routes: [{name: r}]}]",
        &["upstreams[0].routes[0].prefix: missing; write prefix: /PATH"],
    ),
    (
        "upstreams: [{target: 'a:1', timeouts: {conect: 1s}}]",
        &["upstreams[0].timeouts.conect: unknown key; did you mean connect?"],
    ),
    (
        "upstreams: [{target: 'a:1', timeouts: {zzz: 1s}}]",
        &[
            "upstreams[0].timeouts.zzz: unknown key; accepted: connect, request, idle, head, downstream_idle, upstream_idle",
        ],
    ),
    (
        "upstreams: [{target: 'a:1', timeouts: {connect: 5}}]",
        &[
            "upstreams[0].timeouts.connect: 5: no unit; write a number and a unit (ms, s, m, h), e.g. 250ms, 1s, 5m or 1h30m",
        ],
    ),
    (
        "upstreams: [{target: 'a:1', timeouts: {connect: 5 parsecs}}]",
        &[
            "upstreams[0].timeouts.connect: \"5 parsecs\": not a duration; write a number and a unit (ms, s, m, h), e.g. 250ms, 1s, 5m or 1h30m",
        ],
    ),
    (
        "upstreams: [{target: 'a:1', timeouts: {request: -1s}}]",
        &["upstreams[0].timeouts.request: \"-1s\": negative; write a duration of 0s or more"],
    ),
    (
        "upstreams: [{target: 'a:1', timeouts: {request: 100000h}}]",
        &[
            "upstreams[0].timeouts.request: \"100000h\": longer than a year; write at most 8784h; 0s means no limit where that is possible",
        ],
    ),
    (
        "upstreams: [{target: 'a:1', timeouts: {connect: 0s, upstream_idle: 0s}}]",
        &[
            "upstreams[0].timeouts.connect: \"0s\": this cannot be off; write a duration above 0s, e.g. 1s",
            "upstreams[0].timeouts.upstream_idle: \"0s\": this cannot be off; write a duration above 0s, e.g. 1s",
        ],
    ),
    (
        "upstreams: [{target: 'a:1', retry: {on: [5xxx]}}]",
        &[
            "upstreams[0].retry.on[0]: \"5xxx\": not known here; did you mean 5xx? accepted: connect-failure, refused-stream, reset, 5xx, gateway-error, retriable-4xx, retriable-status-codes, retriable-headers, cancelled, deadline-exceeded, resource-exhausted, internal, unavailable",
        ],
    ),
    (
        "upstreams: [{target: 'a:1', retry: {status_codes: [99, 600, '500', 1.5]}}]",
        &[
            "upstreams[0].retry.status_codes[0]: 99: out of range; write a whole number from 100 to 599",
            "upstreams[0].retry.status_codes[1]: 600: out of range; write a whole number from 100 to 599",
            "upstreams[0].retry.status_codes[2]: \"500\": a text, not a number; write it without quotes",
            "upstreams[0].retry.status_codes[3]: 1.5: not a whole number; write a whole number from 100 to 599",
        ],
    ),
    (
        "upstreams: [{target: 'a:1', retry: {on: [null], attempts: 101}}]",
        &[
            "upstreams[0].retry.on[0]: null: nothing, not a text; write one value",
            "upstreams[0].retry.attempts: 101: out of range; write a whole number from 0 to 100",
        ],
    ),
    (
        "upstreams: [{target: 'a:1', limits: {head_bytes: 8191, headers: 0}}]",
        &[
            "upstreams[0].limits.head_bytes: 8191: out of range; write a whole number from 8192 to 1048576",
            "upstreams[0].limits.headers: 0: out of range; write a whole number from 1 to 10000",
        ],
    ),
    (
        "upstreams: [{target: 'a:80', listen: '0.0.0.0:80'}, {target: 'b:80'}]",
        &[
            "upstreams[1].listen: \"127.0.0.1:80\": the same as, or part of, upstreams[0].listen (0.0.0.0:80); give each its own address or port, e.g. 127.77.0.1 with the same port",
        ],
    ),
    (
        "upstreams: [{target: 'a:9901'}, {target: 'b:9902'}]",
        &[
            "upstreams[0].listen: \"127.0.0.1:9901\": the same as, or part of, admin.address (127.0.0.1:9901); give each its own address or port, e.g. 127.77.0.1 with the same port",
            "upstreams[1].listen: \"127.0.0.1:9902\": the same as, or part of, health.address ([::]:9902); give each its own address or port, e.g. 127.77.0.1 with the same port",
        ],
    ),
    (
        "{upstreams: [{target: 'a:1'}], admin: {address: '127.0.0.1:9'}, health: {address: '0.0.0.0:9'}}",
        &[
            "health.address: \"0.0.0.0:9\": the same as, or part of, admin.address (127.0.0.1:9); give each its own address or port, e.g. 127.77.0.1 with the same port",
        ],
    ),
    (
        "upstreams: [{target: '127.0.0.1:80'}]",
        &[
            "upstreams[0].target: \"127.0.0.1:80\": this sidecar listens there itself, so requests would go round for ever; write the Service's name as the target, or listen on another address or port",
        ],
    ),
    (
        "{upstreams: [{target: 'a:1'}], admin: {address: '0.0.0.0:9901'}}",
        &[
            "admin.address: \"0.0.0.0:9901\": the admin server is for this pod only; write a loopback address, e.g. 127.0.0.1:9901, and use kubectl port-forward",
        ],
    ),
    (
        "{upstreams: [{target: 'a:1'}], dns: {servers: [kube-dns, '10.0.0.1:0']}}",
        &[
            "dns.servers[0]: \"kube-dns\": not an IP address; write IP or IP:PORT, e.g. 10.96.0.10 (a name could not be looked up)",
            "dns.servers[1]: \"10.0.0.1:0\": nothing can be asked there; write a server's own address and port",
        ],
    ),
    (
        "{upstreams: [{target: 'a:1'}], dns: {namespace: a.b, cluster_domain: 'cluster..local', resolv_conf: ''}}",
        &[
            "dns.namespace: \"a.b\": more than one plain label; write letters, digits and '-' only, e.g. default",
            "dns.cluster_domain: \"cluster..local\": a DNS name with an empty label; write labels with single dots between them",
            "dns.resolv_conf: \"\": empty; write a path",
        ],
    ),
    (
        "{upstreams: [{target: 'a:1'}], dns: {refresh_floor: 1m}}",
        &[
            "dns.refresh_floor: \"1m\": refresh_floor (1m) is above refresh_cap (30s); raise dns.refresh_cap or lower dns.refresh_floor",
        ],
    ),
    (
        "{upstreams: [{target: 'a:1'}], dns: {refresh_cap: 500ms}}",
        &[
            "dns.refresh_cap: \"500ms\": refresh_floor (1s) is above refresh_cap (500ms); raise dns.refresh_cap or lower dns.refresh_floor",
        ],
    ),
    (
        "{upstreams: [{target: 'a:1'}], dns: {refresh_floor: 1ms}}",
        &["dns.refresh_floor: \"1ms\": too short; write at least 10ms"],
    ),
    (
        "{upstreams: [{target: 'a:1'}], access_log: {format: '%NO%', path: ''}}",
        &[
            "access_log.path: \"\": empty; write a path",
            "access_log.format: \"%NO%\": unknown operator NO; write a preset (text, json, nginx, otel, ecs) or an Envoy format string",
        ],
    ),
    (
        "{upstreams: [{target: 'a:1'}], access_log: {filter: {flags: [UH, XX, '*'], sample: 1.5, min_status: 99, min_duration: 1}}}",
        &[
            "access_log.filter.sample: 1.5: not a share; write a number from 0 to 1, e.g. 0.1 for every tenth line",
            "access_log.filter.min_status: 99: out of range; write a whole number from 100 to 599",
            "access_log.filter.min_duration: 1: no unit; write a number and a unit (ms, s, m, h), e.g. 250ms, 1s, 5m or 1h30m",
            "access_log.filter.flags[1]: \"XX\": no response flag; write a flag such as UH, UF, UC or UT, or \"*\" for any",
        ],
    ),
    (
        "{upstreams: [{target: 'a:1'}], access_log: {filter: {header: {value: x}}}}",
        &["access_log.filter.header.name: missing; name the header, e.g. x-debug"],
    ),
    (
        "{upstreams: [{target: 'a:1'}], access_log: {filter: {header: {name: 'x:', value: \"a\\nb\"}}}}",
        &[
            "access_log.filter.header.name: \"x:\": not a header's name; write a name like x-debug, and its value under value",
            "access_log.filter.header.value: \"a\\nb\": not what a header's value can be; write visible ASCII without spaces at the ends",
        ],
    ),
    (
        "{upstreams: [{target: 'a:1'}], workers: 0, log_level: inof}",
        &[
            "workers: 0: out of range; write a whole number from 1 to 64",
            "log_level: \"inof\": \"inof\" is no level; write one of off, error, warn, info, debug, trace, or TARGET=LEVEL, with commas between several",
        ],
    ),
    (
        "{upstreams: [{target: 'a:1'}], workers: [2], shutdown: 5}",
        &[
            "workers: [2]: a list, not a number; write one value",
            "shutdown: 5: a number, not a mapping; accepted keys: grace_period, native_sidecar",
        ],
    ),
    (
        "{upstreams: [{target: 'a:1'}], worker: 1, 'a b': 2}",
        &[
            "worker: unknown key; did you mean workers?",
            "[\"a b\"]: unknown key; accepted: upstreams, protocol, balance, slow_start, outlier_detection, health_check, healthy_panic_threshold, circuit_breakers, timeouts, retry, limits, headers, dns, access_log, admin, health, workers, shutdown, memory, log_level",
        ],
    ),
    (
        "upstreams:\n  - target: [a:1",
        &[
            "WHICHPOD_CONFIG:2:13: not readable as YAML or JSON: unclosed bracket '['; mend the document there",
        ],
    ),
    (
        "workers: 1\nworkers: 2",
        &[
            "WHICHPOD_CONFIG:2:1: not readable as YAML or JSON: duplicate mapping key: workers not allowed here; mend the document there",
        ],
    ),
];

#[test]
fn every_error_names_path_value_reason_and_remedy() {
    for (document, expected) in DOCUMENT_ERRORS {
        assert_eq!(problems(&[], &[("WHICHPOD_CONFIG", document)]), *expected, "{document}");
    }
}

#[test]
fn every_error_of_the_command_line_is_told_in_the_same_way() {
    let table: &[(&[&str], &[&str])] = &[
        (&["--upstrem", "a:1"], &["--upstrem: unknown flag; did you mean --upstream?"]),
        (
            &["--zzz=1", "-q", "--upstream=a"],
            &[
                "--zzz: unknown flag; see --help",
                "-q: unknown flag; see --help",
                "--upstream: \"a\": no port; write HOST:PORT, e.g. backend:10000, or HOST:PORTNAME",
            ],
        ),
        (&["a:1"], &["a:1: not a flag; to name an upstream, write --upstream a:1"]),
        (
            &["--upstream=a:1", "--check", "true"],
            &["true: not a flag; write --FLAG=true, or the flag alone for true"],
        ),
        (&["--upstream"], &["--upstream: no value; write --upstream <[LISTEN=]HOST:PORT>"]),
        (&["--workers=1", "--workers=2"], &["--workers: given more than once; give it once"]),
        (
            &["--upstream=a:1", "--workers", "-1"],
            &["--workers: \"-1\": out of range; write a whole number from 1 to 64"],
        ),
        (&["--upstream=a:1", "--check=x"], &["--check: \"x\": neither true nor false; write true or false"]),
        (
            &["--upstream=a:1", "--admin=10.0.0.1:1"],
            &[
                "--admin: \"10.0.0.1:1\": the admin server is for this pod only; write a loopback address, e.g. 127.0.0.1:1, and use kubectl port-forward",
            ],
        ),
        (
            &["--upstream=a:1", "--log-format=%NO%"],
            &[
                "--log-format: \"%NO%\": unknown operator NO; write a preset (text, json, nginx, otel, ecs) or an Envoy format string",
            ],
        ),
        (
            &["--upstream=a:http"],
            &[
                "--upstream: \"a:http\": a port name does not tell where to listen; write IP:PORT=a:http, e.g. 127.0.0.1:10000=a:http",
            ],
        ),
        (
            &["--upstream=8080=a:80"],
            &["--upstream: \"8080=a:80\": no IP; write IP:PORT, e.g. 127.0.0.1:8080"],
        ),
        (
            &["--upstream=a:1", "--upstream=b:1"],
            &[
                "--upstream: \"127.0.0.1:1\": the same as, or part of, --upstream a:1 (127.0.0.1:1); give each its own address or port, e.g. 127.77.0.1 with the same port",
            ],
        ),
        (
            &["--upstream=a:1", "--health=127.0.0.1:1"],
            &[
                "--upstream: \"127.0.0.1:1\": the same as, or part of, health.address (127.0.0.1:1); give each its own address or port, e.g. 127.77.0.1 with the same port",
            ],
        ),
        (
            &["--config=/does/not/exist"],
            &[
                "/does/not/exist: cannot be read: No such file or directory (os error 2); check the path, and that it is mounted",
            ],
        ),
        (&["--config=/"], &["/: cannot be read: Is a directory (os error 21); name a file that can be read"]),
        (&["--config=/dev/zero"], &["/dev/zero: larger than 4 MiB; name a configuration file"]),
    ];
    for (args, expected) in table {
        assert_eq!(problems(args, &[]), *expected, "{args:?}");
    }
}

#[test]
fn all_errors_of_all_sources_come_in_one_start() {
    let document =
        "{upstreams: [{target: 'a:80'}, {target: 'b:80'}, {target: c}], dns: {servers: 1}, zzz: 1}";
    let variables =
        [("WHICHPOD_CONFIG", document), ("WHICHPOD_GRACE_PERIOD", "30"), ("WHICHPOD_BALANCE_POLICY", "x")];
    let failure = start(&["--workers=x", "--helth=1"], &variables).unwrap_err();
    assert_eq!(failure.exit_code(), EXIT_USAGE);
    let paths: Vec<&str> = failure.problems.iter().map(|problem| problem.path.as_str()).collect();
    let expected = [
        "--helth",
        "--workers",
        "WHICHPOD_GRACE_PERIOD",
        "upstreams[2].target",
        "dns.servers",
        "zzz",
        "upstreams[1].listen",
    ];
    assert_eq!(paths, expected);
    let text = failure.to_string();
    assert!(
        text.starts_with("invalid configuration: 7 errors (document: WHICHPOD_CONFIG)\n--helth: "),
        "{text}"
    );
    assert!(
        text.ends_with("\nwarning: WHICHPOD_BALANCE_POLICY: unknown variable, which is ignored"),
        "{text}"
    );
}

#[test]
fn what_somebody_wrote_cannot_forge_a_line_of_the_errors() {
    let failure = start(&["--no\u{1b}[2J\npe"], &[("WHICHPOD_A\nB", "1")]).unwrap_err();
    let text = failure.to_string();
    assert_eq!(text.lines().count(), 1 + failure.problems.len() + failure.warnings.len(), "{text}");
    assert!(text.contains(r"--no\u{1b}[2J\npe: unknown flag"), "{text}");
}
