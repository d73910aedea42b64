//! Objects that change after the first injection: no rollout that nobody asked for, nothing of the user's lost.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may end so")]

mod common;

use common::{answer, cluster, configuration, create, options, patched, request, sidecar, template, update};
use serde_json::{Value, json};
use whichpod_injection::{
    Ask, Facts, HeadlessServices, Operation, Options, Reason, Request, admit, inject, is_injected,
    twins_wanted, uninject,
};

fn deployment() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default", "annotations": {"whichpod.io/upstreams": "backend-service:10000"}},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "web", "image": "web:1", "env": [{"name": "A", "value": "b"}]}]}}}})
}

/// As the API server fills in its defaults.
fn defaulted(mut object: Value) -> Value {
    let spec = object.pointer_mut("/spec/template/spec").unwrap();
    spec["restartPolicy"] = json!("Always");
    spec["terminationGracePeriodSeconds"] = json!(30);
    spec["dnsPolicy"] = json!("ClusterFirst");
    spec["schedulerName"] = json!("default-scheduler");
    if spec.get("securityContext").is_none() {
        spec["securityContext"] = json!({});
    }
    for container in spec["containers"].as_array_mut().unwrap() {
        container["imagePullPolicy"] = json!("IfNotPresent");
        container["terminationMessagePath"] = json!("/dev/termination-log");
        if container.get("resources").is_none() {
            container["resources"] = json!({});
        }
    }
    object
}

/// A version later, with another image.
fn later() -> Options {
    Options { version: "2.0.0".into(), image: "registry.example/whichpod-sidecar:2.0.0".into(), ..options() }
}

fn update_later(object: &Value, old: &Value) -> (Value, whichpod_injection::Outcome) {
    answer(&request(object, Some(old)), &cluster(), &later())
}

#[test]
fn a_change_elsewhere_rolls_nothing_even_after_an_upgrade() {
    let (stored, _) = create(&deployment());
    let mut scaled = stored.clone();
    scaled["spec"]["replicas"] = json!(5);
    scaled["metadata"]["annotations"]["other"] = json!("x");
    let (after, outcome) = update_later(&scaled, &stored);
    assert_eq!((outcome.reason, outcome.patch.0.len()), (Reason::Unchanged, 0));
    assert_eq!(after, scaled);
    assert_eq!(twins_wanted(&after).len(), 1);
    assert_eq!(outcome.twins, twins_wanted(&after), "the controller is told again");
}

#[test]
fn defaults_that_the_api_server_fills_in_are_no_change() {
    let (by_hand, items) = inject(&deployment(), &Ask::default(), &cluster(), &options());
    assert_eq!(items[0].outcome.reason, Reason::Injected);
    let stored = defaulted(by_hand);
    let (_, outcome) = answer(&request(&stored, None), &cluster(), &later());
    assert_eq!(outcome.reason, Reason::Unchanged, "what was injected by hand stays as it was written");
    let mut scaled = stored.clone();
    scaled["spec"]["replicas"] = json!(5);
    assert_eq!(update_later(&scaled, &stored).1.reason, Reason::Unchanged);
}

#[test]
fn additions_that_a_client_dropped_come_back_as_they_were() {
    let (stored, _) = create(&defaulted(deployment()));
    for resubmitted in [deployment(), defaulted(deployment())] {
        let (after, outcome) = update_later(&resubmitted, &stored);
        assert_eq!(outcome.reason, Reason::Restored);
        assert_eq!(sidecar(&after), sidecar(&stored));
        assert_eq!(template(&after)["metadata"]["annotations"], template(&stored)["metadata"]["annotations"]);
        assert!(is_injected(&after));
    }
    let (after, _) = update_later(&defaulted(deployment()), &stored);
    assert_eq!(template(&after), template(&stored), "byte for byte, so no rollout");
}

