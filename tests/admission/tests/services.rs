//! Nothing that worked stops working, whatever the Services are, on a real API server.
#![cfg(feature = "cluster")]
#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::time::Duration;

use serde_json::{Value, json};
use whichpod_cluster::wait_for;
use whichpod_tests_admission::{
    Installation, Replica, User, asking, backend, configuration, deployment, routes, service, sidecar,
};

const PATIENCE: Duration = Duration::from_secs(60);
const NAME: &str = "deployment/nginx-test";

fn scene(prefix: &str) -> (Installation, Replica, User) {
    let installation = Installation::new(prefix).unwrap();
    let replica = installation.start(&[]).unwrap();
    let user = User::new(&installation, prefix).unwrap();
    (installation, replica, user)
}

fn calling(upstreams: &str) -> Value {
    deployment(&json!({ "whichpod.io/upstreams": upstreams }))
}

/// The pod's specification as it would be stored, and what is told.
fn pod(user: &User, object: &Value) -> (Value, String) {
    let (stored, told) = user.dry_run(object).unwrap();
    (stored["spec"]["template"]["spec"].clone(), told)
}

fn hostnames(pod: &Value) -> Vec<&str> {
    let aliases = pod["hostAliases"].as_array().into_iter().flatten();
    let names = aliases.flat_map(|alias| alias["hostnames"].as_array().into_iter().flatten());
    names.filter_map(Value::as_str).collect()
}

#[test]
fn the_other_ports_of_a_redirected_service_are_served_too() {
    let (_installation, _replica, user) = scene("ports");
    let ports = json!([
        { "name": "http", "port": 80, "targetPort": 8080 }, { "name": "admin", "port": 9000, "targetPort": "admin" },
    ]);
    user.serve(&service("web", &ports)).unwrap();
    let (pod, told) = pod(&user, &calling("web:80"));
    assert_eq!(routes(&pod).unwrap(), ["80>web-whichpod:p80|web:80", "9000>web-whichpod:p9000|web:9000"]);
    assert!(!told.contains("Warning"), "{told}");
    let configuration = configuration(&pod).unwrap();
    let lazy: Vec<_> =
        configuration["upstreams"].as_array().unwrap().iter().map(|one| one.get("lazy")).collect();
    assert_eq!(lazy, [None, Some(&json!(true))], "readiness waits for what was named only");
    // Port 80 can be bound by a user who is not root.
    assert_eq!(
        pod["securityContext"]["sysctls"],
        json!([{ "name": "net.ipv4.ip_unprivileged_port_start", "value": "80" }])
    );
}

#[test]
fn a_service_with_a_udp_port_keeps_its_name_and_an_environment_value_is_led_to_the_sidecar() {
    let (_installation, _replica, user) = scene("udp");
    let ports = json!([
        { "name": "web", "port": 8080, "protocol": "TCP" }, { "name": "dns", "port": 53, "protocol": "UDP" },
    ]);
    user.serve(&service("mixed", &ports)).unwrap();
    let (left, told) = pod(&user, &calling("mixed:8080"));
    assert!(sidecar(&left).is_none() && hostnames(&left).is_empty());
    assert!(told.contains("UDP") && told.contains("environment value"), "{told}");
    let mut by_environment = calling("mixed:8080");
    by_environment["spec"]["template"]["spec"]["containers"][0]["env"] =
        json!([{ "name": "URL", "value": "http://mixed:8080/x" }, { "name": "DNS", "value": "mixed:53" }]);
    let (pod, told) = pod(&user, &by_environment);
    let env = &pod["containers"][0]["env"];
    assert!(env[0]["value"].as_str().unwrap().starts_with("http://127.77."), "{env}");
    assert_eq!((&env[1]["value"], hostnames(&pod).len()), (&json!("mixed:53"), 0), "{told}");
}

#[test]
fn a_service_of_the_same_name_in_another_namespace_stays_itself() {
    let (installation, _replica, user) = scene("mine");
    let other = User::new(&installation, "theirs").unwrap();
    other.serve(&service("db", &json!([{ "port": 80 }]))).unwrap();
    user.serve(&service("db", &json!([{ "port": 80 }]))).unwrap();
    let theirs = format!("db.{}", other.name());
    let (one, told) = pod(&user, &calling(&format!("{theirs}:80")));
    assert_eq!(
        hostnames(&one),
        [theirs.clone(), format!("{theirs}.svc"), format!("{theirs}.svc.cluster.local")],
        "{told}"
    );
    let target = configuration(&one).unwrap()["upstreams"][0]["target"].as_str().unwrap().to_owned();
    assert!(target.starts_with(&format!("db-whichpod.{}.svc.", other.name())), "{target}");
    // Both at once: two addresses, each with its own names.
    let (both, _) = pod(&user, &calling(&format!("{theirs}:80, db:80")));
    let aliases = both["hostAliases"].as_array().unwrap();
    assert_eq!(aliases.len(), 2);
    assert_ne!(aliases[0]["ip"], aliases[1]["ip"]);
    assert_eq!(hostnames(&both).iter().filter(|name| **name == "db").count(), 1);
    assert_eq!(routes(&both).unwrap().len(), 2);
}

