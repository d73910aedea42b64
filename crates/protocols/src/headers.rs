//! The header rules: what a pod and a client get to see of each other's heads.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Uri, Version};
use whichpod_config::Limits;

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

/// Makes a client's head fit to be sent to a pod that speaks `pod` (HTTP/1.1 or HTTP/2): unambiguous, without hop-by-hop
/// fields, and with the authority where that version has it.
///
/// # Errors
/// [`Failure::BadRequest`] for what RFC 9112 §3.2 and §6, or RFC 9113 §8, do not allow, [`Failure::HeadTooLarge`],
/// [`Failure::MethodNotSupported`].
pub fn prepare(
    head: &mut Parts,
    target_host: &HeaderValue,
    limits: Limits,
    pod: Version,
    has_body: bool,
) -> Result<(), Failure> {
    let from_http2 = head.version == Version::HTTP_2;
    let there = Present::of(&head.headers);
    if head.method == Method::CONNECT {
        // RFC 9113 §8.5.
        let malformed = from_http2 && head.uri.authority().is_none();
        return Err(if malformed {
            Failure::BadRequest("CONNECT has no authority")
        } else {
            Failure::MethodNotSupported
        });
    }
    if from_http2 {
        check_http2(head, limits)?;
        check_length(&head.headers, there)?;
        check_authority(head, target_host)?;
    } else {
        check_host(head, target_host)?;
        check_framing(&head.headers, there)?;
        if there.has(Present::TRANSFER_ENCODING) {
            // Some pods know only this spelling.
            head.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        to_origin_form(&mut head.uri)?;
    }
    let trailers = there.has(Present::TE) && accepts_trailers(&head.headers);
    strip(&mut head.headers, there);
    if there.has(Present::EXPECT) && expects_continue(&head.headers) {
        head.headers.remove(header::EXPECT);
    }
    let to_http2 = pod == Version::HTTP_2;
    match (from_http2, to_http2) {
        (false, true) => host_to_authority(head),
        (true, false) => {
            authority_to_host(head)?;
            join_cookies(&mut head.headers);
            if has_body && !there.has(Present::CONTENT_LENGTH) {
                head.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            }
        }
        (false, false) | (true, true) => {}
    }
    if trailers {
        head.headers.insert(header::TE, HeaderValue::from_static("trailers"));
        if !to_http2 {
            // RFC 9110 §10.1.4: TE is a hop-by-hop field, so Connection names it.
            head.headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
        }
    }
    head.version = pod;
    Ok(())
}

/// True if the client waits for `100 Continue` before it sends the body.
#[must_use]
pub fn expects_continue(headers: &HeaderMap) -> bool {
    first(headers, &header::EXPECT).is_some_and(is_continue)
}

/// Makes a pod's head fit to be sent to the client; returns the pod's own limit for an idle connection, in
/// seconds.
///
/// # Errors
/// [`Failure::UpstreamProtocol`] for a transfer coding other than chunked: it cannot be passed on, because it
/// belongs to the pod's connection.
pub fn finish(headers: &mut HeaderMap) -> Result<Option<u64>, Failure> {
    let there = Present::of(headers);
    let mut idle_seconds = None;
    if there.has(Present::KEEP_ALIVE) {
        idle_seconds = first(headers, &KEEP_ALIVE).and_then(keep_alive_timeout);
    }
    if there.has(Present::TRANSFER_ENCODING) {
        let (coding, another) = first_two(headers, header::TRANSFER_ENCODING);
        let chunked = coding.is_some_and(|c| c.as_bytes().eq_ignore_ascii_case(b"chunked"));
        if !chunked || another.is_some() {
            return Err(Failure::UpstreamProtocol);
        }
        headers.remove(header::TRANSFER_ENCODING);
        // The coding wins over a length (RFC 9112 §6.3), which would frame our answer wrongly; a pod that is wrong about
        // where its answer ends gets no other request on this connection.
        if headers.remove(header::CONTENT_LENGTH).is_some() {
            idle_seconds = Some(0);
        }
    }
    strip(headers, there);
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
    for value in values(headers, X_FORWARDED_FOR) {
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
    match first_two(&head.headers, header::HOST) {
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

/// What h2 lets through although RFC 9113 §8.2.1 and §8.3.1 call it malformed, and the limits of HTTP/1.
fn check_http2(head: &Parts, limits: Limits) -> Result<(), Failure> {
    let mut bytes = head.uri.path_and_query().map_or(0, |target| target.as_str().len());
    for (name, value) in &head.headers {
        let value = value.as_bytes();
        let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
        if blank(value.first()) || blank(value.last()) {
            return Err(Failure::BadRequest("a field's value begins or ends with a blank"));
        }
        // As in HTTP/1: name, colon, blank, value, line end.
        bytes += name.as_str().len() + value.len() + 4;
    }
    if bytes > limits.head_bytes || head.headers.len() > limits.headers {
        return Err(Failure::HeadTooLarge);
    }
    Ok(())
}

/// One valid authority, in `:authority` or in Host (RFC 9113 §8.3.1); it ends up in the target. A request without one
/// gets the target's name.
fn check_authority(head: &mut Parts, target_host: &HeaderValue) -> Result<(), Failure> {
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Failure::BadRequest("there are two Host headers"));
    }
    if let Some(authority) = head.uri.authority() {
        let authority = authority.as_str().as_bytes();
        if !is_valid_host(authority) {
            return Err(Failure::BadRequest("the authority is not valid"));
        }
        if host.is_some_and(|host| !host.as_bytes().eq_ignore_ascii_case(authority)) {
            return Err(Failure::BadRequest("the authority and the Host header differ"));
        }
        head.headers.remove(header::HOST);
        return Ok(());
    }
    let host = host.unwrap_or(target_host).clone();
    if !is_valid_host(host.as_bytes()) {
        return Err(Failure::BadRequest("the Host header is not valid"));
    }
    head.headers.insert(header::HOST, host);
    host_to_authority(head);
    Ok(())
}

/// From Host to `:authority`; a Host that is no authority (an empty one) stays where it is.
fn host_to_authority(head: &mut Parts) {
    head.headers.remove(header::TRANSFER_ENCODING);
    let authority = head.headers.get(header::HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let Some(authority) = authority else { return };
    let mut target = std::mem::take(&mut head.uri).into_parts();
    target.scheme = Some(Scheme::HTTP);
    target.authority = Some(authority);
    target.path_and_query.get_or_insert_with(|| PathAndQuery::from_static("/"));
    // Its three parts are there, and valid.
    head.uri = Uri::from_parts(target).unwrap_or_default();
    head.headers.remove(header::HOST);
}

/// From `:authority` to Host, and the path and query alone as the target.
fn authority_to_host(head: &mut Parts) -> Result<(), Failure> {
    if let Some(authority) = head.uri.authority() {
        let host = HeaderValue::from_str(authority.as_str())
            .map_err(|_| Failure::BadRequest("the authority is not valid"))?;
        head.headers.insert(header::HOST, host);
    }
    to_origin_form(&mut head.uri)
}

/// HTTP/2 may send a cookie in crumbs; HTTP/1 has one line (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(header::COOKIE).iter();
    let (Some(first), Some(second)) = (crumbs.next(), crumbs.next()) else { return };
    let mut cookie = first.as_bytes().to_vec();
    for crumb in std::iter::once(second).chain(crumbs) {
        cookie.extend_from_slice(b"; ");
        cookie.extend_from_slice(crumb.as_bytes());
    }
    if let Ok(cookie) = HeaderValue::from_bytes(&cookie) {
        headers.insert(header::COOKIE, cookie);
    }
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
fn check_framing(headers: &HeaderMap, there: Present) -> Result<(), Failure> {
    if there.has(Present::TRANSFER_ENCODING)
        && let (Some(coding), another) = first_two(headers, header::TRANSFER_ENCODING)
    {
        if another.is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
            return Err(Failure::BadRequest("the only transfer coding that is accepted is chunked"));
        }
        if there.has(Present::CONTENT_LENGTH) {
            return Err(Failure::BadRequest("there is both Content-Length and Transfer-Encoding"));
        }
    }
    check_length(headers, there)
}

/// At most one Content-Length: h2 lets two through that are equal, which not every pod takes for one.
fn check_length(headers: &HeaderMap, there: Present) -> Result<(), Failure> {
    if there.has(Present::CONTENT_LENGTH) && values(headers, header::CONTENT_LENGTH).count() > 1 {
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
    // Of `http://a#b` a path is left that is empty and says `/`, but is not written as one.
    let path = uri.path_and_query().filter(|path| *path != "/").cloned();
    *uri = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    Ok(())
}

fn accepts_trailers(headers: &HeaderMap) -> bool {
    values(headers, header::TE)
        .flat_map(|value| value.as_bytes().split(|b| *b == b','))
        .any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}

fn is_continue(value: &HeaderValue) -> bool {
    value.as_bytes().eq_ignore_ascii_case(b"100-continue")
}

/// The values of one field, in their order. Heads are short: looking at every name costs less than hashing the one that is
/// looked for, which mostly is not there.
fn values(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &HeaderValue> {
    headers.iter().filter(move |(there, _)| **there == name).map(|(_, value)| value)
}

fn first_two(headers: &HeaderMap, name: HeaderName) -> (Option<&HeaderValue>, Option<&HeaderValue>) {
    let mut values = values(headers, name);
    (values.next(), values.next())
}

pub(crate) fn has(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers.keys().any(|there| there == name)
}

fn first<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    headers.iter().find(|(there, _)| *there == name).map(|(_, value)| value)
}

/// Which of the fields that the rules look for are in a head: each of its names is looked at once.
#[derive(Clone, Copy)]
struct Present(u16);

impl Present {
    const CONNECTION: u16 = 1;
    const KEEP_ALIVE: u16 = 1 << 1;
    const PROXY_CONNECTION: u16 = 1 << 2;
    const TE: u16 = 1 << 3;
    const UPGRADE: u16 = 1 << 4;
    const HTTP2_SETTINGS: u16 = 1 << 5;
    const TRANSFER_ENCODING: u16 = 1 << 6;
    const CONTENT_LENGTH: u16 = 1 << 7;
    const EXPECT: u16 = 1 << 8;

    fn of(headers: &HeaderMap) -> Self {
        Self(headers.keys().fold(0, |all, name| {
            all | match name.as_str() {
                "connection" => Self::CONNECTION,
                "keep-alive" => Self::KEEP_ALIVE,
                "proxy-connection" => Self::PROXY_CONNECTION,
                "te" => Self::TE,
                "upgrade" => Self::UPGRADE,
                "http2-settings" => Self::HTTP2_SETTINGS,
                "transfer-encoding" => Self::TRANSFER_ENCODING,
                "content-length" => Self::CONTENT_LENGTH,
                "expect" => Self::EXPECT,
                _ => 0,
            }
        }))
    }

    fn has(self, field: u16) -> bool {
        self.0 & field != 0
    }
}

/// Fields for this connection only (RFC 9110 §7.6.1).
static HOP_BY_HOP: [(u16, HeaderName); 6] = [
    (Present::CONNECTION, header::CONNECTION),
    (Present::KEEP_ALIVE, KEEP_ALIVE),
    (Present::PROXY_CONNECTION, PROXY_CONNECTION),
    (Present::TE, header::TE),
    (Present::UPGRADE, header::UPGRADE),
    (Present::HTTP2_SETTINGS, HTTP2_SETTINGS),
];

/// Removes them, and those that Connection names.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    strip(headers, Present::of(headers));
}

fn strip(headers: &mut HeaderMap, there: Present) {
    if there.has(Present::CONNECTION) {
        let mut named = Vec::new();
        for value in values(headers, header::CONNECTION) {
            // The usual values name no field; a Vec that stays empty costs nothing.
            if !is_plain_connection(value) {
                named.extend(named_fields(value));
            }
        }
        for name in named {
            headers.remove(name);
        }
    }
    for (field, name) in &HOP_BY_HOP {
        if there.has(*field) {
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
mod tests;
