//! What responses say, and what nobody may make them say.

use proptest::prelude::*;

use super::*;

const SERVICE: &str = "web.shop.svc.cluster.local";

fn record(name: &str, ttl: u32, data: impl Into<Data>) -> Record {
    Record { name: name.into(), ttl, data: data.into() }
}

fn a(name: &str, ttl: u32, last: u8) -> Record {
    record(name, ttl, Ipv4Addr::new(10, 0, 0, last))
}

fn aaaa(name: &str, ttl: u32, last: u16) -> Record {
    record(name, ttl, Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last))
}

fn cname(name: &str, ttl: u32, target: &str) -> Record {
    record(name, ttl, Data::Cname(target.into()))
}

fn srv(name: &str, priority: u16, port: u16, target: &str) -> Record {
    record(name, 30, Data::Srv { priority, port, target: target.into() })
}

fn said(answers: Vec<Record>) -> Response {
    Response { answers, ..Response::default() }
}

fn ip(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

fn ask(response: &Response) -> Said<Vec<IpAddr>> {
    addresses(response, &"a".into())
}

#[test]
fn the_shortest_ttl_counts() {
    assert_eq!(ask(&said(vec![a("a", 30, 1), a("a", 5, 2)])), Said::This(vec![ip(1), ip(2)], 5));
    assert_eq!(ask(&said(vec![cname("a", 3, "b"), a("b", 30, 1)])), Said::This(vec![ip(1)], 3));
}

#[test]
fn records_of_other_names_are_not_believed() {
    assert_eq!(ask(&said(vec![a("a", 30, 1), a("evil", 30, 66)])), Said::This(vec![ip(1)], 30));
    assert_eq!(ask(&said(vec![a("evil", 30, 66)])), Said::Absent(Absence::Kind));
    let smuggled = Response { additionals: vec![a("a", 30, 66)], ..said(vec![]) };
    assert_eq!(ask(&smuggled), Said::Absent(Absence::Kind));
}

#[test]
fn no_such_name_and_no_such_record_are_told_apart() {
    assert_eq!(ask(&said(vec![])), Said::Absent(Absence::Kind));
    assert_eq!(ask(&Response { nxdomain: true, ..Response::default() }), Said::Absent(Absence::Name));
    let dangling = Response { nxdomain: true, ..said(vec![cname("a", 3, "b")]) };
    assert_eq!(ask(&dangling), Said::Absent(Absence::Name));
}

#[test]
fn an_alias_that_the_response_does_not_resolve_is_asked_for() {
    let chain = said(vec![cname("b", 20, "c"), cname("a", 10, "b")]);
    assert_eq!(ask(&chain), Said::Alias("c".into(), 10));
}

#[test]
fn aliases_in_a_circle_end() {
    assert_eq!(ask(&said(vec![cname("a", 1, "b"), cname("b", 1, "a")])), Said::Loop);
    assert_eq!(ask(&said(vec![cname("a", 1, "a")])), Said::Loop);
}

#[test]
fn srv_takes_the_lowest_priority_and_the_addresses_told_with_it() {
    let response = Response {
        additionals: vec![a("web-0.x", 7, 1), a("web-0.x", 9, 2), aaaa("web-0.x", 1, 1), a("other", 1, 66)],
        ..said(vec![srv("s", 10, 81, "web-1.x"), srv("s", 0, 80, "web-0.x"), srv("s", 0, 80, "web-9.x")])
    };
    let told = Service { target: "web-0.x".into(), port: 80, addresses: vec![ip(1), ip(2)] };
    let untold = Service { target: "web-9.x".into(), port: 80, addresses: vec![] };
    assert_eq!(services(&response, &"s".into(), Family::V4), Said::This(vec![told, untold], 7));
}

#[test]
fn srv_takes_one_family_so_that_no_pod_counts_twice() {
    let response =
        Response { additionals: vec![a("t", 30, 1), aaaa("t", 30, 1)], ..said(vec![srv("s", 0, 80, "t")]) };
    let families = [(Family::V4, ip(1)), (Family::V6, "fd00::1".parse().unwrap())];
    for (family, expected) in families {
        let Said::This(services, _) = services(&response, &"s".into(), family) else { panic!() };
        assert_eq!(services[0].addresses, [expected]);
    }
    let only_v4 = Response { additionals: vec![a("t", 30, 1)], ..response };
    let Said::This(services, _) = services(&only_v4, &"s".into(), Family::V6) else { panic!() };
    assert_eq!(services[0].addresses, [ip(1)]);
}

#[test]
fn an_srv_target_of_nothing_is_no_service() {
    assert_eq!(
        services(&said(vec![srv("s", 0, 0, "")]), &"s".into(), Family::V4),
        Said::Absent(Absence::Kind)
    );
}

#[test]
fn only_the_service_s_own_name_makes_an_address_virtual() {
    let reverse = reverse_name(ip(1));
    let ptr = |names: &[&str]| {
        said(names.iter().map(|name| record(&reverse, 5, Data::Ptr((*name).into()))).collect())
    };
    assert!(is_name_of(&ptr(&[SERVICE]), &reverse, SERVICE));
    assert!(is_name_of(&ptr(&["x.example", SERVICE]), &reverse, SERVICE));
    assert!(!is_name_of(&ptr(&["10-0-0-1.web.shop.svc.cluster.local"]), &reverse, SERVICE));
    assert!(!is_name_of(&ptr(&[]), &reverse, SERVICE));
    assert!(!is_name_of(&said(vec![record("other", 5, Data::Ptr(SERVICE.into()))]), &reverse, SERVICE));
}

#[test]
fn reverse_names_are_those_of_the_rfcs() {
    assert_eq!(&*reverse_name("10.1.2.3".parse().unwrap()), "3.2.1.10.in-addr.arpa");
    assert_eq!(
        &*reverse_name("2001:db8::567:89ab".parse().unwrap()),
        "b.a.9.8.7.6.5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa"
    );
}

#[test]
fn addresses_no_pod_can_have_are_refused() {
    for text in [
        "127.0.0.1",
        "127.77.0.1",
        "::1",
        "::ffff:127.0.0.1",
        "0.0.0.0",
        "0.1.2.3",
        "::",
        "169.254.169.254",
        "fe80::1",
        "224.0.0.1",
        "239.1.2.3",
        "ff02::1",
        "255.255.255.255",
    ] {
        assert!(is_refused(text.parse().unwrap(), false), "{text}");
    }
    for text in ["10.0.0.1", "198.18.0.1", "192.168.1.1", "100.64.0.1", "fd00::1", "2001:db8::1", "8.8.8.8"] {
        assert!(!is_refused(text.parse().unwrap(), false), "{text}");
    }
}

#[test]
fn allow_loopback_allows_loopback_alone() {
    for text in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
        assert!(!is_refused(text.parse().unwrap(), true), "{text}");
    }
    for text in ["0.0.0.0", "169.254.169.254", "224.0.0.1", "fe80::1", "::"] {
        assert!(is_refused(text.parse().unwrap(), true), "{text}");
    }
}

