//! Headless twins: what the twin of a Service looks like, and what is to be done about the one there is. All of it pure;
//! a controller does the work, never admission.

use serde_json::{Map, Value, json};

use crate::json::{self, text};
use crate::names;
use crate::service;
pub use crate::twin_name::twin_name;
use crate::twin_name::twin_port_name;

/// What is to be done about the twin of a Service.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Nothing: there needs to be none (one that is there goes with its Service), or it is as it should be.
    Nothing,
    /// Make this one.
    Create(Value),
    /// Put this in place of the one there is (its `resourceVersion` and what others added are kept).
    Replace(Value),
    /// Delete the one there is, then make this one: what differs cannot be changed.
    Recreate(Value),
    /// There is a Service of that name which is not ours: leave it alone and say so.
    Foreign,
}

/// The twin that a Service should have. `None` for one that is headless itself, an ExternalName, without selector or TCP
/// port, being deleted, or a twin.
pub fn desired(service: &Value) -> Option<Value> {
    let name = text(service, "/metadata/name")?;
    let namespace = text(service, "/metadata/namespace")?;
    let selector = json::members(service, "/spec/selector").filter(|selector| !selector.is_empty())?;
    let deleting = service.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null());
    let no_virtual_ip = text(service, "/spec/clusterIP") == Some("None")
        || text(service, "/spec/type") == Some("ExternalName");
    let ports: Vec<Value> = json::items(service, "/spec/ports").iter().filter_map(port).collect();
    if deleting || no_virtual_ip || ports.is_empty() || service::twin_of(service).is_some() {
        return None;
    }
    let mut metadata = json!({
        "name": twin_name(name),
        "namespace": namespace,
        "labels": { names::MANAGED_BY_LABEL: names::MANAGED_BY, names::TWIN_LABEL: name },
    });
    if let Some(uid) = text(service, "/metadata/uid") {
        // Without `blockOwnerDeletion`, which would need the right to set finalizers.
        metadata["ownerReferences"] =
            json!([{"apiVersion": "v1", "kind": "Service", "name": name, "uid": uid}]);
    }
    let mut spec = json!({"type": "ClusterIP", "clusterIP": "None", "selector": selector, "ports": ports});
    for key in ["ipFamilies", "ipFamilyPolicy"] {
        if let Some(value) = service.pointer(&format!("/spec/{key}")).filter(|value| !value.is_null()) {
            spec[key] = value.clone();
        }
    }
    Some(json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}))
}

/// Whether a twin is not as it should be; fields that only others set don't count.
pub fn differs(desired: &Value, live: &Value) -> bool {
    let fields =
        ["/metadata/labels", "/metadata/ownerReferences", "/spec/selector", "/spec/ports", "/spec/clusterIP"];
    let exact = ["/spec/selector", "/spec/ports"];
    fields.into_iter().any(|field| !has_all(desired.pointer(field), live.pointer(field)))
        || exact.into_iter().any(|field| !has_all(live.pointer(field), desired.pointer(field)))
        || families_differ(desired, live)
        || json::is_true(live, "/spec/publishNotReadyAddresses")
}

/// Whether a Service is the twin that whichpod made of this one.
pub fn is_twin_of(live: &Value, service_name: &str) -> bool {
    service::twin_of(live) == Some(service_name)
}

/// What is to be done, given the Service and what stands under its twin's name.
pub fn step(service: &Value, live: Option<&Value>) -> Step {
    let name = text(service, "/metadata/name").unwrap_or_default();
    match (desired(service), live) {
        (None, _) => Step::Nothing,
        (Some(desired), None) => Step::Create(desired),
        (Some(_), Some(live)) if !is_twin_of(live, name) => Step::Foreign,
        (Some(desired), Some(live)) if differs(&desired, live) => {
            let immutable = text(live, "/spec/clusterIP") != Some("None")
                || desired.pointer("/spec/ipFamilies/0") != live.pointer("/spec/ipFamilies/0")
                    && desired.pointer("/spec/ipFamilies/0").is_some();
            if immutable { Step::Recreate(desired) } else { Step::Replace(in_place(&desired, live)) }
        }
        (Some(_), Some(_)) => Step::Nothing,
    }
}

