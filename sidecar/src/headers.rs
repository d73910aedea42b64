//! The header rules: what a pod and a client get to see of each other's heads.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Uri, Version};

use crate::error::Failure;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
/// The request's id, kept or made here.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// The pod's address, where the user wants it in the response.
pub const X_WHICHPOD_UPSTREAM: HeaderName = HeaderName::from_static("x-whichpod-upstream");
/// The pod's name, where the user wants it in the response.
pub const X_WHICHPOD_POD: HeaderName = HeaderName::from_static("x-whichpod-pod");

/// Makes a client's head fit to be sent to a pod: unambiguous, in origin form, without hop-by-hop fields.
///
/// # Errors
/// [`Failure::BadRequest`] for what RFC 9112 §3.2 and §6 do not allow, [`Failure::MethodNotSupported`].
pub fn prepare(head: &mut Parts, target_host: &HeaderValue) -> Result<(), Failure> {
    if head.method == Method::CONNECT {
        return Err(Failure::MethodNotSupported);
    }
    check_host(head, target_host)?;
    check_framing(&head.headers)?;
    if has(&head.headers, &header::TRANSFER_ENCODING) {
        // Some pods know only this spelling.
        head.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    to_origin_form(&mut head.uri)?;
    let trailers = accepts_trailers(&head.headers);
    strip_hop_by_hop(&mut head.headers);
    if trailers {
        // RFC 9110 §10.1.4: TE is a hop-by-hop field, so Connection names it.
        head.headers.insert(header::TE, HeaderValue::from_static("trailers"));
        head.headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
    if first(&head.headers, &header::EXPECT).is_some_and(is_continue) {
        head.headers.remove(header::EXPECT);
    }
    head.version = Version::HTTP_11;
    Ok(())
}

/// Makes a pod's head fit to be sent to the client; returns the pod's own limit for an idle connection, in
/// seconds.
///
/// # Errors
/// [`Failure::UpstreamProtocol`] for a transfer coding other than chunked: it cannot be passed on, because it
/// belongs to the pod's connection.
pub fn finish(headers: &mut HeaderMap) -> Result<Option<u64>, Failure> {
    let mut idle_seconds = first(headers, &KEEP_ALIVE).and_then(keep_alive_timeout);
    if has(headers, &header::TRANSFER_ENCODING) {
        let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
        let chunked = codings.next().is_some_and(|c| c.as_bytes().eq_ignore_ascii_case(b"chunked"));
        if !chunked || codings.next().is_some() {
            return Err(Failure::UpstreamProtocol);
        }
        headers.remove(header::TRANSFER_ENCODING);
        // The coding wins over a length (RFC 9112 §6.3), which would frame our answer wrongly; a pod that is wrong about
        // where its answer ends gets no other request on this connection.
        if headers.remove(header::CONTENT_LENGTH).is_some() {
            idle_seconds = Some(0);
        }
    }
    strip_hop_by_hop(headers);
    Ok(idle_seconds)
}

/// Keeps the request's id or gives it one (UUID v4).
pub fn ensure_request_id(headers: &mut HeaderMap) {
    if has(headers, &X_REQUEST_ID) {
        return;
    }
    let id = uuid::Builder::from_random_bytes(fastrand::u128(..).to_ne_bytes()).into_uuid();
    let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
    if let Ok(value) = HeaderValue::from_str(id.hyphenated().encode_lower(&mut text)) {
        headers.insert(X_REQUEST_ID, value);
    }
}

/// Appends the caller's address to `x-forwarded-for`.
pub fn append_forwarded_for(headers: &mut HeaderMap, caller: std::net::IpAddr) {
    let mut chain = Vec::new();
    for value in headers.get_all(X_FORWARDED_FOR) {
        chain.extend_from_slice(value.as_bytes());
        chain.extend_from_slice(b", ");
    }
    chain.extend_from_slice(caller.to_canonical().to_string().as_bytes());
    if let Ok(value) = HeaderValue::from_bytes(&chain) {
        headers.insert(X_FORWARDED_FOR, value);
    }
}

/// The trace id of a valid `traceparent` (W3C Trace Context §3.2.2).
#[must_use]
pub fn trace_id(headers: &HeaderMap) -> Option<[u8; 32]> {
    let value = first(headers, &TRACEPARENT)?.as_bytes();
    let id: [u8; 32] = value.get(3..35)?.try_into().ok()?;
    let is_hex = |b: &u8| b.is_ascii_digit() || (b'a'..=b'f').contains(b);
    let valid = value.len() >= 55
        && value.get(2) == Some(&b'-')
        && value.get(35) == Some(&b'-')
        && value.get(..2) != Some(b"ff")
        && id.iter().all(is_hex)
        && id.iter().any(|b| *b != b'0');
    valid.then_some(id)
}

/// Trailer fields that would change how a message is framed, routed or authenticated (RFC 9110 §6.5.1).
#[must_use]
pub fn forbidden_in_trailers(name: &HeaderName) -> bool {
    matches!(
        *name,
        header::CONTENT_LENGTH
            | header::TRANSFER_ENCODING
            | header::HOST
            | header::CONNECTION
            | header::TE
            | header::TRAILER
            | header::UPGRADE
            | header::EXPECT
            | header::AUTHORIZATION
            | header::CONTENT_ENCODING
            | header::CONTENT_TYPE
            | header::CONTENT_RANGE
    )
}

/// Exactly one valid Host (RFC 9112 §3.2); an HTTP/1.0 request without one gets the target's name.
fn check_host(head: &mut Parts, target_host: &HeaderValue) -> Result<(), Failure> {
    let mut hosts = head.headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(_), Some(_)) => return Err(Failure::BadRequest("there are two Host headers")),
        (None, _) if head.version == Version::HTTP_10 => {
            let host = match head.uri.authority() {
                Some(authority) => HeaderValue::from_str(authority.as_str())
                    .map_err(|_| Failure::BadRequest("the target's host is not valid"))?,
                None => target_host.clone(),
            };
            head.headers.insert(header::HOST, host);
        }
        (None, _) => return Err(Failure::BadRequest("there is no Host header")),
        (Some(host), None) => {
            if !is_valid_host(host.as_bytes()) {
                return Err(Failure::BadRequest("the Host header is not valid"));
            }
            if let Some(authority) = head.uri.authority() {
                if authority.as_str().contains('@') {
                    return Err(Failure::BadRequest("the target has user information"));
                }
                if !authority.as_str().as_bytes().eq_ignore_ascii_case(host.as_bytes()) {
                    return Err(Failure::BadRequest("the target's host and the Host header differ"));
                }
            }
        }
    }
    Ok(())
}

