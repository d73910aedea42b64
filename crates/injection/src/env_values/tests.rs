use super::*;
use proptest::prelude::*;

fn sites(host_alone: bool) -> Sites {
    let site = Site {
        owner: 0,
        address: "127.77.1.2".parse().unwrap(),
        ports: BTreeMap::from([(80, 80), (8080, 20080)]),
        host_alone,
    };
    ["backend", "backend.shop", "backend.shop.svc.cluster.local"]
        .map(|host| (host.to_owned(), site.clone()))
        .into()
}

fn rewritten(variable: &str, value: &str) -> String {
    rewrite(variable, value, &sites(true), &mut BTreeSet::new()).unwrap_or_else(|| value.to_owned())
}

#[test]
fn addresses_are_rewritten_in_every_usual_syntax() {
    for (value, expected) in [
        ("backend:80", "127.77.1.2:80"),
        ("http://backend:80/api?x=1", "http://127.77.1.2:80/api?x=1"),
        ("http://backend", "http://127.77.1.2"),
        ("http://backend/api", "http://127.77.1.2/api"),
        ("HTTP://Backend.Shop:80", "HTTP://127.77.1.2:80"),
        ("backend.shop.svc.cluster.local.:80", "127.77.1.2:80"),
        ("backend:8080", "127.77.1.2:20080"),
        ("amqp://user:pw@backend:80/vhost", "amqp://user:pw@127.77.1.2:80/vhost"),
        ("amqp://user:pw@backend/vhost", "amqp://user:pw@127.77.1.2/vhost"),
        ("jdbc:mysql://backend:80,backend:8080/db", "jdbc:mysql://127.77.1.2:80,127.77.1.2:20080/db"),
        ("user:pw@tcp(backend:80)/db", "user:pw@tcp(127.77.1.2:80)/db"),
        ("host=backend port=80", "host=127.77.1.2 port=80"),
        ("--server=backend:80 --x", "--server=127.77.1.2:80 --x"),
        ("backend:80,other:80;backend.shop:80", "127.77.1.2:80,other:80;127.77.1.2:80"),
        ("{\"url\":\"http://backend:80\"}", "{\"url\":\"http://127.77.1.2:80\"}"),
    ] {
        assert_eq!(rewritten("X", value), expected);
    }
    assert_eq!(rewritten("BACKEND_HOST", "backend"), "127.77.1.2");
    assert_eq!(rewritten("X", "backend.shop"), "127.77.1.2", "a qualified name is no mere title");
}

#[test]
fn what_is_no_address_of_the_upstream_stays() {
    for (variable, value) in [
        ("APP_NAME", "backend"),
        ("SERVICE_NAME", "backend"),
        ("X", "backend:81"),
        ("X", "my-backend:80"),
        ("X", "backend-v2:80"),
        ("X", "backend.other:80"),
        ("X", "backend_x:80"),
        ("X", "http://proxy/backend:80/x"),
        ("X", "/backend:80"),
        ("X", "http://backend:80@other/"),
        ("X", "http://backend:$(PORT)/"),
        ("X", "http://backend:80x"),
        ("X", "backend:80:5"),
        ("X", "name=backend"),
        ("X", "the backend is here"),
        ("X", "ébackend:80"),
        ("X", "x:backend:80"),
        ("X", ""),
    ] {
        assert_eq!(rewritten(variable, value), value);
    }
    let only_with_port = sites(false);
    assert_eq!(rewrite("HOST", "backend", &only_with_port, &mut BTreeSet::new()), None);
}

#[test]
fn uses_tell_which_ports_are_needed() {
    let pod = json!({"spec": {
        "containers": [{"name": "app", "env": [
            {"name": "A", "value": "http://backend:80"}, {"name": "B", "valueFrom": {}}, {"name": "HOST", "value": "backend"}, null]}],
        "initContainers": [{"name": "init", "env": [{"name": "A/B", "value": "backend:8080"}]}]}});
    let (changes, uses) = changes(Pod(&pod), &sites(true));
    assert_eq!(uses, BTreeSet::from([(0, None), (0, Some(80)), (0, Some(8080))]));
    let paths: Vec<String> = changes
        .iter()
        .map(|change| match change {
            Change::Set { path, .. } => path.clone(),
            Change::Insert { list, .. } => list.clone(),
        })
        .collect();
    assert_eq!(
        paths,
        [
            "/spec/containers/name=app/env/name=A/value",
            "/spec/containers/name=app/env/name=HOST/value",
            "/spec/initContainers/name=init/env/name=A~1B/value",
        ]
    );
    assert!(has_hidden(Pod(&pod)));
}

#[test]
fn kubernetes_own_variables_lead_to_the_sidecar_too() {
    let service = Service::parse(&json!({"metadata": {"namespace": "shop", "name": "my-db"},
        "spec": {"ports": [{"port": 5432}, {"port": 9187, "name": "metrics"}]}}))
    .unwrap();
    let pod =
        json!({"spec": {"containers": [{"name": "app", "env": [{"name": "MY_DB_PORT", "value": "mine"}]}]}});
    let changes = links(Pod(&pod), &service, "127.77.1.2".parse().unwrap());
    let variables: Vec<String> = changes
        .iter()
        .rev()
        .map(|change| match change {
            Change::Insert { item, first: true, .. } => {
                format!("{}={}", item["name"].as_str().unwrap(), item["value"].as_str().unwrap())
            }
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        variables,
        [
            "MY_DB_SERVICE_HOST=127.77.1.2",
            "MY_DB_PORT_5432_TCP=tcp://127.77.1.2:5432",
            "MY_DB_PORT_5432_TCP_ADDR=127.77.1.2",
            "MY_DB_PORT_9187_TCP=tcp://127.77.1.2:9187",
            "MY_DB_PORT_9187_TCP_ADDR=127.77.1.2",
        ]
    );
}

#[test]
fn mentioned_hosts_are_offered_with_their_ports() {
    let pod = json!({"spec": {"containers": [{"name": "app", "env": [
        {"name": "A", "value": "http://backend/x"}, {"name": "B", "value": "redis:6379,db.shared:5432"}, {"name": "C", "value": "v1.2:3"}]}]}});
    let mentioned: Vec<String> =
        mentioned(Pod(&pod)).into_iter().map(|(host, port)| format!("{host}:{port}")).collect();
    assert_eq!(mentioned, ["backend:80", "db.shared:5432", "redis:6379", "v1.2:3"]);
}

proptest! {
    #[test]
    fn no_value_makes_the_scanner_panic(value in "(backend|shop|[:/.@=,é\\PC]){0,12}", variable in "\\PC{0,8}") {
        let _ = rewrite(&variable, &value, &sites(true), &mut BTreeSet::new());
    }

    #[test]
    fn what_stands_around_an_address_is_kept(before in "[ -~]{0,10}", after in "[ -~]{0,10}") {
        let value = format!("{before} backend:80 {after}");
        let result = rewritten("X", &value);
        prop_assert!(result.contains(" 127.77.1.2:80 "), "{}", result);
        if !before.contains("backend") && !after.contains("backend") {
            prop_assert_eq!(result, format!("{before} 127.77.1.2:80 {after}"));
        }
    }
}
