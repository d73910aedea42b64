use super::*;
use proptest::prelude::*;
use serde_json::json;

fn alias() -> Value {
    json!({"ip": "127.77.1.2", "hostnames": ["backend"]})
}

fn applied(value: &Value, changes: &[Change]) -> (Value, Record) {
    let (mut value, mut record) = (value.clone(), Record::default());
    for change in changes {
        record.apply(&mut value, change).unwrap();
    }
    (value, record)
}

#[test]
fn absent_null_and_empty_parents_come_back_as_they_were() {
    for original in [
        json!({}),
        json!({"spec": null}),
        json!({"spec": {}}),
        json!({"spec": {"hostAliases": null}}),
        json!({"spec": {"hostAliases": []}}),
        json!({"spec": {"hostAliases": [{"ip": "10.0.0.1", "hostnames": ["x"]}], "unknown": {"a": [null]}}}),
    ] {
        let changes = [Change::append("/spec/hostAliases", alias())];
        let (mut value, record) = applied(&original, &changes);
        assert_eq!(value["spec"]["hostAliases"].as_array().unwrap().last(), Some(&alias()));
        assert!(record.intact(&value));
        assert_eq!(record.undo(&mut value, Take::Unchanged), Vec::<String>::new());
        assert_eq!(value, original);
    }
}

#[test]
fn equal_variables_get_their_own_originals_back() {
    let original = json!({"spec": {"containers": [{"name": "app", "env": [
        {"name": "A", "value": "backend:80"}, {"name": "A", "value": "backend.default:80"}]}]}});
    let path = "/spec/containers/name=app/env/name=A/value";
    let set =
        |from: &str| Change::Set { path: path.into(), from: Some(json!(from)), to: json!("127.77.1.2:80") };
    let (mut value, record) = applied(&original, &[set("backend:80"), set("backend.default:80")]);
    assert_eq!(value.pointer("/spec/containers/0/env/1/value"), Some(&json!("127.77.1.2:80")));
    record.undo(&mut value, Take::Unchanged);
    assert_eq!(value, original);
}

#[test]
fn what_a_user_changed_stays_and_is_named() {
    let original = json!({"metadata": {}, "spec": {}});
    let label = Change::set(&original, "/metadata/labels", "a/b", json!("true")).unwrap();
    let (mut value, record) = applied(&original, &[Change::append("/spec/hostAliases", alias()), label]);
    value["spec"]["hostAliases"][0]["hostnames"] = json!(["backend", "mine"]);
    value["metadata"]["labels"]["a/b"] = json!("mine");
    assert!(!record.intact(&value));
    let kept = record.undo(&mut value, Take::Unchanged);
    assert_eq!(kept, ["/spec/hostAliases/127.77.1.2", "/metadata/labels/a~1b"]);
    assert_eq!(value["metadata"]["labels"]["a/b"], "mine");
    assert_eq!(value["spec"]["hostAliases"][0]["hostnames"], json!(["mine"]), "ours would lead nowhere");
}

#[test]
fn an_alias_that_only_lost_a_name_goes() {
    let original = json!({"spec": {}});
    let written = json!({"ip": "127.77.1.2", "hostnames": ["backend", "backend.default"]});
    let (mut value, record) = applied(&original, &[Change::append("/spec/hostAliases", written)]);
    value["spec"]["hostAliases"][0]["hostnames"] = json!(["backend"]);
    assert_eq!(record.undo(&mut value, Take::Unchanged), Vec::<String>::new());
    assert_eq!(value, original);
}

#[test]
fn what_is_gone_or_restored_already_needs_no_taking_back() {
    let original = json!({"a": "old", "list": []});
    let set = Change::set(&original, "", "a", json!("new")).unwrap();
    let (mut value, record) = applied(&original, &[set, Change::append("/list", alias())]);
    value["a"] = json!("old");
    value["list"] = json!([]);
    assert_eq!(record.undo(&mut value, Take::Unchanged), Vec::<String>::new());
    assert_eq!(value, original);
}

#[test]
fn a_changed_sidecar_is_replaced_when_it_is_written_anew() {
    let sidecar = json!({"name": "whichpod", "image": "a", "env": []});
    let original = json!({"spec": {"containers": [{"name": "app"}]}});
    let (mut value, record) = applied(&original, &[Change::append("/spec/containers", sidecar)]);
    value["spec"]["containers"][1]["image"] = json!("mirror/a");
    assert_eq!(record.undo(&mut value.clone(), Take::Unchanged), ["/spec/containers/whichpod"]);
    assert_eq!(
        record.undo(&mut value, Take::Ours),
        ["/spec/containers/whichpod"],
        "it goes, and that is told"
    );
    assert_eq!(value, original);
}

#[test]
fn long_values_are_recorded_by_hash_and_read_back_from_the_object() {
    let long = json!({"name": "whichpod", "image": "i", "env": [{"name": "C", "value": "x".repeat(10_000)}]});
    let (value, record) =
        applied(&json!({"spec": {}}), &[Change::prepend("/spec/initContainers", long.clone())]);
    assert!(serde_json::to_string(&record).unwrap().len() < 300);
    assert_eq!(record.as_in(&value).unwrap(), [Change::prepend("/spec/initContainers", long)]);
    assert_eq!(record.as_in(&json!({"spec": {}})), None);
}

#[test]
fn a_wrong_shape_is_an_error() {
    for value in [json!(7), json!({"spec": "x"}), json!({"spec": []}), json!({"spec": {"hostAliases": {}}})] {
        let change = Change::append("/spec/hostAliases/x", alias());
        assert!(
            Record::default().apply(&mut value.clone(), &change).is_err()
                || value["spec"]["hostAliases"].is_object()
        );
        let change = Change::append("/spec/hostAliases", alias());
        assert!(Record::default().apply(&mut value.clone(), &change).is_err(), "{value}");
    }
}

#[test]
fn a_record_survives_its_text_even_with_nulls() {
    let original = json!({"m": {"a": null}});
    let (_, record) = applied(&original, &[Change::set(&original, "/m", "a", json!("x")).unwrap()]);
    let text = serde_json::to_string(&record).unwrap();
    let read: Record = serde_json::from_str(&text).unwrap();
    assert_eq!(read, record);
    assert_eq!(read.changes, [Change::Set { path: "/m/a".into(), from: Some(Value::Null), to: json!("x") }]);
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        "[a-z/~=.]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec(("[a-z/~=]{0,4}", inner), 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn changes_that_could_be_made_can_be_taken_back(
        original in any_json(), paths in prop::collection::vec("(/[a-z/~=]{1,4}){1,3}", 1..5), to in any_json(),
    ) {
        let (mut value, mut record) = (original.clone(), Record::default());
        for path in paths {
            let before = (value.clone(), record.clone());
            let (object, key) = split_last(&path);
            let change = if path.len() % 2 == 0 {
                Some(Change::append(&path, to.clone()))
            } else {
                Change::set(&value, object, &key, to.clone())
            };
            if change.is_some_and(|change| record.apply(&mut value, &change).is_err()) {
                (value, record) = before;
            }
        }
        record.undo(&mut value, Take::Unchanged);
        prop_assert_eq!(value, original);
    }
}
