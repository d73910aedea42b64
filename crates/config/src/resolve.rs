//! Lays the sources over each other, fills in defaults, and checks what concerns several values.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::error::{Fault, Problems};
use crate::kinds::print_duration;
use crate::load::Checks;
use crate::names;
use crate::raw::{self, Document};
use crate::settings::Layer;
use crate::types::{AccessLog, Config, Dns, HeaderMatch, LogFilter, Memory, Shutdown};
use crate::upstreams;

/// What every source says.
#[derive(Debug)]
pub(crate) struct Layers {
    pub document: Document,
    pub environment: Layer,
    pub flags: Layer,
    /// A source could not be read, so that what seems missing may have been there.
    pub incomplete: bool,
}

impl Layers {
    /// The name under which the strongest source gave a value: a flag, a variable, or the path in the document.
    pub fn origin<'a>(&'a self, key: &'a str) -> &'a str {
        self.flags.origin(key).or_else(|| self.environment.origin(key)).unwrap_or(key)
    }
}

/// The configuration; only to be used if there is no problem in the end.
pub(crate) fn resolve(
    mut layers: Layers,
    checks: &Checks<'_>,
    problems: &mut Problems,
    warnings: &mut Vec<String>,
) -> Config {
    let upstreams = upstreams::resolve(&mut layers, problems, warnings);
    let Layers { document, environment, flags, .. } = &mut layers;
    let [document, environment, flags] =
        [document, &mut environment.document, &mut flags.document].map(std::mem::take);
    let Document { dns, access_log, admin, health, workers, shutdown, memory, log_level, .. } =
        document.overlay(environment).overlay(flags);
    let admin = admin.and_then(|form| form.address).unwrap_or(names::DEFAULT_ADMIN);
    let health = health.and_then(|form| form.address).unwrap_or(names::DEFAULT_HEALTH);
    upstreams::check_addresses(&upstreams, admin, health, &layers, problems);

    Config {
        upstreams: upstreams.into_iter().filter_map(|entry| entry.upstream).collect(),
        dns: resolve_dns(dns.unwrap_or_default(), problems),
        access_log: resolve_access_log(access_log.unwrap_or_default(), checks, &layers, problems),
        admin,
        health,
        workers,
        shutdown: resolve_shutdown(&shutdown.unwrap_or_default()),
        memory: resolve_memory(&memory.unwrap_or_default()),
        log_level: log_level.unwrap_or_else(|| names::DEFAULT_LOG_LEVEL.to_owned()),
    }
}

/// A limit that zero turns off.
pub(crate) fn unless_zero(duration: Duration) -> Option<Duration> {
    (!duration.is_zero()).then_some(duration)
}

fn resolve_dns(form: raw::Dns, problems: &mut Problems) -> Dns {
    let default = Dns::default();
    let floor = form.refresh_floor.unwrap_or(default.refresh_floor);
    let cap = form.refresh_cap.unwrap_or(default.refresh_cap);
    if floor > cap && !problems.under("dns.refresh_floor") && !problems.under("dns.refresh_cap") {
        // Where only the cap is given, the floor is the default.
        let (path, value) = match form.refresh_floor {
            Some(floor) => ("dns.refresh_floor", floor),
            None => ("dns.refresh_cap", cap),
        };
        problems.about(
            path,
            &Value::from(print_duration(value)),
            Fault::new(
                format!(
                    "refresh_floor ({}) is above refresh_cap ({})",
                    print_duration(floor),
                    print_duration(cap)
                ),
                "raise dns.refresh_cap or lower dns.refresh_floor",
            ),
        );
    }
    Dns {
        servers: form.servers.unwrap_or(default.servers),
        resolv_conf: form.resolv_conf.unwrap_or(default.resolv_conf),
        cluster_domain: form.cluster_domain,
        namespace: form.namespace,
        refresh_floor: floor,
        refresh_cap: cap,
        hold_empty: form.hold_empty.unwrap_or(default.hold_empty),
        allow_loopback: form.allow_loopback.unwrap_or(default.allow_loopback),
    }
}

fn resolve_access_log(
    form: raw::AccessLog,
    checks: &Checks<'_>,
    layers: &Layers,
    problems: &mut Problems,
) -> AccessLog {
    let default = AccessLog::default();
    let format = form.format.unwrap_or(default.format);
    if let Err(reason) = (checks.log_format)(&format) {
        let remedy = "write a preset (text, json, nginx, otel, ecs) or an Envoy format string";
        problems.about(
            layers.origin("access_log.format"),
            &Value::from(format.as_str()),
            Fault::new(reason, remedy),
        );
    }
    AccessLog {
        format,
        path: match form.path {
            Some(path) => some_path(path),
            None => default.path,
        },
        filter: resolve_filter(form.filter.unwrap_or_default(), checks, problems),
    }
}

/// `off` is no path.
fn some_path(path: PathBuf) -> Option<PathBuf> {
    (path != Path::new(names::OFF)).then_some(path)
}

fn resolve_filter(form: raw::LogFilter, checks: &Checks<'_>, problems: &mut Problems) -> LogFilter {
    const PATH: &str = "access_log.filter";
    let flags = form.flags.unwrap_or_default();
    for (index, flag) in flags.iter().enumerate() {
        if flag != "*" && !(checks.response_flag)(flag) {
            problems.about(
                format!("{PATH}.flags[{index}]"),
                &Value::from(flag.as_str()),
                Fault::new("no response flag", "write a flag such as UH, UF, UC or UT, or \"*\" for any"),
            );
        }
    }
    let header = form.header.and_then(|header| match header.name {
        Some(name) => Some(HeaderMatch { name, value: header.value }),
        None => {
            let path = format!("{PATH}.header");
            if !problems.under(&path) {
                problems.at(format!("{path}.name"), Fault::new("missing", "name the header, e.g. x-debug"));
            }
            None
        }
    });
    LogFilter {
        min_status: form.min_status,
        min_duration: form.min_duration,
        flags,
        header,
        sample: form.sample,
    }
}

fn resolve_shutdown(form: &raw::Shutdown) -> Shutdown {
    let default = Shutdown::default();
    Shutdown {
        grace_period: form.grace_period.unwrap_or(default.grace_period),
        native_sidecar: form.native_sidecar.unwrap_or(default.native_sidecar),
    }
}

fn resolve_memory(form: &raw::Memory) -> Memory {
    let default = Memory::default();
    Memory { limit: form.limit, shed_at_percent: form.shed_at_percent.unwrap_or(default.shed_at_percent) }
}
