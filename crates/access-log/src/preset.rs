//! Formats with a name.

use http::Version;

use crate::flags::Flags;
use crate::line::millis;
use crate::operator::{is_http, query, status};
use crate::record::Record;
use crate::table::flags;
use crate::value::{List, Value};

/// A format with a name.
pub(crate) enum Preset {
    /// An Envoy format string.
    Text(&'static str),
    /// One object, its members in this order.
    Json(&'static [(&'static str, Member)]),
}

/// The value of a member.
pub(crate) enum Member {
    /// An Envoy operator, with its percent signs.
    Operator(&'static str),
    /// What has no operator.
    Field(fn(&Record) -> Value<'_>),
    Constant(&'static str),
}

/// The names, for messages.
pub(crate) const NAMES: [&str; 5] = ["text", "json", "nginx", "otel", "ecs"];

/// The preset with this name.
pub(crate) fn find(name: &str) -> Option<Preset> {
    Some(match name {
        "text" => Preset::Text(TEXT),
        "nginx" => Preset::Text(NGINX),
        "json" => Preset::Json(JSON),
        "otel" => Preset::Json(OTEL),
        "ecs" => Preset::Json(ECS),
        _ => return None,
    })
}

/// Envoy's default, and the pod and the attempts.
const TEXT: &str = concat!(
    "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% ",
    "%RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% ",
    "\"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" ",
    "\"%UPSTREAM_HOST%\" %UPSTREAM_POD% %UPSTREAM_ATTEMPTS%"
);

/// ingress-nginx's `upstreaminfo`. Differences: `$remote_user` and the alternative upstream are never known,
/// `$request_length` counts the body only, and an attempt that nobody answered has no status of nginx's own.
const NGINX: &str = concat!(
    "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% - - [%EMIT_TIME_LOCAL(%d/%b/%Y:%H:%M:%S %z)%] ",
    "\"%REQ(:METHOD)% %REQ(:PATH)% %PROTOCOL%\" %RESPONSE_CODE% %BYTES_SENT% \"%REQ(REFERER)%\" ",
    "\"%REQ(USER-AGENT)%\" %BYTES_RECEIVED% %DURATION_SECONDS% [%UPSTREAM_CLUSTER%] [] ",
    "%UPSTREAM_ATTEMPTS(ADDRESS)% %UPSTREAM_ATTEMPTS(LENGTH)% %UPSTREAM_ATTEMPTS(SECONDS)% ",
    "%UPSTREAM_ATTEMPTS(STATUS)% %REQ(X-REQUEST-ID)%"
);

use Member::{Constant, Field, Operator};

const JSON: &[(&str, Member)] = &[
    ("time", Operator("%START_TIME%")),
    ("method", Operator("%REQ(:METHOD)%")),
    ("path", Operator("%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%")),
    ("protocol", Operator("%PROTOCOL%")),
    ("status", Field(http_status)),
    ("flags", Operator("%RESPONSE_FLAGS%")),
    ("details", Operator("%RESPONSE_CODE_DETAILS(ALLOW_WHITESPACES)%")),
    ("grpc_status", Operator("%GRPC_STATUS_NUMBER%")),
    ("bytes_received", Operator("%BYTES_RECEIVED%")),
    ("bytes_sent", Operator("%BYTES_SENT%")),
    ("duration_ms", Operator("%DURATION%")),
    ("request_duration_ms", Operator("%REQUEST_DURATION%")),
    ("response_duration_ms", Operator("%RESPONSE_DURATION%")),
    ("response_tx_duration_ms", Operator("%RESPONSE_TX_DURATION%")),
    ("upstream_service_time_ms", Operator("%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%")),
    ("x_forwarded_for", Operator("%REQ(X-FORWARDED-FOR)%")),
    ("user_agent", Operator("%REQ(USER-AGENT)%")),
    ("request_id", Operator("%REQ(X-REQUEST-ID)%")),
    ("trace_id", Operator("%TRACE_ID%")),
    ("authority", Operator("%REQ(:AUTHORITY)%")),
    ("server_name", Operator("%REQUESTED_SERVER_NAME%")),
    ("route", Operator("%ROUTE_NAME%")),
    ("upstream", Operator("%UPSTREAM_CLUSTER%")),
    ("upstream_host", Operator("%UPSTREAM_HOST%")),
    ("upstream_pod", Operator("%UPSTREAM_POD%")),
    ("upstream_node", Operator("%UPSTREAM_NODE%")),
    ("upstream_zone", Operator("%UPSTREAM_ZONE%")),
    ("upstream_protocol", Operator("%UPSTREAM_PROTOCOL%")),
    ("upstream_local_address", Operator("%UPSTREAM_LOCAL_ADDRESS%")),
    ("transport_failure", Field(transport_failure)),
    ("attempts", Field(attempts)),
    ("endpoints", Operator("%ENDPOINTS%")),
    ("dns_age_ms", Operator("%DNS_AGE%")),
    ("downstream_remote_address", Operator("%DOWNSTREAM_REMOTE_ADDRESS%")),
    ("downstream_local_address", Operator("%DOWNSTREAM_LOCAL_ADDRESS%")),
    ("connection_id", Operator("%CONNECTION_ID%")),
    ("stream_id", Field(stream_id)),
    ("open", Field(open)),
];

/// OpenTelemetry's semantic conventions, flat; the trace id as its non-OTLP log formats name it.
const OTEL: &[(&str, Member)] = &[
    ("timestamp", Operator("%START_TIME%")),
    ("trace_id", Operator("%TRACE_ID%")),
    ("http.request.method", Operator("%REQ(:METHOD)%")),
    ("url.path", Operator("%PATH(NQ:ORIG_OR_PATH)%")),
    ("url.query", Field(url_query)),
    ("network.protocol.name", Field(protocol_name)),
    ("network.protocol.version", Field(protocol_version)),
    ("network.transport", Constant("tcp")),
    ("http.response.status_code", Field(http_status)),
    ("http.request.body.size", Operator("%BYTES_RECEIVED%")),
    ("http.response.body.size", Operator("%BYTES_SENT%")),
    ("error.type", Field(error_type)),
    ("rpc.grpc.status_code", Operator("%GRPC_STATUS_NUMBER%")),
    ("user_agent.original", Operator("%REQ(USER-AGENT)%")),
    ("client.address", Operator("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%")),
    ("client.port", Operator("%DOWNSTREAM_REMOTE_PORT%")),
    ("server.address", Operator("%UPSTREAM_CLUSTER%")),
    ("network.peer.address", Operator("%UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%")),
    ("network.peer.port", Operator("%UPSTREAM_REMOTE_PORT%")),
    ("network.local.address", Operator("%UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%")),
    ("network.local.port", Operator("%UPSTREAM_LOCAL_PORT%")),
    ("tls.client.server_name", Operator("%REQUESTED_SERVER_NAME%")),
    ("k8s.pod.name", Operator("%UPSTREAM_POD%")),
    ("k8s.node.name", Operator("%UPSTREAM_NODE%")),
    ("cloud.availability_zone", Operator("%UPSTREAM_ZONE%")),
    ("whichpod.request_id", Operator("%REQ(X-REQUEST-ID)%")),
    ("whichpod.authority", Operator("%REQ(:AUTHORITY)%")),
    ("whichpod.forwarded_for", Operator("%REQ(X-FORWARDED-FOR)%")),
    ("whichpod.route", Operator("%ROUTE_NAME%")),
    ("whichpod.duration_ms", Operator("%DURATION%")),
    ("whichpod.flags", Operator("%RESPONSE_FLAGS%")),
    ("whichpod.details", Operator("%RESPONSE_CODE_DETAILS(ALLOW_WHITESPACES)%")),
    ("whichpod.attempts", Field(attempts)),
    ("whichpod.endpoints", Operator("%ENDPOINTS%")),
    ("whichpod.dns_age_ms", Operator("%DNS_AGE%")),
    ("whichpod.open", Field(open)),
];

/// Elastic Common Schema 8, with dotted names.
const ECS: &[(&str, Member)] = &[
    ("@timestamp", Operator("%START_TIME%")),
    ("ecs.version", Constant("8.11.0")),
    ("event.kind", Constant("event")),
    ("event.dataset", Constant("whichpod.access")),
    ("event.duration", Field(nanos)),
    ("event.outcome", Field(outcome)),
    ("trace.id", Operator("%TRACE_ID%")),
    ("http.request.id", Operator("%REQ(X-REQUEST-ID)%")),
    ("http.request.method", Operator("%REQ(:METHOD)%")),
    ("http.request.referrer", Operator("%REQ(REFERER)%")),
    ("http.request.body.bytes", Operator("%BYTES_RECEIVED%")),
    ("http.response.status_code", Field(http_status)),
    ("http.response.body.bytes", Operator("%BYTES_SENT%")),
    ("http.version", Field(protocol_version)),
    ("url.original", Operator("%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%")),
    ("url.path", Operator("%PATH(NQ:ORIG_OR_PATH)%")),
    ("url.query", Field(url_query)),
    ("url.domain", Field(url_domain)),
    ("user_agent.original", Operator("%REQ(USER-AGENT)%")),
    ("network.transport", Constant("tcp")),
    ("network.protocol", Field(protocol_name)),
    ("network.forwarded_ip", Operator("%REQ(X-FORWARDED-FOR)%")),
    ("source.ip", Operator("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%")),
    ("source.port", Operator("%DOWNSTREAM_REMOTE_PORT%")),
    ("destination.address", Operator("%UPSTREAM_CLUSTER%")),
    ("destination.ip", Operator("%UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%")),
    ("destination.port", Operator("%UPSTREAM_REMOTE_PORT%")),
    ("tls.client.server_name", Operator("%REQUESTED_SERVER_NAME%")),
    ("orchestrator.resource.name", Operator("%UPSTREAM_POD%")),
    ("whichpod.node", Operator("%UPSTREAM_NODE%")),
    ("whichpod.zone", Operator("%UPSTREAM_ZONE%")),
    ("whichpod.route", Operator("%ROUTE_NAME%")),
    ("whichpod.grpc_status", Operator("%GRPC_STATUS_NUMBER%")),
    ("whichpod.flags", Operator("%RESPONSE_FLAGS%")),
    ("whichpod.details", Operator("%RESPONSE_CODE_DETAILS(ALLOW_WHITESPACES)%")),
    ("whichpod.attempts", Field(attempts)),
    ("whichpod.endpoints", Operator("%ENDPOINTS%")),
    ("whichpod.dns_age_ms", Operator("%DNS_AGE%")),
    ("whichpod.open", Field(open)),
];

/// 0 for a request that no response was begun for; a connection has none.
fn http_status(record: &Record) -> Value<'_> {
    if is_http(record) || record.status.is_some() {
        Value::Number(status(record).into())
    } else {
        Value::Unset
    }
}

fn transport_failure(record: &Record) -> Value<'_> {
    Value::name(record.transport_failure.as_deref())
}

fn attempts(record: &Record) -> Value<'_> {
    Value::Attempts(record, List::Compact)
}

