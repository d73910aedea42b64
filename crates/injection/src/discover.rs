//! What the sidecar asks DNS for: a headless Service or its twin by SRV, which carries the pod's real port and, for
//! StatefulSets, its name; the Service's own name while there is nothing better.

use whichpod_config::Target;

use crate::facts::Facts;
use crate::options::{HeadlessServices, Options};
use crate::place::{Named, Place, Viewpoint};
use crate::service::{Service, ServiceKind, ServiceName, ServicePort, TargetPort};
use crate::twin_name::{twin_name, twin_port_name};
use crate::upstreams::{Endpoint, Host, Port};
use crate::warning::Warning;

/// One SRV answer over TCP holds about 650 records; above this many endpoints addresses are asked for.
const MOST_BY_SRV: usize = 500;

/// What is behind one port.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Discovered {
    pub(crate) target: Target,
    pub(crate) fallback: Option<Target>,
    /// The Service whose twin is wanted.
    pub(crate) twin: Option<ServiceName>,
    /// The Service that shows its virtual IP because nothing makes a twin.
    pub(crate) not_headless: Option<String>,
}

impl Discovered {
    pub(crate) fn of(target: Target) -> Discovered {
        Discovered { target, fallback: None, twin: None, not_headless: None }
    }
}

/// Looks Services up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Discovery<'a> {
    pub(crate) viewpoint: Viewpoint<'a>,
    pub(crate) options: &'a Options,
}

impl<'a> Discovery<'a> {
    /// What a user named after `=`; `fallback` is what stands before it.
    pub(crate) fn explicit(
        self,
        wanted: &Endpoint,
        fallback: Option<Target>,
        warnings: &mut Vec<Warning>,
    ) -> Option<Discovered> {
        let as_written = || {
            wanted
                .to_string()
                .parse()
                .ok()
                .map(|target| Discovered { fallback: fallback.clone(), ..Discovered::of(target) })
        };
        let Host::Name(host) = &wanted.host else { return as_written() };
        let named = match self.viewpoint.place(host) {
            Place::Service(named) => named,
            Place::Pod | Place::Host => return as_written(),
        };
        match named.known {
            Some(service) if service.kind == ServiceKind::ExternalName => {
                warnings.push(Warning::ExternalName { service: self.title(&named) });
                None
            }
            Some(service) if service.kind == ServiceKind::ClusterIp => {
                let port = find_port(service, &wanted.port);
                if port.is_none() {
                    warnings.push(self.port_not_found(&named, service, &wanted.port));
                }
                self.cluster_ip(&named, service, port?, warnings)
            }
            Some(service) => {
                let found = self.headless(&named, service, &wanted.port, warnings)?;
                Some(Discovered { fallback, ..found })
            }
            None => {
                if self.facts().is_complete() {
                    warnings.push(Warning::ServiceMissing { service: self.title(&named) });
                }
                let target = self.target(&named, &wanted.port)?;
                Some(Discovered { fallback, ..Discovered::of(target) })
            }
        }
    }

    /// A port of a Service with a virtual IP: its headless twin, or what there is instead.
    pub(crate) fn cluster_ip(
        self,
        named: &Named<'_>,
        service: &Service,
        port: &ServicePort,
        warnings: &mut Vec<Warning>,
    ) -> Option<Discovered> {
        let own = self.target(named, &Port::Number(port.port))?;
        if service.selector.is_empty() {
            warnings.push(Warning::NoSelector { service: self.title(named) });
            return Some(Discovered::of(own));
        }
        if let Some(target) = self.existing_twin(named, service, port, warnings) {
            return Some(Discovered { fallback: Some(own), ..Discovered::of(target) });
        }
        if self.options.headless_services != HeadlessServices::Create {
            return Some(Discovered { not_headless: Some(self.title(named)), ..Discovered::of(own) });
        }
        let twin =
            Named { name: twin_name(&service.name), namespace: service.namespace.clone(), known: None };
        let in_the_way = self.facts().service(&twin.namespace, &twin.name);
        if in_the_way.is_some_and(|other| other.twin_of.as_ref() != Some(&service.name)) {
            warnings.push(Warning::TwinNameTaken { service: self.title(named), twin: twin.name });
            return Some(Discovered::of(own));
        }
        let port_name = twin_port_name(port.port);
        let found = self.pods(&twin, Some(&port_name), &port.target, self.many(named, service, warnings));
        Some(match found {
            Some(target) => Discovered {
                fallback: Some(own),
                twin: Some(wanted(named)),
                not_headless: service.twin_refused.then(|| self.title(named)),
                ..Discovered::of(target)
            },
            None => Discovered::of(own),
        })
    }