/// `reg-name`, an address, or `[v6]`, and a port (RFC 3986 §3.2.2); empty is allowed (RFC 9110 §7.2).
fn is_valid_host(host: &[u8]) -> bool {
    let is_port = |port: &[u8]| port.len() <= 5 && port.iter().all(u8::is_ascii_digit);
    if let Some(rest) = host.strip_prefix(b"[") {
        let Some(end) = rest.iter().position(|b| *b == b']') else { return false };
        let (address, after) = rest.split_at(end);
        let is_address = std::str::from_utf8(address).is_ok_and(|a| a.parse::<std::net::Ipv6Addr>().is_ok());
        return is_address
            && match after.get(1..) {
                Some([]) => true,
                Some([b':', port @ ..]) => is_port(port),
                _ => false,
            };
    }
    let (name, port) = match host.iter().position(|b| *b == b':') {
        Some(colon) => (&host[..colon], &host[colon + 1..]),
        None => (host, &[][..]),
    };
    is_port(port) && name.iter().all(|b| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(b))
}

/// One unambiguous length: `Transfer-Encoding: chunked` alone, or one Content-Length (RFC 9112 §6.3).
fn check_framing(headers: &HeaderMap) -> Result<(), Failure> {
    let has_length = has(headers, &header::CONTENT_LENGTH);
    if has(headers, &header::TRANSFER_ENCODING) {
        let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
        let chunked = codings.next().is_some_and(|c| c.as_bytes().eq_ignore_ascii_case(b"chunked"));
        if !chunked || codings.next().is_some() {
            return Err(Failure::BadRequest("the only transfer coding that is accepted is chunked"));
        }
        if has_length {
            return Err(Failure::BadRequest("there is both Content-Length and Transfer-Encoding"));
        }
    }
    if has_length && headers.get_all(header::CONTENT_LENGTH).iter().count() > 1 {
        return Err(Failure::BadRequest("there are two Content-Length headers"));
    }
    Ok(())
}

/// A request for a server, not for a proxy: the path and query alone (RFC 9112 §3.2.1).
fn to_origin_form(uri: &mut Uri) -> Result<(), Failure> {
    match (uri.scheme(), uri.authority()) {
        (None, None) => return Ok(()),
        (None, Some(_)) => return Err(Failure::BadRequest("the target is neither a path nor a URL")),
        (Some(_), _) => {}
    }
    let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    *uri = Uri::from(path);
    Ok(())
}

fn accepts_trailers(headers: &HeaderMap) -> bool {
    has(headers, &header::TE)
        && headers
            .get_all(header::TE)
            .iter()
            .flat_map(|value| value.as_bytes().split(|b| *b == b','))
            .any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}

fn is_continue(value: &HeaderValue) -> bool {
    value.as_bytes().eq_ignore_ascii_case(b"100-continue")
}