fn stream_id(record: &Record) -> Value<'_> {
    Value::number(record.stream_id)
}

fn open(record: &Record) -> Value<'_> {
    Value::Bool(record.open)
}

fn url_query(record: &Record) -> Value<'_> {
    Value::name(query(record))
}

fn protocol_name(record: &Record) -> Value<'_> {
    if is_http(record) { Value::Word("http") } else { Value::Unset }
}

fn protocol_version(record: &Record) -> Value<'_> {
    match record.protocol {
        Some(Version::HTTP_10) => Value::Word("1.0"),
        Some(Version::HTTP_11) => Value::Word("1.1"),
        Some(Version::HTTP_2) => Value::Word("2"),
        Some(Version::HTTP_3) => Value::Word("3"),
        _ => Value::Unset,
    }
}

fn nanos(record: &Record) -> Value<'_> {
    Value::Number(u64::try_from(record.duration.as_nanos()).unwrap_or(millis(record.duration)))
}

/// The long name of what went wrong, or of a 5xx that a pod answered its code.
fn error_type(record: &Record) -> Value<'_> {
    match (record.flags.is_empty(), &record.status) {
        (false, _) => flags(record.flags, true),
        (true, Some(code)) if code.is_server_error() => Value::Text(code.as_str().as_bytes()),
        _ => Value::Unset,
    }
}

fn outcome(record: &Record) -> Value<'_> {
    Value::Word(match status(record) {
        _ if record.flags != Flags::EMPTY => "failure",
        500.. => "failure",
        _ if record.open => "unknown",
        _ => "success",
    })
}

/// The authority without its port (RFC 3986 §3.2).
fn url_domain(record: &Record) -> Value<'_> {
    let Some(authority) = record.authority.as_ref().map(http::HeaderValue::as_bytes) else {
        return Value::Unset;
    };
    let host_ends = match authority.iter().rposition(|byte| *byte == b']') {
        Some(bracket) => bracket + 1,
        None => authority.iter().position(|byte| *byte == b':').unwrap_or(authority.len()),
    };
    Value::Text(&authority[..host_ends])
}
