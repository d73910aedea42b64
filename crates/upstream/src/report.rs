//! What operators read about discovery: changes once, troubles once for each time they begin, with the remedy.

use std::sync::Arc;

use crate::endpoint::Endpoint;
use crate::lookup::refusal;
use crate::refresh::Outcome;
use crate::set::{EndpointSet, Merge, SetState, Source};
use crate::upstream::{Settings, Target};

/// Names at most so many pods in one line.
const LISTED: usize = 10;

/// What was said already.
pub(crate) struct Report {
    upstream: Arc<str>,
    target: String,
    fallback: Option<String>,
    /// A failure of the target or the fallback that was warned about.
    failing: [bool; 2],
    /// The refused addresses that were warned about.
    refused: String,
}

impl Report {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            upstream: Arc::clone(&settings.name),
            target: settings.target.to_string(),
            fallback: settings.fallback.as_ref().map(ToString::to_string),
            failing: [false; 2],
            refused: String::new(),
        }
    }

    fn name(&self, source: Source) -> &str {
        match (source, &self.fallback) {
            (Source::Fallback, Some(fallback)) => fallback,
            _ => &self.target,
        }
    }

    /// A search list was followed to its end.
    pub(crate) fn pinned(&self, target: &Target, name: &str) {
        tracing::info!(target: "whichpod::discovery", upstream = &*self.upstream, %target, asked = name, "the name is asked as this from now on");
    }

    pub(crate) fn outcome(&mut self, source: Source, outcome: &Outcome) {
        let failing = self.failing[usize::from(source == Source::Fallback)];
        let name = self.name(source);
        match outcome {
            Outcome::Failed(reason) if !failing => {
                tracing::warn!(target: "whichpod::discovery", upstream = &*self.upstream, name, reason = &**reason, "DNS fails; the last known pods are used, if there were any");
            }
            Outcome::Pods(_) | Outcome::Absent(_) if failing => {
                tracing::info!(target: "whichpod::discovery", upstream = &*self.upstream, name, "DNS answers again");
            }
            _ => {}
        }
        let refused = match outcome {
            Outcome::Pods(pods) if !pods.refused.is_empty() => refusal(name, &pods.refused),
            Outcome::Pods(_) => String::new(),
            _ => self.refused.clone(),
        };
        if refused != self.refused && !refused.is_empty() {
            tracing::warn!(target: "whichpod::discovery", upstream = &*self.upstream, name, reason = refused, "part of the answer is refused");
        }
        self.refused = refused;
        self.failing[usize::from(source == Source::Fallback)] = matches!(outcome, Outcome::Failed(_));
    }

    pub(crate) fn published(&self, before: &EndpointSet, after: &EndpointSet, merge: &Merge) {
        let upstream = &*self.upstream;
        if merge.changed() {
            let (added, removed) = (list(&merge.added), list(&merge.removed));
            let name = self.name(after.source());
            tracing::info!(target: "whichpod::discovery", upstream, name, pods = after.endpoints().len(), added, removed, "the pods changed");
        }
        match (before.source(), after.source()) {
            (Source::Target, Source::Fallback) => {
                tracing::warn!(target: "whichpod::discovery", upstream, target = self.target, fallback = self.name(Source::Fallback), reason = after.last_error().unwrap_or("-"), "the target has no pods, so its fallback is used, which hides them; create a headless Service (clusterIP: None) of the target's name");
            }
            (Source::Fallback, Source::Target) => {
                tracing::info!(target: "whichpod::discovery", upstream, target = self.target, "the target is there: its fallback is no longer used");
            }
            _ => {}
        }
        if after.state() == SetState::Empty && before.state() != SetState::Empty {
            tracing::warn!(target: "whichpod::discovery", upstream, target = self.target, reason = after.last_error().unwrap_or("-"), "there are no pods; check that the Service exists, that its selector matches, and that pods are ready");
        }
        if after.virtual_ip() && !before.virtual_ip() && after.source() == Source::Target {
            let address = after.endpoints().first().map(|endpoint| endpoint.address().ip().to_string());
            tracing::warn!(target: "whichpod::discovery", upstream, target = self.target, address, "the answer is the Service's virtual IP, which hides the pods: which one serves a request cannot be known; create a headless Service (clusterIP: None) with the same selector and make it the target");
        }
    }
}

/// `10.0.0.1:80 (web-0), 10.0.0.2:80 and 3 more`.
fn list(endpoints: &[Arc<Endpoint>]) -> String {
    let named = |endpoint: &Arc<Endpoint>| match endpoint.identity() {
        Some(name) => format!("{} ({name})", endpoint.address()),
        None => endpoint.address().to_string(),
    };
    let mut text = endpoints.iter().take(LISTED).map(named).collect::<Vec<_>>().join(", ");
    if endpoints.len() > LISTED {
        text.push_str(&format!(" and {} more", endpoints.len() - LISTED));
    }
    text
}
