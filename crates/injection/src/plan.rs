//! Everything that is to be added to a pod, all or nothing: the container and what leads the app to it.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use whichpod_config::names::variable;

use crate::app_ports::AppPorts;
use crate::calls::{Destination, Finder, LeftOut};
use crate::changes::{self, Change};
use crate::configuration::Configuration;
use crate::container;
use crate::discover::Discovery;
use crate::env_values;
use crate::facts::Facts;
use crate::json::{self, text};
use crate::malformed::Malformed;
use crate::names::{self, annotation};
use crate::options::{HeadlessServices, Options};
use crate::place::{Place, Viewpoint};
use crate::reason::Reason;
use crate::redirect::{self, Bound, Redirected};
use crate::service::ServiceName;
use crate::settings::{ConfigMapKey, Redirect, Settings};
use crate::sidecar_config::{self, OwnPorts};
use crate::warning::Warning;
use crate::workload::{LOWEST_PORT, Pod};

/// Linux starts no program with a longer variable (`MAX_ARG_STRLEN`, 128 KiB with its name and what ends it).
const LONGEST_DOCUMENT: usize = 128 * 1024 - names::CONFIG_VARIABLE.len() - 2;

/// The changes of a pod, in the order in which they are made.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Plan {
    pub(crate) changes: Vec<Change>,
    /// Services whose headless twins the sidecar asks for.
    pub(crate) twins: BTreeSet<ServiceName>,
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NoPlan {
    Skip(Reason),
    /// Annotations that cannot be followed.
    Malformed(Vec<Malformed>),
    /// This Service has no headless twin, and the operator denies that.
    Deny(String),
}

/// What a plan depends on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scene<'a> {
    /// The pod as the user wrote it.
    pub(crate) pod: Pod<'a>,
    pub(crate) namespace: &'a str,
    pub(crate) settings: &'a Settings,
    pub(crate) native: bool,
    /// Whether the workload itself says something about single upstreams.
    pub(crate) says_singles: bool,
    pub(crate) facts: &'a Facts,
    pub(crate) options: &'a Options,
}

