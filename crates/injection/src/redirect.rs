//! How the app's connections get to the sidecar: by `hostAliases`, by environment values, or because the app's own
//! configuration says so. A port clash must never break the app.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use whichpod_config::{Protocol, raw};

use crate::app_ports::AppPorts;
use crate::calls::{Destination, LeftOut, Listener};
use crate::changes::Change;
use crate::configuration::Configuration;
use crate::discover::Discovered;
use crate::env_values::{self, Site, Sites};
use crate::json;
use crate::loopback;
use crate::settings::{Redirect, Settings};
use crate::warning::{Obstacle, Warning};
use crate::workload::Pod;

/// Everything that leads the app to the sidecar.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Redirected {
    pub(crate) upstreams: Vec<Bound>,
    /// Loopback addresses and the names that lead there.
    pub(crate) aliases: Vec<(IpAddr, Vec<String>)>,
    /// Changes of environment values.
    pub(crate) environment: Vec<Change>,
    /// How many Services of `*` are served.
    pub(crate) of_all: usize,
    /// Those of them that have a `trafficDistribution`, the one oddity for which none is left out.
    pub(crate) of_all_zonal: Vec<String>,
}

/// A listener of the sidecar.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Bound {
    /// In the log and the metrics; no two are alike.
    pub(crate) name: String,
    pub(crate) listen: SocketAddr,
    pub(crate) discovered: Discovered,
    pub(crate) protocol: Option<Protocol>,
    pub(crate) lazy: bool,
    /// One of `*`.
    pub(crate) of_all: bool,
    /// Whether somebody named the port, or it is one of `*`.
    pub(crate) named: bool,
    /// What is said of this one alone.
    pub(crate) own: Option<Box<raw::Upstream>>,
}

/// Where moved ports begin: below the ports that Linux gives to outgoing connections.
const MOVED_FROM: u16 = 20000;

/// Redirects what can be redirected; the rest is told in warnings, for `*` in the summary.
pub(crate) fn redirect(
    pod: Pod<'_>,
    settings: &Settings,
    destinations: &[Destination<'_>],
    app_ports: &AppPorts,
    warnings: &mut Vec<Warning>,
    left: &mut LeftOut,
) -> Redirected {
    let own_addresses: BTreeSet<IpAddr> =
        destinations.iter().filter_map(|destination| destination.listen_on).collect();
    let assigned = destinations.iter().filter(|destination| destination.listen_on.is_none());
    let addresses = loopback::assign(assigned.map(|destination| destination.key.as_str()), &own_addresses);
    let mut redirection = Redirection {
        pod,
        app_ports,
        configuration: &settings.configuration,
        result: Redirected::default(),
        names: BTreeSet::new(),
        sites: Sites::new(),
    };
    for (index, destination) in destinations.iter().enumerate() {
        let address = addresses.get(destination.key.as_str()).copied();
        let done = match (destination.listen_on, settings.redirect, address) {
            (Some(address), _, _) => redirection.listen_only(destination, address),
            (None, Redirect::None, _) => {
                redirection.listen_only(destination, IpAddr::V4(Ipv4Addr::LOCALHOST))
            }
            (None, _, None) => Done::No(Vec::new()),
            (None, Redirect::Hosts, Some(address)) => redirection.by_hosts(index, destination, address),
            (None, Redirect::Env, Some(address)) => {
                redirection.by_environment(index, destination, address, None)
            }
        };
        match done {
            Done::Yes(_) if destination.lazy => {
                redirection.result.of_all += 1;
                let zonal = !destination.notes.is_empty();
                redirection.result.of_all_zonal.extend(zonal.then(|| destination.title.clone()));
            }
            Done::Yes(told) => {
                warnings.extend(destination.notes.iter().cloned());
                warnings.extend(told);
            }
            Done::No(_) if destination.lazy => {
                let obstacle = redirection.obstacle(destination);
                left.add(
                    obstacle.map_or("not in the environment", |obstacle| obstacle.word()),
                    &destination.title,
                );
            }
            Done::No(told) => warnings.extend(told),
        }
    }
    let Redirection { mut result, sites, .. } = redirection;
    let (values, _) = env_values::changes(pod, &sites);
    result.environment.splice(0..0, values);
    result
}

/// Whether a destination was redirected, and what to tell about it.
enum Done {
    Yes(Vec<Warning>),
    No(Vec<Warning>),
}

struct Redirection<'a> {
    pod: Pod<'a>,
    app_ports: &'a AppPorts,
    configuration: &'a Configuration,
    result: Redirected,
    /// Of all listeners.
    names: BTreeSet<String>,
    sites: Sites,
}

