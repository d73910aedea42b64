//! Each operator renders what Envoy documents for it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::time::{Duration, UNIX_EPOCH};

use http::Version;
use support::{attempt, compile, failed, headers, line, line_with, record};
use whichpod_access_log::{Flags, Format, FormatError, Record};

#[test]
fn operators_render_what_envoy_documents() {
    for (operator, expected) in [
        ("%START_TIME%", "2018-05-29T10:43:10.528Z"),
        ("%START_TIME()%", "2018-05-29T10:43:10.528Z"),
        ("%START_TIME(%Y/%m/%dT%H:%M:%S%z %s)%", "2018/05/29T10:43:10+0000 1527590590"),
        ("%START_TIME(%s.%3f)%", "1527590590.528"),
        ("%START_TIME_LOCAL%", "2018-05-29T10:43:10.528+0000"),
        ("%EMIT_TIME%", "2018-05-29T10:43:10.553Z"),
        ("%EMIT_TIME_LOCAL(%H:%M)%", "10:43"),
        ("%REQ(:METHOD)%", "POST"),
        ("%REQ(:PATH)%", "/test/a?q=a%20b&x=%22&empty="),
        ("%REQ(:AUTHORITY)%", "backend-service:10000"),
        ("%REQ(HOST)%", "backend-service:10000"),
        ("%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%", "/original?o=1"),
        ("%REQ(X-NONE?:PATH):5%", "/test"),
        ("%REQ(X-NONE?User-Agent)%", "curl/8.0"),
        ("%REQ(USER-AGENT):4%", "curl"),
        ("%REQ(USER-AGENT):400%", "curl/8.0"),
        ("%REQ(USER-AGENT?)%", "curl/8.0"),
        ("%REQ(X-NONE)%", "-"),
        ("%REQ(:SCHEME)%", "-"),
        ("%REQUEST_HEADER(USER-AGENT):4%", "curl"),
        ("%REQ_WITHOUT_QUERY(X-NONE?:PATH)%", "/test/a"),
        ("%RESP(X-ANSWER)%", "42"),
        ("%RESP(:STATUS)%", "200"),
        ("%RESPONSE_HEADER(X-NONE?X-ANSWER):1%", "4"),
        ("%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%", "17"),
        ("%TRAILER(GRPC-MESSAGE)%", "bad"),
        ("%RESPONSE_TRAILER(GRPC-MESSAGE):2%", "ba"),
        ("%PROTOCOL%", "HTTP/2"),
        ("%UPSTREAM_PROTOCOL%", "HTTP/1.1"),
        ("%RESPONSE_CODE%", "200"),
        ("%RESPONSE_CODE_DETAILS%", "via_upstream"),
        ("%RESPONSE_CODE_DETAILS(ALLOW_WHITESPACES)%", "via upstream"),
        ("%RESPONSE_FLAGS%", "-"),
        ("%RESPONSE_FLAGS_LONG%", "-"),
        ("%BYTES_RECEIVED%", "5"),
        ("%BYTES_SENT%", "1234"),
        ("%BYTES_RETRANSMITTED%", "0"),
        ("%PACKETS_RETRANSMITTED%", "0"),
        ("%DURATION%", "25"),
        ("%DURATION_SECONDS%", "0.025"),
        ("%REQUEST_DURATION%", "2"),
        ("%RESPONSE_DURATION%", "20"),
        ("%RESPONSE_TX_DURATION%", "5"),
        ("%COMMON_DURATION(DS_RX_BEG:DS_RX_END)%", "2"),
        ("%COMMON_DURATION(DS_RX_BEG:DS_RX_END:us)%", "2500"),
        ("%COMMON_DURATION(DS_RX_END:US_RX_BEG:ns)%", "17500000"),
        ("%COMMON_DURATION(US_RX_BEG:DS_TX_END:ms)%", "5"),
        ("%COMMON_DURATION(DS_TX_END:DS_RX_BEG)%", "-"),
        ("%COMMON_DURATION(DS_CX_BEG:DS_CX_END)%", "-"),
        ("%COMMON_DURATION(DS_RX_BEG:US_CX_END)%", "-"),
        ("%GRPC_STATUS%", "InvalidArgument"),
        ("%GRPC_STATUS(CAMEL_STRING)%", "InvalidArgument"),
        ("%GRPC_STATUS(SNAKE_STRING)%", "INVALID_ARGUMENT"),
        ("%GRPC_STATUS(NUMBER)%", "3"),
        ("%GRPC_STATUS_NUMBER%", "3"),
        ("%UPSTREAM_HOST%", "10.1.2.4:8080"),
        ("%UPSTREAM_HOST_NAME%", "backend-0"),
        ("%UPSTREAM_HOST_NAME_WITHOUT_PORT%", "backend-0"),
        ("%UPSTREAM_HOSTS_ATTEMPTED%", "10.1.2.3:8080,10.1.2.4:8080"),
        ("%UPSTREAM_HOSTS_ATTEMPTED_WITHOUT_PORT%", "10.1.2.3,10.1.2.4"),
        ("%UPSTREAM_HOST_NAMES_ATTEMPTED%", "10.1.2.3:8080,backend-0"),
        ("%UPSTREAM_HOST_NAMES_ATTEMPTED_WITHOUT_PORT%", "10.1.2.3,backend-0"),
        ("%UPSTREAM_CLUSTER%", "backend-service"),
        ("%UPSTREAM_CLUSTER_RAW%", "backend-service"),
        ("%UPSTREAM_REMOTE_ADDRESS%", "10.1.2.4:8080"),
        ("%UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "10.1.2.4"),
        ("%UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(16)%", "10.1.0.0/16"),
        ("%UPSTREAM_REMOTE_PORT%", "8080"),
        ("%UPSTREAM_LOCAL_ADDRESS%", "10.1.0.9:40000"),
        ("%UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%", "10.1.0.9"),
        ("%UPSTREAM_LOCAL_PORT%", "40000"),
        ("%UPSTREAM_REQUEST_ATTEMPT_COUNT%", "1"),
        ("%UPSTREAM_TRANSPORT_FAILURE_REASON%", "connection_refused"),
        ("%UPSTREAM_POD%", "backend-0"),
        ("%UPSTREAM_NODE%", "node-1"),
        ("%UPSTREAM_ZONE%", "zone-a"),
        ("%UPSTREAM_ATTEMPTS%", "10.1.2.3:8080 - 1 connect_refused, 10.1.2.4:8080 200 18 ok"),
        ("%ENDPOINTS%", "5"),
        ("%DNS_AGE%", "1500"),
        ("%DOWNSTREAM_REMOTE_ADDRESS%", "10.1.10.23:51000"),
        ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "10.1.10.23"),
        ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(16)%", "10.1.0.0/16"),
        ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(64)%", "-"),
        ("%DOWNSTREAM_REMOTE_PORT%", "51000"),
        ("%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%", "10.1.10.23:51000"),
        ("%DOWNSTREAM_DIRECT_REMOTE_PORT%", "51000"),
        ("%DOWNSTREAM_LOCAL_ADDRESS%", "127.77.0.1:10000"),
        ("%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%", "127.77.0.1"),
        ("%DOWNSTREAM_LOCAL_PORT%", "10000"),
        ("%DOWNSTREAM_DIRECT_LOCAL_ADDRESS_WITHOUT_PORT(8)%", "127.0.0.0/8"),
        ("%CONNECTION_ID%", "7"),
        ("%STREAM_ID%", "9b2d7c1e-0000-4000-8000-000000000000"),
        ("%TRACE_ID%", "4bf92f3577b34da6a3ce929d0e0e4736"),
        ("%HOSTNAME%", "host-1"),
        ("%ENVIRONMENT(POD_NAME)%", "nginx-test-1"),
        ("%ENVIRONMENT(POD_NAME):5%", "nginx"),
        ("%ENVIRONMENT(NONE)%", "-"),
        ("%ROUTE_NAME%", "test"),
        ("%REQUESTED_SERVER_NAME%", "sni.example"),
        ("%REQUESTED_SERVER_NAME(SNI_ONLY)%", "sni.example"),
        ("%REQUESTED_SERVER_NAME(SNI_FIRST:HOST)%", "sni.example"),
        ("%REQUESTED_SERVER_NAME(HOST_FIRST)%", "backend-service:10000"),
        ("%REQUESTED_SERVER_NAME(HOST_FIRST:ORIG)%", "sni.example"),
        ("%PATH%", "/original?o=1"),
        ("%PATH(NQ)%", "/original"),
        ("%PATH(WQ:PATH):5%", "/test"),
        ("%PATH(NQ:PATH)%", "/test/a"),
        ("%PATH(NQ:ORIG)%", "/original"),
        ("%QUERY_PARAM(q)%", "a b"),
        ("%QUERY_PARAM(q):1%", "a"),
        ("%QUERY_PARAM(x)%", r"\x22"),
        ("%QUERY_PARAM(none)%", "-"),
        ("%QUERY_PARAMS%", "q=a%20b&x=%22&empty="),
        ("%QUERY_PARAMS(DECODED):5%", "q=a b"),
        ("%ACCESS_LOG_TYPE%", "DownstreamEnd"),
        (
            r#"%COALESCE({"operators": ["SPAN_ID", {"command": "REQ", "param": "x-none"}, "PROTOCOL"]})%"#,
            "HTTP/2",
        ),
        (
            r#"%COALESCE({"operators": [{"command": "REQ", "param": "user-agent", "max_length": 4}]}):2%"#,
            "cu",
        ),
        ("100%%", "100%"),
    ] {
        let text = format!("{operator}|%PROTOCOL%");
        assert_eq!(line(&text, record()), format!("{expected}|HTTP/2"), "{operator}");
    }
}

