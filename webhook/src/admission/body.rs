//! An AdmissionReview as JSON, without `managedFields`: up to half of a real object, of many small members, and nothing here
//! reads it. A patch says what changes, so what is left out here stays as it is.

use std::fmt;

use serde::de::value::SeqAccessDeserializer;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// The way to what is left out, from the outside in.
const WAY: [&[&str]; 3] = [&["request"], &["object", "oldObject"], &["metadata"]];
const LEFT_OUT: &str = "managedFields";

/// Reads a body.
///
/// # Errors
/// If it is no JSON.
pub(super) fn parse(body: &str) -> serde_json::Result<Value> {
    let mut deserializer = serde_json::Deserializer::from_str(body);
    let value = Part { depth: 0 }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

/// What is so many steps along the way.
struct Part {
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Part {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Part {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let on_the_way = WAY.get(self.depth).copied();
        let mut kept = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            let value = match on_the_way {
                Some(names) if names.contains(&name.as_str()) => {
                    members.next_value_seed(Self { depth: self.depth + 1 })?
                }
                None if name == LEFT_OUT => {
                    members.next_value::<IgnoredAny>()?;
                    continue;
                }
                _ => members.next_value()?,
            };
            kept.insert(name, value);
        }
        Ok(Value::Object(kept))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, elements: A) -> Result<Value, A::Error> {
        serde::Deserialize::deserialize(SeqAccessDeserializer::new(elements))
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            (-1e9..1e9_f64).prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
        ];
        let name = prop_oneof![
            Just("request".to_owned()),
            Just("object".to_owned()),
            Just("oldObject".to_owned()),
            Just("metadata".to_owned()),
            Just("managedFields".to_owned()),
            "[a-z]{0,3}",
        ];
        leaf.prop_recursive(6, 48, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((name.clone(), inner), 0..6)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn only_the_managed_fields_of_the_two_objects_are_left_out(value in json_value()) {
            let text = value.to_string();
            let mut expected: Value = serde_json::from_str(&text).unwrap();
            for metadata in ["/request/object/metadata", "/request/oldObject/metadata"] {
                if let Some(Value::Object(metadata)) = expected.pointer_mut(metadata) {
                    metadata.shift_remove(LEFT_OUT);
                }
            }
            prop_assert_eq!(parse(&text).unwrap(), expected);
        }
    }

    #[test]
    fn what_is_left_out_must_be_json_all_the_same() {
        let metadata = json!({ "name": "app", "managedFields": [{ "fieldsV1": { "f:spec": {} } }] });
        let review = json!({ "request": { "object": { "metadata": metadata, "spec": {} } } }).to_string();
        assert_eq!(
            parse(&review).unwrap(),
            json!({ "request": { "object": { "metadata": { "name": "app" }, "spec": {} } } })
        );
        for broken in [review.replace("[{", "[{,"), format!("{review}x"), review.replace("}}", "}")] {
            assert!(parse(&broken).is_err(), "{broken}");
        }
    }
}
