//! Environment values that name an upstream: found by the syntax around the name, so that neither a path nor a longer
//! name nor a mere title (`APP_NAME=backend`) is taken for an address.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use serde_json::{Value, json};

use crate::changes::Change;
use crate::json::{self, escape, text};
use crate::service::Service;
use crate::workload::Pod;

/// Where the app finds a host after the redirect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Site {
    /// Whose it is, for the caller.
    pub(crate) owner: usize,
    pub(crate) address: IpAddr,
    /// What the app calls and where the sidecar listens for it.
    pub(crate) ports: BTreeMap<u16, u16>,
    /// Whether the host may be rewritten where no port stands beside it.
    pub(crate) host_alone: bool,
}

/// A use of a site in an environment value: with this port, or with a port that stands elsewhere.
pub(crate) type Use = (usize, Option<u16>);

/// Sites by host name.
pub(crate) type Sites = HashMap<String, Site>;

/// Every change that leads the pod's literal environment values to the sites, and the uses that were found.
pub(crate) fn changes(pod: Pod<'_>, sites: &Sites) -> (Vec<Change>, BTreeSet<Use>) {
    let mut changes = Vec::new();
    let mut uses = BTreeSet::new();
    if sites.is_empty() {
        return (changes, uses);
    }
    for (list, container, variable, value) in literals(pod) {
        if let Some(rewritten) = rewrite(variable, value, sites, &mut uses) {
            changes.push(Change::Set {
                path: format!("{list}/name={}/env/name={}/value", escape(container), escape(variable)),
                from: Some(Value::from(value)),
                to: Value::from(rewritten),
            });
        }
    }
    (changes, uses)
}

/// The variables that Kubernetes makes for a Service, pointing at the sidecar (`kubelet/envvars`); before all others,
/// since values may refer to them. Those that a container has itself are its own.
pub(crate) fn links(pod: Pod<'_>, service: &Service, address: IpAddr) -> Vec<Change> {
    let name = service.name.to_uppercase().replace('-', "_");
    let mut variables = vec![(format!("{name}_SERVICE_HOST"), address.to_string())];
    if let Some(first) = service.ports.first() {
        variables.push((format!("{name}_PORT"), format!("tcp://{address}:{}", first.port)));
    }
    for port in service.tcp_ports().map(|port| port.port) {
        variables.push((format!("{name}_PORT_{port}_TCP"), format!("tcp://{address}:{port}")));
        variables.push((format!("{name}_PORT_{port}_TCP_ADDR"), address.to_string()));
    }
    let mut changes = Vec::new();
    for (list, container) in pod.containers() {
        let Some(name) = text(container, "/name") else { continue };
        let has = |variable: &str| {
            json::items(container, "/env").iter().any(|own| text(own, "/name") == Some(variable))
        };
        for (variable, value) in variables.iter().rev().filter(|(variable, _)| !has(variable)) {
            let list = format!("{list}/name={}/env", escape(name));
            changes.push(Change::prepend(&list, json!({"name": variable, "value": value})));
        }
    }
    changes
}

/// Whether a container takes values from elsewhere, which cannot be seen here.
pub(crate) fn has_hidden(pod: Pod<'_>) -> bool {
    pod.containers().any(|(_, container)| {
        !json::items(container, "/envFrom").is_empty()
            || json::items(container, "/env").iter().any(|variable| variable.get("valueFrom").is_some())
    })
}

/// Hosts and ports that values seem to name: with a port, or a URL with the port of its scheme.
pub(crate) fn mentioned(pod: Pod<'_>) -> BTreeSet<(String, u16)> {
    let mut mentioned = BTreeSet::new();
    for (_, _, _, value) in literals(pod) {
        for (start, end) in words(value) {
            let host = canonical(&value[start..end]);
            let (before, after) = (&value[..start], &value[end..]);
            let port = match (port_after(after), before) {
                (Some((port, _)), before) if boundary_before(before) => Some(port),
                (None, before) if before.ends_with("http://") && ends(after) => Some(80),
                (None, before) if before.ends_with("https://") && ends(after) => Some(443),
                _ => None,
            };
            mentioned.extend(port.map(|port| (host, port)));
        }
    }
    mentioned
}

