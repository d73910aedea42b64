//! Requests that become tunnels: `Upgrade` (RFC 9110 §7.8) once the pod answers 101, CONNECT (§9.3.6) once it answers 2xx.

use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Method, StatusCode, Version};

use crate::error::Failure;
use crate::headers::{has, strip_hop_by_hop};

/// What a client asks a connection to become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Switch {
    /// A way to the host that CONNECT names.
    Connect,
    /// One of these protocols.
    Upgrade(HeaderValue),
}

/// What the client asks for; `h2c` is never passed on, because a pod that accepted it would be asked what nobody sees, and
/// nothing is where a body goes first or where the client speaks HTTP/1.0.
#[must_use]
pub fn asked(head: &Parts, has_body: bool) -> Option<Switch> {
    if !matches!(head.version, Version::HTTP_10 | Version::HTTP_11) {
        return None;
    }
    if head.method == Method::CONNECT {
        return Some(Switch::Connect);
    }
    if !has(&head.headers, &header::UPGRADE)
        || has_body
        || head.version != Version::HTTP_11
        || !names(&head.headers, header::CONNECTION, "upgrade")
    {
        return None;
    }
    let upgrades = head.headers.get_all(header::UPGRADE).iter();
    let protocols: Vec<_> = upgrades.flat_map(items).filter(|name| !is_http2(name)).collect();
    if protocols.is_empty() {
        return None;
    }
    HeaderValue::from_bytes(&protocols.join(&b", "[..])).ok().map(Switch::Upgrade)
}

/// Writes the question into a head that is fit to be sent otherwise.
pub fn ask(switch: &Switch, head: &mut Parts) {
    if let Switch::Upgrade(protocols) = switch {
        let connection = if head.headers.contains_key(header::TE) { "te, upgrade" } else { "upgrade" };
        head.headers.insert(header::UPGRADE, protocols.clone());
        head.headers.insert(header::CONNECTION, HeaderValue::from_static(connection));
    }
}

/// Makes the head of a CONNECT fit to be sent: one host, with a port, and no body.
///
/// # Errors
/// [`Failure::BadRequest`]
pub fn prepare_connect(head: &mut Parts) -> Result<(), Failure> {
    const TARGET: Failure = Failure::BadRequest("CONNECT needs HOST:PORT");
    let authority = head.uri.authority().filter(|_| head.uri.scheme().is_none()).ok_or(TARGET)?;
    if authority.port_u16().is_none() || authority.as_str().contains('@') {
        return Err(TARGET);
    }
    let target = HeaderValue::from_str(authority.as_str()).map_err(|_| TARGET)?;
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Failure::BadRequest("there are two Host headers"));
    }
    let same = |host: &HeaderValue| {
        let host = host.as_bytes();
        host.eq_ignore_ascii_case(target.as_bytes()) || host.eq_ignore_ascii_case(authority.host().as_bytes())
    };
    if !host.map_or(head.version == Version::HTTP_10, same) {
        return Err(Failure::BadRequest("the target's host and the Host header differ"));
    }
    let length = head.headers.remove(header::CONTENT_LENGTH);
    if head.headers.contains_key(header::TRANSFER_ENCODING) || length.is_some_and(|length| length != "0") {
        return Err(Failure::BadRequest("CONNECT has no body"));
    }
    strip_hop_by_hop(&mut head.headers);
    head.headers.insert(header::HOST, target);
    head.version = Version::HTTP_11;
    Ok(())
}

