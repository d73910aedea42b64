//! From arguments and environment to a configuration, or to everything that is wrong with it.

use std::ffi::OsString;

use crate::env::Env;
use crate::error::{Failure, Problem, Problems};
use crate::form;
use crate::names;
use crate::raw::Document;
use crate::resolve::{Layers, resolve};
use crate::settings;
use crate::source::Source;
use crate::types::Config;

/// What is checked by rules that other parts own.
#[derive(Clone, Copy)]
pub struct Checks<'a> {
    /// Whether the access log's format can be compiled; the error says why not.
    pub log_format: &'a dyn Fn(&str) -> Result<(), String>,
    /// Whether there is such a response flag (`UH`).
    pub response_flag: &'a dyn Fn(&str) -> bool,
}

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Run.
    Run {
        /// What to run with.
        config: Config,
        /// To be logged.
        warnings: Vec<String>,
    },
    /// `--check`: print [`Config::describe`] and exit 0.
    Check {
        /// What would run.
        config: Config,
        /// To be printed.
        warnings: Vec<String>,
    },
    /// `--help` or `--version`: print this on stdout and exit 0.
    Print(String),
}

/// Checks a document as [`load`] does, without flags and environment; what is odd but no error is returned.
///
/// # Errors
/// Every problem.
pub fn check(document: Document, checks: &Checks<'_>) -> Result<Vec<String>, Vec<Problem>> {
    let (mut problems, mut warnings) = (Problems::default(), Vec::new());
    let layers = Layers {
        document,
        environment: settings::Layer::default(),
        flags: settings::Layer::default(),
        incomplete: false,
    };
    resolve(layers, checks, &mut problems, &mut warnings);
    problems.none_or(warnings)
}

/// Reads flags (the first argument is the program's name), environment and document, and checks all of it.
///
/// # Errors
/// [`Failure`] holds every error that was found; the process exits with [`crate::EXIT_USAGE`].
pub fn load(
    args: impl IntoIterator<Item = OsString>,
    env: &dyn Env,
    checks: &Checks<'_>,
) -> Result<Outcome, Failure> {
    let mut problems = Problems::default();
    let flags = match settings::from_flags(args, &mut problems) {
        Ok(layer) => layer,
        Err(text) => return Ok(Outcome::Print(text)),
    };
    let environment = settings::from_environment(env, &mut problems);
    let mut warnings = settings::unknown_variables(env);
    let check = flags.check.or(environment.check).unwrap_or(false);

    let inline = env.get(names::INLINE_DOCUMENT);
    let source = Source::choose(flags.file.clone(), inline, environment.file.clone(), &mut warnings);
    let name = source.as_ref().map(Source::name);
    let (document, unreadable) = match source.map(|source| source.read(&mut problems)) {
        Some(Some(value)) => (form::read(&value, &mut problems), false),
        Some(None) => (Document::default(), true),
        None => (Document::default(), false),
    };

    let incomplete = flags.incomplete || unreadable || problems.under(form::WHOLE);
    let layers = Layers { document, environment, flags, incomplete };
    let config = resolve(layers, checks, &mut problems, &mut warnings);
    match (problems.len(), check) {
        (0, true) => Ok(Outcome::Check { config, warnings }),
        (0, false) => Ok(Outcome::Run { config, warnings }),
        _ => Err(Failure { problems: problems.into_vec(), warnings, document: name }),
    }
}
