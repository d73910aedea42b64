use super::*;

/// Longer than any name or value that Kubernetes lets in, and with what needs escaping.
fn long() -> String {
    "\"name.\u{7}\\".repeat(60)
}

fn obstacles() -> Vec<Obstacle> {
    vec![
        Obstacle::Clash { port: 65535, source: long() },
        Obstacle::LowPort { port: 65535, lowest: 65535 },
        Obstacle::OtherProtocol,
        Obstacle::Unspoken { port: 65535, protocol: long() },
        Obstacle::OwnAlias { host: long() },
    ]
}

/// Every warning with the longest values; the match makes sure that none is forgotten.
fn every() -> Vec<Warning> {
    let name = "n".repeat(127);
    let s = || name.clone();
    let mut all = vec![
        Warning::Malformed(Malformed::new(&s(), &s(), s())),
        Warning::Malformed(Malformed::at(&s(), &s(), "unknown key; remove it")),
        Warning::Configuration { text: s() + ": remove it" },
        Warning::NoSuchUpstream { key: s(), upstreams: vec![s(), "b".repeat(60), "c".repeat(60)] },
        Warning::Misspelt { name: s(), nearest: Some("native-sidecar".into()) },
        Warning::Misspelt { name: s(), nearest: None },
        Warning::UnknownLabel { namespace: s(), value: s() },
        Warning::NamespaceDisabled { namespace: s() },
        Warning::ProtectedNamespace { namespace: s() },
        Warning::HostNetwork,
        Warning::Windows,
        Warning::Istio,
        Warning::Linkerd,
        Warning::NameTaken,
        Warning::NoRoom,
        Warning::TooLarge,
        Warning::WouldHang { what: s(), supported: true },
        Warning::WouldHang { what: s(), supported: false },
        Warning::NativeUnsupported,
        Warning::DnsUnknown { policy: s() },
        Warning::MalformedObject { path: s() },
        Warning::NoUpstreams { offers: vec![] },
        Warning::NoUpstreams { offers: vec!["a".repeat(60), "b".repeat(60), "c".repeat(60)] },
        Warning::ReplacedByConfig { name: s() },
        Warning::ServiceMissing { service: s() },
        Warning::ExternalName { service: s() },
        Warning::NotHeadless { service: s() },
        Warning::NoSelector { service: s() },
        Warning::TwinNameTaken { service: s(), twin: s() },
        Warning::PublishNotReady { service: s() },
        Warning::PortNotFound { service: s(), port: s(), ports: s() },
        Warning::PortNumberNeeded { call: s() },
        Warning::PodName { host: s() },
        Warning::OtherPorts { host: s() },
        Warning::TooManyEndpoints { service: s() },
        Warning::ClientIpAffinity { service: s() },
        Warning::NodeLocal { service: s() },
        Warning::TrafficDistribution { service: s() },
        Warning::NotInEnvironment { service: s(), hidden: true },
        Warning::NotInEnvironment { service: s(), hidden: false },
        Warning::AddressTaken { address: s(), service: s() },
        Warning::AllWithoutRedirect,
        Warning::NoServices { namespace: s() },
        Warning::LeftOut { taken: 100, left: s() + &s() },
        Warning::Edited { what: s() },
        Warning::Kept { what: s() },
        Warning::StatusUnreadable,
    ];
    for obstacle in obstacles() {
        all.push(Warning::Unreachable { service: s(), obstacle: obstacle.clone() });
        all.push(Warning::ByEnvironment { service: s(), obstacle: obstacle.clone() });
        all.push(Warning::CannotListen { service: s(), obstacle });
    }
    all
}

#[test]
fn every_warning_fits_and_names_its_remedy() {
    const REMEDIES: [&str; 17] = [
        "change the annotations",
        "accepted: ",
        "did you mean",
        "remove ",
        "set ",
        "rename ",
        "run the workload",
        "label the pods",
        "annotate the pods",
        "need Kubernetes",
        "correct ",
        "judging by",
        "name ",
        "create one",
        "split ",
        "use ",
        "write ",
    ];
    for warning in every() {
        let text = warning.to_string();
        assert!(text.chars().count() <= LONGEST, "{} characters: {text}", text.chars().count());
        assert!(text.len() <= LONGEST, "{} bytes: {text}", text.len());
        assert!(text.starts_with("whichpod: "));
        assert!(REMEDIES.iter().any(|remedy| text.contains(remedy)), "{text}");
    }
}

#[test]
fn hostile_values_neither_break_the_line_nor_the_limit() {
    for warning in [
        Warning::Malformed(Malformed::new("upstreams", &long(), long())),
        Warning::Malformed(Malformed::at("healthy-panic-threshold", &long(), &long())),
        Warning::Configuration { text: long() },
        Warning::UnknownLabel { namespace: "a".into(), value: long() },
        Warning::Misspelt { name: "x\ny".into(), nearest: None },
    ] {
        let text = warning.to_string();
        assert!(text.chars().count() <= LONGEST, "{} {text}", text.chars().count());
        assert!(!text.chars().any(char::is_control), "{text}");
    }
}

#[test]
fn a_clash_names_both_ports_and_the_remedies() {
    let obstacle = Obstacle::Clash { port: 8080, source: "containerPort of nginx".into() };
    let text = Warning::Unreachable { service: "backend-service".into(), obstacle }.to_string();
    assert_eq!(
        text,
        "whichpod: backend-service is left out: its port 8080 clashes with the app's own port 8080 \
         (containerPort of nginx); use another port, or an environment value HOST:PORT"
    );
}

#[test]
fn no_more_warnings_than_the_api_server_passes_on() {
    let many: Vec<Warning> = (0..40).map(|n| Warning::ServiceMissing { service: n.to_string() }).collect();
    let texts = texts(&many);
    assert_eq!(texts.len(), 15);
    assert!(texts[14].contains("26 more warnings"));
    assert!(texts.iter().map(String::len).sum::<usize>() < 4096);
    assert_eq!(super::texts(&[Warning::Istio, Warning::Istio]).len(), 1);
}

#[test]
fn a_shortened_name_keeps_both_ends() {
    assert_eq!(short("abc", 3), "abc");
    let text = short(&"a".repeat(40).replace("aaaa", "abcd"), 20);
    assert_eq!(text.len(), 20);
    assert!(text.starts_with("abcd") && text.ends_with("abcd"));
}
