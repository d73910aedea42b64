//! The sidecar's configuration: what is accepted is what runs, and what is not is told with everything that is wrong.

use std::collections::BTreeMap;
use std::ffi::OsString;

use whichpod_config::{Config, Failure, Outcome, load};
use whichpod_sidecar::log_format;

use crate::parts::lines;

/// What `--check` begins its sections with.
const SECTIONS: [&str; 4] = ["upstream ", "dns", "access log", "process"];

/// Any document.
pub fn config_document(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if text.contains('\0') {
        // No variable can hold it.
        return;
    }
    if let Some(config) = accepted(start(&[], &[("WHICHPOD_CONFIG", text)])) {
        let written = serde_json::to_string(&config.to_document()).expect("a document is JSON");
        let again = accepted(start(&[], &[("WHICHPOD_CONFIG", &written)]));
        assert_eq!(again.as_ref(), Some(&config), "{written}");
    }
}

/// Any flags and variables: one a line, `NAME=value` for a variable of ours.
pub fn config_flags(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    // No file is read, whichever is named.
    if text.contains('\0') || text.to_ascii_lowercase().contains("config") {
        return;
    }
    let all: Vec<&str> = lines(text.as_bytes()).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    let (variables, flags): (Vec<&str>, Vec<&str>) =
        all.into_iter().partition(|line| line.starts_with("WHICHPOD_"));
    let variables: Vec<_> = variables.iter().filter_map(|line| line.split_once('=')).collect();
    let _ = accepted(start(&flags, &variables));
}

fn start(args: &[&str], variables: &[(&str, &str)]) -> Result<Outcome, Failure> {
    let env: BTreeMap<String, OsString> =
        variables.iter().map(|(name, value)| ((*name).to_owned(), OsString::from(*value))).collect();
    load(["whichpod-sidecar"].iter().chain(args).map(OsString::from), &env, &log_format::checks())
}

/// The configuration, if it is accepted; if not, every problem has its line and says something.
fn accepted(outcome: Result<Outcome, Failure>) -> Option<Config> {
    match outcome {
        Ok(Outcome::Run { config, warnings } | Outcome::Check { config, warnings }) => {
            for warning in warnings {
                assert!(!warning.contains(is_control), "{warning:?}");
            }
            let described = config.describe();
            for line in described.lines() {
                assert!(!line.contains(is_control), "{line:?}");
                assert!(
                    line.starts_with("  ") || SECTIONS.iter().any(|section| line.starts_with(section)),
                    "a line of its own: {line:?}"
                );
            }
            Some(config)
        }
        Ok(Outcome::Print(_)) => None,
        Err(failure) => {
            assert!(!failure.problems.is_empty());
            let text = failure.to_string();
            for problem in &failure.problems {
                assert!(!problem.fault.reason.is_empty() && !problem.path.is_empty(), "{problem:?}");
            }
            let lines = 1 + failure.problems.len() + failure.warnings.len();
            assert_eq!(text.lines().count(), lines, "one line each: {text:?}");
            assert!(!text.contains(|c| is_control(c) && c != '\n'), "{text:?}");
            None
        }
    }
}

/// What moves the cursor in every terminal; the rest of the controls is text like any other here.
fn is_control(c: char) -> bool {
    c < ' '
}