#[test]
fn a_client_that_resets_some_additions_gets_all_of_them_back() {
    let mut deployment = defaulted(deployment());
    deployment["metadata"]["annotations"]["whichpod.io/redirect"] = json!("env");
    template_mut(&mut deployment)["spec"]["containers"][0]["env"] =
        json!([{"name": "URL", "value": "http://backend-service:10000"}]);
    let (stored, _) = create(&deployment);
    let url = |object: &Value| {
        let env = template(object)["spec"]["containers"][0]["env"].as_array().unwrap().clone();
        env.iter().find(|variable| variable["name"] == "URL").unwrap()["value"].clone()
    };
    assert!(url(&stored).as_str().unwrap().starts_with("http://127.77."));
    let mut applied = stored.clone();
    let env = template_mut(&mut applied)["spec"]["containers"][0]["env"].as_array_mut().unwrap();
    env.iter_mut().find(|variable| variable["name"] == "URL").unwrap()["value"] =
        json!("http://backend-service:10000");
    let (after, outcome) = update_later(&applied, &stored);
    assert_eq!((outcome.reason, url(&after)), (Reason::Restored, url(&stored)));
    assert_eq!(template(&after), template(&stored));
}

#[test]
fn a_variable_that_its_user_changes_is_redirected_anew_without_a_word() {
    let mut object = deployment();
    object["metadata"]["annotations"]["whichpod.io/redirect"] = json!("env");
    template_mut(&mut object)["spec"]["containers"][0]["env"] =
        json!([{"name": "URL", "value": "http://backend-service:10000/v1"}]);
    template_mut(&mut object)["spec"]["enableServiceLinks"] = json!(false);
    let (stored, _) = create(&object);
    let mut applied = stored.clone();
    template_mut(&mut applied)["spec"]["containers"][0]["env"][0]["value"] =
        json!("http://backend-service:10000/v2");
    let (after, outcome) = update(&applied, &stored);
    assert_eq!((outcome.reason, outcome.warnings.len()), (Reason::Injected, 0), "{:?}", outcome.warnings);
    let url = template(&after)["spec"]["containers"][0]["env"][0]["value"].as_str().unwrap().to_owned();
    assert!(url.starts_with("http://127.77.") && url.ends_with("/v2"), "{url}");
}

#[test]
fn a_changed_template_or_annotation_is_computed_anew() {
    let (stored, _) = create(&deployment());
    let changes: [&dyn Fn(&mut Value); 3] = [
        &|object| template_mut(object)["spec"]["containers"][0]["image"] = json!("web:2"),
        &|object| object["metadata"]["annotations"]["whichpod.io/upstreams"] = json!("users:80"),
        &|object| {
            template_mut(object)["metadata"]["annotations"]["kubectl.kubernetes.io/restartedAt"] =
                json!("now");
        },
    ];
    for change in changes {
        let mut changed = stored.clone();
        change(&mut changed);
        let (after, outcome) = update_later(&changed, &stored);
        assert_eq!(outcome.reason, Reason::Injected);
        assert_eq!(sidecar(&after).unwrap()["image"], "registry.example/whichpod-sidecar:2.0.0");
        assert_eq!(update_later(&after, &stored).1.reason, Reason::Unchanged);
        let mut expected = deployment();
        change(&mut expected);
        assert_eq!(
            answer(&request(&expected, None), &cluster(), &later()).0,
            after,
            "as if it had been written so at first"
        );
    }
}

#[test]
fn settings_of_the_namespace_count_with_the_next_update() {
    let (stored, _) = create(&deployment());
    let mut facts = cluster();
    facts.put_namespace(
        &json!({"metadata": {"name": "default", "annotations": {"whichpod.io/log-format": "json"}}}),
    );
    let (after, outcome) = answer(&request(&stored, Some(&stored)), &facts, &options());
    assert_eq!(outcome.reason, Reason::Injected);
    assert!(configuration(&after).unwrap().contains("\"json\""));
}

#[test]
fn new_facts_alone_roll_nothing_but_an_upgrade_takes_them_in() {
    let (stored, _) = create(&deployment());
    let mut facts = cluster();
    facts.remove_service("default", "backend-service");
    assert_eq!(answer(&request(&stored, Some(&stored)), &facts, &later()).1.reason, Reason::Unchanged);
    let forced = Request { recompute: true, ..request(&stored, Some(&stored)) };
    let (after, outcome) = answer(&forced, &facts, &later());
    assert_eq!(outcome.reason, Reason::Injected);
    assert_eq!(sidecar(&after).unwrap()["image"], "registry.example/whichpod-sidecar:2.0.0");
}