/// The live twin with our fields put right.
fn in_place(desired: &Value, live: &Value) -> Value {
    let mut twin = live.clone();
    for (parent, key) in [
        ("/metadata", "ownerReferences"),
        ("/spec", "selector"),
        ("/spec", "ports"),
        ("/spec", "ipFamilies"),
        ("/spec", "ipFamilyPolicy"),
    ] {
        let wanted = desired.pointer(&format!("{parent}/{key}"));
        if let (Some(members), Some(wanted)) = (object_at(&mut twin, parent), wanted) {
            members.insert(key.to_owned(), wanted.clone());
        }
    }
    if let Some(spec) = object_at(&mut twin, "/spec") {
        spec.shift_remove("publishNotReadyAddresses");
    }
    let labels = json::members(desired, "/metadata/labels").into_iter().flatten();
    for (key, value) in labels {
        if let Some(live) = object_at(&mut twin, "/metadata/labels") {
            live.insert(key.clone(), value.clone());
        }
    }
    twin
}

fn object_at<'v>(value: &'v mut Value, pointer: &str) -> Option<&'v mut Map<String, Value>> {
    value.pointer_mut(pointer)?.as_object_mut()
}

/// A TCP port of the twin; only named ports can be asked for by SRV.
fn port(port: &Value) -> Option<Value> {
    if !matches!(text(port, "/protocol"), None | Some("TCP")) {
        return None;
    }
    let number = port.get("port").and_then(json::port)?;
    let target = port.get("targetPort").filter(|target| !target.is_null()).cloned();
    Some(json!({
        "name": twin_port_name(number),
        "port": number,
        "targetPort": target.unwrap_or_else(|| json!(number)),
        "protocol": "TCP",
    }))
}

fn families_differ(desired: &Value, live: &Value) -> bool {
    ["/spec/ipFamilies", "/spec/ipFamilyPolicy"].into_iter().any(|field| {
        let wanted = desired.pointer(field);
        wanted.is_some() && wanted != live.pointer(field)
    })
}

