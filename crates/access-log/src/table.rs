//! Every operator that Envoy documents (substitution formatter), and ours.

use std::net::SocketAddr;

use crate::compile::{Compiler, Complaint, When};
use crate::flags::Flags;
use crate::headers::Side;
use crate::line::millis;
use crate::operator::{Op, attempts_sent, is_http, protocol, status, upstream};
use crate::record::{Attempt, Record};
use crate::value::{List, Value};

/// An operator by its name.
pub(crate) struct Row {
    pub name: &'static str,
    pub build: Build,
}

/// How an operator is compiled.
pub(crate) enum Build {
    /// Takes neither parameter nor length.
    Field(fn(&Record) -> Value<'_>),
    /// Takes neither, and needs more than the record.
    Plain(fn(&mut Compiler<'_>) -> Result<Op, Complaint>),
    /// Takes a parameter, which it reads itself.
    With { required: bool, length: bool, build: Builder },
    /// Accepted with anything; there is no value for it.
    Nothing,
}

pub(crate) type Builder = fn(&mut Compiler<'_>, &str) -> Result<Op, Complaint>;

/// The operator with this name.
pub(crate) fn find(name: &str) -> Option<&'static Row> {
    OPERATORS.iter().find(|row| row.name == name)
}

const fn field(name: &'static str, value: fn(&Record) -> Value<'_>) -> Row {
    Row { name, build: Build::Field(value) }
}

const fn plain(name: &'static str, build: fn(&mut Compiler<'_>) -> Result<Op, Complaint>) -> Row {
    Row { name, build: Build::Plain(build) }
}

const fn optional(name: &'static str, build: Builder) -> Row {
    Row { name, build: Build::With { required: false, length: false, build } }
}

const fn required(name: &'static str, build: Builder) -> Row {
    Row { name, build: Build::With { required: true, length: false, build } }
}

const fn cut_optional(name: &'static str, build: Builder) -> Row {
    Row { name, build: Build::With { required: false, length: true, build } }
}

const fn cut_required(name: &'static str, build: Builder) -> Row {
    Row { name, build: Build::With { required: true, length: true, build } }
}

const fn nothing(name: &'static str) -> Row {
    Row { name, build: Build::Nothing }
}

/// All operators.
#[expect(
    clippy::redundant_closure_for_method_calls,
    reason = "a path to a method fixes the compiler's lifetime"
)]
pub(crate) static OPERATORS: &[Row] = &[
    // Times and durations.
    optional("START_TIME", |c, text| c.time(text, When::Start, false)),
    optional("START_TIME_LOCAL", |c, text| c.time(text, When::Start, true)),
    optional("EMIT_TIME", |c, text| c.time(text, When::Emit, false)),
    optional("EMIT_TIME_LOCAL", |c, text| c.time(text, When::Emit, true)),
    field("DURATION", |r| Value::Number(millis(r.duration))),
    required("COMMON_DURATION", |c, text| c.span(text)),
    field("REQUEST_DURATION", |r| Value::millis(r.request_duration)),
    nothing("REQUEST_TX_DURATION"),
    field("RESPONSE_DURATION", |r| Value::millis(r.response_duration)),
    field("RESPONSE_TX_DURATION", |r| Value::millis(r.response_tx_duration)),
    nothing("ROUNDTRIP_DURATION"),
    nothing("DOWNSTREAM_HANDSHAKE_DURATION"),
    nothing("UPSTREAM_CONNECTION_POOL_READY_DURATION"),
    // The request.
    cut_required("REQ", |c, text| c.header(Side::Request, text, true)),
    cut_required("REQUEST_HEADER", |c, text| c.header(Side::Request, text, true)),
    cut_required("REQ_WITHOUT_QUERY", |c, text| c.header(Side::Request, text, false)),
    field("PROTOCOL", |r| protocol(r.protocol)),
    cut_optional("PATH", |c, text| c.path(text)),
    cut_required("QUERY_PARAM", |_, name| Ok(Op::QueryParameter(name.into()))),
    cut_optional("QUERY_PARAMS", |c, text| c.query(text)),
    optional("REQUESTED_SERVER_NAME", |c, text| c.server_name(text)),
    field("BYTES_RECEIVED", |r| Value::Number(r.bytes_received)),
    nothing("REQUEST_HEADERS_BYTES"),
    field("ROUTE_NAME", |r| Value::name(r.route.as_deref())),
    nothing("VIRTUAL_CLUSTER_NAME"),
    // The response.
    cut_required("RESP", |c, text| c.header(Side::Response, text, true)),
    cut_required("RESPONSE_HEADER", |c, text| c.header(Side::Response, text, true)),
    cut_required("TRAILER", |c, text| c.header(Side::Trailer, text, true)),
    cut_required("RESPONSE_TRAILER", |c, text| c.header(Side::Trailer, text, true)),
    field("RESPONSE_CODE", |r| Value::Number(status(r).into())),
    optional("RESPONSE_CODE_DETAILS", |c, text| c.details(text)),
    field("RESPONSE_FLAGS", |r| flags(r.flags, false)),
    field("RESPONSE_FLAGS_LONG", |r| flags(r.flags, true)),
    optional("GRPC_STATUS", |c, text| c.grpc_status(text)),
    field("GRPC_STATUS_NUMBER", |r| Value::number(r.grpc_status)),
    field("BYTES_SENT", |r| Value::Number(r.bytes_sent)),
    nothing("RESPONSE_HEADERS_BYTES"),
    nothing("RESPONSE_TRAILERS_BYTES"),
    nothing("LOCAL_REPLY_BODY"),
    nothing("CONNECTION_TERMINATION_DETAILS"),
    nothing("CUSTOM_FLAGS"),
    // The upstream.
    field("UPSTREAM_HOST", |r| Value::socket(upstream(r))),
    field("UPSTREAM_HOST_NAME", |r| last_name(r, true)),
    field("UPSTREAM_HOST_NAME_WITHOUT_PORT", |r| last_name(r, false)),
    field("UPSTREAM_HOSTS_ATTEMPTED", |r| attempts(r, List::Hosts { port: true })),
    field("UPSTREAM_HOSTS_ATTEMPTED_WITHOUT_PORT", |r| attempts(r, List::Hosts { port: false })),
    field("UPSTREAM_HOST_NAMES_ATTEMPTED", |r| attempts(r, List::Names { port: true })),
    field("UPSTREAM_HOST_NAMES_ATTEMPTED_WITHOUT_PORT", |r| attempts(r, List::Names { port: false })),
    field("UPSTREAM_CLUSTER", |r| Value::name(r.upstream.as_deref())),
    field("UPSTREAM_CLUSTER_RAW", |r| Value::name(r.upstream.as_deref())),
    field("UPSTREAM_REMOTE_ADDRESS", |r| Value::socket(upstream(r))),
    optional("UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", |c, text| c.masked(upstream, text)),
    field("UPSTREAM_REMOTE_PORT", |r| port(upstream(r))),
    nothing("UPSTREAM_REMOTE_ADDRESS_ENDPOINT_ID"),
    field("UPSTREAM_LOCAL_ADDRESS", |r| Value::socket(r.upstream_local)),
    optional("UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", |c, text| c.masked(|r| r.upstream_local, text)),
    field("UPSTREAM_LOCAL_PORT", |r| port(r.upstream_local)),
    field("UPSTREAM_PROTOCOL", |r| protocol(r.upstream_protocol)),
    field("UPSTREAM_REQUEST_ATTEMPT_COUNT", |r| Value::Number(attempts_sent(r))),
    field("UPSTREAM_TRANSPORT_FAILURE_REASON", |r| {
        r.transport_failure.as_deref().map_or(Value::Unset, Value::Underscored)
    }),
    nothing("UPSTREAM_CONNECTION_ID"),
    nothing("UPSTREAM_CONNECTION_IDS_ATTEMPTED"),
    nothing("UPSTREAM_DETECTED_CLOSE_TYPE"),
    nothing("UPSTREAM_LOCAL_CLOSE_REASON"),
    nothing("UPSTREAM_WIRE_BYTES_SENT"),
    nothing("UPSTREAM_WIRE_BYTES_RECEIVED"),
    nothing("UPSTREAM_HEADER_BYTES_SENT"),
    nothing("UPSTREAM_HEADER_BYTES_RECEIVED"),
    nothing("UPSTREAM_DECOMPRESSED_HEADER_BYTES_SENT"),
    nothing("UPSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED"),
    // Ours, of the upstream.
    field("UPSTREAM_POD", |r| Value::name(last(r).and_then(|a| a.pod.as_deref()))),
    field("UPSTREAM_NODE", |r| Value::name(last(r).and_then(|a| a.node.as_deref()))),
    field("UPSTREAM_ZONE", |r| Value::name(last(r).and_then(|a| a.zone.as_deref()))),
    optional("UPSTREAM_ATTEMPTS", |c, text| c.attempts(text)),
    field("ENDPOINTS", |r| Value::number(r.endpoints)),
    field("DNS_AGE", |r| Value::millis(r.dns_age)),
    field("DURATION_SECONDS", |r| Value::Seconds(r.duration)),
    // The client.
    field("DOWNSTREAM_REMOTE_ADDRESS", |r| Value::socket(r.downstream_remote)),
    optional("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", |c, text| c.masked(|r| r.downstream_remote, text)),
    field("DOWNSTREAM_REMOTE_PORT", |r| port(r.downstream_remote)),
    field("DOWNSTREAM_DIRECT_REMOTE_ADDRESS", |r| Value::socket(r.downstream_remote)),
    optional("DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT", |c, text| {
        c.masked(|r| r.downstream_remote, text)
    }),
    field("DOWNSTREAM_DIRECT_REMOTE_PORT", |r| port(r.downstream_remote)),
    field("DOWNSTREAM_LOCAL_ADDRESS", |r| Value::socket(r.downstream_local)),
    optional("DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", |c, text| c.masked(|r| r.downstream_local, text)),
    field("DOWNSTREAM_LOCAL_PORT", |r| port(r.downstream_local)),
    field("DOWNSTREAM_DIRECT_LOCAL_ADDRESS", |r| Value::socket(r.downstream_local)),
    optional("DOWNSTREAM_DIRECT_LOCAL_ADDRESS_WITHOUT_PORT", |c, text| {
        c.masked(|r| r.downstream_local, text)
    }),
    field("DOWNSTREAM_DIRECT_LOCAL_PORT", |r| port(r.downstream_local)),
    nothing("DOWNSTREAM_LOCAL_ADDRESS_ENDPOINT_ID"),
    nothing("DOWNSTREAM_DIRECT_LOCAL_ADDRESS_ENDPOINT_ID"),
    nothing("DOWNSTREAM_TRANSPORT_FAILURE_REASON"),
    nothing("DOWNSTREAM_LOCAL_CLOSE_REASON"),
    nothing("DOWNSTREAM_DETECTED_CLOSE_TYPE"),
    nothing("DOWNSTREAM_WIRE_BYTES_SENT"),
    nothing("DOWNSTREAM_WIRE_BYTES_RECEIVED"),
    nothing("DOWNSTREAM_HEADER_BYTES_SENT"),
    nothing("DOWNSTREAM_HEADER_BYTES_RECEIVED"),
    nothing("DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_SENT"),
    nothing("DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED"),
    // HTTP/3 only; Envoy documents 0 for everything else.
    field("BYTES_RETRANSMITTED", |_| Value::Number(0)),
    field("PACKETS_RETRANSMITTED", |_| Value::Number(0)),
    // Identifiers.
    field("CONNECTION_ID", |r| Value::number(r.connection_id)),
    plain("STREAM_ID", |c| c.stream_id()),
    field("TRACE_ID", |r| r.trace_id.as_ref().map_or(Value::Unset, |id| Value::Text(id))),
    nothing("SPAN_ID"),
    field("UNIQUE_ID", |_| Value::Uuid),
    plain("HOSTNAME", |c| Ok(c.hostname())),
    cut_required("ENVIRONMENT", |c, text| c.environment(text)),
    field("ACCESS_LOG_TYPE", |r| Value::Word(log_type(r))),
    nothing("FILTER_CHAIN_NAME"),
    // Of several operators, the first that has a value.
    cut_required("COALESCE", |c, text| c.coalesce(text)),
    // What only Envoy's own extensions set.
    nothing("DYNAMIC_METADATA"),
    nothing("CLUSTER_METADATA"),
    nothing("UPSTREAM_METADATA"),
    nothing("METADATA"),
    nothing("FILTER_STATE"),
    nothing("UPSTREAM_FILTER_STATE"),
    nothing("CEL"),
    nothing("TYPED_CEL"),
    nothing("FILE_CONTENT"),
    nothing("SECRET"),
    // TLS is passed through, not ended here.
    nothing("DOWNSTREAM_LOCAL_IP_SAN"),
    nothing("DOWNSTREAM_PEER_IP_SAN"),
    nothing("DOWNSTREAM_LOCAL_DNS_SAN"),
    nothing("DOWNSTREAM_PEER_DNS_SAN"),
    nothing("DOWNSTREAM_LOCAL_URI_SAN"),
    nothing("DOWNSTREAM_PEER_URI_SAN"),
    nothing("DOWNSTREAM_LOCAL_EMAIL_SAN"),
    nothing("DOWNSTREAM_PEER_EMAIL_SAN"),
    nothing("DOWNSTREAM_LOCAL_OTHERNAME_SAN"),
    nothing("DOWNSTREAM_PEER_OTHERNAME_SAN"),
    nothing("DOWNSTREAM_LOCAL_SUBJECT"),
    nothing("DOWNSTREAM_PEER_SUBJECT"),
    nothing("DOWNSTREAM_PEER_ISSUER"),
    nothing("DOWNSTREAM_TLS_SESSION_ID"),
    nothing("DOWNSTREAM_TLS_CIPHER"),
    nothing("DOWNSTREAM_TLS_GROUP"),
    nothing("DOWNSTREAM_TLS_VERSION"),
    nothing("DOWNSTREAM_PEER_FINGERPRINT_256"),
    nothing("DOWNSTREAM_PEER_FINGERPRINT_1"),
    nothing("DOWNSTREAM_PEER_SERIAL"),
    nothing("DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256"),
    nothing("DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_1"),
    nothing("DOWNSTREAM_PEER_CHAIN_SERIALS"),
    nothing("DOWNSTREAM_PEER_ISSUER_FINGERPRINT_256"),
    nothing("DOWNSTREAM_PEER_ISSUER_SERIAL"),
    nothing("DOWNSTREAM_PEER_CERT"),
    nothing("DOWNSTREAM_PEER_CERT_V_START"),
    nothing("DOWNSTREAM_PEER_CERT_V_END"),
    nothing("TLS_JA3_FINGERPRINT"),
    nothing("TLS_JA4_FINGERPRINT"),
    nothing("UPSTREAM_PEER_SUBJECT"),
    nothing("UPSTREAM_PEER_ISSUER"),
    nothing("UPSTREAM_TLS_SESSION_ID"),
    nothing("UPSTREAM_TLS_CIPHER"),
    nothing("UPSTREAM_TLS_GROUP"),
    nothing("UPSTREAM_TLS_VERSION"),
    nothing("UPSTREAM_SERVER_NAME"),
    nothing("UPSTREAM_PEER_CERT"),
    nothing("UPSTREAM_PEER_CERT_V_START"),
    nothing("UPSTREAM_PEER_CERT_V_END"),
    nothing("UPSTREAM_PEER_URI_SAN"),
    nothing("UPSTREAM_PEER_DNS_SAN"),
    nothing("UPSTREAM_PEER_IP_SAN"),
    nothing("UPSTREAM_LOCAL_URI_SAN"),
    nothing("UPSTREAM_LOCAL_DNS_SAN"),
    nothing("UPSTREAM_LOCAL_IP_SAN"),
];