/// Heads are short: looking at every name costs less than hashing the one that is looked for, which mostly is not there.
fn has(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers.keys().any(|there| there == name)
}

fn first<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    if has(headers, name) { headers.get(name) } else { None }
}

/// Fields for this connection only (RFC 9110 §7.6.1); Connection is the first.
static HOP_BY_HOP: [HeaderName; 6] =
    [header::CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, header::TE, header::UPGRADE, HTTP2_SETTINGS];

/// Removes them, and those that Connection names.
fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let mut found = [false; HOP_BY_HOP.len()];
    for name in headers.keys() {
        if let Some(index) = HOP_BY_HOP.iter().position(|field| field == name) {
            found[index] = true;
        }
    }
    if found[0] {
        let mut named = Vec::new();
        for value in headers.get_all(header::CONNECTION) {
            // The usual values name no field; a Vec that stays empty costs nothing.
            if !is_plain_connection(value) {
                named.extend(named_fields(value));
            }
        }
        for name in named {
            headers.remove(name);
        }
    }
    for (name, found) in HOP_BY_HOP.iter().zip(found) {
        if found {
            headers.remove(name);
        }
    }
}

fn is_plain_connection(value: &HeaderValue) -> bool {
    let value = value.as_bytes();
    value.eq_ignore_ascii_case(b"keep-alive") || value.eq_ignore_ascii_case(b"close")
}

/// The fields that a Connection header names, less those that a client may not have removed.
fn named_fields(value: &HeaderValue) -> impl Iterator<Item = HeaderName> {
    value
        .as_bytes()
        .split(|b| *b == b',')
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .filter(|name| !is_protected(name))
}

fn is_protected(name: &HeaderName) -> bool {
    matches!(
        *name,
        header::HOST
            | header::AUTHORIZATION
            | header::CONTENT_LENGTH
            | header::TRANSFER_ENCODING
            | header::TRAILER
    ) || *name == X_REQUEST_ID
        || name.as_str().starts_with("x-forwarded-")
}