#[test]
fn what_is_not_known_renders_a_dash_and_numbers_a_zero_where_envoy_does() {
    let unset = "%REQ(:METHOD)% %REQ(:PATH)% %REQ(:AUTHORITY)% %PROTOCOL% %RESPONSE_CODE_DETAILS% %REQUEST_DURATION% \
                 %RESPONSE_DURATION% %RESPONSE_TX_DURATION% %GRPC_STATUS% %UPSTREAM_HOST% %UPSTREAM_POD% \
                 %UPSTREAM_ATTEMPTS% %UPSTREAM_HOSTS_ATTEMPTED% %UPSTREAM_CLUSTER% %UPSTREAM_LOCAL_ADDRESS% \
                 %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %CONNECTION_ID% %STREAM_ID% %TRACE_ID% %ROUTE_NAME% \
                 %REQUESTED_SERVER_NAME% %ENDPOINTS% %DNS_AGE% %PATH(NQ)% %QUERY_PARAMS% %UPSTREAM_ATTEMPTS(SECONDS)% \
                 %UPSTREAM_HOST_NAME% %UPSTREAM_REMOTE_PORT% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% %RESP(:STATUS)%";
    let nothing = line_with(unset, Record::new(UNIX_EPOCH), &headers(&[]), &headers(&[]));
    assert!(nothing.split(' ').all(|value| value == "-"), "{nothing}");
    let zero = "%RESPONSE_CODE% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %UPSTREAM_REQUEST_ATTEMPT_COUNT%";
    assert_eq!(line(zero, Record::new(UNIX_EPOCH)), "0 0 0 0 0");
}

