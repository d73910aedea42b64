//! The pure core of injection: (object as JSON, what is known of the cluster, the operator's options) → plan → JSON
//! Patch, and back. No client, no clock, no network; the same input gives the same bytes.
//!
//! [`admit`] answers one admission request; [`inject`] and [`uninject`] do the same by hand for whole documents; [`twin`]
//! says what becomes of headless twins. What the caller looked up beforehand is in [`Facts`].

mod decision;

mod asked;
mod configuration;
mod exclusion;
mod malformed;
mod plan;
mod settings;
mod upstreams;

mod app_ports;
mod calls;
mod discover;
mod env_values;
mod loopback;
mod place;
mod redirect;

mod container;
mod sidecar_config;

mod changes;
mod matching;
mod patch;
mod rewrite;
mod status;

mod by_hand;
pub mod twin;
mod twin_name;

mod facts;
pub mod names;
pub mod native;
mod options;
mod reason;
mod service;
mod warning;
mod workload;

mod hash;
mod json;
mod nearest;
mod quantity;

pub use by_hand::{Ask, Item, inject, uninject};
pub use decision::{Operation, Request, is_injected, twins_wanted};
pub use facts::{Facts, Namespace};
pub use json_patch::Patch;
pub use options::{CheckLogFormat, HeadlessServices, Options, Resources};
pub use reason::Reason;
pub use service::{Service, ServiceKind, ServiceName, ServicePort, TargetPort};
pub use warning::LONGEST as LONGEST_WARNING;
pub use workload::Kind;

use decision::Decision;
use warning::Warning;

/// What to answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Why; its [`Reason::label`] is for metrics and audit annotations.
    pub reason: Reason,
    /// The message of a refusal; `None` lets the request pass.
    pub denied: Option<String>,
    /// What is to be changed; empty if nothing.
    pub patch: Patch,
    /// To be shown to the user, each at most 256 characters.
    pub warnings: Vec<String>,
    /// Services whose headless twins the sidecar asks for, to be made outside of admission.
    pub twins: Vec<ServiceName>,
}

impl Outcome {
    fn of(decision: Decision, patch: Patch) -> Outcome {
        let Decision { reason, denied, warnings, twins, .. } = decision;
        Outcome { reason, denied, patch, warnings: warning::texts(&warnings), twins }
    }

    fn left_alone(reason: Reason, warnings: &[Warning]) -> Outcome {
        Outcome {
            reason,
            denied: None,
            patch: Patch::default(),
            warnings: warning::texts(warnings),
            twins: Vec::new(),
        }
    }
}

/// Decides about one object of an admission request. Never fails and never panics: what cannot be done is a warning.
pub fn admit(request: &Request<'_>, facts: &Facts, options: &Options) -> Outcome {
    let mut decision = decision::decide(request, facts, options);
    let path = Kind::of(request.object).map_or("", Kind::template);
    let patch = match (decision.rewrite.take(), request.object.pointer(path)) {
        (Some(rewrite), Some(template)) => rewrite.patch(path, template),
        _ => Patch::default(),
    };
    Outcome::of(decision, patch)
}