#[test]
fn a_malformed_annotation_leaves_an_injected_template_as_it_stands() {
    let (stored, _) = create(&deployment());
    for (name, value) in
        [("redirect", "host"), ("upstreams", "backend"), ("inject", "yes"), ("app-ports", "x")]
    {
        let mut changed = stored.clone();
        changed["metadata"]["annotations"][format!("whichpod.io/{name}")] = json!(value);
        let (after, outcome) = update(&changed, &stored);
        assert_eq!(after, changed, "{name}");
        assert!(outcome.warnings[0].contains(name) && outcome.warnings[0].contains("Nothing was changed"));
    }
    let mut fresh = deployment();
    fresh["metadata"]["annotations"]["whichpod.io/redirect"] = json!("host");
    let (after, outcome) = create(&fresh);
    assert_eq!((after == fresh, outcome.reason), (true, Reason::MalformedAnnotation));
}

#[test]
fn without_its_annotation_a_workload_is_as_it_was() {
    let (stored, _) = create(&deployment());
    let mut opted_out = stored.clone();
    opted_out["metadata"]["annotations"] = json!({});
    let (after, outcome) = update(&opted_out, &stored);
    assert_eq!(outcome.reason, Reason::Removed);
    let mut expected = deployment();
    expected["metadata"]["annotations"] = json!({});
    assert_eq!(after, expected);
}

#[test]
fn in_a_labelled_namespace_the_pods_take_over_from_an_annotation() {
    let mut annotated = deployment();
    annotated["metadata"]["namespace"] = json!("orders");
    annotated["metadata"]["annotations"]["whichpod.io/upstreams"] = json!("cart:80");
    let (stored, _) = create(&annotated);
    let mut bare = stored.clone();
    bare["metadata"]["annotations"] = json!({});
    let (after, outcome) = update(&bare, &stored);
    assert_eq!((outcome.reason, sidecar(&after)), (Reason::Removed, None));
    assert_eq!(create(&after).1.reason, Reason::LeftToPods);
}

#[test]
fn a_namespace_that_is_disabled_takes_everything_out() {
    let (stored, _) = create(&deployment());
    let mut facts = cluster();
    facts.put_namespace(
        &json!({"metadata": {"name": "default", "labels": {"whichpod.io/injection": "disabled"}}}),
    );
    let (after, outcome) = answer(&request(&stored, Some(&stored)), &facts, &options());
    assert_eq!((outcome.reason, after), (Reason::Removed, deployment()));
    assert!(outcome.warnings[0].contains("is disabled"));
}

#[test]
fn a_template_that_can_have_no_sidecar_any_more_loses_it() {
    let (stored, _) = create(&deployment());
    let mut changed = stored.clone();
    template_mut(&mut changed)["spec"]["hostNetwork"] = json!(true);
    let (after, outcome) = update(&changed, &stored);
    let mut expected = deployment();
    template_mut(&mut expected)["spec"]["hostNetwork"] = json!(true);
    assert_eq!((outcome.reason, after), (Reason::Removed, expected));
    assert!(outcome.warnings[0].contains("hostNetwork: false"));
}

#[test]
fn a_refusal_goes_to_the_template_and_comes_back_with_the_consent() {
    let (stored, _) = create(&deployment());
    let mut refusing = stored.clone();
    refusing["metadata"]["annotations"]["whichpod.io/inject"] = json!("false");
    let (refused, outcome) = update(&refusing, &stored);
    assert_eq!((outcome.reason, sidecar(&refused)), (Reason::Removed, None));
    assert_eq!(template(&refused)["metadata"]["annotations"]["whichpod.io/inject"], "false");
    assert_eq!(update_later(&refused, &refused).1.patch.0, [], "stays as it is, whatever the version");

    // Its pods are left alone in a labelled namespace.
    let mut pod = template(&refused).clone();
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    let (_, outcome) =
        answer(&Request { namespace: "orders", ..request(&pod, None) }, &cluster(), &options());
    assert_eq!((outcome.reason, outcome.patch.0.len()), (Reason::OptedOut, 0));

    let mut consenting = refused.clone();
    consenting["metadata"]["annotations"].as_object_mut().unwrap().shift_remove("whichpod.io/inject");
    let (after, outcome) = update(&consenting, &refused);
    assert_eq!((outcome.reason, &after), (Reason::Injected, &stored));
}