#[test]
fn the_pods_own_service_time_wins_only_if_it_is_a_number() {
    let with = |value: &'static str| {
        let response = headers(&[("x-envoy-upstream-service-time", value)]);
        line_with("%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%", record(), &headers(&[]), &response)
    };
    assert_eq!(with("9"), "9");
    assert_eq!(with("9 \"forged\""), "17");
    let needs = compile("text").format.needs().clone();
    assert_eq!(needs.response_headers, ["x-envoy-upstream-service-time"]);
}

#[test]
fn each_header_is_captured_once() {
    let format =
        compile("%REQ(A?B)% %REQ(b)% %REQUEST_HEADER(:PATH)% %RESP(A)% %TRAILER(C)% %STREAM_ID%").format;
    assert_eq!(format.needs().request_headers, ["a", "b", "x-request-id"]);
    assert_eq!(format.needs().response_headers, ["a"]);
    assert_eq!(format.needs().response_trailers, ["c"]);
}

#[test]
fn flags_are_written_in_their_order() {
    let flags = |flags| line("%RESPONSE_FLAGS% %RESPONSE_FLAGS_LONG%", failed(flags));
    assert_eq!(
        flags(Flags::RETRY_LIMIT | Flags::CONNECT_FAILED),
        "UF,URX UpstreamConnectionFailure,UpstreamRetryLimitExceeded"
    );
    for (flag, short, long) in Flags::ALL {
        assert_eq!(flags(*flag), format!("{short} {long}"));
    }
}

#[test]
fn grpc_statuses_without_a_name_are_numbers() {
    let mut record = record();
    for (status, expected) in
        [(0, "OK OK"), (1, "Canceled CANCELLED"), (16, "Unauthenticated UNAUTHENTICATED"), (99, "99 99")]
    {
        record.grpc_status = Some(status);
        assert_eq!(line("%GRPC_STATUS% %GRPC_STATUS(SNAKE_STRING)%", record.clone()), expected);
    }
}

