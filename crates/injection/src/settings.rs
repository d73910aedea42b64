//! What the annotations of one workload say, once every layer (operator's defaults, namespace, template, workload) has
//! been laid over the other.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use whichpod_config::{Balance, Document, Protocol};

use crate::json;
use crate::names::{self, annotation};
use crate::options::{Options, Resources};
use crate::upstreams::Wanted;

/// The settings of one workload.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Settings {
    pub(crate) upstreams: Wanted,
    pub(crate) redirect: Redirect,
    pub(crate) balance: Option<Balance>,
    pub(crate) protocol: Option<Protocol>,
    pub(crate) log_format: Option<String>,
    pub(crate) config: Option<ConfigMapKey>,
    pub(crate) resources: Resources,
    pub(crate) native_sidecar: NativeSidecar,
    pub(crate) app_ports: BTreeSet<u16>,
}

/// How the app's connections get to the sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Redirect {
    /// `hostAliases` map the upstream's names to a loopback address.
    #[default]
    Hosts,
    /// Environment values that name the upstream are rewritten.
    Env,
    /// The app's own configuration says 127.0.0.1.
    None,
}

/// Whether the sidecar is an init container with `restartPolicy: Always`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum NativeSidecar {
    /// Where the cluster can.
    #[default]
    Auto,
    Always,
    Never,
}

/// Where the sidecar's whole configuration is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConfigMapKey {
    pub(crate) name: String,
    pub(crate) key: String,
}

/// An annotation that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Malformed {
    /// Without `whichpod.io/`.
    pub(crate) name: String,
    pub(crate) value: String,
    /// What is accepted, or what is wrong.
    pub(crate) accepted: String,
}

impl Settings {
    /// Reads all settings, given by their names without `whichpod.io/`; stops at the first that is malformed.
    pub(crate) fn parse(texts: &BTreeMap<String, String>, options: &Options) -> Result<Settings, Malformed> {
        let texts = Texts(texts);
        Ok(Settings {
            upstreams: texts.read(annotation::UPSTREAMS, Wanted::parse)?.unwrap_or_default(),
            redirect: texts.read(annotation::REDIRECT, redirect)?.unwrap_or_default(),
            balance: texts.read(annotation::BALANCE, |text| balance(text.trim()))?,
            protocol: texts.read(annotation::PROTOCOL, |text| protocol(text.trim()))?,
            log_format: texts.read(annotation::LOG_FORMAT, |text| log_format(text, options))?,
            config: texts.read(annotation::CONFIG, config_map_key)?,
            resources: texts
                .read(annotation::RESOURCES, |text| resources(text, &options.resources))?
                .unwrap_or_else(|| options.resources.clone()),
            native_sidecar: texts.read(annotation::NATIVE_SIDECAR, native_sidecar)?.unwrap_or_default(),
            app_ports: texts.read(annotation::APP_PORTS, app_ports)?.unwrap_or_default(),
        })
    }
}

struct Texts<'a>(&'a BTreeMap<String, String>);

impl Texts<'_> {
    fn read<T>(
        &self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, Malformed> {
        let Some(text) = self.0.get(name) else { return Ok(None) };
        let malformed = |accepted| Malformed { name: name.to_owned(), value: text.clone(), accepted };
        parse(text).map(Some).map_err(malformed)
    }
}

fn redirect(text: &str) -> Result<Redirect, String> {
    match text.trim() {
        "hosts" => Ok(Redirect::Hosts),
        "env" => Ok(Redirect::Env),
        "none" => Ok(Redirect::None),
        _ => Err("hosts, env, none".to_owned()),
    }
}

fn native_sidecar(text: &str) -> Result<NativeSidecar, String> {
    match text.trim() {
        "auto" => Ok(NativeSidecar::Auto),
        "true" => Ok(NativeSidecar::Always),
        "false" => Ok(NativeSidecar::Never),
        _ => Err("auto, true, false".to_owned()),
    }
}

/// What the sidecar speaks is known to its configuration alone.
pub(crate) fn protocol(text: &str) -> Result<Protocol, String> {
    document("protocol", text).and_then(|document| document.protocol.ok_or_else(String::new))
}

fn balance(text: &str) -> Result<Balance, String> {
    document("balance", text).and_then(|document| document.balance.ok_or_else(String::new))
}

/// A document with this one member; the error is the part after the member's name and value.
fn document(member: &str, text: &str) -> Result<Document, String> {
    serde_json::from_value(json!({ member: text })).map_err(|error| {
        let error = error.to_string();
        error.rsplit_once("accepted: ").map_or(error.clone(), |(_, words)| words.to_owned())
    })
}

fn log_format(text: &str, options: &Options) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err("text, json, nginx, otel, ecs, or an Envoy format string".to_owned());
    }
    options.check_log_format.map_or(Ok(()), |check| check(text))?;
    Ok(text.to_owned())
}

