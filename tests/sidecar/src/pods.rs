//! Load over scripted pods, and what they received.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use whichpod_testkit::load::Load;
use whichpod_testkit::scripted::{ANSWER, ScriptedBackend};

/// Load whose answers must be those of a [`ScriptedBackend`].
#[must_use]
pub fn scripted_load(target: SocketAddr) -> Load {
    Load::new(target).check(Arc::new(|answer| {
        let text = String::from_utf8_lossy(answer.body());
        if answer.status().as_u16() == 200 && text == ANSWER {
            Ok("scripted".to_owned())
        } else {
            Err(format!("{}: {text}", answer.status()))
        }
    }))
}

/// How often each `x-request-id` reached these pods.
#[must_use]
pub fn request_ids<'a>(pods: impl IntoIterator<Item = &'a ScriptedBackend>) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for bytes in pods.into_iter().flat_map(ScriptedBackend::received) {
        let text = String::from_utf8_lossy(&bytes);
        for id in text.lines().filter_map(|line| line.strip_prefix("x-request-id: ")) {
            *counts.entry(id.to_owned()).or_default() += 1;
        }
    }
    counts
}

/// Everything that the pod received, over all connections.
#[must_use]
pub fn received(pod: &ScriptedBackend) -> String {
    String::from_utf8_lossy(&pod.received().concat()).into_owned()
}

/// The lines of the first head that the pod received, without the request id that was made on the way.
#[must_use]
pub fn received_head(pod: &ScriptedBackend) -> Vec<String> {
    let received = received(pod);
    let head = received.split("\r\n\r\n").next().unwrap_or_default();
    head.lines().filter(|line| !line.starts_with("x-request-id: ")).map(str::to_owned).collect()
}
