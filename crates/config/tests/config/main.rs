//! The configuration as its users meet it.

mod errors;
mod loading;
mod round_trip;
mod words;

use std::collections::BTreeMap;
use std::ffi::OsString;

use whichpod_config::{Checks, Config, Failure, Outcome, load};

/// A start with these arguments and variables.
fn start(args: &[&str], variables: &[(&str, &str)]) -> Result<Outcome, Failure> {
    let env: BTreeMap<String, OsString> =
        variables.iter().map(|(name, value)| ((*name).to_owned(), OsString::from(*value))).collect();
    let checks = Checks {
        log_format: &|format| {
            if format.contains("%NO%") { Err("unknown operator NO".into()) } else { Ok(()) }
        },
        response_flag: &|flag| flag == "UH" || flag == "UF",
    };
    load(["whichpod-sidecar"].iter().chain(args).map(OsString::from), &env, &checks)
}

/// What runs, and the warnings.
fn run(args: &[&str], variables: &[(&str, &str)]) -> Result<(Config, Vec<String>), String> {
    match start(args, variables) {
        Ok(Outcome::Run { config, warnings } | Outcome::Check { config, warnings }) => Ok((config, warnings)),
        Ok(Outcome::Print(text)) => Err(text),
        Err(failure) => Err(failure.to_string()),
    }
}

/// What runs with an inline document.
fn inline(document: &str) -> Result<Config, String> {
    run(&[], &[("WHICHPOD_CONFIG", document)]).map(|(config, _)| config)
}

/// The problems, one line each.
fn problems(args: &[&str], variables: &[(&str, &str)]) -> Vec<String> {
    match start(args, variables) {
        Ok(outcome) => vec![format!("{outcome:?}")],
        Err(failure) => failure.problems.iter().map(ToString::to_string).collect(),
    }
}