fn last(record: &Record) -> Option<&Attempt> {
    record.attempts.last()
}

/// The pod's name, or its address where no name is known.
fn last_name(record: &Record, with_port: bool) -> Value<'_> {
    match last(record) {
        None => Value::Unset,
        Some(Attempt { pod: Some(pod), .. }) => Value::name(Some(pod)),
        Some(attempt) if with_port => Value::Socket(attempt.address),
        Some(attempt) => Value::Ip(attempt.address.ip()),
    }
}

/// A list of the attempts; what is still running without one is `open`.
pub(crate) fn attempts(record: &Record, list: List) -> Value<'_> {
    match record.attempts.is_empty() {
        false => Value::Attempts(record, list),
        true if record.open && list == List::Compact => Value::Word("open"),
        true => Value::Unset,
    }
}

fn port(address: Option<SocketAddr>) -> Value<'static> {
    Value::number(address.map(|address| address.port()))
}

pub(crate) fn flags(flags: Flags, long: bool) -> Value<'static> {
    if flags.is_empty() { Value::Unset } else { Value::Flags(flags, long) }
}

fn log_type(record: &Record) -> &'static str {
    match (is_http(record), record.open) {
        (true, false) => "DownstreamEnd",
        (true, true) => "DownstreamPeriodic",
        (false, false) => "TcpConnectionEnd",
        (false, true) => "TcpPeriodic",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_operator_is_listed_twice() {
        let mut names = HashSet::new();
        for row in OPERATORS {
            assert!(names.insert(row.name), "{}", row.name);
        }
    }
}
