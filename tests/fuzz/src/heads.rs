//! Heads: what reaches a pod is unambiguous, and nothing that belongs to one connection gets to another.

use std::net::IpAddr;
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Version};
use whichpod_config::{Balance, HashOn, Limits};
use whichpod_protocols::hash::of_request;
use whichpod_protocols::headers::{X_REQUEST_ID, finish, prepare, trace_id};
use whichpod_protocols::{grpc as calls, headers};

use crate::parts::{fields, lines};

/// Fields of one connection (RFC 9110 §7.6.1), but for `te` and `transfer-encoding`.
const OF_A_CONNECTION: [&str; 4] = ["keep-alive", "proxy-connection", "upgrade", "http2-settings"];

/// `GET /path HTTP/1.1` and fields, one a line. The version may also be HTTP/1.0 or HTTP/2.
pub fn request_head(bytes: &[u8]) {
    let mut lines = lines(bytes);
    let Some(first) = lines.next().and_then(|line| std::str::from_utf8(line).ok()) else { return };
    let [method, target, version] = first.split(' ').collect::<Vec<_>>()[..] else { return };
    let version = match version {
        "HTTP/1.0" => Version::HTTP_10,
        "HTTP/1.1" => Version::HTTP_11,
        "HTTP/2" => Version::HTTP_2,
        _ => return,
    };
    let Ok(request) = Request::builder().method(method).uri(target).version(version).body(()) else { return };
    let fields = fields(lines);
    if version == Version::HTTP_2 && fields.contains_key(header::TRANSFER_ENCODING) {
        // h2 has refused it (RFC 9113 §8.2.2).
        return;
    }
    for (pod, has_body) in [
        (Version::HTTP_11, false),
        (Version::HTTP_11, true),
        (Version::HTTP_2, false),
        (Version::HTTP_2, true),
    ] {
        let (mut head, ()) = request.clone().into_parts();
        head.headers = fields.clone();
        let target_host = HeaderValue::from_static("backend:10000");
        if prepare(&mut head, &target_host, Limits::default(), pod, has_body).is_err() {
            continue;
        }
        assert_eq!(head.version, pod);
        let headers = &head.headers;
        let count = |name: HeaderName| headers.get_all(name).iter().count();
        for name in OF_A_CONNECTION {
            assert!(!headers.contains_key(name), "{name} got through");
        }
        if pod == Version::HTTP_2 {
            assert_eq!(count(header::CONNECTION) + count(header::TRANSFER_ENCODING), 0);
            let authority = head.uri.authority().is_some();
            assert!(
                authority != headers.contains_key(header::HOST),
                "one authority: {:?} {headers:?}",
                head.uri
            );
        } else {
            assert_eq!(count(header::HOST), 1);
            let target = head.uri.to_string();
            assert!(target.starts_with('/') || target == "*", "{target}");
            let framing = count(header::CONTENT_LENGTH) + count(header::TRANSFER_ENCODING);
            assert!(framing <= 1, "{headers:?}");
            assert!(headers.get(header::TRANSFER_ENCODING).is_none_or(|coding| coding == "chunked"));
            assert!(headers.get(header::CONNECTION).is_none_or(|named| named == "te"));
            assert_eq!(headers.contains_key(header::CONNECTION), headers.contains_key(header::TE));
        }
        assert!(headers.get_all(header::TE).iter().all(|te| te == "trailers"), "{headers:?}");
        nothing_named_by_connection(&fields, headers);
        for name in [header::AUTHORIZATION, X_REQUEST_ID] {
            assert_eq!(headers.contains_key(&name), fields.contains_key(&name), "{name} is the client's");
        }
        let _ = (trace_id(headers), headers::expects_continue(headers));
    }
}

/// A response's fields, one a line.
pub fn response_head(bytes: &[u8]) {
    let fields = fields(lines(bytes));
    let mut headers = fields.clone();
    if finish(&mut headers).is_err() {
        let codings: Vec<_> = fields.get_all(header::TRANSFER_ENCODING).iter().collect();
        assert!(!matches!(codings[..], [coding] if coding.as_bytes().eq_ignore_ascii_case(b"chunked")));
        return;
    }
    for name in OF_A_CONNECTION.into_iter().chain(["connection", "te", "transfer-encoding"]) {
        assert!(!headers.contains_key(name), "{name} got through");
    }
    if fields.contains_key(header::TRANSFER_ENCODING) {
        assert!(!headers.contains_key(header::CONTENT_LENGTH), "two framings");
    }
    nothing_named_by_connection(&fields, &headers);
}

