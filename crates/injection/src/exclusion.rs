//! Pods that cannot have a sidecar although somebody asks for one.

use serde_json::Value;

use crate::facts::Namespace;
use crate::options::Options;
use crate::reason::Reason;
use crate::settings::{NativeSidecar, Settings};
use crate::warning::Warning;
use crate::workload::Pod;
use crate::{json, names};

/// Whether the sidecar is a native one, or why there can be none.
pub(crate) fn native(
    pod: Pod<'_>,
    settings: &Settings,
    namespace: Option<&Namespace>,
    options: &Options,
) -> Result<bool, (Reason, Warning)> {
    if pod.host_network() {
        return Err((Reason::HostNetwork, Warning::HostNetwork));
    }
    if pod.windows() {
        return Err((Reason::Windows, Warning::Windows));
    }
    if istio(pod, namespace) {
        return Err((Reason::Istio, Warning::Istio));
    }
    if linkerd(pod, namespace) {
        return Err((Reason::Linkerd, Warning::Linkerd));
    }
    if pod.has_namesakes() {
        return Err((
            Reason::MalformedObject,
            Warning::MalformedObject { path: "a container's name".to_owned() },
        ));
    }
    if pod.has_container(names::CONTAINER) {
        return Err((Reason::NameTaken, Warning::NameTaken));
    }
    if !pod.asks_cluster_dns() && options.cluster_dns.is_empty() && settings.config.is_none() {
        return Err((Reason::DnsUnknown, Warning::DnsUnknown { policy: pod.dns_policy().to_owned() }));
    }
    let native = match settings.native_sidecar {
        NativeSidecar::Always if !options.native_sidecars => {
            return Err((Reason::NativeUnsupported, Warning::NativeUnsupported));
        }
        NativeSidecar::Always => true,
        NativeSidecar::Auto => options.native_sidecars,
        NativeSidecar::Never => false,
    };
    let hang =
        |what: String| (Reason::WouldHang, Warning::WouldHang { what, supported: options.native_sidecars });
    match pod.restart_policy() {
        _ if native => Ok(true),
        _ if pod.has_init_containers() => Err(hang("init containers".to_owned())),
        "Always" => Ok(false),
        policy => Err(hang(format!("restartPolicy {policy}"))),
    }
}

/// Whether Istio's sidecar is in the pod or will be.
fn istio(pod: Pod<'_>, namespace: Option<&Namespace>) -> bool {
    if pod.has_container("istio-proxy") {
        return true;
    }
    let own = |key: &str| {
        let label = json::member(pod.0, "/metadata/labels", key).and_then(Value::as_str);
        label.or_else(|| pod.annotation(key))
    };
    match own("sidecar.istio.io/inject") {
        Some("true") => true,
        Some("false") => false,
        _ => {
            let labels = namespace.map(|namespace| &namespace.labels);
            let label = |key: &str| labels.and_then(|labels| labels.get(key)).map(String::as_str);
            match label("istio-injection") {
                Some("disabled") => false,
                Some("enabled") => true,
                _ => own("istio.io/rev").or_else(|| label("istio.io/rev")).is_some(),
            }
        }
    }
}

