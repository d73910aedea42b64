//! What a workload's upstreams become, by the facts about their Services.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may end so")]

mod common;

use std::borrow::Borrow;

use common::{answer, configuration, loaded, options, request, template};
use serde_json::{Value, json};
use whichpod_config::Config;
use whichpod_injection::{Facts, HeadlessServices, Options, Outcome, Reason};

/// A cluster with these Services in the namespace `shop`.
fn facts(services: &[Value]) -> Facts {
    let mut facts = Facts::complete();
    facts.put_namespace(
        &json!({"metadata": {"name": "shop", "labels": {"whichpod.io/injection": "enabled"}}}),
    );
    for service in services {
        facts.put_service(service);
    }
    facts
}

fn service(name: &str, spec: impl Borrow<Value>) -> Value {
    let mut service = json!({"metadata": {"namespace": "shop", "name": name},
        "spec": {"clusterIP": "10.0.0.1", "selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8080}]}});
    service["spec"].as_object_mut().unwrap().extend(spec.borrow().as_object().unwrap().clone());
    service
}

fn pod(upstreams: &str, spec: impl Borrow<Value>) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "shop", "labels": {"app": "me"}, "annotations": {"whichpod.io/upstreams": upstreams}},
        "spec": {"containers": [{"name": "app"}]}});
    pod["spec"].as_object_mut().unwrap().extend(spec.borrow().as_object().unwrap().clone());
    pod
}

fn inject_with(pod: &Value, services: &[Value], options: &Options) -> (Value, Outcome) {
    answer(&request(pod, None), &facts(services), options)
}

fn inject(pod: &Value, services: &[Value]) -> (Value, Outcome) {
    inject_with(pod, services, &options())
}

fn config(object: &Value) -> Config {
    loaded(&configuration(object).unwrap())
}

/// Each upstream as `port>target|fallback`.
fn routes(object: &Value) -> Vec<String> {
    let upstreams = config(object).upstreams;
    let text = |upstream: &whichpod_config::Upstream| {
        let fallback = upstream.fallback.as_ref().map(ToString::to_string).unwrap_or_default();
        let route = format!("{}>{}|{fallback}", upstream.listen.port(), upstream.target);
        route.replace(".shop.svc.cluster.local.", "")
    };
    upstreams.iter().map(text).collect()
}

#[track_caller]
fn warned(outcome: &Outcome, words: &str) {
    assert!(outcome.warnings.iter().any(|text| text.contains(words)), "{words:?} in {:?}", outcome.warnings);
}

#[test]
fn a_headless_service_is_used_and_a_virtual_ip_gets_a_twin() {
    let services = [
        service("web", json!({"ports": [{"port": 80, "targetPort": 8080, "name": "http"}]})),
        service("db", json!({"clusterIP": "None", "ports": [{"port": 9000, "name": "api"}]})),
    ];
    let (stored, outcome) = inject(&pod("web:80, db:9000", json!({})), &services);
    assert_eq!(routes(&stored), ["80>web-whichpod:p80|web:80", "9000>db:api|"]);
    assert_eq!(outcome.twins.len(), 1);
    assert_eq!(outcome.warnings, Vec::<String>::new());
}

