//! What a user is told at admission. The API server cuts a warning off at 256 characters and passes on 4,096 in all, so
//! every text is made to fit with the longest names, and has the remedy in it.

use std::collections::HashSet;
use std::fmt;

use crate::malformed::Malformed;
use crate::names::PREFIX;
use crate::workload::LOWEST_PORT;

/// The most characters of one warning.
pub const LONGEST: usize = 256;

/// What every warning begins with.
const BEGINNING: &str = "whichpod: ";

/// The most warnings of one answer; what is beyond is counted in the last.
pub(crate) const MOST: usize = 15;

/// A warning with its remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Warning {
    Malformed(Malformed),
    Configuration { text: String },
    NoSuchUpstream { key: String, upstreams: Vec<String> },
    Misspelt { name: String, nearest: Option<String> },
    UnknownLabel { namespace: String, value: String },
    NamespaceDisabled { namespace: String },
    ProtectedNamespace { namespace: String },
    HostNetwork,
    Windows,
    Istio,
    Linkerd,
    NameTaken,
    NoRoom,
    TooLarge,
    WouldHang { what: String, supported: bool },
    NativeUnsupported,
    DnsUnknown { policy: String },
    MalformedObject { path: String },
    NoUpstreams { offers: Vec<String> },
    ReplacedByConfig { name: String },
    ServiceMissing { service: String },
    ExternalName { service: String },
    NotHeadless { service: String },
    NoSelector { service: String },
    TwinNameTaken { service: String, twin: String },
    PublishNotReady { service: String },
    PortNotFound { service: String, port: String, ports: String },
    PortNumberNeeded { call: String },
    PodName { host: String },
    OtherPorts { host: String },
    TooManyEndpoints { service: String },
    ClientIpAffinity { service: String },
    NodeLocal { service: String },
    TrafficDistribution { service: String },
    Unreachable { service: String, obstacle: Obstacle },
    ByEnvironment { service: String, obstacle: Obstacle },
    CannotListen { service: String, obstacle: Obstacle },
    NotInEnvironment { service: String, hidden: bool },
    AddressTaken { address: String, service: String },
    AllWithoutRedirect,
    NoServices { namespace: String },
    LeftOut { taken: usize, left: String },
    Edited { what: String },
    Kept { what: String },
    StatusUnreadable,
}

