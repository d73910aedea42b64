//! Events on users' objects: what `kubectl describe` shows them.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};

use crate::cluster::request;

/// The most bytes of an Event's note (events.k8s.io/v1).
const LONGEST_NOTE: usize = 1024;

/// Publishes Events; clones share what they have said, so that repetitions are counted, not listed.
#[derive(Clone)]
pub struct Events {
    recorder: Recorder,
}

impl Events {
    /// Events in the name of this replica.
    pub fn new(client: Client, identity: &str) -> Self {
        let reporter =
            Reporter { controller: "whichpod.io/webhook".to_owned(), instance: Some(identity.to_owned()) };
        Self { recorder: Recorder::new(client, reporter) }
    }

    /// Tells what concerns an object. That it cannot be told is only logged: nothing depends on it.
    pub async fn publish(
        &self,
        type_: EventType,
        reason: &str,
        action: &str,
        note: String,
        regarding: &ObjectReference,
    ) {
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(shortened(note)),
            action: action.to_owned(),
            secondary: None,
        };
        let what = || format!("an Event for {}", regarding.name.as_deref().unwrap_or_default());
        if let Err(error) = request::get(what, self.recorder.publish(&event, regarding)).await {
            tracing::warn!("{error}");
        }
    }
}

fn shortened(mut note: String) -> String {
    if note.len() > LONGEST_NOTE {
        let end = (0..=LONGEST_NOTE).rev().find(|end| note.is_char_boundary(*end)).unwrap_or(0);
        note.truncate(end);
    }
    note
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_never_refused_for_its_length() {
        assert_eq!(shortened("é".repeat(600)).len(), LONGEST_NOTE);
        assert_eq!(shortened("x".repeat(9)), "x".repeat(9));
    }
}
