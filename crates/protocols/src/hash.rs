//! What of a request decides its pod, where that is how pods are chosen (`maglev`).

use std::net::IpAddr;

use http::{HeaderMap, header};
use whichpod_config::{Balance, HashOn};

/// The hash to choose by; `None` where pods are chosen otherwise, and for a request that lacks the key.
#[must_use]
pub fn of_request(balance: &Balance, headers: &HeaderMap, caller: IpAddr) -> Option<u64> {
    let Balance::Maglev(on) = balance else { return None };
    match on {
        HashOn::Header(name) => {
            headers.get(name.as_str()).map(|value| whichpod_upstream::hash(value.as_bytes()))
        }
        HashOn::Cookie(name) => cookie(headers, name.as_bytes()).map(whichpod_upstream::hash),
        HashOn::SourceAddress => Some(match caller.to_canonical() {
            IpAddr::V4(ip) => whichpod_upstream::hash(&ip.octets()),
            IpAddr::V6(ip) => whichpod_upstream::hash(&ip.octets()),
        }),
    }
}

/// The value of the first cookie with this name (RFC 6265 §4.2.1), without quotes around it.
fn cookie<'a>(headers: &'a HeaderMap, name: &[u8]) -> Option<&'a [u8]> {
    let pairs =
        headers.get_all(header::COOKIE).iter().flat_map(|value| value.as_bytes().split(|b| *b == b';'));
    let mut values = pairs.filter_map(|pair| {
        let at = pair.iter().position(|b| *b == b'=')?;
        let (found, value) = (pair.get(..at)?.trim_ascii(), pair.get(at + 1..)?.trim_ascii());
        (found == name).then_some(value)
    });
    let value = values.next()?;
    Some(value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn by_cookie(cookies: &[&'static str]) -> Option<u64> {
        let mut headers = HeaderMap::new();
        for cookie in cookies {
            headers.append(header::COOKIE, HeaderValue::from_static(cookie));
        }
        of_request(&Balance::Maglev(HashOn::Cookie("id".into())), &headers, IpAddr::from([10, 0, 0, 1]))
    }

    #[test]
    fn a_cookie_is_found_wherever_it_stands_and_only_by_its_whole_name() {
        let seven = Some(whichpod_upstream::hash(b"7"));
        for cookies in
            [&["id=7"] as &[_], &["a=1; id=7; b=2"], &["a=1", "b=2;id=7"], &["id=\"7\""], &["x; id = 7"]]
        {
            assert_eq!(by_cookie(cookies), seven, "{cookies:?}");
        }
        for cookies in [&[] as &[_], &["xid=7"], &["idx=7"], &["id"], &["ID=7"], &[""], &[";;="]] {
            assert_eq!(by_cookie(cookies), None, "{cookies:?}");
        }
    }

    #[test]
    fn a_caller_is_the_same_by_either_kind_of_address() {
        let hash = |ip: &str| {
            let caller = ip.parse().unwrap();
            of_request(&Balance::Maglev(HashOn::SourceAddress), &HeaderMap::new(), caller)
        };
        assert_eq!(hash("10.0.0.1"), hash("::ffff:10.0.0.1"));
        assert_ne!(hash("10.0.0.1"), hash("10.0.0.2"));
    }

    #[test]
    fn other_policies_hash_nothing() {
        let caller = IpAddr::from([10, 0, 0, 1]);
        assert_eq!(of_request(&Balance::RoundRobin, &HeaderMap::new(), caller), None);
        let by_header = Balance::Maglev(HashOn::Header("x-user".into()));
        assert_eq!(of_request(&by_header, &HeaderMap::new(), caller), None, "no key");
    }

    proptest! {
        #[test]
        fn no_cookie_panics(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let headers = HeaderMap::from_iter([(header::COOKIE, value)]);
                let _ = of_request(&Balance::Maglev(HashOn::Cookie("a".into())), &headers, IpAddr::from([0; 4]));
            }
        }
    }
}
