//! How many endpoints each Service has, from its EndpointSlices (discovery.k8s.io/v1), of which nothing else is read.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Resource;
use kube::api::ObjectMeta;
use serde::Deserialize;
use serde::de::IgnoredAny;
use whichpod_injection::ServiceName;

use super::follow::Key;

/// The label of a slice that names its Service.
const SERVICE: &str = "kubernetes.io/service-name";

/// An EndpointSlice without its endpoints.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Slice {
    metadata: ObjectMeta,
    #[serde(default)]
    address_type: String,
    #[serde(default)]
    endpoints: Option<Vec<IgnoredAny>>,
}

/// The slices of all Services.
#[derive(Debug, Default)]
pub(super) struct Slices {
    slices: HashMap<Key, Counted>,
    services: HashMap<ServiceName, BTreeMap<String, usize>>,
}

/// What one slice adds to its Service.
#[derive(Debug, Clone)]
struct Counted {
    service: ServiceName,
    address_type: String,
    endpoints: usize,
}

impl Slices {
    /// Counts a slice; returns the Services whose number may have changed.
    pub(super) fn put(&mut self, key: &Key, slice: &Slice) -> Vec<ServiceName> {
        let mut changed: Vec<_> = self.remove(key).into_iter().collect();
        let labels = slice.metadata.labels.as_ref();
        let Some(service) = labels.and_then(|labels| labels.get(SERVICE)) else { return changed };
        let service = ServiceName { namespace: key.namespace.clone(), name: service.clone() };
        let endpoints = slice.endpoints.as_ref().map_or(0, Vec::len);
        let address_type = slice.address_type.clone();
        let sums = self.services.entry(service.clone()).or_default();
        *sums.entry(address_type.clone()).or_default() += endpoints;
        self.slices.insert(key.clone(), Counted { service: service.clone(), address_type, endpoints });
        if !changed.contains(&service) {
            changed.push(service);
        }
        changed
    }

    /// Forgets a slice; returns its Service.
    pub(super) fn remove(&mut self, key: &Key) -> Option<ServiceName> {
        let Counted { service, address_type, endpoints } = self.slices.remove(key)?;
        if let Some(sums) = self.services.get_mut(&service) {
            if let Some(sum) = sums.get_mut(&address_type) {
                *sum = sum.saturating_sub(endpoints);
            }
            sums.retain(|_, sum| *sum > 0);
            if sums.is_empty() {
                self.services.remove(&service);
            }
        }
        Some(service)
    }

    /// A Service's endpoints. A pod with two addresses is in a slice of each family, so the larger family counts.
    pub(super) fn count(&self, service: &ServiceName) -> usize {
        self.services.get(service).and_then(|sums| sums.values().max().copied()).unwrap_or(0)
    }
}

impl Resource for Slice {
    type DynamicType = ();
    type Scope = <EndpointSlice as Resource>::Scope;

    fn kind(_: &()) -> Cow<'_, str> {
        EndpointSlice::kind(&())
    }

    fn group(_: &()) -> Cow<'_, str> {
        EndpointSlice::group(&())
    }

    fn version(_: &()) -> Cow<'_, str> {
        EndpointSlice::version(&())
    }

    fn plural(_: &()) -> Cow<'_, str> {
        EndpointSlice::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn slice(service: Option<&str>, family: &str, endpoints: usize) -> Slice {
        let labels = service.map(|service| json!({ "kubernetes.io/service-name": service }));
        let endpoint = json!({ "addresses": ["10.0.0.1"], "conditions": { "ready": true } });
        serde_json::from_value(json!({
            "metadata": { "labels": labels }, "addressType": family, "endpoints": vec![endpoint; endpoints],
        }))
        .unwrap()
    }

    fn key(name: &str) -> Key {
        Key { namespace: "shop".to_owned(), name: name.to_owned() }
    }

    #[test]
    fn the_slices_of_a_service_are_added_up_and_a_family_is_not_counted_twice() {
        let mut slices = Slices::default();
        let service = |name: &str| ServiceName { namespace: "shop".to_owned(), name: name.to_owned() };
        slices.put(&key("a"), &slice(Some("web"), "IPv4", 100));
        slices.put(&key("b"), &slice(Some("web"), "IPv4", 20));
        slices.put(&key("c"), &slice(Some("web"), "IPv6", 119));
        slices.put(&key("d"), &slice(None, "IPv4", 5));
        assert_eq!(slices.count(&service("web")), 120);
        assert_eq!(slices.put(&key("b"), &slice(Some("web"), "IPv4", 1)), [service("web")]);
        assert_eq!(slices.count(&service("web")), 119);
        assert_eq!(slices.put(&key("b"), &slice(Some("db"), "IPv4", 1)), [service("web"), service("db")]);
        for name in ["a", "b", "c", "d"] {
            slices.remove(&key(name));
        }
        assert_eq!(slices.count(&service("web")), 0);
        assert!(slices.services.is_empty() && slices.slices.is_empty());
    }

    #[test]
    fn a_slice_without_endpoints_counts_nothing() {
        let none: Slice = serde_json::from_value(json!({ "metadata": {}, "endpoints": null })).unwrap();
        assert!(Slices::default().put(&key("a"), &none).is_empty());
    }
}
