//! Whether the API server will trust what is served: the same check as its client's, against the live `caBundle`.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, WebhookClientConfig};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use whichpod_runtime::tls;

use super::material::Certificate;

/// The certificates of a `caBundle`.
///
/// # Errors
/// When it is not PEM, or holds none.
pub fn authorities(bundle: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    tls::certificates(bundle)
}

/// Whether a chain is valid for a name at this time, trusting only these authorities.
///
/// # Errors
/// The reason why not.
pub fn verify(
    chain: &[Certificate],
    trusted: &[CertificateDer<'static>],
    name: &str,
    now: Timestamp,
) -> Result<(), String> {
    let (leaf, rest) = chain.split_first().ok_or("there is no certificate")?;
    let roots = tls::roots(trusted.iter().cloned())?;
    let provider = Arc::new(crypto::ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| error.to_string())?;
    let host = name.trim_start_matches('[').trim_end_matches(']');
    let server_name =
        ServerName::try_from(host).map_err(|_| format!("{name:?} is no DNS name and no IP address"))?;
    let intermediates: Vec<_> = rest.iter().map(|certificate| certificate.der.clone()).collect();
    let seconds = u64::try_from(now.as_second()).unwrap_or(0);
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
    let verified = verifier.verify_server_cert(&leaf.der, &intermediates, &server_name, &[], now);
    verified.map(drop).map_err(|error| error.to_string())
}

/// With an annotation that begins so, cert-manager is asked to write the `caBundle`.
const INJECTED_BY_CERT_MANAGER: &str = "cert-manager.io/inject-";

/// Whether the API server would trust the chain for every webhook of a configuration. One without `caBundle` counts only
/// if `system_roots` says that the API server may know the authority by itself, and nobody is about to write one.
///
/// # Errors
/// Which webhook it is not good for, and why.
pub fn check(
    chain: &[Certificate],
    configuration: &MutatingWebhookConfiguration,
    system_roots: bool,
    now: Timestamp,
) -> Result<(), String> {
    let mut annotations = configuration.metadata.annotations.iter().flatten();
    let awaited = annotations.any(|(name, _)| name.starts_with(INJECTED_BY_CERT_MANAGER));
    for webhook in configuration.webhooks.iter().flatten() {
        let checked = match bundle(&webhook.client_config) {
            None if awaited => Err("its caBundle is empty, which cert-manager is to write".to_owned()),
            None if system_roots => Ok(()),
            None => Err("its caBundle is empty".to_owned()),
            Some(bundle) => authorities(bundle).and_then(|trusted| {
                let name = server_name(&webhook.client_config)
                    .ok_or_else(|| "it names neither a Service nor a URL".to_owned())?;
                verify(chain, &trusted, &name, now)
            }),
        };
        checked.map_err(|reason| format!("webhook {:?}: {reason}", webhook.name))?;
    }
    Ok(())
}

/// A `caBundle` with something in it.
pub fn bundle(client: &WebhookClientConfig) -> Option<&[u8]> {
    client.ca_bundle.as_ref().map(|bundle| bundle.0.as_slice()).filter(|bundle| !bundle.is_empty())
}

/// The name that the API server's client checks.
fn server_name(client: &WebhookClientConfig) -> Option<String> {
    match (&client.service, &client.url) {
        (Some(service), _) => Some(format!("{}.{}.svc", service.name, service.namespace)),
        (None, Some(url)) => url.parse::<http::Uri>().ok()?.host().map(str::to_owned),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificates::material::{Lifetimes, Material};
    use jiff::SignedDuration;
    use k8s_openapi::ByteString;
    use serde_json::json;

    fn material() -> Material {
        let lifetimes =
            Lifetimes { authority: SignedDuration::from_hours(9), leaf: SignedDuration::from_hours(3) };
        Material::fresh(
            &["hook.system.svc".into(), "127.0.0.1".into(), "::1".into()],
            Timestamp::now(),
            lifetimes,
        )
        .unwrap()
    }

    fn configuration(client: &serde_json::Value, bundle: Option<&str>) -> MutatingWebhookConfiguration {
        let webhook = json!({
            "name": "pods.whichpod.io", "admissionReviewVersions": ["v1"], "sideEffects": "None", "clientConfig": client,
        });
        let mut configuration: MutatingWebhookConfiguration =
            serde_json::from_value(json!({ "metadata": {}, "webhooks": [webhook] })).unwrap();
        for webhook in configuration.webhooks.iter_mut().flatten() {
            webhook.client_config.ca_bundle = bundle.map(|bundle| ByteString(bundle.as_bytes().to_vec()));
        }
        configuration
    }

    #[test]
    fn what_the_api_server_would_trust_is_told_from_what_it_would_not() {
        let (material, other) = (material(), material());
        let chain = &material.leaf().unwrap().chain;
        let service = json!({ "service": { "name": "hook", "namespace": "system" } });
        let check = |client: &serde_json::Value, bundle: Option<String>| {
            check(chain, &configuration(client, bundle.as_deref()), false, Timestamp::now())
        };
        assert_eq!(check(&service, Some(material.bundle())), Ok(()));
        assert_eq!(check(&service, Some(other.bundle() + &material.bundle())), Ok(()));
        for url in ["https://127.0.0.1:8443/mutate", "https://[::1]:8443/mutate", "https://hook.system.svc/"]
        {
            assert_eq!(check(&json!({ "url": url }), Some(material.bundle())), Ok(()), "{url}");
        }
        for (client, bundle, reason) in [
            (&service, Some(other.bundle()), "UnknownIssuer"),
            (&service, None, "its caBundle is empty"),
            (&service, Some(String::new()), "its caBundle is empty"),
            (&service, Some("garbage".to_owned()), ""),
            (&json!({ "url": "https://10.0.0.1/" }), Some(material.bundle()), "10.0.0.1"),
            (&json!({ "service": { "name": "x", "namespace": "y" } }), Some(material.bundle()), "x.y.svc"),
            (&json!({}), Some(material.bundle()), "neither a Service nor a URL"),
        ] {
            let error = check(client, bundle).unwrap_err();
            assert!(error.starts_with("webhook \"pods.whichpod.io\": ") && error.contains(reason), "{error}");
        }
    }

    #[test]
    fn an_empty_bundle_means_the_api_servers_own_roots_where_the_certificate_is_brought() {
        let material = material();
        let mut configuration = configuration(&json!({ "url": "https://127.0.0.1/" }), None);
        let chain = &material.leaf().unwrap().chain;
        assert_eq!(check(chain, &configuration, true, Timestamp::now()), Ok(()));
        // Unless cert-manager is about to write one.
        let annotation = ("cert-manager.io/inject-ca-from".to_owned(), "system/tls".to_owned());
        configuration.metadata.annotations = Some([annotation].into());
        let error = check(chain, &configuration, true, Timestamp::now()).unwrap_err();
        assert!(error.contains("cert-manager is to write"), "{error}");
    }
}
