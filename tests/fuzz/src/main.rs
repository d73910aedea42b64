//! libFuzzer over the target that the variable `TARGET` names.
#![no_main]

use std::sync::OnceLock;

use whichpod_config::{Env, ProcessEnv};
use whichpod_fuzz::{TARGETS, target};

static CHOSEN: OnceLock<fn(&[u8])> = OnceLock::new();

libfuzzer_sys::fuzz_target!(init: choose(), |bytes: &[u8]| {
    if let Some(target) = CHOSEN.get() {
        target(bytes);
    }
});

/// Ends the process where there is no such target.
#[expect(clippy::print_stderr, reason = "a program's word to its user")]
fn choose() {
    let name = ProcessEnv.get("TARGET").unwrap_or_default();
    let Some(chosen) = name.to_str().and_then(target) else {
        let known: Vec<_> = TARGETS.iter().map(|(name, _)| *name).collect();
        eprintln!("TARGET is {name:?}; accepted: {}", known.join(", "));
        std::process::exit(64);
    };
    CHOSEN.get_or_init(|| chosen);
}
