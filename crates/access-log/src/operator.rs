//! Operators, compiled: what each yields for a record.

use std::net::SocketAddr;
use std::time::Duration;

use http::{HeaderValue, Version};

use crate::headers::Source;
use crate::record::Record;
use crate::time::plus;
use crate::value::Value;

/// An operator of a format.
#[derive(Debug, Clone)]
pub(crate) struct Operator {
    pub op: Op,
    /// Text is cut to so many bytes (`:Z`).
    pub max: Option<usize>,
}

/// What is yielded.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    Field(fn(&Record) -> Value<'_>),
    /// The first of two headers that is set.
    Header {
        main: Source,
        alternative: Option<Source>,
        query: bool,
    },
    /// An address without its port, masked to a prefix.
    Masked {
        address: fn(&Record) -> Option<SocketAddr>,
        prefix: Option<u8>,
    },
    /// The start, or the moment at which the line is written, by a time of the format.
    Time {
        slot: usize,
        emit: bool,
    },
    Span {
        from: Point,
        to: Point,
        unit: Unit,
    },
    /// Known at the start.
    Constant(Box<str>),
    Details {
        spaces: bool,
    },
    GrpcStatus(GrpcName),
    /// A parameter's value, decoded.
    QueryParameter(Box<str>),
    Query {
        decoded: bool,
    },
    /// SNI, a host, or the first of the two that is set.
    ServerName {
        first: Option<Host>,
        sni: bool,
        then: Option<Host>,
    },
    /// The first that is set.
    FirstOf(Box<[Operator]>),
    /// Accepted, but there is nothing to be had.
    Nothing,
}

/// Where a request's host is read.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    pub original: Option<Source>,
    pub authority: bool,
}

/// How a gRPC status is named.
#[derive(Debug, Clone, Copy)]
pub(crate) enum GrpcName {
    Camel,
    Snake,
    Number,
}

/// A moment in a request (Envoy's `COMMON_DURATION`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    RequestBegin,
    RequestEnd,
    ResponseBegin,
    ResponseSent,
    ConnectionBegin,
    ConnectionEnd,
    /// One that is not measured.
    Unknown,
}

/// A unit of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Millis,
    Micros,
    Nanos,
}

impl Operator {
    pub(crate) fn value<'a>(&'a self, record: &'a Record) -> Value<'a> {
        match self.max {
            None => self.op.value(record),
            max => self.op.value(record).truncated(max),
        }
    }
}

impl Op {
    fn value<'a>(&'a self, record: &'a Record) -> Value<'a> {
        match self {
            Self::Field(field) => field(record),
            Self::Header { main, alternative, query } => {
                let value = match (main.value(record), alternative) {
                    (Value::Unset, Some(alternative)) => alternative.value(record),
                    (value, _) => value,
                };
                match value {
                    Value::Text(text) if !query => Value::Text(before_query(text)),
                    value => value,
                }
            }
            Self::Masked { address, prefix } => match (address(record).map(|address| address.ip()), prefix) {
                (None, _) => Value::Unset,
                (Some(ip), None) => Value::Ip(ip),
                // A prefix that this family does not have says nothing.
                (Some(ip), Some(prefix)) if ip.is_ipv4() && *prefix > 32 => Value::Unset,
                (Some(ip), Some(prefix)) => Value::Network(ip, *prefix),
            },
            Self::Time { slot, emit: false } => Value::Time(*slot, record.start),
            Self::Time { slot, emit: true } => Value::Time(*slot, plus(record.start, record.duration)),
            Self::Span { from, to, unit } => span(record, *from, *to, *unit),
            Self::Constant(text) => Value::name(Some(text)),
            Self::Details { spaces } => match details(record) {
                Some(details) if *spaces => Value::name(Some(details)),
                Some(details) => Value::Underscored(details),
                None => Value::Unset,
            },
            Self::GrpcStatus(name) => grpc_status(record.grpc_status, *name),
            Self::QueryParameter(name) => {
                query(record).and_then(|query| parameter(query, name)).map_or(Value::Unset, decoded)
            }
            Self::Query { decoded: true } => query(record).map_or(Value::Unset, decoded),
            Self::Query { decoded: false } => Value::name(query(record)),
            Self::ServerName { first, sni, then } => {
                let host =
                    |host: &'a Option<Host>| host.as_ref().map_or(Value::Unset, |host| host.value(record));
                match host(first) {
                    Value::Unset if *sni && record.server_name.is_some() => {
                        Value::name(record.server_name.as_deref())
                    }
                    Value::Unset => host(then),
                    value => value,
                }
            }
            Self::FirstOf(operators) => operators
                .iter()
                .map(|operator| operator.value(record))
                .find(|value| !matches!(value, Value::Unset | Value::Text(b"")))
                .unwrap_or(Value::Unset),
            Self::Nothing => Value::Unset,
        }
    }
}

impl Host {
    fn value<'a>(&'a self, record: &'a Record) -> Value<'a> {
        let original = self.original.as_ref().map_or(Value::Unset, |source| source.value(record));
        match original {
            Value::Unset if self.authority => Source::Authority.value(record),
            value => value,
        }
    }
}

