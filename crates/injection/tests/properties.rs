//! Generated workloads of every kind, with unknown fields at every level, nulls, and shapes that no API server would take.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may end so")]

mod common;

use common::{answer, cluster, configuration, loaded, options, patched, request, sidecar};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use whichpod_injection::{
    Ask, Facts, HeadlessServices, LONGEST_WARNING, Operation, Options, Request, admit, inject, is_injected,
    uninject,
};

const UPSTREAMS: [&str; 12] = [
    "backend-service:10000",
    "users:80",
    "users:admin",
    "billing.shared:8080",
    "search:9200",
    "users:80=users-headless:8080",
    "resolver:5353",
    "missing:81",
    "api.example.com:8080",
    "127.0.0.1:7001=billing.shared:http",
    "http://backend-service.default.svc.cluster.local:10000",
    "*",
];

/// What annotations say of the sidecar's configuration, in each of the ways to write it; the last ones are refused.
const CONFIGURATION: [(&str, &str); 24] = [
    ("balance", "least_request"),
    ("protocol", "http1"),
    ("timeouts", "connect=2s, request=30s"),
    ("retry", "on=5xx, reset, attempts=3, per_try_timeout=1s, budget.percent=10, back_off.max=1s"),
    ("circuit-breakers", "{max_connections: 10, max_pending_requests: 0}"),
    ("limits", r#"{"head_bytes": 8192, "headers": 20, "streams": 10, "connections": 100}"#),
    ("outlier-detection", "{}"),
    ("health-check", "protocol: http\npath: /$(HOST)/$$\n"),
    ("healthy-panic-threshold", "0"),
    ("slow-start", "window=10s"),
    ("headers", "expose_upstream=true"),
    ("tls", "ca_file=/etc/ca/ca.crt"),
    ("proxy-protocol", "v2"),
    ("lazy", "true"),
    ("dns", "refresh_floor=2s, servers=10.0.0.1"),
    ("access-log", "format={\"a\": \"%START_TIME%$(A)\"}, filter.flags=UH, UF"),
    ("workers", "2"),
    ("memory", "shed_at_percent=80"),
    ("shutdown", "grace_period=20s"),
    ("log-level", "info,hyper=debug"),
    (
        "per-upstream",
        "{users: {timeouts: {request: 1s}, lazy: true}, 'backend-service:10000': {balance: random}}",
    ),
    ("per-upstream", "{users: {protocol: tcp, routes: [{prefix: /}]}}"),
    ("retry", "attempts=many"),
    ("volume-mounts", "ca=/etc/ca"),
];

fn unknown() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[ -~é]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::vec(("[a-z/~.]{1,8}", inner), 0..3)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// Members that are there, null, empty, or missing; and some that no one knows.
fn object(members: Vec<(&'static str, BoxedStrategy<Value>)>) -> BoxedStrategy<Value> {
    let known: Vec<_> = members
        .into_iter()
        .map(|(key, value)| {
            let value = prop_oneof![6 => value.prop_map(Some), 1 => Just(Some(Value::Null)), 3 => Just(None)];
            value.prop_map(move |value| value.map(|value| (key.to_owned(), value)))
        })
        .collect();
    (known, prop::collection::vec(("x-[a-z/~]{1,5}", unknown()), 0..2))
        .prop_map(|(known, unknown)| {
            Value::Object(known.into_iter().flatten().chain(unknown).collect::<Map<_, _>>())
        })
        .boxed()
}

fn list(item: BoxedStrategy<Value>, most: usize) -> BoxedStrategy<Value> {
    prop::collection::vec(item, 0..=most).prop_map(Value::from).boxed()
}

fn pick(values: &'static [&'static str]) -> BoxedStrategy<Value> {
    prop::sample::select(values).prop_map(Value::from).boxed()
}

fn texts(keys: &'static str, values: &'static str) -> BoxedStrategy<Value> {
    prop::collection::vec((keys, values), 0..3)
        .prop_map(|members| {
            Value::Object(members.into_iter().map(|(key, value)| (key, Value::from(value))).collect())
        })
        .boxed()
}

fn port() -> BoxedStrategy<Value> {
    prop_oneof![Just(80), Just(10000), Just(8080), Just(9901), Just(9902), Just(5353), 1_u16..]
        .prop_map(Value::from)
        .boxed()
}

fn container() -> BoxedStrategy<Value> {
    let values = "(http://)?(backend-service|users|users.default|db)(:(80|10000))?(/x)?";
    let variable = object(vec![
        ("name", pick(&["A", "B", "URL", "BACKEND_HOST", "a/b~c", "USERS_SERVICE_HOST"])),
        ("value", values.prop_map(Value::from).boxed()),
    ]);
    let quantities =
        || object(vec![("cpu", pick(&["1", "1000m", "0.5"])), ("memory", pick(&["1Gi", "64Mi"]))]);
    object(vec![
        ("name", prop_oneof![4 => "[a-z]{6}".prop_map(Value::from), 1 => Just(json!("app"))].boxed()),
        ("image", Just(json!("app:1")).boxed()),
        ("ports", list(object(vec![("containerPort", port()), ("protocol", pick(&["TCP", "UDP"]))]), 2)),
        ("env", list(variable, 3)),
        ("resources", object(vec![("requests", quantities()), ("limits", quantities())])),
        ("readinessProbe", object(vec![("httpGet", object(vec![("port", port())]))])),
    ])
}

fn template() -> BoxedStrategy<Value> {
    let metadata = object(vec![
        ("labels", texts("(app|tier)", "(web|users|search)")),
        ("annotations", texts("[a-z.]{1,6}/[a-z]{1,6}", "[ -~]{0,10}")),
    ]);
    let alias = json!({"ip": "10.0.0.9", "hostnames": ["users", "elsewhere"]});
    let sysctl = json!({"name": "net.ipv4.ip_unprivileged_port_start", "value": "81"});
    let spec = object(vec![
        ("containers", list(container(), 3)),
        ("initContainers", list(container(), 2)),
        ("hostAliases", list(Just(alias).boxed(), 1)),
        ("imagePullSecrets", list(Just(json!({"name": "own"})).boxed(), 1)),
        ("securityContext", object(vec![("sysctls", list(Just(sysctl).boxed(), 1))])),
        ("dnsPolicy", pick(&["ClusterFirst", "None", "Default"])),
        ("restartPolicy", pick(&["Always", "OnFailure"])),
        ("terminationGracePeriodSeconds", (0..100).prop_map(Value::from).boxed()),
        ("enableServiceLinks", any::<bool>().prop_map(Value::from).boxed()),
    ]);
    (metadata, spec)
        .prop_map(|(metadata, spec)| json!({"metadata": metadata, "spec": spec, "x-other": 1}))
        .boxed()
}

/// An annotated workload of any kind.
fn workload() -> BoxedStrategy<Value> {
    let annotations = (
        prop::collection::vec(prop::sample::select(UPSTREAMS.as_slice()), 1..4),
        prop::sample::select(vec!["hosts", "env", "none"]),
        prop::sample::select(vec!["auto", "true", "false"]),
        prop::sample::subsequence(CONFIGURATION.as_slice(), 0..=4),
    );
    let kinds = prop::sample::select(vec![
        ("apps/v1", "Deployment"),
        ("apps/v1", "StatefulSet"),
        ("batch/v1", "Job"),
        ("batch/v1", "CronJob"),
        ("v1", "Pod"),
    ]);
    (kinds, annotations, template(), unknown())
        .prop_map(|((version, kind), (upstreams, redirect, native, configuration), template, unknown)| {
            let mut object = match kind {
                "Pod" => template,
                "CronJob" => {
                    json!({"spec": {"jobTemplate": {"spec": {"template": template}}, "x-y": unknown}})
                }
                _ => json!({"spec": {"template": template, "x-y": unknown}}),
            };
            object["apiVersion"] = json!(version);
            object["kind"] = json!(kind);
            let own = object.pointer("/metadata/annotations").and_then(Value::as_object).cloned();
            let mut annotations = own.unwrap_or_default();
            for (name, value) in [
                ("upstreams", upstreams.join(",").as_str()),
                ("redirect", redirect),
                ("native-sidecar", native),
            ]
            .into_iter()
            .chain(configuration)
            {
                annotations.insert(format!("whichpod.io/{name}"), json!(value));
            }
            if !object["metadata"].is_object() {
                object["metadata"] = json!({});
            }
            object["metadata"]["annotations"] = Value::Object(annotations);
            object
        })
        .boxed()
}

fn any_options() -> impl Strategy<Value = Options> {
    let policies = vec![HeadlessServices::Create, HeadlessServices::Warn];
    (prop::sample::select(policies), any::<bool>(), any::<bool>()).prop_map(
        |(headless_services, native_sidecars, secrets)| Options {
            headless_services,
            native_sidecars,
            image_pull_secrets: if secrets { vec!["own".into(), "pull".into()] } else { Vec::new() },
            ..options()
        },
    )
}

/// What of an object nobody but its user writes: the containers' names and images and all unknown fields.
fn without_additions(object: &Value) -> Value {
    uninject(object, "default", false).0
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_put_in_can_be_taken_out_and_is_put_in_only_once(object in workload(), options in any_options()) {
        let facts = cluster();
        let (stored, outcome) = answer(&request(&object, None), &facts, &options);
        for warning in &outcome.warnings {
            prop_assert!(warning.chars().count() <= LONGEST_WARNING, "{}", warning);
        }
        prop_assert_eq!(is_injected(&stored), sidecar(&stored).is_some());
        if !is_injected(&stored) {
            prop_assert_eq!(&stored, &object, "all or nothing");
            return Ok(());
        }
        prop_assert_eq!(&without_additions(&stored), &object);
        let again = answer(&request(&stored, None), &facts, &options).1;
        prop_assert!(again.patch.0.is_empty(), "{}", again.patch);
        let anew = Request { recompute: true, ..request(&stored, None) };
        let anew = answer(&anew, &facts, &options).0;
        prop_assert_eq!(anew.to_string().len(), stored.to_string().len());
        prop_assert_eq!(anew, stored, "the same facts give the same bytes");
    }

    #[test]
    fn the_sidecar_can_run_with_every_configuration_it_is_given(object in workload(), options in any_options()) {
        let stored = answer(&request(&object, None), &cluster(), &options).0;
        if let Some(text) = configuration(&stored) {
            let config = loaded(&text);
            let probe = sidecar(&stored).unwrap().pointer("/ports/0/containerPort").and_then(Value::as_u64);
            prop_assert_eq!(probe, Some(u64::from(config.health.port())));
            let declared: Vec<u64> = common::template(&object).pointer("/spec/containers").and_then(Value::as_array).into_iter()
                .flatten().flat_map(|container| container["ports"].as_array().cloned().unwrap_or_default())
                .filter(|port| port["protocol"].as_str().is_none_or(|protocol| protocol == "TCP"))
                .filter_map(|port| port["containerPort"].as_u64()).collect();
            let listening = config.upstreams.iter().map(|upstream| upstream.listen.port()).chain([config.admin.port(), config.health.port()]);
            for port in listening {
                prop_assert!(!declared.contains(&u64::from(port)), "{} is the app's", port);
            }
        }
    }

    #[test]
    fn an_update_that_changes_nothing_of_the_template_is_left_alone(object in workload(), drop in any::<bool>()) {
        let facts = cluster();
        let stored = answer(&request(&object, None), &facts, &options()).0;
        let newer = Options { version: "9".into(), image: "newer".into(), ..options() };
        let resubmitted = if drop { object.clone() } else { stored.clone() };
        let update = Request { operation: Operation::Update, old_object: Some(&stored), ..request(&resubmitted, None) };
        let (after, outcome) = answer(&update, &facts, &newer);
        if outcome.reason.label() != "immutable" && is_injected(&stored) {
            prop_assert_eq!(after, stored, "{:?}", outcome.reason);
        }
    }

    #[test]
    fn by_hand_is_the_same_as_the_webhook(object in workload()) {
        let facts = cluster();
        let stored = answer(&request(&object, None), &facts, &options()).0;
        let ask = Ask { namespace: "default".into(), ..Ask::default() };
        let list = json!({"apiVersion": "v1", "kind": "List", "items": [object, {"kind": "Secret"}]});
        let (injected, items) = inject(&list, &ask, &facts, &options());
        prop_assert_eq!(injected["items"][0].to_string().len(), stored.to_string().len());
        prop_assert_eq!(&injected["items"][0], &stored);
        prop_assert_eq!(&patched(&object, &items[0].outcome), &stored);
    }

    #[test]
    fn nothing_makes_the_decision_panic(object in unknown(), old in unknown(), kind in prop::sample::select(vec!["Deployment", "Pod"]),
        annotation in "[a-z:=*,./0-9]{0,30}") {
        let mut object = json!({"apiVersion": if kind == "Pod" { "v1" } else { "apps/v1" }, "kind": kind, "metadata": object, "spec": old});
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.insert("annotations".into(), json!({"whichpod.io/upstreams": annotation, "whichpod.io/status": annotation}));
        }
        for facts in [cluster(), Facts::unknown()] {
            let update = Request { operation: Operation::Update, old_object: Some(&old), ..request(&object, None) };
            let outcome = admit(&update, &facts, &options());
            let _ = patched(&object, &outcome);
            let outcome = admit(&request(&object, None), &facts, &options());
            let _ = patched(&object, &outcome);
            let _ = uninject(&object, "x", true);
        }
    }
}