/// Whether Linkerd's proxy is in the pod or will be.
fn linkerd(pod: Pod<'_>, namespace: Option<&Namespace>) -> bool {
    const INJECT: &str = "linkerd.io/inject";
    let inherited = || namespace?.annotations.get(INJECT).map(String::as_str);
    pod.has_container("linkerd-proxy")
        || matches!(pod.annotation(INJECT).or_else(inherited), Some("enabled" | "ingress"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::collections::BTreeMap;

    fn settings(texts: &[(&str, &str)]) -> Settings {
        let texts = texts.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Settings::parse(&texts, &Options::default()).unwrap()
    }

    fn result(pod: &Value, native_sidecar: &str, supported: bool) -> Result<bool, Reason> {
        let options = Options { native_sidecars: supported, ..Options::default() };
        let settings = settings(&[("native-sidecar", native_sidecar)]);
        native(Pod(pod), &settings, None, &options).map_err(|(reason, _)| reason)
    }

    #[test]
    fn no_pod_is_made_to_hang() {
        let plain = json!({"spec": {"containers": [{"name": "app"}]}});
        let init = json!({"spec": {"containers": [{"name": "app"}], "initContainers": [{"name": "init"}]}});
        let job = json!({"spec": {"restartPolicy": "OnFailure", "containers": [{"name": "app"}]}});
        assert_eq!(result(&plain, "auto", true), Ok(true));
        assert_eq!(result(&plain, "auto", false), Ok(false));
        assert_eq!(result(&plain, "false", true), Ok(false));
        assert_eq!(result(&plain, "true", false), Err(Reason::NativeUnsupported));
        for pod in [init, job] {
            assert_eq!(result(&pod, "auto", true), Ok(true));
            assert_eq!(result(&pod, "auto", false), Err(Reason::WouldHang));
            assert_eq!(result(&pod, "false", true), Err(Reason::WouldHang));
        }
    }

    #[test]
    fn pods_that_the_sidecar_cannot_serve_are_skipped() {
        for (pod, reason) in [
            (json!({"spec": {"hostNetwork": true}}), Reason::HostNetwork),
            (json!({"spec": {"os": {"name": "windows"}}}), Reason::Windows),
            (json!({"spec": {"nodeSelector": {"kubernetes.io/os": "windows"}}}), Reason::Windows),
            (json!({"spec": {"containers": [{"name": "istio-proxy"}]}}), Reason::Istio),
            (json!({"metadata": {"labels": {"sidecar.istio.io/inject": "true"}}}), Reason::Istio),
            (json!({"metadata": {"annotations": {"sidecar.istio.io/inject": "true"}}}), Reason::Istio),
            (json!({"metadata": {"labels": {"istio.io/rev": "canary"}}}), Reason::Istio),
            (json!({"spec": {"initContainers": [{"name": "linkerd-proxy"}]}}), Reason::Linkerd),
            (json!({"metadata": {"annotations": {"linkerd.io/inject": "enabled"}}}), Reason::Linkerd),
            (json!({"spec": {"containers": [{"name": "whichpod"}]}}), Reason::NameTaken),
            (
                json!({"spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "a"}]}}),
                Reason::MalformedObject,
            ),
            (json!({"spec": {"dnsPolicy": "Default"}}), Reason::DnsUnknown),
            (json!({"spec": {"dnsPolicy": "None"}}), Reason::DnsUnknown),
        ] {
            assert_eq!(result(&pod, "auto", true), Err(reason), "{pod}");
        }
        assert_eq!(
            result(&json!({"spec": {"dnsPolicy": "ClusterFirstWithHostNet"}}), "auto", true),
            Ok(true)
        );
    }

    #[test]
    fn a_mesh_of_the_namespace_counts_unless_the_pod_opts_out() {
        let pairs = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let namespace = |labels: &[(&str, &str)], annotations: &[(&str, &str)]| Namespace {
            labels: pairs(labels),
            annotations: pairs(annotations),
        };
        let reason = |pod: Value, namespace: &Namespace| {
            native(Pod(&pod), &settings(&[]), Some(namespace), &Options::default())
                .err()
                .map(|(reason, _)| reason)
        };
        let istio = namespace(&[("istio-injection", "enabled")], &[]);
        assert_eq!(reason(json!({}), &istio), Some(Reason::Istio));
        assert_eq!(
            reason(json!({"metadata": {"labels": {"sidecar.istio.io/inject": "false"}}}), &istio),
            None
        );
        assert_eq!(reason(json!({}), &namespace(&[("istio.io/rev", "stable")], &[])), Some(Reason::Istio));
        assert_eq!(
            reason(json!({}), &namespace(&[("istio-injection", "disabled"), ("istio.io/rev", "x")], &[])),
            None
        );
        let linkerd = namespace(&[], &[("linkerd.io/inject", "enabled")]);
        assert_eq!(reason(json!({}), &linkerd), Some(Reason::Linkerd));
        assert_eq!(
            reason(json!({"metadata": {"annotations": {"linkerd.io/inject": "disabled"}}}), &linkerd),
            None
        );
    }
}