impl Point {
    /// Time from the record's start; `None` if it is not known.
    fn offset(self, record: &Record) -> Option<Duration> {
        match self {
            Self::RequestBegin => is_http(record).then_some(Duration::ZERO),
            Self::RequestEnd => record.request_duration,
            Self::ResponseBegin => record.response_duration,
            Self::ResponseSent => (is_http(record) && !record.open).then_some(record.duration),
            Self::ConnectionBegin => (!is_http(record)).then_some(Duration::ZERO),
            Self::ConnectionEnd => (!is_http(record) && !record.open).then_some(record.duration),
            Self::Unknown => None,
        }
    }
}

/// True for a request, false for a TCP connection.
pub(crate) fn is_http(record: &Record) -> bool {
    record.protocol.is_some() || record.method.is_some()
}

/// The status as Envoy counts it: 0 where no response was begun.
pub(crate) fn status(record: &Record) -> u16 {
    record.status.map_or(0, |status| status.as_u16())
}

/// Name and version as Envoy writes them.
pub(crate) fn protocol(version: Option<Version>) -> Value<'static> {
    match version {
        Some(Version::HTTP_09) => Value::Word("HTTP/0.9"),
        Some(Version::HTTP_10) => Value::Word("HTTP/1.0"),
        Some(Version::HTTP_11) => Value::Word("HTTP/1.1"),
        Some(Version::HTTP_2) => Value::Word("HTTP/2"),
        Some(Version::HTTP_3) => Value::Word("HTTP/3"),
        _ => Value::Unset,
    }
}

/// The path without its query.
pub(crate) fn path(record: &Record) -> Value<'_> {
    record.path.as_ref().map_or(Value::Unset, |path| Value::Text(path.path().as_bytes()))
}

/// What follows the path's question mark.
pub(crate) fn query(record: &Record) -> Option<&str> {
    record.path.as_ref().and_then(|path| path.query())
}

/// How many attempts may have reached a pod; 0: the request was never sent.
pub(crate) fn attempts_sent(record: &Record) -> u64 {
    record.attempts.iter().map(|attempt| u64::from(attempt.sent)).sum()
}

/// The pod's address: of the last attempt, the one that answered.
pub(crate) fn upstream(record: &Record) -> Option<SocketAddr> {
    record.attempts.last().map(|attempt| attempt.address)
}

/// The details; what is still running and has none yet is `open`.
fn details(record: &Record) -> Option<&str> {
    record.details.as_deref().or(record.open.then_some("open"))
}

fn span(record: &Record, from: Point, to: Point, unit: Unit) -> Value<'static> {
    let difference = from.offset(record).zip(to.offset(record)).and_then(|(from, to)| to.checked_sub(from));
    Value::number(difference.and_then(|difference| {
        u64::try_from(match unit {
            Unit::Millis => difference.as_millis(),
            Unit::Micros => difference.as_micros(),
            Unit::Nanos => difference.as_nanos(),
        })
        .ok()
    }))
}

fn decoded(text: &str) -> Value<'_> {
    Value::Decoded(text.as_bytes(), usize::MAX)
}

/// The value of the first parameter with this name.
fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| match pair.split_once('=') {
        Some((key, value)) => (key == name).then_some(value),
        None => (pair == name).then_some(""),
    })
}

fn before_query(path: &[u8]) -> &[u8] {
    path.split(|byte| *byte == b'?').next().unwrap_or_default()
}

/// The number that an upstream measured, if it is one: nothing else may stand where a number is expected.
pub(crate) fn plain_number(value: Option<&HeaderValue>) -> Option<u64> {
    let text = value?.to_str().ok()?;
    if text.starts_with('+') { None } else { text.parse().ok() }
}

fn grpc_status(status: Option<u32>, name: GrpcName) -> Value<'static> {
    // google/rpc/code.proto
    const NAMES: [(&str, &str); 17] = [
        ("OK", "OK"),
        ("Canceled", "CANCELLED"),
        ("Unknown", "UNKNOWN"),
        ("InvalidArgument", "INVALID_ARGUMENT"),
        ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
        ("NotFound", "NOT_FOUND"),
        ("AlreadyExists", "ALREADY_EXISTS"),
        ("PermissionDenied", "PERMISSION_DENIED"),
        ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
        ("FailedPrecondition", "FAILED_PRECONDITION"),
        ("Aborted", "ABORTED"),
        ("OutOfRange", "OUT_OF_RANGE"),
        ("Unimplemented", "UNIMPLEMENTED"),
        ("Internal", "INTERNAL"),
        ("Unavailable", "UNAVAILABLE"),
        ("DataLoss", "DATA_LOSS"),
        ("Unauthenticated", "UNAUTHENTICATED"),
    ];
    let Some(status) = status else { return Value::Unset };
    match (name, usize::try_from(status).ok().and_then(|index| NAMES.get(index))) {
        (GrpcName::Camel, Some((camel, _))) => Value::Word(camel),
        (GrpcName::Snake, Some((_, snake))) => Value::Word(snake),
        _ => Value::Number(status.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_found_by_its_whole_name() {
        assert_eq!(parameter("ab=1&a=2&a=3", "a"), Some("2"));
        assert_eq!(parameter("a&b=", "a"), Some(""));
        assert_eq!(parameter("b=", "a"), None);
    }

    #[test]
    fn a_pod_cannot_write_text_where_a_number_is_expected() {
        let number = |text: &'static str| plain_number(Some(&HeaderValue::from_static(text)));
        assert_eq!(number("12"), Some(12));
        for text in ["", "+1", "-1", "1 200", "1.5", "99999999999999999999"] {
            assert_eq!(number(text), None, "{text}");
        }
    }
}
