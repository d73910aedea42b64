//! The Secret and the webhook configurations, read and written. Every write has a precondition, so that of two replicas
//! the one that looked earlier writes nothing.

use std::collections::BTreeMap;

use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, PatchOperation, ReplaceOperation};
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use whichpod_injection::names;

use super::material::Material;
use super::trust;
use crate::cluster::request::{self, Failed};

/// Where the certificates and the configurations are.
#[derive(Clone)]
pub(super) struct Store {
    secrets: Api<Secret>,
    secret: String,
    configurations: Api<MutatingWebhookConfiguration>,
    names: Vec<String>,
}

/// A Secret as it was read.
#[derive(Debug)]
pub(super) struct Stored {
    /// Its data and what a write must find unchanged; `None` if there is no Secret.
    found: Option<Secret>,
}

/// A configuration by its name, `None` if there is none of that name.
pub(super) type Configurations = Vec<(String, Option<MutatingWebhookConfiguration>)>;

impl Store {
    pub(super) fn new(client: &Client, namespace: &str, secret: &str, configurations: &[String]) -> Self {
        Self {
            secrets: Api::namespaced(client.clone(), namespace),
            secret: secret.to_owned(),
            configurations: Api::all(client.clone()),
            names: configurations.to_vec(),
        }
    }

    pub(super) async fn configurations(&self) -> Result<Configurations, Failed> {
        let mut found = Vec::new();
        for name in &self.names {
            let what = || format!("MutatingWebhookConfiguration {name}");
            found.push((name.clone(), request::get(what, self.configurations.get_opt(name)).await?));
        }
        Ok(found)
    }

    pub(super) async fn secret(&self) -> Result<Stored, Failed> {
        let what = || format!("Secret {}", self.secret);
        Ok(Stored { found: request::get(what, self.secrets.get_opt(&self.secret)).await? })
    }

    /// Creates or replaces the Secret; false if somebody else was faster.
    pub(super) async fn write(&self, stored: Stored, material: &Material) -> Result<bool, Failed> {
        let what = || format!("Secret {}", self.secret);
        let written = match stored.found {
            None => {
                let labels =
                    BTreeMap::from([(names::MANAGED_BY_LABEL.to_owned(), names::MANAGED_BY.to_owned())]);
                let metadata = ObjectMeta {
                    name: Some(self.secret.clone()),
                    labels: Some(labels),
                    ..ObjectMeta::default()
                };
                let secret = Secret { metadata, data: Some(material.data()), ..Secret::default() };
                request::put(what, self.secrets.create(&PostParams::default(), &secret)).await?
            }
            Some(mut secret) => {
                // It still has the resourceVersion it was read with, which makes this a conditional write.
                secret.data.get_or_insert_default().extend(material.data());
                request::put(what, self.secrets.replace(&self.secret, &PostParams::default(), &secret))
                    .await?
            }
        };
        Ok(written.is_some())
    }

    /// Writes the authorities into every `caBundle` of a configuration that has others; false if somebody else was
    /// faster.
    pub(super) async fn publish(
        &self,
        name: &str,
        configuration: &MutatingWebhookConfiguration,
        material: &Material,
    ) -> Result<bool, Failed> {
        let what = || format!("the caBundle of MutatingWebhookConfiguration {name}");
        let patch = Patch::Json::<()>(bundle_patch(configuration, material));
        let parameters = PatchParams::default();
        let written = self.configurations.patch(name, &parameters, &patch);
        Ok(request::put(what, written).await?.is_some())
    }
}

impl Stored {
    /// What the Secret's data say; `None` if it is not there or empty, as a chart leaves it.
    pub(super) fn data(&self) -> Option<&BTreeMap<String, ByteString>> {
        self.found.as_ref()?.data.as_ref().filter(|data| !data.is_empty())
    }
}

/// Whether every configuration that exists has exactly these authorities.
pub(super) fn is_published(configurations: &Configurations, material: &Material) -> bool {
    configurations
        .iter()
        .filter_map(|(_, configuration)| configuration.as_ref())
        .all(|found| lacking(found, material).is_empty())
}

/// The webhooks of a configuration, by their place, that have other authorities.
pub(super) fn lacking(configuration: &MutatingWebhookConfiguration, material: &Material) -> Vec<usize> {
    let webhooks = configuration.webhooks.iter().flatten().enumerate();
    let has_others = webhooks.filter(|(_, webhook)| {
        !trust::bundle(&webhook.client_config).is_some_and(|bundle| material.is_bundle(bundle))
    });
    has_others.map(|(place, _)| place).collect()
}

/// Only the bundles: whatever else is in the configuration may be newer than this program. The resourceVersion makes the
/// API server refuse the patch if the configuration has changed, and with it maybe the webhooks' order.
fn bundle_patch(configuration: &MutatingWebhookConfiguration, material: &Material) -> json_patch::Patch {
    let version = configuration.metadata.resource_version.clone().unwrap_or_default();
    let unchanged = PatchOperation::Replace(ReplaceOperation {
        path: PointerBuf::from_tokens(["metadata", "resourceVersion"]),
        value: Value::String(version),
    });
    let bundle = json!(ByteString(material.bundle().into_bytes()));
    let bundles = lacking(configuration, material).into_iter().map(|place| {
        let path = PointerBuf::from_tokens(["webhooks", &place.to_string(), "clientConfig", "caBundle"]);
        PatchOperation::Add(AddOperation { path, value: bundle.clone() })
    });
    json_patch::Patch(std::iter::once(unchanged).chain(bundles).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificates::material::Lifetimes;
    use jiff::{SignedDuration, Timestamp};

    #[test]
    fn only_bundles_with_other_authorities_are_written_and_only_if_nothing_has_changed() {
        let lifetimes =
            Lifetimes { authority: SignedDuration::from_hours(9), leaf: SignedDuration::from_hours(3) };
        let material = Material::fresh(&["localhost".to_owned()], Timestamp::now(), lifetimes).unwrap();
        let webhook = |bundle: Option<&str>| {
            json!({
                "name": "a.whichpod.io", "admissionReviewVersions": ["v1"], "sideEffects": "None",
                "clientConfig": { "caBundle": bundle.map(|bundle| json!(ByteString(bundle.as_bytes().to_vec()))) },
            })
        };
        let bundle = material.bundle();
        let configuration: MutatingWebhookConfiguration = serde_json::from_value(json!({
            "metadata": { "name": "whichpod", "resourceVersion": "7" },
            "webhooks": [webhook(None), webhook(Some(&bundle)), webhook(Some("x")), webhook(Some(&format!("{bundle}{bundle}")))],
        }))
        .unwrap();
        let patch = serde_json::to_value(bundle_patch(&configuration, &material)).unwrap();
        let paths: Vec<_> =
            patch.as_array().unwrap().iter().map(|operation| operation["path"].as_str().unwrap()).collect();
        assert_eq!(
            paths,
            [
                "/metadata/resourceVersion",
                "/webhooks/0/clientConfig/caBundle",
                "/webhooks/2/clientConfig/caBundle",
                "/webhooks/3/clientConfig/caBundle",
            ]
        );
        assert_eq!(patch[0]["value"], "7");
        let mut after = serde_json::to_value(&configuration).unwrap();
        json_patch::patch(&mut after, &bundle_patch(&configuration, &material)).unwrap();
        let after = serde_json::from_value(after).unwrap();
        assert!(is_published(
            &vec![("whichpod".to_owned(), Some(after)), ("gone".to_owned(), None)],
            &material
        ));
    }
}