impl Redirection<'_> {
    /// The app's configuration says the address; each port stands for itself.
    fn listen_only(&mut self, destination: &Destination<'_>, address: IpAddr) -> Done {
        let mut told = Vec::new();
        let mut listeners = Vec::new();
        let title = &destination.title;
        for listener in destination.listeners.iter().filter(|listener| listener.named) {
            let listen = SocketAddr::new(address, listener.port);
            let cannot = |obstacle| Warning::CannotListen { service: title.clone(), obstacle };
            if let Some(obstacle) =
                listener.unspoken.clone().or_else(|| self.app_ports.obstacle(listener.port))
            {
                told.push(cannot(obstacle));
            } else if self.result.upstreams.iter().any(|bound| bound.listen == listen) {
                told.push(Warning::AddressTaken { address: listen.to_string(), service: title.clone() });
            } else {
                listeners.push((listener, listener.port));
            }
        }
        if listeners.is_empty() {
            return Done::No(told);
        }
        self.bind(destination, address, &listeners);
        Done::Yes(told)
    }

    /// Names know no ports: all of them are served, or the name is left alone.
    fn by_hosts(&mut self, index: usize, destination: &Destination<'_>, address: IpAddr) -> Done {
        if let Some(obstacle) = self.obstacle(destination) {
            if destination.lazy {
                return Done::No(Vec::new());
            }
            return self.by_environment(index, destination, address, Some(obstacle));
        }
        let listeners: Vec<_> =
            destination.listeners.iter().map(|listener| (listener, listener.port)).collect();
        self.bind(destination, address, &listeners);
        self.result.aliases.push((address, destination.forms.clone()));
        let note = Warning::OtherPorts { host: destination.title.clone() };
        Done::Yes(destination.partial.then_some(note).into_iter().collect())
    }

    /// Environment values that name the destination lead to it, each with its own port; where `instead` is given, `hosts`
    /// was asked for and cannot be.
    fn by_environment(
        &mut self,
        index: usize,
        destination: &Destination<'_>,
        address: IpAddr,
        instead: Option<Obstacle>,
    ) -> Done {
        let mut taken: BTreeSet<u16> = destination.listeners.iter().map(|listener| listener.port).collect();
        let mut ports: BTreeMap<u16, u16> = BTreeMap::new();
        for listener in destination.listeners.iter().filter(|listener| listener.unspoken.is_none()) {
            let free = match self.app_ports.obstacle(listener.port) {
                None => Some(listener.port),
                Some(_) => self.app_ports.free(MOVED_FROM + listener.port % 10_000, &taken),
            };
            if let Some(free) = free {
                taken.insert(free);
                ports.insert(listener.port, free);
            }
        }
        // A host without its port may be used with any port, so all of them must be where they were.
        let in_place = ports.len() == destination.listeners.len()
            && ports.iter().all(|(called, listen)| called == listen);
        let host_alone = in_place && destination.obstacle.is_none() && !destination.partial;
        let site = Site { owner: index, address, ports: ports.clone(), host_alone };
        let sites: Sites = destination.forms.iter().map(|form| (form.clone(), site.clone())).collect();
        let (_, uses) = env_values::changes(self.pod, &sites);
        let linked = destination
            .linked
            .filter(|_| instead.is_none() && host_alone && !destination.lazy && self.pod.service_links());
        let all = linked.is_some() || uses.contains(&(index, None));
        let used = |port: u16| all || uses.contains(&(index, Some(port)));
        let listeners: Vec<_> = destination
            .listeners
            .iter()
            .filter(|listener| used(listener.port))
            .filter_map(|listener| Some((listener, *ports.get(&listener.port)?)))
            .collect();
        let service = destination.title.clone();
        if listeners.is_empty() {
            let hidden = env_values::has_hidden(self.pod);
            return Done::No(vec![match instead {
                Some(obstacle) => Warning::Unreachable { service, obstacle },
                None => Warning::NotInEnvironment { service, hidden },
            }]);
        }
        self.bind(destination, address, &listeners);
        self.sites.extend(sites);
        if let Some(service) = linked {
            self.result.environment.extend(env_values::links(self.pod, service, address));
        }
        let by_environment = instead.map(|obstacle| Warning::ByEnvironment { service, obstacle });
        Done::Yes(by_environment.into_iter().collect())
    }

    /// Why `hosts` cannot redirect a destination.
    fn obstacle(&self, destination: &Destination<'_>) -> Option<Obstacle> {
        let of_ports = destination
            .listeners
            .iter()
            .find_map(|l| l.unspoken.clone().or_else(|| self.app_ports.obstacle(l.port)));
        destination.obstacle.clone().or(of_ports).or_else(|| self.own_alias(&destination.forms))
    }

    /// The pod's own `hostAliases` for one of these names: whoever wrote them meant it.
    fn own_alias(&self, forms: &[String]) -> Option<Obstacle> {
        let aliases = json::items(self.pod.0, "/spec/hostAliases").iter();
        let mut hosts =
            aliases.flat_map(|alias| json::items(alias, "/hostnames")).filter_map(|host| host.as_str());
        let own = hosts.find(|host| forms.iter().any(|form| form.eq_ignore_ascii_case(host)))?;
        Some(Obstacle::OwnAlias { host: own.to_owned() })
    }

    fn bind(&mut self, destination: &Destination<'_>, address: IpAddr, listeners: &[(&Listener, u16)]) {
        for (listener, listen) in listeners {
            let plain = if listeners.len() == 1 {
                destination.title.clone()
            } else {
                format!("{}:{}", destination.title, listener.port)
            };
            let names = &self.names;
            let numbered = (2_u32..).map(|number| format!("{plain}-{number}"));
            let name = [plain.clone()]
                .into_iter()
                .chain(numbered)
                .find(|name| !names.contains(name))
                .unwrap_or(plain);
            self.names.insert(name.clone());
            self.result.upstreams.push(Bound {
                name,
                listen: SocketAddr::new(address, *listen),
                discovered: listener.discovered.clone(),
                protocol: listener.protocol,
                lazy: destination.lazy || !listener.named,
                of_all: destination.lazy,
                named: listener.named,
                own: self.configuration.of_one(destination, listener.port),
            });
        }
    }
}
