//! Reading raw JSON that may have any shape.

use serde_json::{Map, Value};

/// The value at a path of keys, each behind a slash. Unlike a JSON Pointer it knows no escapes and no list items, and
/// costs nothing but the look-ups.
pub(crate) fn at<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('/').skip(1).try_fold(value, |value, key| value.as_object()?.get(key))
}

/// The string at a path.
pub(crate) fn text<'a>(value: &'a Value, path: &str) -> Option<&'a str> {
    at(value, path)?.as_str()
}

/// The elements of the array at a path; none if there is no array.
pub(crate) fn items<'a>(value: &'a Value, path: &str) -> &'a [Value] {
    at(value, path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The members of the object at a path.
pub(crate) fn members<'a>(value: &'a Value, path: &str) -> Option<&'a Map<String, Value>> {
    at(value, path)?.as_object()
}

/// The member of the object at a path, for keys that hold a slash.
pub(crate) fn member<'a>(value: &'a Value, path: &str, key: &str) -> Option<&'a Value> {
    members(value, path)?.get(key)
}

/// A member by its key. Most objects are small: to compare a few keys costs less than to hash one.
pub(crate) fn get<'a>(members: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    if members.len() > 8 {
        return members.get(key);
    }
    members.iter().find_map(|(other, value)| (other == key).then_some(value))
}

/// How much there is to look through: the values, and what is in long texts.
pub(crate) fn weight(value: &Value) -> usize {
    1 + match value {
        Value::String(text) => text.len() / 64,
        Value::Array(items) => items.iter().map(weight).sum(),
        Value::Object(members) => members.values().map(weight).sum(),
        _ => 0,
    }
}

/// Whether a boolean is there and true.
pub(crate) fn is_true(value: &Value, path: &str) -> bool {
    at(value, path).and_then(Value::as_bool).unwrap_or(false)
}

/// A port number from a number or from its decimal text; 1 to 65535.
pub(crate) fn port(value: &Value) -> Option<u16> {
    let number = match value {
        Value::Number(number) => number.as_u64().and_then(|n| u16::try_from(n).ok()),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    number.filter(|port| *port != 0)
}

/// One token of a JSON Pointer, escaped: `~` first, then `/` (RFC 6901 section 3).
pub(crate) fn escape(token: &str) -> String {
    if token.contains(['~', '/']) { token.replace('~', "~0").replace('/', "~1") } else { token.to_owned() }
}

/// The inverse of [`escape`].
pub(crate) fn unescape(token: &str) -> String {
    if token.contains('~') { token.replace("~1", "/").replace("~0", "~") } else { token.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn any_shape_is_read_without_a_panic() {
        for value in [json!(null), json!("x"), json!([1]), json!({"a": null}), json!({"a": {"b": 7}})] {
            assert_eq!(text(&value, "/a/b"), None);
            assert!(items(&value, "/a").is_empty());
            assert!(!is_true(&value, "/a/b"));
            assert!(member(&value, "/a", "x/y").is_none());
        }
        assert_eq!(port(&json!(80)), Some(80));
        assert_eq!(port(&json!("8080")), Some(8080));
        for no_port in [json!(0), json!(65536), json!(-1), json!("http"), json!(null), json!(1.5)] {
            assert_eq!(port(&no_port), None);
        }
    }

    #[test]
    fn keys_with_slashes_and_tildes_survive_a_pointer() {
        assert_eq!(escape("a/b~c"), "a~1b~0c");
        assert_eq!(unescape(&escape("~1/~0")), "~1/~0");
    }
}
