//! Which headers a format reads, and how they are kept until the line is written.

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};

use crate::record::Captured;

/// The headers that a format (and its filter) reads; each name once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    /// To be kept in [`crate::Record::request_headers`], in this order.
    pub request_headers: Vec<HeaderName>,
    /// To be kept in [`crate::Record::response_headers`], in this order.
    pub response_headers: Vec<HeaderName>,
    /// To be kept in [`crate::Record::response_trailers`], in this order.
    pub response_trailers: Vec<HeaderName>,
}

impl Needs {
    /// Keeps the values of `names`, in their order; `into` is emptied first.
    ///
    /// Of several values of one name the first is kept, as Envoy's formatter does; those of
    /// `x-forwarded-for`, `forwarded` and `via`, whose lines are one list (RFC 9110 §5.3), are joined.
    pub fn capture(names: &[HeaderName], from: &HeaderMap, into: &mut Captured) {
        into.clear();
        into.extend(names.iter().map(|name| value(name, from)));
    }
}

/// The index of `name` in `names`, where it is added if it is new.
pub(crate) fn index_of(name: HeaderName, names: &mut Vec<HeaderName>) -> usize {
    names.iter().position(|known| *known == name).unwrap_or_else(|| {
        names.push(name);
        names.len() - 1
    })
}

fn value(name: &HeaderName, from: &HeaderMap) -> Option<HeaderValue> {
    // Heads are short: looking at each name costs less than hashing the one that is looked for, which is mostly not there.
    let (_, first) = from.iter().find(|(there, _)| *there == name)?;
    let is_list = matches!(name.as_str(), "x-forwarded-for" | "forwarded" | "via");
    if !is_list || from.get_all(name).iter().nth(1).is_none() {
        return Some(first.clone());
    }
    let mut joined = Vec::new();
    for value in from.get_all(name) {
        if !joined.is_empty() {
            joined.push(b',');
        }
        joined.extend_from_slice(value.as_bytes());
    }
    HeaderValue::from_bytes(&joined).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_values_the_first_is_logged_and_a_chain_is_logged_whole() {
        let mut headers = HeaderMap::new();
        for (name, value) in
            [("x-a", "1"), ("x-a", "2"), ("x-forwarded-for", "a"), ("x-forwarded-for", "b, c")]
        {
            headers.append(name, HeaderValue::from_static(value));
        }
        let names = ["x-none", "x-a", "x-forwarded-for"].map(HeaderName::from_static);
        let mut captured = Captured::new();
        Needs::capture(&names, &headers, &mut captured);
        let values: Vec<_> = captured.iter().map(|value| value.as_ref().map(HeaderValue::as_bytes)).collect();
        assert_eq!(values, [None, Some(&b"1"[..]), Some(&b"a,b, c"[..])]);
        Needs::capture(&names[..1], &headers, &mut captured);
        assert_eq!(captured.len(), 1, "what was kept for another request is gone");
    }
}