#[test]
fn a_twin_of_the_users_is_preferred_if_it_has_the_same_pods_behind_the_port() {
    let web = service("web", json!({}));
    let headless = |name: &str, spec: Value| {
        let mut twin = service(name, json!({"clusterIP": "None", "selector": {"app": "web"}}));
        twin["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        twin
    };
    for (twin, expected) in [
        (headless("h", json!({"ports": [{"port": 1, "targetPort": 8080, "name": "x"}]})), "80>h:x|web:80"),
        (headless("h", json!({"ports": [{"port": 1, "targetPort": 8080}]})), "80>h:8080|web:80"),
        (headless("h", json!({"ports": [{"port": 80, "targetPort": 9090}]})), "80>web-whichpod:p80|web:80"),
        (headless("h", json!({"publishNotReadyAddresses": true})), "80>web-whichpod:p80|web:80"),
        (headless("h", json!({"selector": {"app": "web", "v": "2"}})), "80>web-whichpod:p80|web:80"),
    ] {
        assert_eq!(routes(&inject(&pod("web:80", json!({})), &[web.clone(), twin]).0), [expected]);
    }
}

#[test]
fn without_a_controller_the_virtual_ip_is_used_and_told() {
    let warn = Options { headless_services: HeadlessServices::Warn, ..options() };
    let (stored, outcome) = inject_with(&pod("web:80", json!({})), &[service("web", json!({}))], &warn);
    assert_eq!(routes(&stored), ["80>web:80|"]);
    warned(&outcome, "virtual IP and no headless twin");
    assert!(outcome.twins.is_empty());
    // One that whichpod made earlier is not kept in step any more, and would lead astray once the Service changes.
    let mut ours = service(
        "web-whichpod",
        json!({"clusterIP": "None", "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080, "name": "p80"}]}),
    );
    ours["metadata"]["labels"] =
        json!({"app.kubernetes.io/managed-by": "whichpod", "whichpod.io/twin-of": "web"});
    let (stored, _) = inject_with(&pod("web:80", json!({})), &[service("web", json!({})), ours], &warn);
    assert_eq!(routes(&stored), ["80>web:80|"]);
}

#[test]
fn a_twin_that_a_quota_forbids_is_told() {
    let mut facts = facts(&[service("web", json!({}))]);
    facts.refuse_twin("shop", "web", true);
    let (stored, outcome) = answer(&request(&pod("web:80", json!({})), None), &facts, &options());
    warned(&outcome, "no headless twin");
    assert_eq!(routes(&stored), ["80>web-whichpod:p80|web:80"], "it may be allowed later");
    facts.refuse_twin("shop", "web", false);
    assert!(answer(&request(&pod("web:80", json!({})), None), &facts, &options()).1.warnings.is_empty());
}

#[test]
fn a_service_in_the_way_of_a_twin_is_not_adopted() {
    let services = [service("web", json!({})), service("web-whichpod", json!({}))];
    let (stored, outcome) = inject(&pod("web:80", json!({})), &services);
    assert_eq!(routes(&stored), ["80>web:80|"]);
    warned(&outcome, "web-whichpod is in the way");
}

#[test]
fn oddities_of_services_are_told() {
    for (spec, words, expected) in [
        (json!({"selector": {}}), "no selector", "80>web:80|"),
        (json!({"sessionAffinity": "ClientIP"}), "sessionAffinity", "80>web-whichpod:p80|web:80"),
        (json!({"internalTrafficPolicy": "Local"}), "internalTrafficPolicy", "80>web-whichpod:p80|web:80"),
        (json!({"trafficDistribution": "PreferClose"}), "trafficDistribution", "80>web-whichpod:p80|web:80"),
        (json!({"clusterIP": "None", "publishNotReadyAddresses": true}), "not ready", "80>web:8080|"),
    ] {
        let (stored, outcome) = inject(&pod("web:80", json!({})), &[service("web", spec)]);
        warned(&outcome, words);
        assert_eq!(routes(&stored)[0], expected);
    }
}

#[test]
fn above_500_endpoints_addresses_are_asked_for() {
    let mut facts = facts(&[service("web", json!({}))]);
    facts.count_endpoints("shop", "web", 501);
    let (stored, outcome) = answer(&request(&pod("web:80", json!({})), None), &facts, &options());
    assert_eq!(routes(&stored), ["80>web-whichpod:8080|web:80"]);
    warned(&outcome, "over 500 endpoints");
    facts.count_endpoints("shop", "web", 500);
    let (stored, _) = answer(&request(&pod("web:80", json!({})), None), &facts, &options());
    assert_eq!(routes(&stored), ["80>web-whichpod:p80|web:80"]);
}

#[test]
fn what_to_discover_can_be_said() {
    let services = [
        service("users", json!({"ports": [{"port": 80, "name": "http"}, {"port": 81, "name": "admin"}]})),
        service(
            "pods",
            json!({"clusterIP": "None", "selector": {"x": "y"}, "ports": [{"port": 8080, "name": "web"}]}),
        ),
        service("other", json!({"ports": [{"port": 90, "targetPort": 9}]})),
    ];
    for (upstreams, expected) in [
        ("users:80=pods:8080", "80>pods:web|users:80"),
        ("users:http=pods:web", "80>pods:web|users:80"),
        ("users:80=pods:7777", "80>pods:7777|users:80"),
        ("users:80=other:90", "80>other-whichpod:p90|other:90"),
        ("users:80=api.example.com:443", "80>api.example.com:443|users:80"),
        ("users:80=web-0.pods:8080", "80>web-0.pods:8080|users:80"),
        ("users:80=10.1.2.3:8080", "80>10.1.2.3:8080|users:80"),
    ] {
        let routes = routes(&inject(&pod(upstreams, json!({})), &services).0);
        assert_eq!(routes, [expected, "81>users-whichpod:p81|users:81"], "every port of the name is served");
    }
}

#[test]
fn hosts_elsewhere_are_served_with_their_named_ports_only() {
    let (stored, _) = inject(&pod("api.example.com:443, api.example.com:8080", json!({})), &[]);
    let expected = if speaks("tcp") {
        vec!["443>api.example.com:443|", "8080>api.example.com:8080|"]
    } else {
        Vec::new()
    };
    assert_eq!(configuration(&stored).map(|_| routes(&stored)).unwrap_or_default(), expected);
    let (stored, outcome) = inject(&pod("api.example.com:8080", json!({})), &[]);
    assert_eq!(routes(&stored), ["8080>api.example.com:8080|"]);
    warned(&outcome, "only the named ports");
}

#[test]
fn the_bare_name_is_mapped_in_its_own_namespace_only() {
    let mut facts = facts(&[service("db", json!({}))]);
    facts.put_namespace(&json!({"metadata": {"name": "shared"}}));
    let mut shared = service("db", json!({}));
    shared["metadata"]["namespace"] = json!("shared");
    facts.put_service(&shared);
    let (stored, _) = answer(&request(&pod("db.shared:80", json!({})), None), &facts, &options());
    assert_eq!(
        template(&stored)["spec"]["hostAliases"][0]["hostnames"],
        json!(["db.shared", "db.shared.svc", "db.shared.svc.cluster.local"])
    );
    let (stored, _) = answer(&request(&pod("db:80, db.shared:80", json!({})), None), &facts, &options());
    let aliases = template(&stored)["spec"]["hostAliases"].as_array().unwrap();
    assert_eq!((aliases.len(), aliases[0]["hostnames"][0].as_str()), (2, Some("db")));
    assert_ne!(aliases[0]["ip"], aliases[1]["ip"], "Services with the same ports do not clash");
}

#[test]
fn the_pods_own_aliases_are_meant() {
    let own = json!({"hostAliases": [{"ip": "10.9.9.9", "hostnames": ["Web.shop"]}]});
    let (stored, outcome) = inject(&pod("web:80", own), &[service("web", json!({}))]);
    assert_eq!(configuration(&stored), None);
    warned(&outcome, "own hostAliases name Web.shop");
}

#[test]
fn a_clash_anywhere_in_a_service_leaves_its_name_alone() {
    let two_ports = service("web", json!({"ports": [{"port": 80, "name": "a"}, {"port": 81, "name": "b"}]}));
    for (spec, source) in [
        (json!({"containers": [{"name": "app", "ports": [{"containerPort": 81}]}]}), "containerPort of app"),
        (
            json!({"containers": [{"name": "app", "livenessProbe": {"tcpSocket": {"port": 81}}}]}),
            "a probe of app",
        ),
    ] {
        let (stored, outcome) = inject(&pod("web:80", spec), std::slice::from_ref(&two_ports));
        assert_eq!(configuration(&stored), None);
        warned(&outcome, source);
        assert!(stored["spec"].get("hostAliases").is_none());
    }
    let selecting =
        service("mine", json!({"selector": {"app": "me"}, "ports": [{"port": 1, "targetPort": 81}]}));
    let (_, outcome) = inject(&pod("web:80", json!({})), &[two_ports, selecting]);
    warned(&outcome, "targetPort of mine");
}

#[test]
fn what_no_pod_could_start_with_is_not_injected() {
    let entries: String = (0..301).map(|n| format!("s{n}:80,")).collect();
    let (_, outcome) = inject(&pod(&entries, json!({})), &[]);
    assert_eq!(outcome.reason, Reason::MalformedAnnotation);
    warned(&outcome, "accepted: up to 300 upstreams");
    let entries: String = (0..300).map(|n| format!("s{n}:80,")).collect();
    let services: Vec<Value> =
        (0..300).map(|n| service(&format!("s{n}"), json!({"ports": [{"port": 80}]}))).collect();
    let (stored, outcome) = inject(&pod(&entries, json!({})), &services);
    assert_eq!(outcome.reason, Reason::Injected);
    let (again, outcome) = inject(&stored, &services);
    assert_eq!((outcome.reason, &again), (Reason::Unchanged, &stored));
    // A configuration that is too long for a variable: every port of a Service is served.
    let ports: Vec<Value> = (0..100).map(|n| json!({"port": 8000 + n, "name": format!("p{n}")})).collect();
    let name = |n: usize| format!("{}-{n}", "s".repeat(50));
    let services: Vec<Value> = (0..8).map(|n| service(&name(n), json!({"ports": ports}))).collect();
    let upstreams: String = (0..8).map(|n| name(n) + ":8000,").collect();
    let object = pod(&upstreams, json!({}));
    let (stored, outcome) = inject(&object, &services);
    assert_eq!((outcome.reason, &stored), (Reason::TooLarge, &object));
    warned(&outcome, "name fewer upstreams");
    // Annotations that the API server would refuse with the status among them, and more values than are looked for.
    let mut object = pod("web:80", json!({}));
    object["metadata"]["annotations"]["example.test/large"] = json!("x".repeat(262_000));
    let (stored, outcome) = inject(&object, &[service("web", json!({}))]);
    assert_eq!((outcome.reason, &stored), (Reason::TooLarge, &object));
    let env: Vec<Value> =
        (0..3000).map(|n| json!({"name": format!("V{n}"), "value": "http://web:80"})).collect();
    let mut object = pod("web:80", json!({"containers": [{"name": "app", "env": env}]}));
    object["metadata"]["annotations"]["whichpod.io/redirect"] = json!("env");
    let (stored, outcome) = inject(&object, &[service("web", json!({}))]);
    assert_eq!((outcome.reason, stored), (Reason::TooLarge, object));
}

#[test]
fn a_pod_that_leaves_the_sidecar_no_port_of_its_own_stays_without() {
    let sysctl = json!({"name": "net.ipv4.ip_unprivileged_port_start", "value": "65535"});
    let spec = json!({"containers": [{"name": "app"}], "securityContext": {"sysctls": [sysctl]}});
    let object = pod("web:65535", spec);
    let highest = service("web", json!({"ports": [{"port": 65535}]}));
    let (stored, outcome) = inject(&object, &[highest]);
    assert_eq!((outcome.reason, stored), (Reason::NoRoom, object));
    warned(&outcome, "set net.ipv4.ip_unprivileged_port_start to 1024");
}

#[test]
fn a_clash_falls_back_to_the_environment_on_another_port() {
    let spec = json!({"containers": [{"name": "app", "ports": [{"containerPort": 80}],
        "env": [{"name": "URL", "value": "http://web:80/"}, {"name": "HOST", "value": "web"}]}]});
    let (stored, outcome) = inject(&pod("web:80", spec), &[service("web", json!({}))]);
    assert_eq!(routes(&stored), ["20080>web-whichpod:p80|web:80"]);
    let env = &stored["spec"]["containers"][0]["env"];
    assert!(env[0]["value"].as_str().unwrap().ends_with(":20080/"), "{env}");
    assert_eq!(env[1]["value"], "web", "without its port the host may be used with any");
    warned(&outcome, "in environment values only");
    assert!(template(&stored)["spec"].get("hostAliases").is_none());
}

#[test]
fn all_services_of_a_namespace_are_bounded_lazy_and_never_the_pods_own() {
    let mut services: Vec<Value> = (0..120).map(|n| service(&format!("s{n:03}"), json!({}))).collect();
    services.push(service("a-me", json!({"selector": {"app": "me"}})));
    services.push(service("a-headless", json!({"clusterIP": "None"})));
    let (stored, outcome) = inject(&pod("*", json!({})), &services);
    let upstreams = config(&stored).upstreams;
    assert_eq!(upstreams.len(), 100);
    assert!(upstreams.iter().all(|upstream| upstream.lazy));
    assert_eq!(&*upstreams[0].name, "s000");
    assert_eq!(outcome.twins.len(), 100);
    assert_eq!(outcome.warnings.len(), 1, "one summary: {:?}", outcome.warnings);
    warned(&outcome, "s100 and 19 more (more than can be served)");
}

#[test]
fn all_services_and_some_by_name_go_together() {
    let services = [
        service("a", json!({})),
        service("sticky", json!({"sessionAffinity": "ClientIP"})),
        service("many", json!({"ports": [{"port": 1, "name": "x"}, {"port": 2, "name": "y"}]})),
    ];
    let (stored, _) = inject(&pod("*, sticky:80, many:1", json!({})), &services);
    let lazy: Vec<(String, bool)> =
        config(&stored).upstreams.iter().map(|upstream| (upstream.name.to_string(), upstream.lazy)).collect();
    let expected = [("sticky", false), ("many:1", false), ("many:2", true), ("a", true)];
    assert_eq!(lazy, expected.map(|(name, lazy)| (name.to_owned(), lazy)));
}

#[test]
fn the_largest_configuration_fits_into_one_variable() {
    let ports: Vec<Value> =
        (0..30).map(|n| json!({"port": 8000 + n, "name": format!("a-long-name-{n}")})).collect();
    let name = |n: usize| format!("{}-{n:02}", "s".repeat(50));
    let services: Vec<Value> = (0..40).map(|n| service(&name(n), json!({"ports": ports}))).collect();
    let (stored, outcome) = inject(&pod("*", json!({})), &services);
    assert_eq!(config(&stored).upstreams.len(), 300);
    let text = configuration(&stored).unwrap();
    assert!(text.len() < 128 * 1024 - 32, "{} bytes", text.len());
    assert!(stored["metadata"]["annotations"].to_string().len() < 200 * 1024);
    warned(&outcome, "more than can be served");
}

#[test]
fn a_scheme_or_the_services_own_word_spares_the_guess() {
    let with =
        |app_protocol: &str| service("web", json!({"ports": [{"port": 80, "appProtocol": app_protocol}]}));
    let protocol = |upstreams: &str, app_protocol: &str| {
        let (stored, _) = inject(&pod(upstreams, json!({})), &[with(app_protocol)]);
        configuration(&stored).map(|text| loaded(&text).upstreams[0].protocol.to_string())
    };
    assert_eq!(protocol("web:80", "http").as_deref(), Some("auto"), "of any version");
    assert_eq!(protocol("web:80", "kubernetes.io/ws").as_deref(), Some("http1"));
    assert_eq!(protocol("web:80", "custom.example/x").as_deref(), Some("auto"));
    assert_eq!(protocol("http://web:80", "custom.example/x").as_deref(), Some("http1"));
    assert_eq!(protocol("auto://web:80", "http").as_deref(), Some("auto"));
}

#[test]
fn what_the_sidecar_does_not_speak_is_left_alone() {
    let spoken: Vec<&str> = ["h2c", "grpc", "tcp"].into_iter().filter(|word| speaks(word)).collect();
    for word in ["h2c", "grpc", "tcp"] {
        let (stored, outcome) =
            inject(&pod(&format!("{word}://web:80"), json!({})), &[service("web", json!({}))]);
        if spoken.contains(&word) {
            assert_eq!(config(&stored).upstreams[0].protocol.to_string(), word);
        } else {
            assert_eq!(configuration(&stored), None);
            warned(&outcome, &format!("its port 80 speaks {word}, which this sidecar does not"));
        }
    }
    let (stored, _) = inject(
        &pod("*", json!({})),
        &[service("db", json!({"ports": [{"port": 5432}]})), service("web", json!({}))],
    );
    assert_eq!(config(&stored).upstreams.len(), if speaks("tcp") { 2 } else { 1 });
}

#[test]
fn what_is_said_of_a_port_is_written_and_what_is_usual_too() {
    let ports = |port: u16, app_protocol: &str| {
        let port = json!({"port": port, "appProtocol": Some(app_protocol).filter(|word| !word.is_empty())});
        service("web", json!({"ports": [port]}))
    };
    let written = |upstreams: &str, annotated: &str, service: Value| {
        let mut pod = pod(upstreams, json!({}));
        if !annotated.is_empty() {
            pod["metadata"]["annotations"]["whichpod.io/protocol"] = json!(annotated);
        }
        let (stored, outcome) = inject(&pod, &[service]);
        let text = configuration(&stored)?;
        assert_eq!(outcome.warnings, Vec::<String>::new());
        let document: Value = serde_json::from_str(&text).unwrap();
        Some(document["upstreams"][0].get("protocol").and_then(Value::as_str).unwrap_or_default().to_owned())
    };
    // Upstreams, annotation, the Service's port and its appProtocol; the word in the sidecar's configuration.
    for (upstreams, annotated, service, word) in [
        ("web:80", "", ports(80, ""), ""),
        ("web:80", "", ports(80, "custom.example/x"), ""),
        ("web:80", "", ports(80, "http"), "auto"),
        ("web:80", "", ports(80, "HTTP2"), "h2c"),
        ("web:80", "", ports(80, "kubernetes.io/h2c"), "h2c"),
        ("web:80", "", ports(80, "grpc"), "grpc"),
        ("web:80", "", ports(80, "tcp"), "tcp"),
        ("web:80", "", ports(80, "https"), "tcp"),
        ("web:80", "", ports(80, "redis"), "tcp"),
        ("web:80", "http1", ports(80, "grpc"), "http1"),
        ("h2c://web:80", "http1", ports(80, "http"), "h2c"),
        ("grpc://web:80", "", ports(80, ""), "grpc"),
        ("tcp://web:80", "", ports(80, ""), "tcp"),
        ("http://web:80", "", ports(80, "grpc"), "http1"),
        ("web:5432", "", ports(5432, ""), "tcp"),
        ("web:5432", "", ports(5432, "http"), "auto"),
        ("web:5432", "http1", ports(5432, ""), "http1"),
        ("auto://web:5432", "", ports(5432, ""), "auto"),
        ("*", "", ports(3306, ""), "tcp"),
        ("*", "grpc", ports(80, ""), "grpc"),
    ] {
        let expected = (word.is_empty() || speaks(word)).then(|| word.to_owned());
        if !annotated.is_empty() && !speaks(annotated) {
            continue;
        }
        let told = format!("{upstreams} {annotated} {service}");
        assert_eq!(written(upstreams, annotated, service), expected, "{told}");
    }
}

#[test]
fn a_database_whose_listener_has_to_move_is_still_one() {
    let mut pod = pod(
        "db:5432",
        json!({"containers": [{
            "name": "app", "ports": [{"containerPort": 5432}], "env": [{"name": "DB", "value": "postgres://me@db:5432/x"}],
        }]}),
    );
    pod["metadata"]["annotations"]["whichpod.io/redirect"] = json!("env");
    let (stored, _) = inject(&pod, &[service("db", json!({"ports": [{"port": 5432}]}))]);
    let upstream = configuration(&stored).map(|text| loaded(&text).upstreams[0].clone());
    let found = upstream.map(|upstream| (upstream.listen.port(), upstream.protocol.to_string()));
    assert_eq!(found, speaks("tcp").then(|| (25432, "tcp".to_owned())));
}

fn speaks(word: &str) -> bool {
    serde_json::from_value::<whichpod_config::Document>(json!({"protocol": word})).is_ok()
}

#[test]
fn a_namespace_without_services_to_serve_stays_without_sidecars() {
    let (stored, outcome) = inject(&pod("*", json!({})), &[service("h", json!({"clusterIP": "None"}))]);
    assert_eq!((configuration(&stored), outcome.reason.label()), (None, "nothing_to_redirect"));
    warned(&outcome, "namespace shop has no ClusterIP Service");
}

#[test]
fn two_upstreams_never_share_a_listener() {
    let services = [service("a", json!({})), service("b", json!({}))];
    let mut pod = pod("a:80, b:80, 127.0.0.1:81=b:80", json!({}));
    pod["metadata"]["annotations"]["whichpod.io/redirect"] = json!("none");
    let (stored, outcome) = inject(&pod, &services);
    assert_eq!(routes(&stored), ["80>a-whichpod:p80|a:80", "81>b-whichpod:p80|b:80"]);
    warned(&outcome, "127.0.0.1:80 is another upstream's");
}