#[test]
fn a_refusal_outranks_the_templates_own_consent() {
    let mut object = deployment();
    object["metadata"]["annotations"] = json!({"whichpod.io/inject": "false"});
    template_mut(&mut object)["metadata"]["annotations"] = json!({"whichpod.io/inject": "true"});
    let (refused, outcome) = create(&object);
    assert_eq!(outcome.reason, Reason::OptedOut);
    assert_eq!(template(&refused)["metadata"]["annotations"]["whichpod.io/inject"], "false");
    let mut consenting = refused.clone();
    consenting["metadata"]["annotations"] = json!({});
    let (after, _) = update(&consenting, &refused);
    assert_eq!(template(&after)["metadata"]["annotations"], json!({"whichpod.io/inject": "true"}));
}

#[test]
fn what_a_user_changed_since_stays_when_the_rest_is_taken_out() {
    let (stored, _) = create(&deployment());
    let mut changed = stored.clone();
    template_mut(&mut changed)["spec"]["hostAliases"][0]["hostnames"] = json!(["backend-service", "mine"]);
    changed["metadata"]["annotations"] = json!({});
    let (after, outcome) = update(&changed, &stored);
    assert_eq!(sidecar(&after), None);
    assert_eq!(
        template(&after)["spec"]["hostAliases"][0]["hostnames"],
        json!(["mine"]),
        "ours would lead nowhere"
    );
    assert!(
        outcome.warnings.iter().any(|text| text.contains("hostAliases") && text.contains("stays")),
        "{:?}",
        outcome.warnings
    );
    assert!(template(&after)["metadata"].get("annotations").is_none(), "no status without a sidecar");
}

#[test]
fn hand_edits_of_the_sidecar_are_replaced_with_a_warning_once_something_else_changes() {
    let (stored, _) = create(&deployment());
    let mut edited = stored.clone();
    template_mut(&mut edited)["spec"]["initContainers"][0]["image"] = json!("mirror.internal/whichpod:1");
    assert_eq!(
        update(&edited, &stored).1.reason,
        Reason::Unchanged,
        "a rewritten registry is nobody's rollout"
    );
    template_mut(&mut edited)["spec"]["containers"][0]["image"] = json!("web:2");
    let (after, outcome) = update(&edited, &stored);
    assert_eq!(outcome.reason, Reason::Injected);
    assert_eq!(template(&after)["spec"]["initContainers"].as_array().unwrap().len(), 1);
    assert!(outcome.warnings[0].contains("written anew"), "{:?}", outcome.warnings);
}

#[test]
fn a_dropped_status_is_found_in_the_stored_object() {
    let (stored, _) = create(&deployment());
    let mut dropped = stored.clone();
    template_mut(&mut dropped)["metadata"].as_object_mut().unwrap().shift_remove("annotations");
    let (after, outcome) = update(&dropped, &stored);
    assert_eq!((outcome.reason, template(&after)), (Reason::Restored, template(&stored)));
}

#[test]
fn an_unreadable_status_never_makes_a_second_sidecar() {
    let (mut broken, _) = create(&deployment());
    template_mut(&mut broken)["metadata"]["annotations"]["whichpod.io/status"] = json!("{");
    let (after, outcome) = create(&broken);
    assert_eq!((outcome.reason, after == broken), (Reason::NameTaken, true));
    assert!(outcome.warnings.iter().any(|text| text.contains("cannot be read")));
}

#[test]
fn a_pod_with_the_sidecar_of_its_template_is_left_alone() {
    let (stored, _) = create(&deployment());
    let mut pod = template(&stored).clone();
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    pod["metadata"]["ownerReferences"] = json!([{"kind": "ReplicaSet", "controller": true}]);
    // What other plug-ins do to it on the way.
    pod["spec"]["initContainers"][0]["volumeMounts"] =
        json!([{"name": "kube-api-access", "mountPath": "/var/run"}]);
    pod["spec"]["initContainers"][0]["image"] = json!("mirror.internal/whichpod:1");
    pod["spec"]["initContainers"][0]["resources"]["limits"]["cpu"] = json!("1");
    for namespace in ["default", "orders"] {
        let (_, outcome) = answer(&Request { namespace, ..request(&pod, None) }, &cluster(), &later());
        assert_eq!(
            (outcome.reason, outcome.patch.0.len(), outcome.warnings.len()),
            (Reason::Unchanged, 0, 0)
        );
    }
    pod["metadata"]["annotations"]["whichpod.io/inject"] = json!("false");
    let (freed, outcome) = answer(&request(&pod, None), &cluster(), &options());
    assert_eq!(outcome.reason, Reason::Removed);
    assert!(freed["spec"].get("hostAliases").is_none(), "the redirect never outlives the sidecar");
}