/// Why an upstream cannot be redirected by `hosts`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// The app listens on the port, too.
    Clash { port: u16, source: String },
    /// The pod lets nobody bind the port.
    LowPort { port: u16, lowest: u16 },
    /// A UDP or SCTP port, which the sidecar does not serve.
    OtherProtocol,
    /// A protocol that this version of the sidecar does not speak.
    Unspoken { port: u16, protocol: String },
    /// The pod's own `hostAliases` name the host.
    OwnAlias { host: String },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |text: &str| short(text, 63);
        f.write_str(BEGINNING)?;
        match self {
            Warning::Malformed(malformed) => {
                f.write_str(&malformed.told(PREFIX, ". Nothing was changed", LONGEST - BEGINNING.len()))
            }
            Warning::Configuration { text } => f.write_str(&short(text, LONGEST - BEGINNING.len())),
            Warning::NoSuchUpstream { key, upstreams } => write!(
                f,
                "{PREFIX}per-upstream: {} is none of the upstreams and has no effect; correct it, they are: {}",
                short(key, 63),
                list(upstreams, 80)
            ),
            Warning::Misspelt { name, nearest: Some(nearest) } => {
                write!(
                    f,
                    "{PREFIX}{} is no annotation of whichpod and has no effect; did you mean {PREFIX}{nearest}?",
                    short(name, 60)
                )
            }
            Warning::Misspelt { name, nearest: None } => {
                write!(
                    f,
                    "{PREFIX}{} is no annotation of whichpod and has no effect; remove it",
                    short(name, 60)
                )
            }
            Warning::UnknownLabel { namespace, value } => write!(
                f,
                "label {PREFIX}injection of namespace {} is {:?}; accepted: enabled, disabled. Nothing was changed",
                name(namespace),
                short(value, 30)
            ),
            Warning::NamespaceDisabled { namespace } => write!(
                f,
                "not injected: label {PREFIX}injection of namespace {} is disabled; remove the label or set it to enabled",
                name(namespace)
            ),
            Warning::ProtectedNamespace { namespace } => write!(
                f,
                "not injected: namespace {} never gets sidecars; run the workload in another namespace",
                name(namespace)
            ),
            Warning::HostNetwork => {
                write!(
                    f,
                    "not injected: the pod uses the node's network, where a sidecar's ports would be everybody's; set hostNetwork: false"
                )
            }
            Warning::Windows => {
                write!(f, "not injected: there is no sidecar for Windows; remove the whichpod annotations")
            }
            Warning::Istio => write!(
                f,
                "not injected: Istio's sidecar would pick another pod than the log says; label the pods sidecar.istio.io/inject: \"false\""
            ),
            Warning::Linkerd => write!(
                f,
                "not injected: Linkerd's proxy would pick another pod than the log says; annotate the pods linkerd.io/inject: disabled"
            ),
            Warning::NameTaken => {
                write!(
                    f,
                    "not injected: the pod has a container named whichpod that whichpod did not add; rename or remove it"
                )
            }
            Warning::NoRoom => write!(
                f,
                "not injected: the app or the pod's sysctl leaves no port for the sidecar's own servers; set {LOWEST_PORT} to 1024 or below"
            ),
            Warning::TooLarge => write!(
                f,
                "not injected: the sidecar's configuration or what is noted of it is larger than Kubernetes or Linux takes; name fewer upstreams in {PREFIX}upstreams"
            ),
            Warning::WouldHang { what, supported: true } => write!(
                f,
                "not injected: with {} an ordinary sidecar container would hang the pod; set {PREFIX}native-sidecar: auto",
                short(what, 40)
            ),
            Warning::WouldHang { what, supported: false } => write!(
                f,
                "not injected: with {} an ordinary sidecar container would hang the pod; native sidecars need Kubernetes 1.29",
                short(what, 40)
            ),
            Warning::NativeUnsupported => write!(
                f,
                "not injected: {PREFIX}native-sidecar is true, but native sidecars need API server and kubelets of 1.29; set it to auto"
            ),
            Warning::DnsUnknown { policy } => write!(
                f,
                "not injected: dnsPolicy {} does not ask the cluster's DNS, whose address is unknown; set the chart's value clusterDns",
                short(policy, 30)
            ),
            Warning::MalformedObject { path } => {
                write!(
                    f,
                    "not injected: {} is not what the Kubernetes API says it is; correct the manifest",
                    short(path, 100)
                )
            }
            Warning::NoUpstreams { offers } if offers.is_empty() => write!(
                f,
                "not injected: no upstreams are named; set {PREFIX}upstreams to what the app calls, such as \"backend-service:10000\""
            ),
            Warning::NoUpstreams { offers } => write!(
                f,
                "not injected: no upstreams are named; judging by the environment: {PREFIX}upstreams: {:?}",
                list(offers, 130)
            ),
            Warning::ReplacedByConfig { name } => write!(
                f,
                "{PREFIX}{} has no effect because {PREFIX}config names the whole configuration; remove one of the two",
                short(name, 24)
            ),
            Warning::ServiceMissing { service } => write!(
                f,
                "there is no Service {} (yet); its name is used as written; if it is misspelt, correct {PREFIX}upstreams",
                name(service)
            ),
            Warning::ExternalName { service } => write!(
                f,
                "Service {} is an ExternalName and not redirected; name the host it points at in {PREFIX}upstreams",
                name(service)
            ),
            Warning::NotHeadless { service } => write!(
                f,
                "Service {} has a virtual IP and no headless twin, so the log cannot tell its pods apart; create one with clusterIP: None and the same selector",
                name(service)
            ),
            Warning::NoSelector { service } => write!(
                f,
                "Service {} has no selector, so it can have no headless twin and the log shows its virtual IP; name a headless Service after \"=\"",
                name(service)
            ),
            Warning::TwinNameTaken { service, twin } => write!(
                f,
                "the log shows the virtual IP of {}: Service {} is in the way of its headless twin; rename that one",
                name(service),
                name(twin)
            ),
            Warning::PublishNotReady { service } => write!(
                f,
                "headless Service {} publishes pods that are not ready, which then get requests; set publishNotReadyAddresses: false",
                name(service)
            ),
            Warning::PortNotFound { service, port, ports } => write!(
                f,
                "Service {} has no TCP port {}; correct {PREFIX}upstreams, its ports are: {}",
                name(service),
                short(port, 20),
                short(ports, 60)
            ),
            Warning::PortNumberNeeded { call } => write!(
                f,
                "{} is left out: nothing says which number the port has; write the number in {PREFIX}upstreams",
                short(call, 100)
            ),
            Warning::PodName { host } => write!(
                f,
                "{} is the name of a single pod and not redirected; name its Service in {PREFIX}upstreams",
                short(host, 100)
            ),
            Warning::OtherPorts { host } => write!(
                f,
                "{} is no Service, so only the named ports of it can be reached; name every port the app uses in {PREFIX}upstreams",
                short(host, 100)
            ),
            Warning::TooManyEndpoints { service } => write!(
                f,
                "Service {} has over 500 endpoints: they are found by address only, without pod names; split the Service to see names",
                name(service)
            ),
            Warning::ClientIpAffinity { service } => write!(
                f,
                "Service {} has sessionAffinity: ClientIP, which does not hold for redirected requests; remove it from {PREFIX}upstreams if it matters",
                name(service)
            ),
            Warning::NodeLocal { service } => write!(
                f,
                "Service {} has internalTrafficPolicy: Local, but redirected requests go to all nodes; remove it from {PREFIX}upstreams if it matters",
                name(service)
            ),
            Warning::TrafficDistribution { service } => write!(
                f,
                "the trafficDistribution of {} does not hold for redirected requests, which go to all zones; remove it from {PREFIX}upstreams if it matters",
                name(service)
            ),
            Warning::Unreachable { service, obstacle } => {
                write!(f, "{} is left out: {obstacle}; {}", short(service, 50), obstacle.remedy())
            }
            Warning::ByEnvironment { service, obstacle } => write!(
                f,
                "{} is redirected in environment values only: {obstacle}; {}",
                short(service, 50),
                obstacle.remedy()
            ),
            Warning::CannotListen { service, obstacle } => write!(
                f,
                "{} is left out: {obstacle}; write 127.0.0.1:PORT=HOST:PORT with a free port",
                short(service, 50)
            ),
            Warning::NotInEnvironment { service, hidden: true } => write!(
                f,
                "{} is left out: no literal environment value names it, and those of envFrom and valueFrom cannot be seen; use {PREFIX}redirect: hosts",
                short(service, 63)
            ),
            Warning::NotInEnvironment { service, hidden: false } => write!(
                f,
                "{} is left out: no environment value names it with its port; use {PREFIX}redirect: hosts",
                short(service, 63)
            ),
            Warning::AddressTaken { address, service } => write!(
                f,
                "{} is left out: {} is another upstream's; write 127.0.0.1:PORT=HOST:PORT with a free port",
                short(service, 63),
                short(address, 50)
            ),
            Warning::AllWithoutRedirect => {
                write!(
                    f,
                    "upstreams \"*\" need {PREFIX}redirect: hosts or env; name the Services one by one for none"
                )
            }
            Warning::NoServices { namespace } => write!(
                f,
                "not injected: namespace {} has no ClusterIP Service for upstreams \"*\"; name what the app calls in {PREFIX}upstreams",
                name(namespace)
            ),
            Warning::LeftOut { taken, left } => write!(
                f,
                "upstreams \"*\" are {taken} Services; left out: {}; to have one of them, name it in {PREFIX}upstreams",
                short(left, 140)
            ),
            Warning::Edited { what } => write!(
                f,
                "{} was changed by hand and is written anew; change the annotations instead of what whichpod added",
                short(what, 80)
            ),
            Warning::Kept { what } => write!(
                f,
                "{} was changed since whichpod wrote it and stays; correct it by hand if it still leads to the sidecar",
                short(what, 100)
            ),
            Warning::StatusUnreadable => write!(
                f,
                "annotation {PREFIX}status cannot be read and is written anew; remove what an earlier injection left in the template"
            ),
        }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Obstacle::Clash { port, source } => {
                write!(f, "its port {port} clashes with the app's own port {port} ({})", short(source, 40))
            }
            Obstacle::LowPort { port, lowest } => {
                write!(f, "the pod's sysctl keeps its port {port} from all below {lowest}")
            }
            Obstacle::OtherProtocol => write!(f, "it has a UDP or SCTP port"),
            Obstacle::Unspoken { port, protocol } => {
                write!(f, "its port {port} speaks {}, which this sidecar does not", short(protocol, 20))
            }
            Obstacle::OwnAlias { host } => write!(f, "the pod's own hostAliases name {}", short(host, 50)),
        }
    }
}

