//! Whether what stands in an object is still what whichpod wrote there. The API server fills in defaults and
//! rewrites quantities, and admission plugins add fields: that changes nothing. What a user changes does.

use serde_json::Value;

use crate::{hash, json, names, quantity};

/// Texts longer than this are recorded by hash, so that a status doesn't repeat a whole configuration.
const LONGEST_RECORDED: usize = 128;
const BY_HASH: &str = "fnv1a:";

/// The value as it is recorded: long texts by hash.
pub(crate) fn condense(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::String(condensed(text)),
        Value::Array(items) => items.iter().map(condense).collect(),
        Value::Object(members) => {
            Value::Object(members.iter().map(|(key, value)| (key.clone(), condense(value))).collect())
        }
        other => other.clone(),
    }
}

fn condensed(text: &str) -> String {
    if text.len() <= LONGEST_RECORDED {
        return text.to_owned();
    }
    format!("{BY_HASH}{}", hash::hex(hash::of_text(text)))
}

/// Whether every field that was written still has its value; members that were added since don't count, items of
/// lists do.
pub(crate) fn unchanged(written: &Value, live: &Value) -> bool {
    compare(written, live, false)
}

/// Whether the addition still does its work: for a container, its name and environment (registries are rewritten
/// and resources set by other webhooks); else as [`unchanged`].
pub(crate) fn serves(written: &Value, live: &Value) -> bool {
    if !is_container(written) {
        return unchanged(written, live);
    }
    let environment = |container: &Value| container["env"].as_array().cloned().unwrap_or_default();
    let live_environment = environment(live);
    written["name"] == live["name"]
        && environment(written)
            .iter()
            .all(|variable| live_environment.iter().any(|candidate| unchanged(variable, candidate)))
}

/// Whether two items of a list are the same thing, however much of it changed.
pub(crate) fn same_item(left: &Value, right: &Value) -> bool {
    let (Some(left), Some(right)) = (left.as_object(), right.as_object()) else { return false };
    ["name", "ip"]
        .iter()
        .any(|key| json::get(left, key).is_some_and(|id| id.is_string() && json::get(right, key) == Some(id)))
}

/// Takes the host names that were written out of an alias that somebody changed: without the sidecar they lead nowhere.
/// Returns whether none is left.
pub(crate) fn drop_hostnames(written: &Value, live: &mut Value) -> bool {
    let Some(ours) = written.get("hostnames").and_then(Value::as_array) else { return false };
    let Some(names) = live.get_mut("hostnames").and_then(Value::as_array_mut) else { return false };
    names.retain(|name| !ours.contains(name));
    names.is_empty()
}

/// Whether an item is whichpod's by its very name, so that it may be replaced even if somebody changed it.
pub(crate) fn ours_by_name(written: &Value) -> bool {
    is_container(written) || written.get("ip").is_some()
}

fn is_container(value: &Value) -> bool {
    value["name"] == names::CONTAINER && value.get("image").is_some()
}

fn compare(written: &Value, live: &Value, resources: bool) -> bool {
    match (written, live) {
        (Value::String(written), Value::String(live)) => {
            written == live || *written == condensed(live) || (resources && quantity::equal(written, live))
        }
        (Value::Array(written), Value::Array(live)) => {
            written.len() == live.len()
                && written.iter().zip(live).all(|(written, live)| compare(written, live, resources))
        }
        (Value::Object(written), Value::Object(live)) => written.iter().all(|(key, value)| {
            json::get(live, key).is_some_and(|live| compare(value, live, resources || key == "resources"))
        }),
        _ => written == live,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn sidecar() -> Value {
        json!({"name": "whichpod", "image": "whichpod:1", "env": [{"name": "WHICHPOD_CONFIG", "value": "x".repeat(500)}],
            "resources": {"requests": {"cpu": "1000m"}}, "securityContext": {"capabilities": {"drop": ["ALL"]}}})
    }

    #[test]
    fn defaults_of_the_api_server_are_no_change() {
        let mut live = sidecar();
        live["terminationMessagePath"] = json!("/dev/termination-log");
        live["resources"]["requests"]["cpu"] = json!("1");
        assert!(unchanged(&sidecar(), &live));
        assert!(unchanged(&condense(&sidecar()), &live), "a recorded hash stands for its text");
    }

    #[test]
    fn what_a_user_changed_is_a_change() {
        for (pointer, value) in [
            ("/image", json!("whichpod:2")),
            ("/env", json!([{"name": "WHICHPOD_CONFIG", "value": "y"}])),
            ("/env/0/value", json!("y".repeat(500))),
            ("/resources/requests/cpu", json!("2")),
            ("/securityContext/capabilities/drop", json!(["ALL", "KILL"])),
        ] {
            let mut live = sidecar();
            *live.pointer_mut(pointer).unwrap() = value;
            assert!(!unchanged(&condense(&sidecar()), &live), "{pointer}");
        }
    }

    #[test]
    fn a_rewritten_registry_does_not_make_the_sidecar_foreign() {
        let mut live = sidecar();
        live["image"] = json!("mirror.internal/whichpod:1");
        live["env"].as_array_mut().unwrap().insert(0, json!({"name": "HTTP_PROXY", "value": "proxy"}));
        assert!(serves(&condense(&sidecar()), &live));
        live["env"][1]["value"] = json!("{}");
        assert!(!serves(&condense(&sidecar()), &live), "another configuration is another sidecar");
    }
}