#[test]
fn what_is_still_running_is_marked_open_without_another_field() {
    let mut record = record();
    record.open = true;
    record.details = None;
    assert_eq!(
        line("%UPSTREAM_ATTEMPTS% %RESPONSE_CODE_DETAILS% %ACCESS_LOG_TYPE%", record.clone()),
        "10.1.2.3:8080 - 1 connect_refused, 10.1.2.4:8080 200 18 open open DownstreamPeriodic"
    );
    record.attempts.clear();
    record.protocol = None;
    record.method = None;
    assert_eq!(line("%UPSTREAM_ATTEMPTS% %UPSTREAM_HOST% %ACCESS_LOG_TYPE%", record), "open - TcpPeriodic");
}

#[test]
fn a_connection_has_the_durations_of_a_connection() {
    let mut record = Record::new(UNIX_EPOCH);
    record.duration = Duration::from_millis(12);
    let text =
        "%COMMON_DURATION(DS_CX_BEG:DS_CX_END)% %COMMON_DURATION(DS_RX_BEG:DS_TX_END)% %ACCESS_LOG_TYPE%";
    assert_eq!(line(text, record), "12 - TcpConnectionEnd");
}

#[test]
fn of_many_attempts_the_first_and_the_last_are_listed() {
    let mut record = record();
    record.attempts = (0..100).map(|n| attempt(&format!("10.0.0.{n}:80"))).collect();
    let compact = line("%UPSTREAM_ATTEMPTS%", record.clone());
    assert!(compact.starts_with("10.0.0.0:80 - 1 connect_refused, "), "{compact}");
    assert!(compact.contains("10.0.0.9:80 - 1 connect_refused, +80 more, 10.0.0.90:80"), "{compact}");
    assert!(compact.ends_with("10.0.0.99:80 - 1 connect_refused"), "{compact}");
    let aligned = line(
        "%UPSTREAM_ATTEMPTS(ADDRESS)%|%UPSTREAM_ATTEMPTS(STATUS)%|%UPSTREAM_ATTEMPTS(SECONDS)%|%UPSTREAM_ATTEMPTS(LENGTH)%",
        record,
    );
    let lengths: Vec<_> = aligned.split('|').map(|list| list.split(", ").count()).collect();
    assert_eq!(lengths, [21; 4], "aligned: {aligned}");
}

#[test]
fn http_versions_have_envoys_names() {
    let mut record = record();
    for (version, expected) in
        [(Version::HTTP_10, "HTTP/1.0"), (Version::HTTP_11, "HTTP/1.1"), (Version::HTTP_3, "HTTP/3")]
    {
        record.protocol = Some(version);
        assert_eq!(line("%PROTOCOL%", record.clone()), expected);
    }
}

#[test]
fn unique_ids_differ_from_line_to_line() {
    assert_ne!(line("%UNIQUE_ID%", record()), line("%UNIQUE_ID%", record()));
}