/// Whether the right side has everything that the left side has; lists must be equally long.
fn has_all(left: Option<&Value>, right: Option<&Value>) -> bool {
    match (left, right) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(Value::Object(left)), Some(Value::Object(right))) => {
            left.iter().all(|(key, value)| has_all(Some(value), right.get(key)))
        }
        (Some(Value::Array(left)), Some(Value::Array(right))) => {
            left.len() == right.len()
                && left.iter().zip(right).all(|(left, right)| has_all(Some(left), Some(right)))
        }
        (left, right) => left == right,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service() -> Value {
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"namespace": "shop", "name": "backend", "uid": "u-1", "labels": {"app": "x", "prometheus": "yes"},
                "annotations": {"argocd.argoproj.io/tracking-id": "y"}},
            "spec": {"type": "NodePort", "clusterIP": "10.0.0.1", "selector": {"app": "backend"},
                "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "PreferDualStack", "sessionAffinity": "None",
                "ports": [{"port": 10000, "nodePort": 30000, "targetPort": "web", "name": "http", "protocol": "TCP"},
                          {"port": 53, "protocol": "UDP", "name": "dns"}]}})
    }

    /// As the API server stores it.
    fn stored(mut twin: Value) -> Value {
        twin["metadata"]["resourceVersion"] = json!("7");
        twin["spec"]["sessionAffinity"] = json!("None");
        twin["spec"]["clusterIPs"] = json!(["None"]);
        twin["spec"]["internalTrafficPolicy"] = json!("Cluster");
        twin
    }

    #[test]
    fn a_twin_has_the_pods_of_its_service_and_nothing_else_of_it() {
        assert_eq!(
            desired(&service()).unwrap(),
            json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": {"name": "backend-whichpod", "namespace": "shop",
                    "labels": {"app.kubernetes.io/managed-by": "whichpod", "whichpod.io/twin-of": "backend"},
                    "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": "backend", "uid": "u-1"}]},
                "spec": {"type": "ClusterIP", "clusterIP": "None", "selector": {"app": "backend"},
                    "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "PreferDualStack",
                    "ports": [{"name": "p10000", "port": 10000, "targetPort": "web", "protocol": "TCP"}]}})
        );
        let mut unnamed = service();
        unnamed["spec"]["ports"] = json!([{"port": 80}]);
        assert_eq!(
            desired(&unnamed).unwrap()["spec"]["ports"],
            json!([{"name": "p80", "port": 80, "targetPort": 80, "protocol": "TCP"}])
        );
    }

    #[test]
    fn services_that_need_no_twin_get_none() {
        for (pointer, value) in [
            ("/spec/clusterIP", json!("None")),
            ("/spec/type", json!("ExternalName")),
            ("/spec/selector", json!({})),
            ("/spec/selector", json!(null)),
            ("/spec/ports", json!([{"port": 53, "protocol": "UDP"}])),
            ("/spec/ports", json!(null)),
            (
                "/metadata/labels",
                json!({"app.kubernetes.io/managed-by": "whichpod", "whichpod.io/twin-of": "x"}),
            ),
        ] {
            let mut service = service();
            *service.pointer_mut(pointer).unwrap() = value;
            assert_eq!(desired(&service), None, "{pointer}");
        }
        let mut deleting = service();
        deleting["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        let twin = desired(&service()).unwrap();
        assert_eq!(desired(&deleting), None);
        assert_eq!(step(&deleting, Some(&stored(twin))), Step::Nothing, "its owner reference takes it along");
        assert_eq!(step(&deleting, None), Step::Nothing);
    }

    #[test]
    fn a_twin_is_kept_in_step() {
        let twin = desired(&service()).unwrap();
        let live = stored(twin.clone());
        assert_eq!(step(&service(), None), Step::Create(twin));
        assert_eq!(step(&service(), Some(&live)), Step::Nothing);
        for (pointer, value) in [
            ("/spec/selector", json!({"app": "other"})),
            ("/spec/ports/0/targetPort", json!(81)),
            ("/spec/ports", json!([{"port": 1}, {"port": 2}])),
            ("/spec/ipFamilyPolicy", json!("RequireDualStack")),
            ("/metadata/uid", json!("u-2")),
        ] {
            let mut service = service();
            *service.pointer_mut(pointer).unwrap() = value;
            let Step::Replace(next) = step(&service, Some(&live)) else { panic!("{pointer}") };
            assert_eq!(next["metadata"]["resourceVersion"], "7", "a write with a precondition");
            assert_eq!(step(&service, Some(&next)), Step::Nothing, "{pointer}");
        }
        let mut edited = live;
        edited["spec"]["publishNotReadyAddresses"] = json!(true);
        edited["spec"]["selector"]["extra"] = json!("x");
        let Step::Replace(next) = step(&service(), Some(&edited)) else { panic!() };
        assert_eq!(step(&service(), Some(&next)), Step::Nothing);
    }

    #[test]
    fn what_cannot_be_changed_is_made_anew() {
        let mut live = stored(desired(&service()).unwrap());
        live["spec"]["ipFamilies"] = json!(["IPv6", "IPv4"]);
        assert!(matches!(step(&service(), Some(&live)), Step::Recreate(_)));
    }

    #[test]
    fn a_service_of_that_name_that_is_not_ours_is_never_adopted() {
        let mut live = stored(desired(&service()).unwrap());
        live["metadata"]["labels"] = json!({"whichpod.io/twin-of": "backend"});
        assert_eq!(step(&service(), Some(&live)), Step::Foreign);
        live["metadata"] = json!({"name": "backend-whichpod"});
        assert_eq!(step(&service(), Some(&live)), Step::Foreign);
    }
}