/// True if the pod's answer switches, as it was asked to.
///
/// # Errors
/// [`Failure::UpstreamProtocol`] if it switches although nobody asked, or to something that nobody offered.
pub fn switches(
    asked: Option<&Switch>,
    status: StatusCode,
    headers: &mut HeaderMap,
) -> Result<bool, Failure> {
    match (status, asked) {
        (StatusCode::SWITCHING_PROTOCOLS, Some(Switch::Upgrade(offered))) => {
            let chosen = headers.get(header::UPGRADE).cloned().ok_or(Failure::UpstreamProtocol)?;
            let is_offered = |name: &[u8]| items(offered).any(|offer| offer.eq_ignore_ascii_case(name));
            if items(&chosen).next().is_none() || !items(&chosen).all(is_offered) {
                return Err(Failure::UpstreamProtocol);
            }
            strip(headers);
            headers.insert(header::UPGRADE, chosen);
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            Ok(true)
        }
        // hyper swallows the other interim responses.
        (status, _) if status.is_informational() => Err(Failure::UpstreamProtocol),
        (status, Some(Switch::Connect)) if status.is_success() => {
            strip(headers);
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// A response that begins a tunnel has no body, whatever it says (RFC 9110 §9.3.6, §15.2.2).
fn strip(headers: &mut HeaderMap) {
    strip_hop_by_hop(headers);
    headers.remove(header::CONTENT_LENGTH);
    headers.remove(header::TRANSFER_ENCODING);
}

fn is_http2(protocol: &[u8]) -> bool {
    protocol.eq_ignore_ascii_case(b"h2c")
        || protocol.get(..6).is_some_and(|p| p.eq_ignore_ascii_case(b"HTTP/2"))
}

fn names(headers: &HeaderMap, field: header::HeaderName, word: &str) -> bool {
    headers.get_all(field).iter().flat_map(items).any(|item| item.eq_ignore_ascii_case(word.as_bytes()))
}

/// The items of a list (RFC 9110 §5.6.1).
fn items(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|item| !item.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn head(version: Version, method: Method, uri: &str, fields: &[(&str, &str)]) -> Parts {
        let mut builder = Request::builder().version(version).method(method).uri(uri);
        for (name, value) in fields {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    fn asks(fields: &[(&str, &str)]) -> Option<String> {
        match asked(&head(Version::HTTP_11, Method::GET, "/", fields), false)? {
            Switch::Upgrade(protocols) => Some(protocols.to_str().unwrap().to_owned()),
            Switch::Connect => None,
        }
    }

    #[test]
    fn every_protocol_is_offered_on_but_http_2() {
        let connection = ("connection", "keep-alive, Upgrade");
        for (upgrade, offered) in [
            ("websocket", Some("websocket")),
            ("h2c, websocket,SPDY/3.1", Some("websocket, SPDY/3.1")),
            ("h2c", None),
            ("H2C", None),
            ("HTTP/2.0", None),
            ("", None),
        ] {
            assert_eq!(asks(&[connection, ("upgrade", upgrade)]).as_deref(), offered, "{upgrade}");
        }
        assert_eq!(asks(&[("upgrade", "websocket")]), None, "Connection does not name it");
        let both = [connection, ("upgrade", "a"), ("upgrade", "h2c, b")];
        assert_eq!(asks(&both).as_deref(), Some("a, b"));
        let fields = [connection, ("upgrade", "websocket")];
        assert_eq!(asked(&head(Version::HTTP_10, Method::GET, "/", &fields), false), None);
        assert_eq!(asked(&head(Version::HTTP_11, Method::POST, "/", &fields), true), None);
    }

    #[test]
    fn a_pod_switches_only_to_what_was_offered() {
        let offered = Switch::Upgrade(HeaderValue::from_static("websocket, tcp"));
        let to = |asked: Option<&Switch>, protocol: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::UPGRADE, HeaderValue::from_static(protocol));
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("5"));
            let switched = switches(asked, StatusCode::SWITCHING_PROTOCOLS, &mut headers);
            assert!(switched.is_err() || !headers.contains_key(header::CONTENT_LENGTH));
            switched
        };
        assert_eq!(to(Some(&offered), "WebSocket"), Ok(true));
        for wrong in ["h2c", "websocket, h2c", ""] {
            assert_eq!(to(Some(&offered), wrong), Err(Failure::UpstreamProtocol), "{wrong}");
        }
        assert_eq!(to(None, "websocket"), Err(Failure::UpstreamProtocol));
        assert_eq!(to(Some(&Switch::Connect), "websocket"), Err(Failure::UpstreamProtocol));
        let mut headers = HeaderMap::new();
        assert_eq!(switches(Some(&offered), StatusCode::OK, &mut headers), Ok(false));
        assert_eq!(switches(Some(&Switch::Connect), StatusCode::FORBIDDEN, &mut headers), Ok(false));
        assert_eq!(switches(Some(&Switch::Connect), StatusCode::NO_CONTENT, &mut headers), Ok(true));
    }

    #[test]
    fn a_connect_names_one_host_and_has_no_body() {
        let connect = |uri: &str, fields: &[(&str, &str)]| {
            let mut head = head(Version::HTTP_11, Method::CONNECT, uri, fields);
            prepare_connect(&mut head).map(|()| head.headers[header::HOST].clone())
        };
        for host in ["a:443", "A:443", "a"] {
            assert_eq!(connect("a:443", &[("host", host), ("content-length", "0")]).unwrap(), "a:443");
        }
        let bad: [(&str, &[(&str, &str)]); 7] = [
            ("a:443", &[]),
            ("a:443", &[("host", "b:443")]),
            ("a:443", &[("host", "a"), ("host", "a")]),
            ("a:443", &[("host", "a"), ("content-length", "3")]),
            ("a:443", &[("host", "a"), ("transfer-encoding", "chunked")]),
            ("/a", &[("host", "a")]),
            ("http://a:443/", &[("host", "a:443")]),
        ];
        for (uri, fields) in bad {
            assert!(matches!(connect(uri, fields), Err(Failure::BadRequest(_))), "{uri} {fields:?}");
        }
    }
}