#[test]
fn stateful_sets_and_pod_names_are_told() {
    for name in ["web-0", "web-6d4b75cb6d-x2x7p", "a", "web-10"] {
        assert_eq!(pod_name(&format!("{name}.{SERVICE}"), SERVICE).as_deref(), Some(name));
    }
}

#[test]
fn what_a_server_makes_up_is_no_pod_name() {
    for label in
        ["10-1-2-3", "198-18-0-7", "fd00--1", "2001-db8--a-1", "e0f1a2b3", "3564613166383663", "abcdef"]
    {
        assert_eq!(pod_name(&format!("{label}.{SERVICE}"), SERVICE), None, "{label}");
    }
}

#[test]
fn a_name_from_elsewhere_is_no_pod_name() {
    for target in [
        SERVICE,
        "web-0.other.shop.svc.cluster.local",
        "a.b.web.shop.svc.cluster.local",
        "evilweb.shop.svc.cluster.local",
        ".web.shop.svc.cluster.local",
        "web-0.example.com",
        "-x.web.shop.svc.cluster.local",
        "a\\010b.web.shop.svc.cluster.local",
        "a b.web.shop.svc.cluster.local",
        "",
    ] {
        assert_eq!(pod_name(target, SERVICE), None, "{target}");
    }
}

fn any_record() -> impl Strategy<Value = Record> {
    let name = prop_oneof![Just("a"), Just("b"), Just("c"), Just("s"), Just("x.s"), Just("")];
    let data = prop_oneof![
        any::<[u8; 4]>().prop_map(|ip| Data::Address(ip.into())),
        any::<[u8; 16]>().prop_map(|ip| Data::Address(ip.into())),
        name.clone().prop_map(|name| Data::Cname(name.into())),
        name.clone().prop_map(|name| Data::Ptr(name.into())),
        (any::<u16>(), any::<u16>(), name.clone()).prop_map(|(priority, port, target)| Data::Srv {
            priority,
            port,
            target: target.into()
        }),
    ];
    (name, any::<u32>(), data).prop_map(|(name, ttl, data)| Record { name: name.into(), ttl, data })
}

proptest! {
    #[test]
    fn any_response_is_read_and_only_its_answers_are_believed(
        answers in prop::collection::vec(any_record(), 0..24),
        additionals in prop::collection::vec(any_record(), 0..12),
        nxdomain in any::<bool>(),
    ) {
        let response = Response { nxdomain, answers, additionals };
        if let Said::This(found, ttl) = addresses(&response, &"a".into()) {
            prop_assert!(!nxdomain && !found.is_empty());
            for ip in found {
                prop_assert!(response.answers.iter().any(|r| r.data == Data::Address(ip) && r.ttl >= ttl));
            }
        }
        for family in [Family::V4, Family::V6] {
            if let Said::This(found, _) = services(&response, &"s".into(), family) {
                prop_assert!(!found.is_empty());
                for service in found {
                    let v4 = service.addresses.iter().filter(|ip| ip.is_ipv4()).count();
                    prop_assert!(v4 == 0 || v4 == service.addresses.len(), "one family");
                    if let Some(name) = pod_name(&service.target, "s") {
                        prop_assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'));
                    }
                }
            }
        }
        is_name_of(&response, &"a".into(), "s");
    }

    #[test]
    fn a_pod_name_is_always_a_dns_label(target in ".{0,80}") {
        if let Some(name) = pod_name(&format!("{target}.s"), "s") {
            prop_assert!(name.len() <= 63 && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
        }
    }
}
