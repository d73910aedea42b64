//! Who may ask: programs on this machine, and a browser only for pages that came from here.
//!
//! Loopback keeps other machines out, not the pages in a browser on this one (as behind `kubectl port-forward`): a page
//! can point a name of its own at 127.0.0.1 (DNS rebinding), post a form here, or lay this page under its own.

use std::net::IpAddr;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, HeaderMap, HeaderValue, ORIGIN, X_CONTENT_TYPE_OPTIONS,
};
use http::uri::Authority;
use http::{Method, StatusCode, Uri};

/// Nothing is loaded from elsewhere, forms stay here, and no page may frame this one.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'",
);

/// Refuses what a page in a browser could have made somebody send, and marks every answer.
pub(super) async fn check(request: Request, next: Next) -> Response {
    let mut response = match refusal(request.method(), request.uri(), request.headers()) {
        None => next.run(request).await,
        Some(why) => (StatusCode::FORBIDDEN, format!("{why}\n")).into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(CONTENT_SECURITY_POLICY, POLICY);
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn refusal(method: &Method, uri: &Uri, headers: &HeaderMap) -> Option<String> {
    // A request without a Host is not from a browser.
    let hosts = headers.get_all(HOST).iter().map(HeaderValue::as_bytes);
    let asked = uri.authority().map(|authority| authority.as_str().as_bytes());
    if let Some(host) = hosts.chain(asked).find(|host| !is_loopback(host)) {
        return Some(format!(
            "host {:?} is not this machine's own; ask for 127.0.0.1, [::1] or localhost (DNS rebinding is refused)",
            String::from_utf8_lossy(host)
        ));
    }
    if method == Method::GET || method == Method::HEAD {
        return None;
    }
    headers.get_all(ORIGIN).iter().find(|origin| !is_same(origin, headers.get(HOST))).map(|origin| {
        format!(
            "origin {:?} is another site; use the forms of this server's own index page, or curl -X POST",
            String::from_utf8_lossy(origin.as_bytes())
        )
    })
}

fn is_loopback(host: &[u8]) -> bool {
    let Ok(authority) = Authority::try_from(host) else { return false };
    let name = authority.host();
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost")
        || address.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// An Origin (RFC 6454 §7) is a scheme, `://`, and what the browser also sends as Host.
fn is_same(origin: &HeaderValue, host: Option<&HeaderValue>) -> bool {
    let (Ok(origin), Some(host)) = (origin.to_str(), host) else { return false };
    origin
        .split_once("://")
        .is_some_and(|(_, authority)| authority.as_bytes().eq_ignore_ascii_case(host.as_bytes()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refused(method: &Method, uri: &str, headers: &[(&str, &str)]) -> Option<String> {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect::<Vec<(http::HeaderName, HeaderValue)>>();
        refusal(method, &uri.parse().unwrap(), &HeaderMap::from_iter(headers))
    }

    #[test]
    fn every_spelling_of_this_machine_is_let_in() {
        for host in [
            "127.0.0.1:9901",
            "127.77.0.1",
            "localhost",
            "LOCALHOST:9901",
            "[::1]:9901",
            "[::ffff:127.0.0.1]",
        ] {
            assert_eq!(refused(&Method::GET, "/clusters", &[("host", host)]), None, "{host}");
        }
        assert_eq!(refused(&Method::GET, "/clusters", &[]), None, "HTTP/1.0 needs no Host");
    }

    #[test]
    fn a_name_that_somebody_points_at_loopback_is_refused() {
        for host in [
            "evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil.example:9901",
            "10.0.0.7:9901",
            "[::]",
            "",
        ] {
            let why = refused(&Method::GET, "/config_dump", &[("host", host)]).unwrap();
            assert!(why.starts_with(&format!("host {host:?} is not")) && why.contains("127.0.0.1"), "{why}");
        }
        assert!(refused(&Method::GET, "/", &[("host", "localhost"), ("host", "evil.example")]).is_some());
        assert!(refused(&Method::GET, "http://evil.example/", &[("host", "localhost")]).is_some());
    }

    #[test]
    fn a_page_of_another_site_cannot_stop_the_sidecar() {
        let host = ("host", "127.0.0.1:9901");
        for origin in ["https://evil.example", "http://127.0.0.1:8080", "http://127.0.0.1", "null"] {
            let why = refused(&Method::POST, "/quitquitquit", &[host, ("origin", origin)]).unwrap();
            assert!(why.starts_with(&format!("origin {origin:?} is another site")), "{why}");
        }
        assert!(refused(&Method::POST, "/quitquitquit", &[("origin", "http://127.0.0.1:9901")]).is_some());
    }

    #[test]
    fn the_index_pages_own_forms_and_curl_can_post() {
        let host = ("host", "localhost:9901");
        assert_eq!(refused(&Method::POST, "/logging", &[host, ("origin", "http://localhost:9901")]), None);
        assert_eq!(refused(&Method::POST, "/logging", &[host]), None);
    }

    proptest! {
        #[test]
        fn of_all_addresses_only_loopback_is_let_in(ip in any::<[u8; 4]>(), loopback: bool, port in any::<u16>()) {
            let first = if loopback { 127 } else { ip[0] };
            let host = format!("{first}.{}.{}.{}:{port}", ip[1], ip[2], ip[3]);
            prop_assert_eq!(is_loopback(host.as_bytes()), first == 127, "{}", host);
        }

        #[test]
        fn no_name_but_localhost_is_let_in(name in "(localhost|127\\.0\\.0\\.1|[a-z0-9-]{1,9})?[.@][a-z]{2,8}") {
            prop_assert!(!is_loopback(name.as_bytes()), "{}", name);
        }

        #[test]
        fn no_host_panics(host in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = is_loopback(&host);
        }
    }
}