/// `timeout=N` in seconds (RFC 2068 §19.7.1.1, still what servers send).
fn keep_alive_timeout(value: &HeaderValue) -> Option<u64> {
    value.to_str().ok()?.split(',').find_map(|part| {
        let (name, seconds) = part.split_once('=')?;
        name.trim().eq_ignore_ascii_case("timeout").then(|| seconds.trim().parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn request(version: Version, uri: &str, fields: &[(&str, &str)]) -> Parts {
        let mut builder = Request::builder().version(version).uri(uri);
        for (name, value) in fields {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    fn prepared(version: Version, uri: &str, fields: &[(&str, &str)]) -> Result<Parts, Failure> {
        let mut head = request(version, uri, fields);
        prepare(&mut head, &HeaderValue::from_static("backend:10000")).map(|()| head)
    }

    fn v11(fields: &[(&str, &str)]) -> Result<Parts, Failure> {
        prepared(Version::HTTP_11, "/x", fields)
    }

    #[test]
    fn an_ambiguous_request_never_reaches_a_pod() {
        let bad: &[&[(&str, &str)]] = &[
            &[],
            &[("host", "a"), ("host", "a")],
            &[("host", "a b")],
            &[("host", "a/b")],
            &[("host", "a@b")],
            &[("host", "[::1")],
            &[("host", "[::1]x")],
            &[("host", "[nonsense]")],
            &[("host", "a:port")],
            &[("host", "a:123456")],
            &[("host", "a"), ("transfer-encoding", "gzip, chunked")],
            &[("host", "a"), ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
            &[("host", "a"), ("transfer-encoding", "xchunked")],
            &[("host", "a"), ("transfer-encoding", "chunked"), ("content-length", "3")],
            &[("host", "a"), ("content-length", "3"), ("content-length", "3")],
        ];
        for fields in bad {
            assert!(matches!(v11(fields), Err(Failure::BadRequest(_))), "{fields:?}");
        }
    }

    #[test]
    fn usual_hosts_pass() {
        for host in ["a", "a:80", "10.0.0.1:8080", "[::1]", "[fe80::1]:80", "", "a_b.c-d", "a:"] {
            let host = [("host", host)];
            assert!(v11(&host).is_ok(), "{host:?}");
        }
    }

    #[test]
    fn an_http_1_0_client_without_host_still_reaches_a_virtual_host() {
        let head = prepared(Version::HTTP_10, "/", &[]).unwrap();
        assert_eq!(head.headers["host"], "backend:10000");
        assert_eq!(head.version, Version::HTTP_11);
    }

    #[test]
    fn an_absolute_target_becomes_a_path_and_must_agree_with_host() {
        let head = prepared(Version::HTTP_11, "http://a:80/p?q", &[("host", "A:80")]).unwrap();
        assert_eq!(head.uri.to_string(), "/p?q");
        assert!(prepared(Version::HTTP_11, "http://b/p", &[("host", "a")]).is_err());
        assert!(prepared(Version::HTTP_11, "http://u@a/p", &[("host", "a")]).is_err());
        let head = prepared(Version::HTTP_10, "http://b/p", &[]).unwrap();
        assert_eq!(head.headers["host"], "b");
    }

    #[test]
    fn hop_by_hop_fields_stay_on_their_hop() {
        let head = v11(&[
            ("host", "a"),
            ("connection", "close, x-secret"),
            ("connection", "X-Other"),
            ("x-secret", "1"),
            ("x-other", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMAAABkAARAAAAAAAIAAAAA"),
            ("te", "gzip"),
            ("trailer", "x-sum"),
            ("x-kept", "1"),
        ])
        .unwrap();
        let left: Vec<_> = head.headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(left, ["host", "trailer", "x-kept"]);
    }

    #[test]
    fn a_client_cannot_have_the_proxys_own_fields_removed() {
        let head = v11(&[
            ("host", "a"),
            ("connection", "x-forwarded-for, host, authorization, x-request-id, x-gone"),
            ("x-forwarded-for", "1.2.3.4"),
            ("authorization", "Bearer t"),
            ("x-request-id", "7"),
            ("x-gone", "1"),
        ])
        .unwrap();
        for kept in ["host", "x-forwarded-for", "authorization", "x-request-id"] {
            assert!(head.headers.contains_key(kept), "{kept}");
        }
        assert!(!head.headers.contains_key("x-gone"));
    }

    #[test]
    fn trailers_are_asked_for_where_the_client_takes_them() {
        let head = v11(&[("host", "a"), ("te", "deflate, Trailers"), ("connection", "te")]).unwrap();
        assert_eq!(head.headers["te"], "trailers");
        assert_eq!(head.headers["connection"], "te");
    }

    #[test]
    fn expect_continue_is_answered_here_and_other_expectations_go_on() {
        assert!(!v11(&[("host", "a"), ("expect", "100-Continue")]).unwrap().headers.contains_key("expect"));
        assert!(v11(&[("host", "a"), ("expect", "tea")]).unwrap().headers.contains_key("expect"));
    }

    #[test]
    fn a_request_id_is_kept_or_made() {
        let mut head = v11(&[("host", "a"), ("x-request-id", "mine")]).unwrap();
        ensure_request_id(&mut head.headers);
        assert_eq!(head.headers["x-request-id"], "mine");
        let mut headers = HeaderMap::new();
        ensure_request_id(&mut headers);
        let id = uuid::Uuid::try_parse(headers["x-request-id"].to_str().unwrap()).unwrap();
        assert_eq!(id.get_version_num(), 4);
    }

    #[test]
    fn the_forwarded_chain_grows_by_the_caller() {
        let mut headers = HeaderMap::new();
        headers.append("x-forwarded-for", HeaderValue::from_static("10.0.0.1"));
        append_forwarded_for(&mut headers, "::ffff:10.0.0.2".parse().unwrap());
        assert_eq!(headers["x-forwarded-for"], "10.0.0.1, 10.0.0.2");
    }

    #[test]
    fn a_pods_length_beside_a_coding_cannot_frame_our_answer() {
        let mut headers = HeaderMap::new();
        headers.insert("transfer-encoding", HeaderValue::from_static("chunked"));
        headers.insert("content-length", HeaderValue::from_static("3"));
        assert_eq!(finish(&mut headers), Ok(Some(0)), "and the connection is not used again");
        assert!(headers.is_empty());
        headers.insert("transfer-encoding", HeaderValue::from_static("gzip"));
        assert_eq!(finish(&mut headers), Err(Failure::UpstreamProtocol));
    }

    #[test]
    fn the_pods_own_idle_limit_is_heard() {
        let mut headers = HeaderMap::new();
        headers.insert("keep-alive", HeaderValue::from_static("max=100, timeout=5"));
        assert_eq!(finish(&mut headers), Ok(Some(5)));
        assert!(headers.is_empty());
    }

    #[test]
    fn only_a_valid_trace_is_believed() {
        let mut headers = HeaderMap::new();
        let valid = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        headers.insert("traceparent", HeaderValue::from_static(valid));
        assert_eq!(trace_id(&headers).as_ref().map(|id| &id[..4]), Some(&b"4bf9"[..]));
        for bad in ["", "00", "00-00000000000000000000000000000000-00f067aa0ba902b7-01", "ff-x"] {
            headers.insert("traceparent", HeaderValue::from_str(bad).unwrap());
            assert_eq!(trace_id(&headers), None, "{bad}");
        }
    }
}
