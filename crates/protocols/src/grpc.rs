//! gRPC over HTTP/2, as far as a proxy has to know it: how calls are told apart, their deadline, and their status.

use std::fmt::Write as _;
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use whichpod_access_log::Flags;

use crate::error::Verdict;

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// True for a call: a POST whose content type is `application/grpc`, perhaps with `+` and the messages' coding. As in
/// Envoy, `application/grpc-web` is plain HTTP.
#[must_use]
pub fn is_call(method: &Method, headers: &HeaderMap) -> bool {
    *method == Method::POST && headers.get(header::CONTENT_TYPE).is_some_and(is_grpc)
}

fn is_grpc(content_type: &HeaderValue) -> bool {
    match content_type.as_bytes().split_at_checked(b"application/grpc".len()) {
        Some((name, rest)) => {
            name.eq_ignore_ascii_case(b"application/grpc") && matches!(rest.first(), None | Some(b'+' | b';'))
        }
        None => false,
    }
}

/// The status in a response's trailers, or in its head where there is nothing else.
#[must_use]
pub fn status(fields: &HeaderMap) -> Option<u32> {
    let text = fields.get(STATUS)?.to_str().ok()?;
    // A number may have a sign, a status has none.
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// The status that clients make of a response without one (gRPC's `http-grpc-status-mapping`).
#[must_use]
pub const fn status_of_http(status: StatusCode) -> u32 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}

/// The HTTP status that a call's status is counted as for the pod's health, as Envoy does.
#[must_use]
pub const fn http_status_of(status: u32) -> u16 {
    match status {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    }
}

/// The call's deadline, from its `grpc-timeout`: up to eight digits and a unit. What is malformed is the pod's affair.
#[must_use]
pub fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let (unit, digits) = headers.get(TIMEOUT)?.as_bytes().split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count = digits.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    match unit {
        b'H' => Some(Duration::from_secs(count * 3600)),
        b'M' => Some(Duration::from_secs(count * 60)),
        b'S' => Some(Duration::from_secs(count)),
        b'm' => Some(Duration::from_millis(count)),
        b'u' => Some(Duration::from_micros(count)),
        b'n' => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

/// The status of an error made here: 4 where time was up, 12 where nothing serves the path, 13 where the client is at
/// fault, else 14.
#[must_use]
pub fn status_of(verdict: &Verdict) -> u32 {
    if verdict.flags.contains(Flags::UPSTREAM_TIMEOUT) {
        4
    } else {
        verdict.status.map_or(14, |status| match status_of_http(status) {
            2 => 14,
            status => status,
        })
    }
}

/// Makes a head the whole of an answer: a status and why.
pub fn trailers_only(headers: &mut HeaderMap, status: u32, message: &str) {
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(STATUS, HeaderValue::from(status));
    if let Ok(message) = HeaderValue::try_from(percent_encoded(message)) {
        headers.insert(MESSAGE, message);
    }
}

/// gRPC's own percent-encoding: of all but visible ASCII and space, and of `%`.
fn percent_encoded(message: &str) -> String {
    let mut encoded = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(char::from(byte)),
            // Writing to a String cannot fail.
            _ => drop(write!(encoded, "%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{ConnectFailure, Failure, verdict};

    #[test]
    fn only_what_is_the_pods_fault_counts_against_it() {
        let against = (0..=16).filter(|status| http_status_of(*status) >= 500).collect::<Vec<_>>();
        assert_eq!(against, [2, 4, 12, 13, 14, 15]);
        assert_eq!([4, 14].map(http_status_of), [504, 503], "gateway failures");
    }

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn a_call_is_told_by_its_content_type() {
        for (content_type, grpc) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("Application/GRPC;charset=x", true),
            ("application/grpc-web", false),
            ("application/grpcx", false),
            ("application/json", false),
            ("", false),
        ] {
            let headers = headers("content-type", content_type);
            assert_eq!(is_call(&Method::POST, &headers), grpc, "{content_type}");
            assert!(!is_call(&Method::GET, &headers));
        }
    }

    #[test]
    fn a_deadline_is_read_in_every_unit_and_nonsense_is_none() {
        for (text, nanos) in [
            ("1H", Some(3_600_000_000_000)),
            ("2M", Some(120_000_000_000)),
            ("3S", Some(3_000_000_000)),
            ("100m", Some(100_000_000)),
            ("7u", Some(7_000)),
            ("99999999n", Some(99_999_999)),
            ("999999999n", None),
            ("S", None),
            ("1", None),
            ("-1S", None),
            ("1.5S", None),
            ("1s", None),
        ] {
            let timeout = timeout(&headers("grpc-timeout", text));
            assert_eq!(timeout.map(|timeout| timeout.as_nanos()), nanos, "{text}");
        }
    }

    #[test]
    fn a_status_is_digits_and_nothing_else() {
        for (text, expected) in
            [("0", Some(0)), ("14", Some(14)), ("+5", None), ("-1", None), ("", None), ("1 ", None)]
        {
            assert_eq!(status(&headers("grpc-status", text)), expected, "{text:?}");
        }
    }

    #[test]
    fn a_caller_gets_the_documented_status_for_every_failure() {
        for (failure, status) in [
            (Failure::NoEndpoint, 14),
            (Failure::DnsFailed, 14),
            (Failure::Connect(ConnectFailure::Refused), 14),
            (Failure::Closed, 14),
            (Failure::StreamReset, 14),
            (Failure::UpstreamProtocol, 14),
            (Failure::RequestTimeout, 4),
            (Failure::NoRoute, 12),
            (Failure::StreamIdle, 14),
            (Failure::HeadTooLarge, 14),
        ] {
            assert_eq!(status_of(&verdict(failure)), status, "{failure:?}");
        }
    }

    #[test]
    fn a_message_is_readable_and_cannot_leave_its_header() {
        assert_eq!(percent_encoded("upstream a: 100% gone\r\né"), "upstream a: 100%25 gone%0D%0A%C3%A9");
    }
}
