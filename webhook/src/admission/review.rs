//! AdmissionReview v1 (admission.k8s.io): read, decided about and answered. Pure: the same request and the same facts
//! give the same answer, and nothing is waited for.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use kube::core::DynamicObject;
use kube::core::admission::{
    AdmissionRequest, AdmissionResponse, AdmissionReview, META_API_VERSION_V1, META_KIND, Operation,
};
use serde_json::Value;
use whichpod_injection::names::annotation;
use whichpod_injection::{Facts, Kind, Options, Outcome, Reason, Request, admit};

use super::body;

/// A request of the API server. Its objects are kept as they came: types would drop what they don't know.
#[derive(Debug)]
pub(super) struct Review {
    pub(super) request: AdmissionRequest<DynamicObject>,
    object: Value,
    old_object: Option<Value>,
}

/// Why a body is no AdmissionReview v1.
#[derive(Debug, thiserror::Error)]
#[error("the body is no AdmissionReview of {META_API_VERSION_V1}: {0}")]
pub(super) struct Malformed(String);

impl Review {
    /// Reads a body.
    pub(super) fn parse(body: &[u8]) -> Result<Self, Malformed> {
        let malformed = |reason: &dyn ToString| Malformed(reason.to_string());
        // Checked as a whole rather than string by string.
        let body = std::str::from_utf8(body).map_err(|error| malformed(&error))?;
        let mut review = body::parse(body).map_err(|error| malformed(&error))?;
        let mut take =
            |pointer: &str| review.pointer_mut(pointer).map(Value::take).filter(|value| !value.is_null());
        let (object, old_object) = (take("/request/object"), take("/request/oldObject"));
        let review: AdmissionReview<DynamicObject> =
            serde_json::from_value(review).map_err(|error| malformed(&error))?;
        let types = &review.types;
        if (types.kind.as_str(), types.api_version.as_str()) != (META_KIND, META_API_VERSION_V1) {
            return Err(malformed(&format!("it is {} of {}", types.kind, types.api_version)));
        }
        let request: AdmissionRequest<DynamicObject> =
            review.try_into().map_err(|_| malformed(&"it has no request"))?;
        if request.uid.is_empty() {
            return Err(malformed(&"request.uid is empty"));
        }
        Ok(Self { request, object: object.unwrap_or(Value::Null), old_object })
    }

    /// Decides about the object. `None` for operations that put nothing into the cluster.
    pub(super) fn decide(&self, facts: &Facts, options: &Options) -> Option<Outcome> {
        let operation = match self.request.operation {
            Operation::Create => whichpod_injection::Operation::Create,
            Operation::Update => whichpod_injection::Operation::Update,
            Operation::Delete | Operation::Connect => return None,
        };
        let request = Request {
            operation,
            namespace: self.request.namespace.as_deref().unwrap_or_default(),
            object: &self.object,
            old_object: self.old_object.as_ref(),
            subresource: self.request.sub_resource.as_deref(),
            recompute: false,
        };
        Some(admit(&request, facts, options))
    }

    /// What the user wrote about upstreams, for the audit log.
    fn upstreams(&self) -> Option<&str> {
        let key = annotation::key(annotation::UPSTREAMS);
        let template = Kind::of(&self.object).map_or("", Kind::template);
        [&self.object, self.object.pointer(template)?]
            .into_iter()
            .find_map(|object| object.pointer("/metadata/annotations")?.get(&key)?.as_str())
    }

    /// The name of the object, or what its name will begin with.
    pub(super) fn name(&self) -> &str {
        let generated =
            || self.object.pointer("/metadata/generateName").and_then(Value::as_str).unwrap_or_default();
        if self.request.name.is_empty() { generated() } else { &self.request.name }
    }
}

/// The answer to a decision.
///
/// # Errors
/// When the patch cannot be written as JSON.
pub(super) fn answer(review: &Review, outcome: Option<Outcome>) -> Result<AdmissionResponse, String> {
    let response = AdmissionResponse::from(&review.request);
    let Some(outcome) = outcome else { return Ok(response) };
    let audit_annotations = audit(review, &outcome);
    let mut response = match outcome.denied {
        Some(message) => {
            let mut denied = response.deny(message);
            denied.result.code = 403;
            denied.result.reason = "Forbidden".to_owned();
            denied
        }
        None if outcome.patch.0.is_empty() => response,
        None => response.with_patch(outcome.patch).map_err(|error| error.to_string())?,
    };
    response.warnings = Some(outcome.warnings).filter(|warnings| !warnings.is_empty());
    response.audit_annotations = audit_annotations;
    Ok(response)
}

/// The answer's bytes. `kube` writes a patch as an array of numbers; it is meant to be base64 (and is a third of that).
///
/// # Errors
/// When it cannot be written as JSON.
pub(super) fn encode(mut response: AdmissionResponse) -> serde_json::Result<Vec<u8>> {
    let patch = response.patch.take();
    let mut review = serde_json::to_value(response.into_review())?;
    if let Some(patch) = patch {
        review["response"]["patch"] = Value::String(BASE64.encode(patch));
    }
    serde_json::to_vec(&review)
}

/// Lets the object pass untouched, with a warning: an internal error must not stop anybody's deployment.
pub(super) fn pass(review: &Review, warning: &str) -> AdmissionResponse {
    let mut response = AdmissionResponse::from(&review.request);
    response.warnings = Some(vec![warning.to_owned()]);
    response
}

/// The API server puts the webhook's name and a slash before each key.
fn audit(review: &Review, outcome: &Outcome) -> HashMap<String, String> {
    // Most of what passes is none of ours, and says nothing.
    if outcome.reason == Reason::NotAsked {
        return HashMap::new();
    }
    let mut annotations = HashMap::from([("reason".to_owned(), outcome.reason.label().to_owned())]);
    if let Some(upstreams) = review.upstreams() {
        annotations.insert("upstreams".to_owned(), upstreams.to_owned());
    }
    if !outcome.twins.is_empty() {
        let twins: Vec<_> =
            outcome.twins.iter().map(|twin| format!("{}/{}", twin.namespace, twin.name)).collect();
        annotations.insert("twins".to_owned(), twins.join(", "));
    }
    annotations
}