/// Every literal value: list, container, variable, value.
fn literals(pod: Pod<'_>) -> impl Iterator<Item = (&'static str, &str, &str, &str)> {
    pod.containers().flat_map(|(list, container)| {
        let name = text(container, "/name");
        json::items(container, "/env").iter().filter_map(move |variable| {
            Some((list, name?, text(variable, "/name")?, text(variable, "/value")?))
        })
    })
}

/// The value with every name of a site replaced; `None` if there is none.
fn rewrite(variable: &str, value: &str, sites: &Sites, uses: &mut BTreeSet<Use>) -> Option<String> {
    let mut rewritten = String::new();
    let mut copied = 0;
    for (start, end) in words(value) {
        let Some(site) = sites.get(&canonical(&value[start..end])) else { continue };
        let (before, after) = (&value[..start], &value[end..]);
        match port_after(after) {
            Some((port, length)) if boundary_before(before) => {
                let Some(listen) = site.ports.get(&port) else { continue };
                uses.insert((site.owner, Some(port)));
                rewritten.push_str(&value[copied..start]);
                rewritten.push_str(&format!("{}:{listen}", site.address));
                copied = end + length;
            }
            None if site.host_alone
                && ends(after)
                && stands_for_host(variable, value, before, start..end) =>
            {
                uses.insert((site.owner, None));
                rewritten.push_str(&value[copied..start]);
                rewritten.push_str(&site.address.to_string());
                copied = end;
            }
            _ => {}
        }
    }
    rewritten.push_str(&value[copied..]);
    (copied > 0).then_some(rewritten)
}

/// Where the words are that could be host names.
fn words(value: &str) -> Vec<(usize, usize)> {
    let in_word = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    let bytes = value.as_bytes();
    let starts = (0..bytes.len()).filter(|at| in_word(bytes[*at]) && (*at == 0 || !in_word(bytes[at - 1])));
    starts
        .map(|start| {
            let length = bytes[start..].iter().take_while(|b| in_word(**b)).count();
            (start, start + length)
        })
        .collect()
}

fn canonical(host: &str) -> String {
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

/// Whether an address may begin here.
fn boundary_before(before: &str) -> bool {
    before.is_empty()
        || before.ends_with("//")
        || before.ends_with(|c: char| c.is_ascii_whitespace() || ",;([\"'|@=".contains(c))
}

/// Whether an address may end here.
fn ends(after: &str) -> bool {
    after.is_empty() || after.starts_with(|c: char| c.is_ascii_whitespace() || "/?#,;)]\"'|&".contains(c))
}

/// The port that follows a host, and the length of what it takes.
fn port_after(after: &str) -> Option<(u16, usize)> {
    let rest = after.strip_prefix(':')?;
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let port = rest[..digits].parse().ok().filter(|port| *port != 0)?;
    ends(&rest[digits..]).then_some((port, digits + 1))
}

/// Whether a host without a port is an address here: in a URL, or as the whole value of something called an address.
fn stands_for_host(variable: &str, value: &str, before: &str, host: std::ops::Range<usize>) -> bool {
    let in_url = before.ends_with("//") || (before.ends_with('@') && before.contains("//"));
    let whole = value.trim() == &value[host.clone()];
    let qualified = canonical(&value[host]).contains('.');
    let key = || {
        let key = before.strip_suffix('=')?;
        key.rsplit(|c: char| !c.is_ascii_alphanumeric() && c != '_').next()
    };
    in_url || (whole && (qualified || means_address(variable))) || key().is_some_and(means_address)
}

/// Whether a variable's name says that its value is an address.
fn means_address(name: &str) -> bool {
    const ADDRESSES: [&str; 14] = [
        "HOST", "HOSTNAME", "HOSTS", "ADDR", "ADDRS", "ADDRESS", "SERVER", "SERVERS", "ENDPOINT", "URL",
        "URI", "UPSTREAM", "BACKEND", "TARGET",
    ];
    let name = name.to_ascii_uppercase();
    ADDRESSES.iter().any(|address| name.ends_with(address))
}

#[cfg(test)]
mod tests;