impl Obstacle {
    /// What a user can do about it.
    fn remedy(&self) -> &'static str {
        match self {
            Obstacle::Clash { .. } => "use another port, or an environment value HOST:PORT",
            Obstacle::LowPort { .. } => "set net.ipv4.ip_unprivileged_port_start to the port",
            Obstacle::OtherProtocol => {
                "give TCP a Service of its own, or name it in an environment value HOST:PORT"
            }
            Obstacle::Unspoken { .. } => {
                "remove it from whichpod.io/upstreams, or give HTTP a Service of its own"
            }
            Obstacle::OwnAlias { .. } => "remove the alias, or name it in an environment value HOST:PORT",
        }
    }

    /// A word for a summary.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Obstacle::Clash { .. } => "port clash",
            Obstacle::LowPort { .. } => "low port",
            Obstacle::OtherProtocol => "UDP or SCTP port",
            Obstacle::Unspoken { .. } => "protocol not spoken",
            Obstacle::OwnAlias { .. } => "own hostAliases",
        }
    }
}

/// The texts to hand to the API server: no two alike, and not more than it passes on.
pub(crate) fn texts(warnings: &[Warning]) -> Vec<String> {
    let mut told = HashSet::new();
    let texts = warnings.iter().map(ToString::to_string);
    let mut texts: Vec<String> = texts.filter(|text| told.insert(text.clone())).collect();
    if texts.len() > MOST {
        let more = texts.len() - (MOST - 1);
        texts.truncate(MOST - 1);
        texts.push(format!("whichpod: {more} more warnings; `whichpod inject -f FILE` reports all of them"));
    }
    texts
}

/// The text without control characters and at most so many characters long, with its middle left out if need be.
pub(crate) fn short(text: &str, most: usize) -> String {
    let clean: Vec<char> = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if clean.len() <= most {
        return clean.into_iter().collect();
    }
    let head = most.saturating_sub(2) * 2 / 3;
    let tail = most.saturating_sub(2) - head;
    let tail = clean[clean.len() - tail..].iter();
    clean[..head].iter().chain(&['.', '.']).chain(tail).collect()
}

/// As many of the texts as fit, with commas.
fn list(texts: &[String], most: usize) -> String {
    let mut list = String::new();
    for text in texts {
        if list.len() + text.len() + 2 > most {
            break;
        }
        if !list.is_empty() {
            list.push_str(", ");
        }
        list.push_str(text);
    }
    list
}

#[cfg(test)]
mod tests;
