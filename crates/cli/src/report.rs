//! What became of each workload, one line each.

use whichpod_injection::{Item, Outcome, Reason};

use crate::output;

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// Sidecars are put in.
    Injecting,
    /// Sidecars are taken out.
    Removing,
}

/// Tells the user what became of each workload.
pub fn tell(doing: Doing, items: &[Item], namespace: &str) {
    for line in items.iter().flat_map(|item| lines(doing, item, namespace)) {
        output::tell(&line);
    }
}

/// The line of a workload, and one for each warning. Its namespace is named if it is not the usual one.
fn lines(doing: Doing, item: &Item, namespace: &str) -> Vec<String> {
    let Item { kind, name, outcome, .. } = item;
    let kind = kind.to_lowercase();
    let place = if item.namespace == namespace { String::new() } else { format!(" in {}", item.namespace) };
    let mut lines = vec![format!("{kind}/{name}{place}: {}", verdict(doing, outcome))];
    let warnings = outcome.warnings.iter().chain(&outcome.denied);
    lines.extend(warnings.map(|warning| {
        let text = warning.strip_prefix("whichpod: ").unwrap_or(warning);
        format!("  warning: {text}")
    }));
    lines
}

/// In a word or two.
fn verdict(doing: Doing, outcome: &Outcome) -> String {
    match (doing, outcome.reason) {
        // What was computed anew may be what there was.
        (_, Reason::Injected) if outcome.patch.is_empty() => "unchanged".to_owned(),
        (_, Reason::Injected) => "injected".to_owned(),
        (_, Reason::Restored) => "restored".to_owned(),
        (_, Reason::Removed) => "removed".to_owned(),
        (_, Reason::Unchanged) | (Doing::Removing, Reason::NotAsked) => "unchanged".to_owned(),
        (_, reason) => format!("skipped: {}", reason.label().replace('_', " ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use whichpod_injection::Patch;

    fn item(reason: Reason, patch: Patch, warnings: &[&str]) -> Item {
        let warnings = warnings.iter().map(|&text| text.to_owned()).collect();
        let outcome = Outcome { reason, denied: None, patch, warnings, twins: Vec::new() };
        Item { kind: "StatefulSet".to_owned(), namespace: "shop".to_owned(), name: "db".to_owned(), outcome }
    }

    fn some_patch() -> Patch {
        serde_json::from_value(json!([{"op": "remove", "path": "/spec"}])).unwrap()
    }

    #[test]
    fn a_report_names_the_workload_the_verdict_and_every_warning() {
        let injected = item(Reason::Injected, some_patch(), &[]);
        assert_eq!(lines(Doing::Injecting, &injected, "shop"), ["statefulset/db: injected"]);
        let skipped = item(Reason::NoUpstreams, Patch::default(), &["whichpod: name some"]);
        assert_eq!(
            lines(Doing::Injecting, &skipped, "default"),
            ["statefulset/db in shop: skipped: no upstreams", "  warning: name some"]
        );
    }

    #[test]
    fn nothing_is_called_changed_that_stays_as_it_is() {
        let verdict = |doing, reason, patch| verdict(doing, &item(reason, patch, &[]).outcome);
        assert_eq!(verdict(Doing::Injecting, Reason::Injected, Patch::default()), "unchanged");
        assert_eq!(verdict(Doing::Injecting, Reason::Unchanged, Patch::default()), "unchanged");
        assert_eq!(verdict(Doing::Injecting, Reason::NotAsked, Patch::default()), "skipped: not asked");
        assert_eq!(verdict(Doing::Removing, Reason::NotAsked, Patch::default()), "unchanged");
        assert_eq!(verdict(Doing::Removing, Reason::Removed, some_patch()), "removed");
    }
}