#[test]
fn a_service_that_is_applied_after_its_deployment_is_found_by_the_sidecar_all_the_same() {
    let (_installation, _replica, user) = scene("after");
    let created = user.create(&asking()).unwrap();
    assert!(created.err.contains("there is no Service backend-service (yet)"), "{}", created.err);
    let pods = user.get_all("pods", 2).unwrap();
    let route = "10000>backend-service-whichpod:p10000|backend-service:10000";
    assert_eq!(routes(&pods[0]["spec"]).unwrap(), [route]);
    // However its ports are called: the twin has the name that the sidecar asks for.
    let named = service("backend-service", &json!([{ "name": "http", "port": 10000, "targetPort": 8080 }]));
    user.create(&named).unwrap();
    let twin = |what: &str, accept: &dyn Fn(&Value) -> bool| {
        wait_for(what, PATIENCE, || {
            Ok(user.get("service/backend-service-whichpod").ok().filter(|twin| accept(twin)))
        })
        .unwrap()
    };
    let port = &twin("the twin", &|_| true)["spec"]["ports"][0];
    assert_eq!((&port["name"], &port["targetPort"]), (&json!("p10000"), &json!(8080)));
    // The target port and the port's name are changed later: what is asked for stays.
    let changed = r#"{"spec":{"ports":[{"name":"web","port":10000,"targetPort":9090}]}}"#;
    user.kubectl(&["patch", "service", "backend-service", "--type=merge", "-p", changed]).unwrap();
    let port =
        &twin("the change", &|twin| twin["spec"]["ports"][0]["targetPort"] == 9090)["spec"]["ports"][0];
    assert_eq!(port["name"], "p10000");
    user.kubectl(&["rollout", "restart", NAME]).unwrap();
    let again = user.get(NAME).unwrap();
    assert_eq!(routes(&again["spec"]["template"]["spec"]).unwrap(), [route]);
}

#[test]
fn a_port_clash_never_breaks_the_app() {
    let (_installation, _replica, user) = scene("clash");
    user.serve(&service("web", &json!([{ "port": 8080 }]))).unwrap();
    let mut clashing = calling("web:8080");
    clashing["spec"]["template"]["spec"]["containers"][0]["ports"] = json!([{ "containerPort": 8080 }]);
    let (left, told) = pod(&user, &clashing);
    assert!(sidecar(&left).is_none() && hostnames(&left).is_empty());
    assert!(told.contains("port 8080 clashes") && told.contains("environment value"), "{told}");
    clashing["spec"]["template"]["spec"]["containers"][0]["env"] =
        json!([{ "name": "URL", "value": "web:8080" }]);
    let (moved, told) = pod(&user, &clashing);
    let address = moved["containers"][0]["env"][0]["value"].as_str().unwrap().to_owned();
    assert!(address.starts_with("127.77.") && !address.ends_with(":8080"), "{address}: {told}");
    assert_eq!(configuration(&moved).unwrap()["upstreams"][0]["listen"], address);
    // The sidecar's own ports make room for the app's.
    let mut own = calling("web:8080");
    own["spec"]["template"]["spec"]["containers"][0]["ports"] =
        json!([{ "containerPort": 9901 }, { "containerPort": 9902 }]);
    let (pod, _) = pod(&user, &own);
    let configuration = configuration(&pod).unwrap();
    assert_eq!(configuration["admin"]["address"], "127.0.0.1:9903");
    assert_eq!(sidecar(&pod).unwrap()["startupProbe"]["httpGet"]["port"], 9904);
}

#[test]
fn every_service_of_a_namespace_but_those_that_would_suffer() {
    let (_installation, _replica, user) = scene("all");
    let with = |name: &str, spec: Value| {
        let mut service = service(name, &json!([{ "port": 8000 }]));
        service["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        service
    };
    for left in [
        with("sticky", json!({ "sessionAffinity": "ClientIP" })),
        with("near", json!({ "internalTrafficPolicy": "Local" })),
        with("headless", json!({ "clusterIP": "None" })),
        with("own", json!({ "selector": { "app": "nginx" }, "ports": [{ "port": 8001 }] })),
        with("unselected", json!({ "selector": null })),
        json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "outside" },
            "spec": { "type": "ExternalName", "externalName": "example.test" } }),
    ] {
        user.create(&left).unwrap();
    }
    user.serve(&backend()).unwrap();
    let (all, told) = pod(&user, &calling("*"));
    assert_eq!(routes(&all).unwrap(), ["10000>backend-service-whichpod:p10000|backend-service:10000"]);
    for (name, reason) in [
        ("sticky", "sessionAffinity"),
        ("near", "internalTrafficPolicy: Local"),
        ("unselected", "no selector"),
    ] {
        assert!(told.contains(&format!("{name} ({reason})")), "{told}");
    }
    // Who names them gets them, with a word of warning.
    for (name, warning) in [
        ("sticky:8000", "sessionAffinity: ClientIP"),
        ("near:8000", "internalTrafficPolicy: Local"),
        ("unselected:8000", "no selector"),
    ] {
        let (named, told) = pod(&user, &calling(name));
        assert!(sidecar(&named).is_some() && told.contains(warning), "{name}: {told}");
    }
    for (name, warning) in [
        ("outside:80", "is an ExternalName"),
        ("backend-service:81", "has no TCP port 81"),
        ("backend-servic:80", "there is no Service"),
    ] {
        let told = pod(&user, &calling(name)).1;
        assert!(told.contains(warning), "{name}: {told}");
    }
}

#[test]
fn a_users_own_headless_service_is_used_and_no_twin_is_made() {
    let (_installation, replica, user) = scene("users");
    let mut headless = service("backend-pods", &json!([{ "name": "web", "port": 1, "targetPort": 10000 }]));
    headless["spec"]["clusterIP"] = json!("None");
    headless["spec"]["selector"] = json!({ "app": "backend-service" });
    user.serve(&headless).unwrap();
    user.serve(&backend()).unwrap();
    user.create(&asking()).unwrap();
    let pods = user.get_all("pods", 2).unwrap();
    assert_eq!(routes(&pods[0]["spec"]).unwrap(), ["10000>backend-pods:web|backend-service:10000"]);
    replica.leads(true).unwrap();
    user.get_all("services", 2).unwrap();
}
