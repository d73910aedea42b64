//! What several test binaries share.
#![allow(dead_code, reason = "each binary uses a part of it")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use whichpod_config::{Checks, Config};
use whichpod_injection::{Facts, Operation, Options, Outcome, Request, admit};

pub fn golden_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

pub fn documents(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap();
    serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// The cluster of the golden files.
pub fn cluster() -> Facts {
    let mut facts = Facts::complete();
    for object in documents(&golden_directory().join("cluster.yaml")) {
        match object["kind"].as_str() {
            Some("Namespace") => facts.put_namespace(&object),
            _ => facts.put_service(&object),
        }
    }
    facts
}

pub fn options() -> Options {
    Options {
        version: "1.2.3".to_owned(),
        image: "registry.example/whichpod-sidecar:1.2.3".to_owned(),
        cluster_dns: vec!["10.96.0.10".parse().unwrap()],
        ..Options::default()
    }
}

pub fn request<'a>(object: &'a Value, old_object: Option<&'a Value>) -> Request<'a> {
    Request {
        operation: if old_object.is_some() { Operation::Update } else { Operation::Create },
        namespace: object.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or("default"),
        object,
        old_object,
        subresource: None,
        recompute: false,
    }
}

pub fn create(object: &Value) -> (Value, Outcome) {
    answer(&request(object, None), &cluster(), &options())
}

pub fn update(object: &Value, old: &Value) -> (Value, Outcome) {
    answer(&request(object, Some(old)), &cluster(), &options())
}

/// The object as it is stored after the webhook, and what the webhook said.
pub fn answer(request: &Request<'_>, facts: &Facts, options: &Options) -> (Value, Outcome) {
    let outcome = admit(request, facts, options);
    let stored = patched(request.object, &outcome);
    (stored, outcome)
}

pub fn patched(object: &Value, outcome: &Outcome) -> Value {
    let mut object = object.clone();
    json_patch::patch(&mut object, &outcome.patch)
        .unwrap_or_else(|error| panic!("{error}\n{:#}", outcome.patch));
    object
}

pub fn template(object: &Value) -> &Value {
    let kind = whichpod_injection::Kind::of(object).unwrap();
    object.pointer(kind.template()).unwrap()
}

pub fn sidecar(object: &Value) -> Option<&Value> {
    let lists = ["/spec/initContainers", "/spec/containers"].into_iter();
    let containers = lists.filter_map(|list| template(object).pointer(list)?.as_array()).flatten();
    containers.into_iter().find(|container| container["name"] == "whichpod")
}

/// The text of the sidecar's configuration as its process sees it: Kubernetes expands `$(NAME)` and `$$`.
pub fn configuration(object: &Value) -> Option<String> {
    let text = sidecar(object)?.pointer("/env/0/value")?.as_str()?.to_owned();
    assert!(!text.contains('$'), "Kubernetes would expand {text}");
    Some(text)
}

/// What the sidecar makes of its configuration.
pub fn loaded(text: &str) -> Config {
    let environment = BTreeMap::from([("WHICHPOD_CONFIG".to_owned(), text.to_owned())]);
    let checks = Checks { log_format: &|_| Ok(()), response_flag: &|_| true };
    match whichpod_config::load(["whichpod-sidecar".into()], &environment, &checks) {
        Ok(whichpod_config::Outcome::Run { config, warnings }) if warnings.is_empty() => config,
        Ok(other) => panic!("{other:?}"),
        Err(failure) => panic!("{failure}\n{text}"),
    }
}