#[test]
fn a_pod_whose_sidecar_was_lost_gets_it_again() {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"annotations": {"whichpod.io/upstreams": "backend-service:10000"}},
        "spec": {"containers": [{"name": "app"}]}});
    pod = create(&pod).0;
    pod["spec"].as_object_mut().unwrap().shift_remove("initContainers");
    let (after, outcome) = create(&pod);
    assert_eq!(outcome.reason, Reason::Injected);
    assert!(is_injected(&after));
    assert_eq!(after["spec"]["hostAliases"].as_array().unwrap().len(), 1);
}

#[test]
fn objects_that_others_keep_are_never_patched() {
    let owner = json!([{"apiVersion": "apps/v1", "kind": "Deployment", "controller": true}]);
    let job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"namespace": "default",
        "annotations": {"whichpod.io/upstreams": "backend-service:10000"}}, "spec": {"template": {"spec": {"restartPolicy": "Never"}}}});
    let with = |pointer: &str, value: Value| {
        let mut object = deployment();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        object.pointer_mut(parent).unwrap()[key] = value;
        object
    };
    for (object, reason) in [
        (with("/metadata/ownerReferences", owner), Reason::Owned),
        (with("/metadata/deletionTimestamp", json!("2026-01-01T00:00:00Z")), Reason::Deleting),
        (with("/kind", json!("Service")), Reason::UnsupportedKind),
        (with("/spec/template/metadata/labels/whichpod.io~1component", json!("webhook")), Reason::Injected),
        (with("/metadata/namespace", json!("kube-system")), Reason::ProtectedNamespace),
        (with("/spec/template", json!("x")), Reason::MalformedObject),
        (with("/spec/template/spec", json!("x")), Reason::MalformedObject),
        (with("/spec/template/spec/initContainers", json!({})), Reason::MalformedObject),
    ] {
        let (after, outcome) = create(&object);
        if reason != Reason::Injected {
            assert_eq!((outcome.reason, after == object), (reason, true), "{object}");
        }
    }
    let mut own = deployment();
    template_mut(&mut own)["metadata"]["labels"]["whichpod.io/component"] = json!("webhook");
    assert_eq!(create(&own).1.reason, Reason::OwnPod);
    assert_eq!(create(&job).1.reason, Reason::Injected);
    assert_eq!(update(&job, &job).1.reason, Reason::Immutable);
    let scale = Request { subresource: Some("scale"), ..request(&job, None) };
    assert_eq!(admit(&scale, &cluster(), &options()).reason, Reason::Subresource);
    let mirror = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"annotations": {
        "whichpod.io/inject": "true", "kubernetes.io/config.mirror": "x"}}, "spec": {}});
    assert_eq!(create(&mirror).1.reason, Reason::MirrorPod);
}

#[test]
fn deny_stops_new_workloads_but_no_pod_of_a_running_one() {
    let strict = Options { headless_services: HeadlessServices::Deny, ..options() };
    let decide = |object: &Value, old: Option<&Value>| answer(&request(object, old), &cluster(), &strict);
    let (after, outcome) = decide(&deployment(), None);
    assert!(outcome.denied.unwrap().contains("backend-service"));
    assert_eq!((outcome.reason, after == deployment()), (Reason::NotHeadless, true));
    // It was there before the policy: scaling it is not refused.
    let (_, outcome) = decide(&deployment(), Some(&deployment()));
    assert_eq!((outcome.denied, outcome.reason), (None, Reason::NotHeadless));
    // A change of its inputs is.
    let mut changed = deployment();
    template_mut(&mut changed)["spec"]["containers"][0]["image"] = json!("web:2");
    assert!(decide(&changed, Some(&deployment())).1.denied.is_some());
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"ownerReferences": [{"controller": true}],
        "annotations": {"whichpod.io/upstreams": "backend-service:10000"}}, "spec": {"containers": [{"name": "app"}]}});
    let (after, outcome) = decide(&pod, None);
    assert_eq!((outcome.denied, after == pod, outcome.warnings.len()), (None, true, 1));
    // What has a headless twin passes.
    let mut users = deployment();
    users["metadata"]["annotations"]["whichpod.io/upstreams"] = json!("users:80");
    assert_eq!(decide(&users, None).1.reason, Reason::Injected);
}