impl Scene<'_> {
    /// Plans; what cannot be done, and what is odd, becomes a warning.
    pub(crate) fn plan(self, warnings: &mut Vec<Warning>) -> Result<Plan, NoPlan> {
        let app_ports = AppPorts::of(self.pod, self.namespace, self.facts, &self.settings.app_ports);
        self.check_volumes()?;
        if let Some(config_map) = &self.settings.config {
            let ports = own_ports(&app_ports, &BTreeSet::new(), warnings)?;
            let environment = self.external_configuration(config_map, ports);
            return Ok(Plan { changes: self.changes(environment, ports, None), ..Plan::default() });
        }
        let redirected = self.redirect(&app_ports, warnings)?;
        let listening: BTreeSet<u16> = redirected.upstreams.iter().map(|bound| bound.listen.port()).collect();
        let ports = own_ports(&app_ports, &listening, warnings)?;
        let Scene { pod, namespace, settings, native, options, .. } = self;
        let document =
            sidecar_config::document(&redirected.upstreams, settings, pod, namespace, native, ports, options);
        let document = sidecar_config::inline(document, settings, options).map_err(NoPlan::Malformed)?;
        let too_long = document.len() > LONGEST_DOCUMENT;
        let environment = vec![json!({"name": names::CONFIG_VARIABLE, "value": document})];
        let twins = redirected.upstreams.iter().filter_map(|bound| bound.discovered.twin.clone()).collect();
        let lowest = listening.first().copied().filter(|port| *port < 1024 && !app_ports.has_lowest());
        let mut changes = self.changes(environment, ports, lowest);
        let aliases = redirected.aliases.iter().map(|(address, hosts)| {
            Change::append("/spec/hostAliases", json!({"ip": address, "hostnames": hosts}))
        });
        changes.extend(aliases);
        changes.extend(redirected.environment);
        if too_long || !changes::are_affordable(&changes, pod.0) {
            warnings.push(Warning::TooLarge);
            return Err(NoPlan::Skip(Reason::TooLarge));
        }
        Ok(Plan { changes, twins })
    }

    fn redirect(self, app_ports: &AppPorts, warnings: &mut Vec<Warning>) -> Result<Redirected, NoPlan> {
        let viewpoint = Viewpoint {
            namespace: self.namespace,
            cluster_domain: &self.options.cluster_domain,
            facts: self.facts,
        };
        let Settings { upstreams, redirect, .. } = self.settings;
        if upstreams.is_empty() {
            warnings.push(Warning::NoUpstreams { offers: self.offers(viewpoint) });
            return Err(NoPlan::Skip(Reason::NoUpstreams));
        }
        let finder =
            Finder { discovery: Discovery { viewpoint, options: self.options }, settings: self.settings };
        let mut left = LeftOut::default();
        let mut destinations = finder.named(warnings);
        if upstreams.all && *redirect == Redirect::None {
            warnings.push(Warning::AllWithoutRedirect);
        } else if upstreams.all {
            destinations.extend(finder.all(self.pod, &destinations, &mut left));
        }
        let redirected =
            redirect::redirect(self.pod, self.settings, &destinations, app_ports, warnings, &mut left);
        let notes = self.settings.configuration.notes.iter();
        warnings.extend(notes.map(|text| Warning::Configuration { text: text.clone() }));
        warnings.extend(self.of_nobody(&destinations));
        warnings.extend(left.warning(redirected.of_all));
        if !redirected.of_all_zonal.is_empty() {
            warnings.push(Warning::TrafficDistribution { service: redirected.of_all_zonal.join(", ") });
        }
        self.check_headless(&redirected.upstreams, warnings)?;
        if redirected.upstreams.is_empty() {
            if upstreams.entries.is_empty() && left == LeftOut::default() {
                warnings.push(Warning::NoServices { namespace: self.namespace.to_owned() });
            }
            return Err(NoPlan::Skip(Reason::NothingToRedirect));
        }
        Ok(redirected)
    }

    /// The sidecar can be given no volume that the pod does not have.
    fn check_volumes(self) -> Result<(), NoPlan> {
        let volumes: Vec<&str> = json::items(self.pod.0, "/spec/volumes")
            .iter()
            .filter_map(|volume| text(volume, "/name"))
            .collect();
        let mounts = self.settings.volume_mounts.iter();
        let missing = mounts.filter(|mount| !volumes.contains(&mount.volume.as_str())).map(|mount| {
            let all = if volumes.is_empty() { "none".to_owned() } else { volumes.join(", ") };
            let accepted = format!("volumes of the pod, which has: {all}");
            Malformed::new(annotation::VOLUME_MOUNTS, &mount.volume, accepted)
        });
        let missing: Vec<Malformed> = missing.collect();
        if missing.is_empty() { Ok(()) } else { Err(NoPlan::Malformed(missing)) }
    }

    /// Settings of single upstreams that the workload does not have; a namespace or the operator may well name those of others.
    fn of_nobody(self, destinations: &[Destination<'_>]) -> Vec<Warning> {
        let Configuration { singles, .. } = &self.settings.configuration;
        if !self.says_singles {
            return Vec::new();
        }
        let upstreams: Vec<String> =
            destinations.iter().map(|destination| destination.title.clone()).collect();
        let unknown = singles.iter().filter(|single| !destinations.iter().any(|d| single.is(d, None)));
        unknown
            .map(|s| Warning::NoSuchUpstream { key: s.key.clone(), upstreams: upstreams.clone() })
            .collect()
    }

    /// Warns of Services that show their virtual IP, or refuses them.
    fn check_headless(self, upstreams: &[Bound], warnings: &mut Vec<Warning>) -> Result<(), NoPlan> {
        let without_twin = |of_all: bool| {
            let bound = upstreams.iter().filter(move |bound| bound.of_all == of_all);
            bound.filter_map(|bound| bound.discovered.not_headless.clone()).collect::<BTreeSet<String>>()
        };
        let named = without_twin(false);
        if let Some(service) = named.first()
            && self.options.headless_services == HeadlessServices::Deny
        {
            return Err(NoPlan::Deny(service.clone()));
        }
        warnings.extend(named.into_iter().map(|service| Warning::NotHeadless { service }));
        let of_all: Vec<String> = without_twin(true).into_iter().collect();
        if !of_all.is_empty() {
            warnings.push(Warning::NotHeadless { service: of_all.join(", ") });
        }
        Ok(())
    }

    /// Services that environment values point at.
    fn offers(self, viewpoint: Viewpoint<'_>) -> Vec<String> {
        let mentioned = env_values::mentioned(self.pod).into_iter();
        let known = mentioned.filter(|(host, port)| match viewpoint.place(host) {
            Place::Service(named) => named.known.is_some_and(|s| s.tcp_ports().any(|own| own.port == *port)),
            Place::Pod | Place::Host => false,
        });
        known.map(|(host, port)| format!("{host}:{port}")).collect()
    }

    /// What is added besides the redirect.
    fn changes(self, environment: Vec<Value>, ports: OwnPorts, lowest: Option<u16>) -> Vec<Change> {
        let Scene { pod, settings, native, options, .. } = self;
        let container = container::container(environment, native, ports, settings, pod, options);
        let mut changes = vec![if native {
            Change::prepend("/spec/initContainers", container)
        } else {
            Change::append("/spec/containers", container)
        }];
        if let Some(port) = lowest {
            let sysctl = json!({"name": LOWEST_PORT, "value": port.to_string()});
            changes.push(Change::append("/spec/securityContext/sysctls", sysctl));
        }
        let listed = |secret: &str| {
            json::items(pod.0, "/spec/imagePullSecrets").iter().any(|own| text(own, "/name") == Some(secret))
        };
        let secrets: BTreeSet<&str> = options.image_pull_secrets.iter().map(String::as_str).collect();
        for secret in secrets.into_iter().filter(|secret| !listed(secret)) {
            changes.push(Change::append("/spec/imagePullSecrets", json!({"name": secret})));
        }
        changes.extend(Change::set(pod.0, "/metadata/labels", names::INJECTED_LABEL, json!("true")));
        changes
    }

    /// The environment of a sidecar whose configuration is in a ConfigMap; what the pod says goes above it.
    fn external_configuration(self, config_map: &ConfigMapKey, ports: OwnPorts) -> Vec<Value> {
        let set = |name: &str, value: String| json!({"name": name, "value": value});
        vec![
            json!({"name": names::CONFIG_VARIABLE,
                "valueFrom": {"configMapKeyRef": {"name": config_map.name, "key": config_map.key}}}),
            set(variable::ADMIN, ports.admin_address().to_string()),
            set(variable::HEALTH, ports.health_address().to_string()),
            set(variable::GRACE_PERIOD, format!("{}s", self.pod.grace_period())),
            set(variable::NATIVE_SIDECAR, self.native.to_string()),
        ]
    }
}

/// 9901 and 9902, or the next ports that nobody has.
fn own_ports(
    app_ports: &AppPorts,
    listening: &BTreeSet<u16>,
    warnings: &mut Vec<Warning>,
) -> Result<OwnPorts, NoPlan> {
    let mut taken = listening.clone();
    let mut free = |wanted| {
        let port = app_ports.free(wanted, &taken)?;
        taken.insert(port);
        Some(port)
    };
    match (free(names::ADMIN_PORT), free(names::HEALTH_PORT)) {
        (Some(admin), Some(health)) => Ok(OwnPorts { admin, health }),
        _ => {
            warnings.push(Warning::NoRoom);
            Err(NoPlan::Skip(Reason::NoRoom))
        }
    }
}
