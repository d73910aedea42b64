//! Real-life manifests and what becomes of them, on disk to be read and reviewed. `WHICHPOD_UPDATE_GOLDEN=1 cargo test -p
//! whichpod-injection --test golden` writes them anew.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may end so")]

mod common;

use std::path::Path;

use common::{
    answer, cluster, configuration, documents, golden_directory, loaded, options, patched, request,
};
use serde_json::{Value, json};
use whichpod_injection::{Ask, Facts, Options, Outcome, Request, inject, is_injected, uninject};

/// File, and the namespace that the request is for.
const CASES: [(&str, &str); 24] = [
    ("nginx", "default"),
    ("several-containers", "default"),
    ("null-and-empty", "default"),
    ("istio-namespace", "mesh"),
    ("istio-injected-pod", "default"),
    ("linkerd", "default"),
    ("statefulset-headless", "default"),
    ("cronjob", "default"),
    ("job-without-native-sidecars", "default"),
    ("bare-pod", "default"),
    ("list", "default"),
    ("labelled-namespace-pod", "orders"),
    ("labelled-namespace-deployment", "orders"),
    ("port-clash", "default"),
    ("redirect-env", "default"),
    ("redirect-none", "default"),
    ("guaranteed", "default"),
    ("config-map", "default"),
    ("opt-out", "orders"),
    ("mistakes", "default"),
    ("configuration", "default"),
    ("configuration-mistakes", "default"),
    ("no-upstreams", "default"),
    ("pull-secrets", "default"),
];

fn options_for(name: &str) -> Options {
    let native_sidecars = !["job-without-native-sidecars", "bare-pod"].contains(&name);
    let image_pull_secrets =
        if name == "pull-secrets" { vec!["registry".to_owned(), "own".to_owned()] } else { Vec::new() };
    let run_as_user = if name == "pull-secrets" { None } else { Some(65532) };
    Options { native_sidecars, image_pull_secrets, run_as_user, ..options() }
}

#[test]
fn every_manifest_becomes_what_is_on_disk() {
    let facts = cluster();
    let update = std::env::var_os("WHICHPOD_UPDATE_GOLDEN").is_some();
    let mut wrong = Vec::new();
    for (name, namespace) in CASES {
        let object = read(name);
        let is_list = object["kind"] == "List";
        let found =
            if is_list { of_list(&object, &facts) } else { of_object(&object, namespace, name, &facts) };
        let text = format!("{found:#}\n");
        let file = golden_directory().join(format!("{name}.expected.json"));
        if update {
            std::fs::write(&file, &text).unwrap();
        }
        if std::fs::read_to_string(&file).unwrap_or_default() != text {
            wrong.push((name, text));
        }
    }
    for (name, text) in &wrong {
        println!("--- {name}\n{text}");
    }
    assert!(wrong.is_empty(), "{} files differ", wrong.len());
}

#[test]
fn every_file_is_a_case() {
    let manifests = std::fs::read_dir(golden_directory()).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> =
        manifests.filter_map(|name| Some(name.to_str()?.strip_suffix(".yaml")?.to_owned())).collect();
    names.retain(|name| name != "cluster");
    names.sort();
    let mut cases: Vec<&str> = CASES.iter().map(|(name, _)| *name).collect();
    cases.sort_unstable();
    assert_eq!(names, cases);
}

fn read(name: &str) -> Value {
    documents(Path::new(&golden_directory().join(format!("{name}.yaml")))).remove(0)
}

fn of_object(object: &Value, namespace: &str, name: &str, facts: &Facts) -> Value {
    let options = options_for(name);
    let request = Request { namespace, ..request(object, None) };
    let (stored, outcome) = answer(&request, facts, &options);
    let again = Request { object: &stored, ..request };
    assert!(answer(&again, facts, &options).1.patch.is_empty(), "{name}: twice is not once");
    assert_eq!(is_injected(&stored), outcome.reason.label() == "injected");
    let (freed, _) = uninject(&stored, namespace, false);
    if is_injected(&stored) {
        assert_eq!(&freed, object, "{name}: taking out gives back what was there");
    }
    described(&outcome, &stored)
}

fn of_list(list: &Value, facts: &Facts) -> Value {
    let ask = Ask { namespace: "default".to_owned(), ..Ask::default() };
    let (injected, items) = inject(list, &ask, facts, &options());
    let (twice, _) = inject(&injected, &ask, facts, &options());
    assert_eq!(injected.to_string(), twice.to_string());
    assert_eq!(uninject(&injected, "default", false).0, *list);
    let find = |name: &str| {
        let items = list["items"].as_array().unwrap();
        items.iter().find(|item| item["metadata"]["name"] == name).unwrap()
    };
    let items = items.iter().map(|item| {
        let stored = patched(find(&item.name), &item.outcome);
        json!({"item": format!("{}/{}", item.kind, item.name), "outcome": described(&item.outcome, &stored)})
    });
    items.collect()
}

/// The outcome with its configuration spelled out.
fn described(outcome: &Outcome, stored: &Value) -> Value {
    let configuration = configuration(stored).map(|text| {
        loaded(&text);
        serde_json::from_str::<Value>(&text).unwrap()
    });
    json!({
        "reason": outcome.reason.label(),
        "denied": outcome.denied,
        "warnings": outcome.warnings,
        "twins": outcome.twins.iter().map(|twin| format!("{}/{}", twin.namespace, twin.name)).collect::<Vec<_>>(),
        "configuration": configuration,
        "patch": outcome.patch,
    })
}