#[test]
fn by_hand_writes_annotations_that_uninject_takes_out() {
    let mut bare = deployment();
    bare["metadata"].as_object_mut().unwrap().shift_remove("annotations");
    let ask = Ask {
        namespace: "default".into(),
        annotations: vec![
            ("upstreams".into(), "backend-service:10000".into()),
            ("balance".into(), "least_request".into()),
        ],
        recompute: false,
    };
    let (injected, items) = inject(&bare, &ask, &cluster(), &options());
    assert_eq!(injected["metadata"]["annotations"]["whichpod.io/upstreams"], "backend-service:10000");
    assert_eq!(patched(&bare, &items[0].outcome), injected, "the patch fits the live object");
    assert_eq!(inject(&injected, &ask, &cluster(), &options()).0.to_string(), injected.to_string());
    assert_eq!(create(&injected).1.reason, Reason::Unchanged, "an installed webhook agrees");
    // The same bytes as the webhook's, whoever wrote the annotations.
    let mut annotated = bare.clone();
    annotated["metadata"]["annotations"] =
        json!({"whichpod.io/upstreams": "backend-service:10000", "whichpod.io/balance": "least_request"});
    assert_eq!(template(&create(&annotated).0).to_string(), template(&injected).to_string());
    assert_eq!(uninject(&injected, "default", false).0, bare);

    // Asked twice for different things, the first state comes back.
    let other = Ask { annotations: vec![("upstreams".into(), "users:80".into())], ..ask };
    let (again, items) = inject(&injected, &other, &cluster(), &options());
    assert_eq!(items[0].outcome.reason, Reason::Injected);
    assert_eq!(uninject(&again, "default", false).0, bare);

    // After a webhook has computed it anew, too.
    let mut changed = injected.clone();
    template_mut(&mut changed)["spec"]["containers"][0]["image"] = json!("web:2");
    let (anew, _) = update(&changed, &injected);
    let mut expected = bare.clone();
    template_mut(&mut expected)["spec"]["containers"][0]["image"] = json!("web:2");
    assert_eq!(uninject(&anew, "default", false).0, expected);
}

#[test]
fn uninject_can_keep_an_installed_webhook_from_putting_it_back() {
    let (stored, _) = create(&deployment());
    let (freed, items) = uninject(&stored, "default", true);
    assert_eq!(items[0].outcome.reason, Reason::Removed);
    assert_eq!(patched(&stored, &items[0].outcome), freed);
    let (after, outcome) = update(&freed, &stored);
    assert_eq!((sidecar(&after), outcome.reason), (None, Reason::OptedOut));
    assert_eq!(
        uninject(&deployment(), "default", true).0,
        deployment(),
        "nothing to take out, nothing to write"
    );
}

#[test]
fn by_hand_obeys_the_same_refusals() {
    let mut refusing = deployment();
    refusing["metadata"]["annotations"]["whichpod.io/inject"] = json!("false");
    let ask = Ask { annotations: vec![("upstreams".into(), "users:80".into())], ..Ask::default() };
    let (after, items) = inject(&refusing, &ask, &cluster(), &options());
    assert_eq!(items[0].outcome.reason, Reason::OptedOut);
    assert_eq!(after["metadata"], refusing["metadata"]);
    let unknown = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}});
    let (same, items) = inject(&unknown, &ask, &cluster(), &options());
    assert_eq!((same, items.len()), (unknown, 0));
}

#[test]
fn offline_takes_what_the_text_says() {
    let (injected, items) = inject(&deployment(), &Ask::default(), &Facts::unknown(), &options());
    assert_eq!(items[0].outcome.warnings, Vec::<String>::new());
    let config = common::loaded(&configuration(&injected).unwrap());
    assert_eq!(config.upstreams[0].target.to_string(), "backend-service.default.svc.cluster.local.:10000");
    assert_eq!(config.upstreams[0].fallback, None);
}

#[test]
fn operations_are_told_apart() {
    assert_eq!(request(&json!({}), None).operation, Operation::Create);
    assert_eq!(admit(&request(&json!({}), None), &cluster(), &options()).reason, Reason::UnsupportedKind);
}

fn template_mut(object: &mut Value) -> &mut Value {
    object.pointer_mut("/spec/template").unwrap()
}