/// What Envoy documents and whichpod can't know.
const WITHOUT_VALUE: &str = "
REQUEST_HEADERS_BYTES RESPONSE_HEADERS_BYTES RESPONSE_TRAILERS_BYTES CONNECTION_TERMINATION_DETAILS
UPSTREAM_WIRE_BYTES_SENT UPSTREAM_WIRE_BYTES_RECEIVED UPSTREAM_HEADER_BYTES_SENT UPSTREAM_HEADER_BYTES_RECEIVED
UPSTREAM_DECOMPRESSED_HEADER_BYTES_SENT UPSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED DOWNSTREAM_WIRE_BYTES_SENT
DOWNSTREAM_WIRE_BYTES_RECEIVED DOWNSTREAM_HEADER_BYTES_SENT DOWNSTREAM_HEADER_BYTES_RECEIVED
DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_SENT DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED REQUEST_TX_DURATION
ROUNDTRIP_DURATION DOWNSTREAM_HANDSHAKE_DURATION UPSTREAM_CONNECTION_POOL_READY_DURATION VIRTUAL_CLUSTER_NAME
UPSTREAM_REMOTE_ADDRESS_ENDPOINT_ID UPSTREAM_DETECTED_CLOSE_TYPE UPSTREAM_LOCAL_CLOSE_REASON
DOWNSTREAM_TRANSPORT_FAILURE_REASON DOWNSTREAM_LOCAL_CLOSE_REASON DOWNSTREAM_DETECTED_CLOSE_TYPE
DOWNSTREAM_LOCAL_ADDRESS_ENDPOINT_ID DOWNSTREAM_DIRECT_LOCAL_ADDRESS_ENDPOINT_ID UPSTREAM_CONNECTION_ID
UPSTREAM_CONNECTION_IDS_ATTEMPTED DYNAMIC_METADATA(a:b):5 CLUSTER_METADATA(a:b):5 UPSTREAM_METADATA(a:b):5
FILTER_STATE(a:PLAIN):5 UPSTREAM_FILTER_STATE(a:FIELD:b) METADATA(ROUTE:a:b):5 CEL(a):5 TYPED_CEL(a):5 FILE_CONTENT(/a:/b):5
SECRET(a):5 SPAN_ID CUSTOM_FLAGS LOCAL_REPLY_BODY FILTER_CHAIN_NAME DOWNSTREAM_LOCAL_IP_SAN DOWNSTREAM_PEER_IP_SAN
DOWNSTREAM_LOCAL_DNS_SAN DOWNSTREAM_PEER_DNS_SAN DOWNSTREAM_LOCAL_URI_SAN DOWNSTREAM_PEER_URI_SAN
DOWNSTREAM_LOCAL_EMAIL_SAN DOWNSTREAM_PEER_EMAIL_SAN DOWNSTREAM_LOCAL_OTHERNAME_SAN DOWNSTREAM_PEER_OTHERNAME_SAN
DOWNSTREAM_LOCAL_SUBJECT DOWNSTREAM_PEER_SUBJECT DOWNSTREAM_PEER_ISSUER DOWNSTREAM_TLS_SESSION_ID DOWNSTREAM_TLS_CIPHER
DOWNSTREAM_TLS_GROUP DOWNSTREAM_TLS_VERSION DOWNSTREAM_PEER_FINGERPRINT_256 DOWNSTREAM_PEER_FINGERPRINT_1
DOWNSTREAM_PEER_SERIAL DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256 DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_1
DOWNSTREAM_PEER_CHAIN_SERIALS DOWNSTREAM_PEER_ISSUER_FINGERPRINT_256 DOWNSTREAM_PEER_ISSUER_SERIAL DOWNSTREAM_PEER_CERT
DOWNSTREAM_PEER_CERT_V_START(%Y) DOWNSTREAM_PEER_CERT_V_END TLS_JA3_FINGERPRINT TLS_JA4_FINGERPRINT UPSTREAM_PEER_SUBJECT
UPSTREAM_PEER_ISSUER UPSTREAM_TLS_SESSION_ID UPSTREAM_TLS_CIPHER UPSTREAM_TLS_GROUP UPSTREAM_TLS_VERSION
UPSTREAM_SERVER_NAME UPSTREAM_PEER_CERT UPSTREAM_PEER_CERT_V_START UPSTREAM_PEER_CERT_V_END(%s) UPSTREAM_PEER_URI_SAN
UPSTREAM_PEER_DNS_SAN UPSTREAM_PEER_IP_SAN UPSTREAM_LOCAL_URI_SAN UPSTREAM_LOCAL_DNS_SAN UPSTREAM_LOCAL_IP_SAN";

#[test]
fn everything_else_that_envoy_documents_is_accepted_and_renders_a_dash() {
    for operator in WITHOUT_VALUE.split_whitespace() {
        let compiled = compile(&format!("%{operator}%"));
        assert_eq!(compiled.warnings.len(), 1, "{operator}: {:?}", compiled.warnings);
        assert_eq!(support::written(&compiled.format, &record()), "-", "{operator}");
    }
}

#[test]
fn operators_without_a_value_are_accepted_with_one_warning_each() {
    let compiled = compile(
        "%UPSTREAM_TLS_VERSION% %DYNAMIC_METADATA(a:b):9% %CEL(request.headers['a'].contains('b'))% %UPSTREAM_TLS_VERSION%",
    );
    assert_eq!(compiled.warnings.len(), 3, "{:?}", compiled.warnings);
    assert_eq!(
        compiled.warnings[0],
        "operator %UPSTREAM_TLS_VERSION% is accepted but whichpod has no value for it; it renders -"
    );
    assert_eq!(support::written(&compiled.format, &record()), "- - - -");
    assert!(compile("%REQ(:SCHEME)%").warnings[0].contains(":SCHEME"));
    assert!(compile("%COMMON_DURATION(DS_RX_BEG:US_TX_END)%").warnings[0].contains("US_TX_END"));
    assert_eq!(compile("text").warnings, [""; 0]);
}