    /// A headless Service that the app calls: clients connect to the pods' own port.
    pub(crate) fn headless(
        self,
        named: &Named<'_>,
        service: &Service,
        called: &Port,
        warnings: &mut Vec<Warning>,
    ) -> Option<Discovered> {
        if service.publishes_not_ready {
            warnings.push(Warning::PublishNotReady { service: self.title(named) });
        }
        let port = find_port(service, called);
        if port.is_none() {
            warnings.push(self.port_not_found(named, service, called));
        }
        let found = port.and_then(|port| {
            self.pods(named, port.name.as_deref(), &port.target, self.many(named, service, warnings))
        });
        // Without a name to ask for, the port that the app uses today is the pods' port.
        found.or_else(|| self.target(named, called)).map(Discovered::of)
    }

    /// A Service that is not known (yet): what a twin would be called, and the Service's own name meanwhile.
    pub(crate) fn missing(
        self,
        named: &Named<'_>,
        port: u16,
        warnings: &mut Vec<Warning>,
    ) -> Option<Discovered> {
        let own = self.target(named, &Port::Number(port))?;
        if !self.facts().is_complete() {
            return Some(Discovered::of(own));
        }
        warnings.push(Warning::ServiceMissing { service: self.title(named) });
        if self.options.headless_services != HeadlessServices::Create {
            return Some(Discovered::of(own));
        }
        let twin = Named { name: twin_name(&named.name), namespace: named.namespace.clone(), known: None };
        let target = self.target(&twin, &Port::Name(twin_port_name(port)))?;
        Some(Discovered { fallback: Some(own), twin: Some(wanted(named)), ..Discovered::of(target) })
    }

    /// The Service's own name, for a port.
    pub(crate) fn target(self, named: &Named<'_>, port: &Port) -> Option<Target> {
        format!("{}:{port}", named.absolute(self.viewpoint.cluster_domain)).parse().ok()
    }

    pub(crate) fn port_not_found(self, named: &Named<'_>, service: &Service, port: &Port) -> Warning {
        let ports: Vec<String> = service.tcp_ports().map(|port| port.port.to_string()).collect();
        Warning::PortNotFound { service: self.title(named), port: port.to_string(), ports: ports.join(", ") }
    }

    pub(crate) fn title(self, named: &Named<'_>) -> String {
        named.title(self.viewpoint.namespace)
    }

    /// A headless Service of the user's with the same pods behind the port. One of ours is no reason to do without the
    /// controller that keeps it in step.
    fn existing_twin(
        self,
        named: &Named<'_>,
        service: &Service,
        port: &ServicePort,
        warnings: &mut Vec<Warning>,
    ) -> Option<Target> {
        let usable = |twin: &&Service| twin.twin_of.is_none() && !twin.publishes_not_ready;
        let (twin, port) = self.facts().headless_twins(service).filter(usable).find_map(|twin| {
            let same = twin.tcp_ports().filter(|candidate| candidate.target == port.target);
            let best = same.max_by_key(|candidate| candidate.name.is_some())?;
            let answers = best.name.is_some() || matches!(best.target, TargetPort::Number(_));
            answers.then_some((twin, best))
        })?;
        let at = Named { name: twin.name.clone(), namespace: twin.namespace.clone(), known: Some(twin) };
        self.pods(&at, port.name.as_deref(), &port.target, self.many(named, service, warnings))
    }

    /// The pods behind a port of a headless Service: by SRV where the port has a name, by number where it has none or
    /// there are too many endpoints.
    fn pods(self, at: &Named<'_>, name: Option<&str>, target: &TargetPort, many: bool) -> Option<Target> {
        let by_name = || self.target(at, &Port::Name(name?.to_owned()));
        let by_number = || match target {
            TargetPort::Number(number) => self.target(at, &Port::Number(*number)),
            TargetPort::Name(_) => None,
        };
        if many { by_number().or_else(by_name) } else { by_name().or_else(by_number) }
    }

    /// Whether the endpoints are too many for SRV.
    fn many(self, named: &Named<'_>, service: &Service, warnings: &mut Vec<Warning>) -> bool {
        let many = service.endpoints.is_some_and(|count| count > MOST_BY_SRV);
        if many {
            warnings.push(Warning::TooManyEndpoints { service: self.title(named) });
        }
        many
    }

    fn facts(self) -> &'a Facts {
        self.viewpoint.facts
    }
}

fn wanted(named: &Named<'_>) -> ServiceName {
    ServiceName { namespace: named.namespace.clone(), name: named.name.clone() }
}

/// The TCP port with this name or number; of a headless Service also the one that leads to this number.
pub(crate) fn find_port<'s>(service: &'s Service, wanted: &Port) -> Option<&'s ServicePort> {
    let find = |matches: &dyn Fn(&ServicePort) -> bool| service.tcp_ports().find(|port| matches(port));
    match wanted {
        Port::Name(name) => find(&|port| port.name.as_ref() == Some(name)),
        Port::Number(number) => find(&|port| port.port == *number).or_else(|| {
            let headless = service.kind == ServiceKind::Headless;
            find(&|port| headless && port.target == TargetPort::Number(*number))
        }),
    }
}
