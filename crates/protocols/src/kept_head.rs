//! What it takes to send a request's head again.

use http::header::{HeaderName, HeaderValue};
use http::{Method, Request, Uri, Version};

/// A request's head, kept until it is known whether it has to be sent again. Most are not: so it is cheap to make, and a
/// map only when it is needed. A copy of the map would count each of its values twice, and share them with other threads.
#[derive(Debug, Clone)]
pub struct KeptHead {
    method: Method,
    uri: Uri,
    version: Version,
    /// Of each field: whether it is sensitive, its name, a colon, its value, and the end of a line, which no value has.
    fields: Vec<u8>,
}

/// More than the fields of most heads.
const USUAL: usize = 256;

impl KeptHead {
    /// Of this request.
    #[must_use]
    pub fn of<B>(request: &Request<B>) -> Self {
        let mut fields = Vec::with_capacity(USUAL);
        for (name, value) in request.headers() {
            fields.push(if value.is_sensitive() { SENSITIVE } else { PLAIN });
            fields.extend_from_slice(name.as_str().as_bytes());
            fields.push(b':');
            fields.extend_from_slice(value.as_bytes());
            fields.push(b'\n');
        }
        let (method, uri) = (request.method().clone(), request.uri().clone());
        Self { method, uri, version: request.version(), fields }
    }

    /// The request once more, with this body.
    #[must_use]
    pub fn request<B>(&self, body: B) -> Request<B> {
        let mut request = Request::new(body);
        request.method_mut().clone_from(&self.method);
        request.uri_mut().clone_from(&self.uri);
        *request.version_mut() = self.version;
        *request.headers_mut() = self.fields.split(|byte| *byte == b'\n').filter_map(field).collect();
        request
    }
}

const SENSITIVE: u8 = b'!';
const PLAIN: u8 = b' ';

/// `None` after the last one.
fn field(line: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let (kind, field) = line.split_first()?;
    let colon = field.iter().position(|byte| *byte == b':')?;
    let name = HeaderName::from_bytes(&field[..colon]).ok()?;
    let mut value = HeaderValue::from_bytes(&field[colon + 1..]).ok()?;
    // HPACK must not put it into a table, here neither (RFC 7541 §7.1.3).
    value.set_sensitive(*kind == SENSITIVE);
    Some((name, value))
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use proptest::prelude::*;

    use super::*;

    fn name() -> impl Strategy<Value = HeaderName> {
        "[a-z0-9!#$%&'*+.^_`|~-]{1,20}".prop_map(|name| HeaderName::try_from(name).unwrap())
    }

    fn value() -> impl Strategy<Value = HeaderValue> {
        let bytes = prop::collection::vec(prop_oneof![Just(b'\t'), 0x20..=0x7e_u8, 0x80..=0xff_u8], 0..40);
        (bytes, any::<bool>()).prop_map(|(bytes, sensitive)| {
            let mut value = HeaderValue::from_bytes(&bytes).unwrap();
            value.set_sensitive(sensitive);
            value
        })
    }

    proptest! {
        #[test]
        fn what_is_sent_again_is_what_was_sent(fields in prop::collection::vec((name(), value()), 0..20)) {
            let mut request = Request::new("body");
            *request.method_mut() = Method::from_bytes(b"PURGE").unwrap();
            *request.uri_mut() = "http://pods:81/a?b=%20".parse().unwrap();
            *request.version_mut() = Version::HTTP_2;
            for (name, value) in fields {
                request.headers_mut().append(name, value);
            }
            let again = KeptHead::of(&request).request("again");
            prop_assert_eq!(again.method(), request.method());
            prop_assert_eq!(again.uri(), request.uri());
            prop_assert_eq!(again.version(), request.version());
            let all = |headers: &HeaderMap| -> Vec<_> {
                headers.iter().map(|(name, value)| (name.clone(), value.clone(), value.is_sensitive())).collect()
            };
            prop_assert_eq!(all(again.headers()), all(request.headers()));
            prop_assert_eq!(*again.body(), "again");
        }
    }
}