fn refused(text: &str) -> FormatError {
    Format::compile(text, &|_| None, "h").unwrap_err()
}

#[test]
fn what_envoy_does_not_know_is_refused_all_at_once_with_the_nearest_name() {
    let error =
        refused("[%START_TIM%] %UPSTREAM_HOSTS% %REQ% %PROTOCOL(x)% %DURATION:3% %REQ(A?B?C)% %lower%");
    let offsets: Vec<_> = error.problems.iter().map(|problem| problem.offset).collect();
    assert_eq!(offsets, [1, 14, 31, 37, 51, 64, 77]);
    let message = error.to_string();
    for part in [
        "\"%START_TIM%\" at byte 1: no such operator (did you mean %START_TIME%?)",
        "did you mean %UPSTREAM_HOST%?",
        "%REQ(...)%",
        "it takes no parameter (write %PROTOCOL%)",
        "can't be cut",
        "more than one alternative",
        "%LOWER%",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
}

#[test]
fn parameters_that_mean_nothing_are_refused() {
    for text in [
        "%REQ(not a header)%",
        "%START_TIME(%n)%",
        "%START_TIME(%Q)%",
        "%COMMON_DURATION(DS_RX_BEG)%",
        "%COMMON_DURATION(A:B:C:D)%",
        "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:s)%",
        "%GRPC_STATUS(NAME)%",
        "%RESPONSE_CODE_DETAILS(X)%",
        "%UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT(129)%",
        "%UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT(x)%",
        "%UPSTREAM_ATTEMPTS(X)%",
        "%QUERY_PARAMS(X)%",
        "%PATH(X)%",
        "%PATH(WQ:X)%",
        "%REQUESTED_SERVER_NAME(X)%",
        "%REQUESTED_SERVER_NAME(SNI_FIRST:X)%",
        "%COALESCE({})%",
        "%COALESCE({\"operators\": [1]})%",
        "%COALESCE({\"operators\": [\"NONE\"]})%",
        "%COALESCE(x)%",
        "%ENVIRONMENT()%",
        "%HOSTNAME(x)%",
    ] {
        let error = refused(text);
        assert_eq!(error.problems.len(), 1, "{error}");
        assert_eq!(error.problems[0].operator, text);
    }
}

#[test]
fn a_misspelt_preset_is_no_constant_line() {
    assert!(refused("jsn").to_string().contains("did you mean json?"));
    assert!(refused("").to_string().contains("text, json, nginx, otel, ecs"));
    assert!(refused("hello world").to_string().contains("%UPSTREAM_HOST%"));
}

#[test]
fn the_local_zone_is_the_containers() {
    let environment = |name: &str| (name == "TZ").then(|| "<-03>3".to_owned());
    let format = Format::compile("%START_TIME_LOCAL(%H:%M %z)%", &environment, "h").unwrap().format;
    assert_eq!(support::written(&format, &record()), "07:43 -0300");
    let unknown = Format::compile("%EMIT_TIME_LOCAL%", &|_| Some("Europe/Berlin".to_owned()), "h").unwrap();
    assert!(unknown.warnings[0].contains("Europe/Berlin"), "{:?}", unknown.warnings);
}

#[test]
fn a_hand_written_envoy_format_works_unchanged() {
    let text = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% \
                %BYTES_SENT% %DURATION%\n %REQ(X-REQUEST-ID)% \"%REQ(USER-AGENT)%\" \"%REQ(X-FORWARDED-FOR)%\" \
                %UPSTREAM_HOST% %UPSTREAM_CLUSTER% %RESPONSE_FLAGS%";
    let expected = "[2018-05-29T10:43:10.528Z] \"POST /original?o=1 HTTP/2\" 200 1234 25 \
                    9b2d7c1e-0000-4000-8000-000000000000 \"curl/8.0\" \"192.0.2.1, 10.0.0.1\" 10.1.2.4:8080 \
                    backend-service -";
    for end in ["", "\n", "\\n"] {
        assert_eq!(line(&format!("{text}{end}"), record()), expected);
    }
    assert_eq!(compile(text).warnings, ["a line break in the log format is written as a space"]);
    assert_eq!(compile(&text.replace('\n', "")).warnings, [""; 0]);
}

#[test]
fn a_template_that_looks_like_json_is_told_of() {
    assert!(compile("{\"a\": \"%REQ(A)%\"}").warnings[0].contains("presets json"));
}
