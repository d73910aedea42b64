//! What the annotations of one workload say, once every layer (operator's defaults, namespace, template, workload) has
//! been laid over the other.

use std::collections::{BTreeMap, BTreeSet};

use crate::configuration::Configuration;
use crate::json;
use crate::malformed::Malformed;
use crate::names::{self, annotation};
use crate::options::{Options, Resources};
use crate::upstreams::Wanted;

/// The settings of one workload.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Settings {
    pub(crate) upstreams: Wanted,
    pub(crate) redirect: Redirect,
    /// What goes into the sidecar's configuration.
    pub(crate) configuration: Configuration,
    pub(crate) config: Option<ConfigMapKey>,
    pub(crate) resources: Resources,
    pub(crate) native_sidecar: NativeSidecar,
    pub(crate) app_ports: BTreeSet<u16>,
    pub(crate) volume_mounts: Vec<VolumeMount>,
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

/// A volume of the pod, and where the sidecar finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VolumeMount {
    pub(crate) volume: String,
    pub(crate) path: String,
}

impl Settings {
    /// Reads all settings, given by their names without `whichpod.io/`; the error is everything that is malformed.
    pub(crate) fn parse(
        texts: &BTreeMap<String, String>,
        options: &Options,
    ) -> Result<Settings, Vec<Malformed>> {
        let mut errors = Vec::new();
        let configuration = Configuration::parse(texts, options, &mut errors);
        let mut texts = Texts { texts, errors };
        let settings = Settings {
            upstreams: texts.read(annotation::UPSTREAMS, Wanted::parse).unwrap_or_default(),
            redirect: texts.read(annotation::REDIRECT, redirect).unwrap_or_default(),
            configuration,
            config: texts.read(annotation::CONFIG, config_map_key),
            resources: texts
                .read(annotation::RESOURCES, |text| resources(text, &options.resources))
                .unwrap_or_else(|| options.resources.clone()),
            native_sidecar: texts.read(annotation::NATIVE_SIDECAR, native_sidecar).unwrap_or_default(),
            app_ports: texts.read(annotation::APP_PORTS, app_ports).unwrap_or_default(),
            volume_mounts: texts.read(annotation::VOLUME_MOUNTS, volume_mounts).unwrap_or_default(),
        };
        if texts.errors.is_empty() { Ok(settings) } else { Err(texts.errors) }
    }
}

struct Texts<'a> {
    texts: &'a BTreeMap<String, String>,
    errors: Vec<Malformed>,
}

impl Texts<'_> {
    fn read<T>(&mut self, name: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let text = self.texts.get(name)?;
        parse(text).map_err(|accepted| self.errors.push(Malformed::new(name, text, accepted))).ok()
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

/// The most volumes the sidecar gets to read.
const MOST_MOUNTS: usize = 100;

fn volume_mounts(text: &str) -> Result<Vec<VolumeMount>, String> {
    let mut mounts: Vec<VolumeMount> = Vec::new();
    for part in text.split([',', ' ', '\n']).filter(|part| !part.is_empty()) {
        let (volume, path) = part.split_once('=').unwrap_or_default();
        // What the Kubernetes API takes.
        let is_path = path.len() > 1 && path.starts_with('/') && !path.contains(':');
        let taken = mounts.len() == MOST_MOUNTS || mounts.iter().any(|mount| mount.path == path);
        if !crate::upstreams::is_dns_name(volume) || !is_path || taken {
            return Err(format!(
                "VOLUME=/PATH of up to {MOST_MOUNTS} volumes that the pod has, each at a path of its own"
            ));
        }
        mounts.push(VolumeMount { volume: volume.to_owned(), path: path.to_owned() });
    }
    Ok(mounts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(name: &str, value: &str) -> Result<Settings, Vec<Malformed>> {
        Settings::parse(&BTreeMap::from([(name.to_owned(), value.to_owned())]), &Options::default())
    }

    #[test]
    fn every_annotation_is_read() {
        assert_eq!(parse("redirect", " env ").unwrap().redirect, Redirect::Env);
        assert_eq!(parse("native-sidecar", "true").unwrap().native_sidecar, NativeSidecar::Always);
        assert_eq!(parse("app-ports", "8080, 8443 9\n").unwrap().app_ports, BTreeSet::from([9, 8080, 8443]));
        let config = |name: &str, key: &str| Some(ConfigMapKey { name: name.into(), key: key.into() });
        assert_eq!(parse("config", "proxy").unwrap().config, config("proxy", "config.yaml"));
        assert_eq!(parse("config", "proxy/a.json").unwrap().config, config("proxy", "a.json"));
        let mounts = parse("volume-mounts", "ca=/etc/ca, own=/a").unwrap().volume_mounts;
        let mount = |volume: &str, path: &str| VolumeMount { volume: volume.into(), path: path.into() };
        assert_eq!(mounts, [mount("ca", "/etc/ca"), mount("own", "/a")]);
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
            ("app-ports", "8080,x", "port numbers"),
            ("app-ports", "0", "port numbers"),
            ("config", "Proxy", "the name of a ConfigMap"),
            ("config", "proxy/", "the name of a ConfigMap"),
            ("resources", "cpu=1", "requests.cpu=50m"),
            ("resources", "requests.cpu=lots", "no positive quantity"),
            ("resources", "limits.cpu=10m", "above limits.cpu"),
            ("log-format", "", "Envoy format string"),
            ("volume-mounts", "ca", "VOLUME=/PATH"),
            ("volume-mounts", "ca=etc", "VOLUME=/PATH"),
            ("volume-mounts", "a=/etc/ca,b=/etc/ca", "VOLUME=/PATH"),
        ] {
            let malformed = parse(name, value).unwrap_err();
            let text = malformed[0].to_string();
            assert!(text.starts_with(&format!("{name} is {value:?}; accepted: ")), "{text}");
            assert!(text.contains(accepted), "{text}");
            assert_eq!(malformed.len(), 1);
        }
    }

    #[test]
    fn everything_that_is_wrong_is_told_at_once() {
        let texts = [("redirect", "host"), ("retry", "attempts=many, tries=2"), ("workers", "0")];
        let texts = texts.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let malformed = Settings::parse(&BTreeMap::from(texts), &Options::default()).unwrap_err();
        let told: Vec<String> = malformed.iter().map(ToString::to_string).collect();
        for start in
            ["retry: attempts is ", "retry: tries: unknown key", "workers is \"0\": ", "redirect is \"host\""]
        {
            assert!(told.iter().any(|text| text.starts_with(start)), "{start} in {told:?}");
        }
        assert_eq!(told.len(), 4, "{told:?}");
    }

    proptest! {
        #[test]
        fn no_value_makes_a_parser_panic(
            name in prop::sample::select(annotation::settings().collect::<Vec<_>>()), value in "(\\PC{0,60}|[a-z.]{1,6}=[\\\\[{\\\\-a-z0-9,=:\\\\]} ]{0,20})",
        ) {
            let _ = parse(name, &value);
        }
    }
}
