//! Injection: what is put into a workload can be taken out again, byte for byte.

use std::sync::LazyLock;

use serde_json::{Value, json};
use whichpod::documents;
use whichpod_injection::names::STATUS;
use whichpod_injection::{
    Facts, Kind, LONGEST_WARNING, Operation, Options, Outcome, Request, Resources, admit, is_injected,
};

use crate::parts::{lines, parts};

/// The cluster that all workloads are in.
pub(crate) static CLUSTER: LazyLock<Facts> = LazyLock::new(|| {
    let mut facts = Facts::complete();
    for document in documents::read(include_str!("cluster.yaml")).expect("a manifest") {
        let value = document.value.expect("an object");
        match value["kind"].as_str() {
            Some("Namespace") => facts.put_namespace(&value),
            _ => facts.put_service(&value),
        }
    }
    facts
});

static OPTIONS: LazyLock<Options> =
    LazyLock::new(|| Options { cluster_dns: vec![[10, 96, 0, 10].into()], ..Options::default() });

/// Any object as JSON.
pub fn injection(bytes: &[u8]) {
    let Ok(object) = serde_json::from_slice::<Value>(bytes) else { return };
    round_trip(&object);
    // As an update of whatever it also could have been.
    let update = Request { operation: Operation::Update, old_object: Some(&object), ..request(&object) };
    let stored = patched(&object, &admit(&update, &CLUSTER, &OPTIONS));
    let update = Request { operation: Operation::Update, old_object: Some(&stored), ..request(&object) };
    patched(&object, &admit(&update, &CLUSTER, &OPTIONS));
    admit(&request(&object), &Facts::unknown(), &OPTIONS);
}

/// Any object as JSON that may have been through a webhook before, or looks so: taking out is done once.
pub fn uninject(bytes: &[u8]) {
    let Ok(object) = serde_json::from_slice::<Value>(bytes) else { return };
    for keep_out in [false, true] {
        let (once, items) = whichpod_injection::uninject(&object, "default", keep_out);
        if let [item] = &items[..] {
            assert_eq!(patched(&object, &item.outcome), once, "the patch is what was done");
        }
        let (twice, _) = whichpod_injection::uninject(&once, "default", keep_out);
        assert_eq!(twice.to_string(), once.to_string(), "once is enough");
    }
}

/// `hosts`, `env` or `none`, then upstreams, then a container's variables as `NAME=value`, one a line.
pub fn env_values(bytes: &[u8]) {
    let [redirect, upstreams, variables] = parts(bytes);
    let text = |bytes| std::str::from_utf8(bytes).ok();
    let (Some(redirect), Some(upstreams)) = (text(redirect), text(upstreams)) else { return };
    let env: Vec<Value> = lines(variables)
        .filter_map(|line| text(line)?.split_once('='))
        .map(|(name, value)| json!({"name": name, "value": value}))
        .collect();
    let annotations = json!({"whichpod.io/upstreams": upstreams, "whichpod.io/redirect": redirect});
    let object = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "app", "namespace": "default", "annotations": annotations},
        "spec": {"containers": [{"name": "app", "image": "app:1", "env": env}]},
    });
    let Some(stored) = round_trip(&object) else { return };
    let after = stored["spec"]["containers"][0]["env"].as_array();
    for before in &env {
        let (name, value) = (before["name"].as_str().expect("text"), before["value"].as_str().expect("text"));
        if env.iter().filter(|variable| variable["name"] == name).count() > 1 {
            // Kubernetes takes the last; which one a change means is not for here.
            continue;
        }
        let now = after.into_iter().flatten().find(|variable| variable["name"] == name).expect("it stays");
        let hosts = ["backend", "users", "search", "billing", "10.96.", "example"];
        let lower = value.to_ascii_lowercase();
        if !hosts.iter().any(|host| lower.contains(host) || upstreams.contains(value)) {
            assert_eq!(now["value"], value, "{name} names no host");
        }
    }
}

/// Two quantities, one a line: a request is within its limit or it is not, whichever is asked first.
pub fn quantity(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Some((one, other)) = text.split_once('\n') else { return };
    let errors = |request: &str, limit: &str| -> Option<bool> {
        let resources = Resources {
            memory_request: request.to_owned(),
            memory_limit: limit.to_owned(),
            ..Resources::default()
        };
        let errors = Options { resources, ..Options::default() }.errors();
        // `None`: one of them is no quantity.
        match &errors[..] {
            [] => Some(true),
            [error] if error.contains("is above") => Some(false),
            [error] if error.contains("is no positive quantity") => None,
            other => panic!("{other:?}"),
        }
    };
    let (forth, back) = (errors(one, other), errors(other, one));
    assert_eq!(forth.is_some(), back.is_some());
    assert!(forth != Some(false) || back == Some(true), "each is above the other");
    if errors(one, one).is_some() {
        assert_eq!(errors(one, one), Some(true), "{one} is above itself");
        if one.bytes().all(|byte| byte.is_ascii_digit()) && one.len() < 18 {
            let thousandths = format!("{one}000m");
            assert_eq!(
                (errors(one, &thousandths), errors(&thousandths, one)),
                (Some(true), Some(true)),
                "{one}"
            );
        }
    }
}

/// Puts the sidecar in and takes it out again; the object with it, if it got one.
fn round_trip(object: &Value) -> Option<Value> {
    let outcome = admit(&request(object), &CLUSTER, &OPTIONS);
    for warning in &outcome.warnings {
        assert!(warning.chars().count() <= LONGEST_WARNING && !warning.contains('\n'), "{warning:?}");
    }
    let stored = patched(object, &outcome);
    if outcome.patch.0.is_empty() || !is_injected(&stored) || has_status(object) {
        return None;
    }
    let (taken_out, _) = whichpod_injection::uninject(&stored, "default", false);
    assert_eq!(taken_out.to_string(), object.to_string(), "what was put in is taken out");
    let again = admit(&request(&stored), &CLUSTER, &OPTIONS);
    assert!(again.patch.0.is_empty(), "twice: {}", again.patch);
    Some(stored)
}

/// Whether the object says that it has been through this before.
fn has_status(object: &Value) -> bool {
    let template = Kind::of(object).and_then(|kind| object.pointer(kind.template()));
    [Some(object), template].into_iter().flatten().any(|object| {
        object.pointer("/metadata/annotations").and_then(|annotations| annotations.get(STATUS)).is_some()
    })
}

pub(crate) fn patched(object: &Value, outcome: &Outcome) -> Value {
    let mut object = object.clone();
    json_patch::patch(&mut object, &outcome.patch)
        .unwrap_or_else(|error| panic!("{error}\n{}", outcome.patch));
    object
}

fn request(object: &Value) -> Request<'_> {
    Request {
        operation: Operation::Create,
        namespace: object.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or("default"),
        object,
        old_object: None,
        subresource: None,
        recompute: false,
    }
}