/// What Connection names is gone, but for what nobody may take away.
fn nothing_named_by_connection(before: &HeaderMap, after: &HeaderMap) {
    let named =
        before.get_all(header::CONNECTION).iter().flat_map(|value| value.as_bytes().split(|b| *b == b','));
    for name in named.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok()) {
        let kept = [
            header::HOST,
            header::AUTHORIZATION,
            header::CONTENT_LENGTH,
            header::TRANSFER_ENCODING,
            header::TRAILER,
            header::TE,
            header::CONNECTION,
            X_REQUEST_ID,
        ];
        let kept = kept.contains(&name) || name.as_str().starts_with("x-forwarded-");
        assert!(kept || !after.contains_key(&name), "{name} is named by Connection");
    }
}

/// A call's fields, one a line; the first line is also an error's message.
pub fn grpc(bytes: &[u8]) {
    let fields = fields(lines(bytes));
    if let Some(timeout) = calls::timeout(&fields) {
        let (unit, digits) = fields["grpc-timeout"].as_bytes().split_last().expect("a unit");
        let nanos: u128 = match unit {
            b'H' => 3_600_000_000_000,
            b'M' => 60_000_000_000,
            b'S' => 1_000_000_000,
            b'm' => 1_000_000,
            b'u' => 1_000,
            b'n' => 1,
            other => panic!("unit {other}"),
        };
        let count: u128 = std::str::from_utf8(digits).expect("digits").parse().expect("a number");
        assert_eq!(timeout.as_nanos(), count * nanos);
        assert!(timeout <= Duration::from_secs(99_999_999 * 3600));
    }
    if let Some(status) = calls::status(&fields) {
        let text = fields["grpc-status"].to_str().expect("text");
        assert!(text.bytes().all(|byte| byte.is_ascii_digit()), "{text:?}");
        assert_eq!(text.trim_start_matches('0'), status.to_string().trim_start_matches('0'));
        let _ = calls::http_status_of(status);
    }
    let _ = calls::is_call(&Method::POST, &fields);
    let message = String::from_utf8_lossy(lines(bytes).next().unwrap_or_default());
    let mut headers = HeaderMap::new();
    calls::trailers_only(&mut headers, 14, &message);
    let encoded = headers["grpc-message"].as_bytes();
    assert!(encoded.iter().all(|byte| (b' '..=b'~').contains(byte)));
    assert_eq!(percent_decoded(encoded), message.as_bytes());
}

fn percent_decoded(text: &[u8]) -> Vec<u8> {
    let mut parts = text.split(|byte| *byte == b'%');
    let mut bytes = parts.next().unwrap_or_default().to_vec();
    for part in parts {
        let digits = std::str::from_utf8(&part[..2]).expect("ASCII");
        bytes.push(u8::from_str_radix(digits, 16).expect("two digits"));
        bytes.extend_from_slice(&part[2..]);
    }
    bytes
}

/// A cookie's value decides the pod, in one line or in the crumbs of HTTP/2. The first line is the cookie's name, the
/// others are fields.
pub fn hash(bytes: &[u8]) {
    let mut lines = lines(bytes);
    let Some(name) = lines.next().and_then(|line| std::str::from_utf8(line).ok()) else { return };
    let mut headers = fields(lines);
    // What the configuration accepts as a cookie's name (RFC 6265 §4.1.1).
    let is_name = !name.is_empty() && name.bytes().all(|byte| HeaderName::from_bytes(&[byte]).is_ok());
    if !is_name {
        return;
    }
    let caller = IpAddr::from([10, 0, 0, 1]);
    let by_cookie = Balance::Maglev(HashOn::Cookie(name.into()));
    let hash = of_request(&by_cookie, &headers, caller);
    let crumbs: Vec<HeaderValue> = headers
        .get_all(header::COOKIE)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b';'))
        .map(|crumb| HeaderValue::from_bytes(crumb.trim_ascii()).expect("a part of a value"))
        .collect();
    let mut in_crumbs = HeaderMap::new();
    for crumb in &crumbs {
        in_crumbs.append(header::COOKIE, crumb.clone());
    }
    assert_eq!(of_request(&by_cookie, &in_crumbs, caller), hash, "{crumbs:?}");
    if hash.is_some() {
        let begins = |crumb: &HeaderValue| crumb.as_bytes().starts_with(name.as_bytes());
        assert!(crumbs.iter().any(begins), "{name} is nowhere in {crumbs:?}");
        let other = HeaderValue::from_str(&format!("{name}=another")).expect("a cookie");
        headers.append(header::COOKIE, other);
        assert_eq!(of_request(&by_cookie, &headers, caller), hash, "the first one counts");
    }
    if let Ok(field) = HeaderName::from_bytes(name.as_bytes()) {
        let by_field = Balance::Maglev(HashOn::Header(field.as_str().into()));
        let there = headers.contains_key(&field);
        assert_eq!(of_request(&by_field, &headers, caller).is_some(), there);
    }
}