fn config_map_key(text: &str) -> Result<ConfigMapKey, String> {
    let (name, key) = text.trim().split_once('/').unwrap_or((text.trim(), names::CONFIG_KEY));
    let is_key = !key.is_empty()
        && key.len() <= 253
        && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if !crate::upstreams::is_dns_name(name) || !is_key {
        return Err("the name of a ConfigMap, or NAME/KEY".to_owned());
    }
    Ok(ConfigMapKey { name: name.to_owned(), key: key.to_owned() })
}

fn resources(text: &str, defaults: &Resources) -> Result<Resources, String> {
    const ACCEPTED: &str =
        "requests.cpu=50m, requests.memory=32Mi, limits.memory=64Mi, limits.cpu=1 (each optional)";
    let mut resources = defaults.clone();
    for part in text.split([',', ' ', '\n']).filter(|part| !part.is_empty()) {
        let (name, quantity) = part.split_once('=').ok_or(ACCEPTED)?;
        let quantity = quantity.to_owned();
        match name {
            "requests.cpu" => resources.cpu_request = quantity,
            "requests.memory" => resources.memory_request = quantity,
            "limits.memory" => resources.memory_limit = quantity,
            "limits.cpu" => resources.cpu_limit = Some(quantity),
            _ => return Err(ACCEPTED.to_owned()),
        }
    }
    resources.check()?;
    Ok(resources)
}

fn app_ports(text: &str) -> Result<BTreeSet<u16>, String> {
    let parts = text.split([',', ' ', '\n']).filter(|part| !part.is_empty());
    parts
        .map(|part| json::port(&part.into()).ok_or_else(|| "port numbers, such as \"8080, 8443\"".to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(name: &str, value: &str) -> Result<Settings, Malformed> {
        Settings::parse(&BTreeMap::from([(name.to_owned(), value.to_owned())]), &Options::default())
    }

    #[test]
    fn every_annotation_is_read() {
        assert_eq!(parse("redirect", " env ").unwrap().redirect, Redirect::Env);
        assert_eq!(parse("native-sidecar", "true").unwrap().native_sidecar, NativeSidecar::Always);
        assert_eq!(parse("balance", "least_request").unwrap().balance, Some(Balance::LeastRequest));
        assert_eq!(parse("protocol", "http1").unwrap().protocol, Some(Protocol::Http1));
        assert_eq!(parse("app-ports", "8080, 8443 9\n").unwrap().app_ports, BTreeSet::from([9, 8080, 8443]));
        let config = |name: &str, key: &str| Some(ConfigMapKey { name: name.into(), key: key.into() });
        assert_eq!(parse("config", "proxy").unwrap().config, config("proxy", "config.yaml"));
        assert_eq!(parse("config", "proxy/a.json").unwrap().config, config("proxy", "a.json"));
        let resources = parse("resources", "limits.memory=128Mi,limits.cpu=1").unwrap().resources;
        assert_eq!((resources.memory_limit.as_str(), resources.cpu_limit.as_deref()), ("128Mi", Some("1")));
        assert_eq!(resources.cpu_request, Resources::default().cpu_request);
    }

    #[test]
    fn every_malformed_value_is_told_what_is_accepted() {
        for (name, value, accepted) in [
            ("redirect", "host", "hosts, env, none"),
            ("redirect", "transparent", "hosts, env, none"),
            ("native-sidecar", "yes", "auto, true, false"),
            ("balance", "round-robin", "round_robin"),
            ("protocol", "spdy", "auto"),
            ("app-ports", "8080,x", "port numbers"),
            ("app-ports", "0", "port numbers"),
            ("config", "Proxy", "the name of a ConfigMap"),
            ("config", "proxy/", "the name of a ConfigMap"),
            ("resources", "cpu=1", "requests.cpu=50m"),
            ("resources", "requests.cpu=lots", "no positive quantity"),
            ("resources", "limits.cpu=10m", "above limits.cpu"),
            ("log-format", "", "Envoy format string"),
        ] {
            let malformed = parse(name, value).unwrap_err();
            assert_eq!((malformed.name.as_str(), malformed.value.as_str()), (name, value));
            assert!(malformed.accepted.contains(accepted), "{name}: {}", malformed.accepted);
        }
    }

    #[test]
    fn a_log_format_that_nobody_knows_is_refused_at_admission() {
        fn check(text: &str) -> Result<(), String> {
            if text.contains("%NOPE%") { Err("%NOPE% is no operator".to_owned()) } else { Ok(()) }
        }
        let options = Options { check_log_format: Some(check), ..Options::default() };
        let texts = |format: &str| BTreeMap::from([("log-format".to_owned(), format.to_owned())]);
        assert_eq!(Settings::parse(&texts("json"), &options).unwrap().log_format.as_deref(), Some("json"));
        assert_eq!(
            Settings::parse(&texts("%NOPE%"), &options).unwrap_err().accepted,
            "%NOPE% is no operator"
        );
    }

    proptest! {
        #[test]
        fn no_value_makes_a_parser_panic(
            name in prop::sample::select(annotation::SETTINGS.as_slice()), value in "\\PC{0,60}",
        ) {
            let _ = parse(name, &value);
        }
    }
}
