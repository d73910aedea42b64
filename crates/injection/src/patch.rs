//! The JSON Patch (RFC 6902) from one state of an object to another. The `diff` of the json-patch crate compares lists
//! index by index, so one inserted container would rewrite all that follow; here items are recognised.

use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch, PatchOperation, RemoveOperation, ReplaceOperation};
use serde_json::{Map, Value};

use crate::matching;

/// The fewest operations that lead from `before` to `after`, both standing at `at` (a JSON Pointer). A missing parent
/// is added once, with all that is in it.
pub(crate) fn between(at: &str, before: &Value, after: &Value) -> Patch {
    let mut operations = Vec::new();
    let mut path = PointerBuf::parse(at).unwrap_or_default();
    values(&mut path, before, after, &mut operations);
    Patch(operations)
}

fn values(path: &mut PointerBuf, before: &Value, after: &Value, operations: &mut Vec<PatchOperation>) {
    match (before, after) {
        // Most of an object: not worth a walk that spells out every path.
        _ if equal(before, after) => {}
        (Value::Object(before), Value::Object(after)) => objects(path, before, after, operations),
        (Value::Array(before), Value::Array(after)) => lists(path, before, after, operations),
        _ => operations
            .push(PatchOperation::Replace(ReplaceOperation { path: path.clone(), value: after.clone() })),
    }
}

fn objects(
    path: &mut PointerBuf,
    before: &Map<String, Value>,
    after: &Map<String, Value>,
    operations: &mut Vec<PatchOperation>,
) {
    for (key, old) in before {
        path.push_back(key.as_str());
        match after.get(key) {
            Some(new) => values(path, old, new, operations),
            None => operations.push(remove(path)),
        }
        path.pop_back();
    }
    for (key, new) in after.iter().filter(|(key, _)| !before.contains_key(*key)) {
        path.push_back(key.as_str());
        operations.push(add(path, new));
        path.pop_back();
    }
}

/// At every step the list is `after[..done]` followed by what is left of `before`.
fn lists(path: &mut PointerBuf, before: &[Value], after: &[Value], operations: &mut Vec<PatchOperation>) {
    let mut left = before;
    let mut done = 0;
    while done < after.len() || !left.is_empty() {
        path.push_back(done);
        match (left.split_first(), after.get(done)) {
            (Some((old, rest)), Some(new)) if same(old, new) => {
                values(path, old, new, operations);
                (left, done) = (rest, done + 1);
            }
            (Some((old, _)), Some(new)) if after[done..].iter().any(|later| same(old, later)) => {
                operations.push(add(path, new));
                done += 1;
            }
            (Some((_, rest)), _) => {
                operations.push(remove(path));
                left = rest;
            }
            (None, Some(new)) => {
                operations.push(add(path, new));
                done += 1;
            }
            (None, None) => {}
        }
        path.pop_back();
    }
}

fn same(left: &Value, right: &Value) -> bool {
    matching::same_item(left, right) || equal(left, right)
}

/// As `==`, but looks no key up that stands where it stood: both sides come of the same object.
fn equal(before: &Value, after: &Value) -> bool {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            let mut members = before.iter().zip(after);
            before.len() == after.len()
                && members.all(|((key, old), (same_place, new))| {
                    let new = if key == same_place { Some(new) } else { after.get(key) };
                    new.is_some_and(|new| equal(old, new))
                })
        }
        (Value::Array(before), Value::Array(after)) => {
            before.len() == after.len() && before.iter().zip(after).all(|(old, new)| equal(old, new))
        }
        _ => before == after,
    }
}

fn add(path: &PointerBuf, value: &Value) -> PatchOperation {
    PatchOperation::Add(AddOperation { path: path.clone(), value: value.clone() })
}

fn remove(path: &PointerBuf) -> PatchOperation {
    PatchOperation::Remove(RemoveOperation { path: path.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn check(before: &Value, after: &Value) -> Patch {
        let patch = between("", before, after);
        let mut patched = before.clone();
        json_patch::patch(&mut patched, &patch).unwrap();
        assert_eq!(&patched, after);
        patch
    }

    #[test]
    fn an_inserted_container_leaves_its_neighbours_alone() {
        let before = json!({"spec": {"initContainers": [{"name": "a"}, {"name": "b"}]}});
        let after = json!({"spec": {"initContainers": [{"name": "whichpod"}, {"name": "a"}, {"name": "b"}]}});
        let patch = check(&before, &after);
        assert_eq!(
            serde_json::to_value(&patch).unwrap(),
            json!([{"op": "add", "path": "/spec/initContainers/0", "value": {"name": "whichpod"}}])
        );
        let back = check(&after, &before);
        assert_eq!(
            serde_json::to_value(&back).unwrap(),
            json!([{"op": "remove", "path": "/spec/initContainers/0"}])
        );
    }

    #[test]
    fn a_missing_parent_is_made_once_and_keys_are_escaped() {
        let before = json!({"metadata": {}});
        let after = json!({"metadata": {"annotations": {"a/b~c": "1", "d": "2"}}});
        assert_eq!(
            serde_json::to_value(check(&before, &after)).unwrap(),
            json!([{"op": "add", "path": "/metadata/annotations", "value": {"a/b~c": "1", "d": "2"}}])
        );
        let more = json!({"metadata": {"annotations": {"a/b~c": "3", "d": "2"}}});
        assert_eq!(
            serde_json::to_value(check(&after, &more)).unwrap(),
            json!([{"op": "replace", "path": "/metadata/annotations/a~1b~0c", "value": "3"}])
        );
    }

    #[test]
    fn another_order_of_keys_is_no_change() {
        let (one, other) =
            (json!({"a": {"x": 1, "y": 2}, "b": [3]}), json!({"b": [3], "a": {"y": 2, "x": 1}}));
        assert!(between("", &one, &other).0.is_empty());
        assert!(!equal(&json!({"a": 1, "b": 2}), &json!({"b": 1, "a": 2})));
    }

    #[test]
    fn a_patch_below_a_path_starts_there() {
        let patch = between("/spec/template", &json!({}), &json!({"x": 1}));
        assert_eq!(patch.0[0].path().as_str(), "/spec/template/x");
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf =
            prop_oneof![Just(Value::Null), (0..3).prop_map(Value::from), "[ab~/]{0,2}".prop_map(Value::from)];
        leaf.prop_recursive(4, 48, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::vec((prop_oneof![Just("name".to_owned()), "[ab~/]{0,2}"], inner), 0..5)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_patch_leads_to_the_state_it_was_made_for(before in any_json(), after in any_json()) {
            check(&before, &after);
            prop_assert!(between("", &before, &before).0.is_empty());
            prop_assert_eq!(equal(&before, &after), before == after);
        }
    }
}
