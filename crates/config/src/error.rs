//! What is wrong, where, and what to do about it.

use std::borrow::Cow;
use std::fmt;

/// Exit code of a process whose configuration cannot be run (`EX_USAGE` of BSD's sysexits.h).
pub const EXIT_USAGE: u8 = 64;

/// Why a value is refused, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}; {remedy}")]
pub struct Fault {
    /// What is wrong with the value.
    pub reason: String,
    /// What to do about it.
    pub remedy: String,
}

impl Fault {
    pub(crate) fn new(reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { reason: reason.into(), remedy: remedy.into() }
    }
}

/// One error of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// A path in the document (`upstreams[0].listen`), a flag, a variable, or a file with line and column.
    pub path: String,
    /// The value as it was written (text in quotes), if there is one.
    pub value: Option<String>,
    /// Why it is refused, and what to write instead.
    pub fault: Fault,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, value, fault } = self;
        let (path, fault) = (legible(path), fault.to_string());
        let fault = legible(&fault);
        match value {
            Some(value) => write!(f, "{path}: {value}: {fault}"),
            None => write!(f, "{path}: {fault}"),
        }
    }
}

/// A text in one line: what somebody wrote may have controls in it, which would move the cursor or begin a line.
fn legible(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return text.into();
    }
    let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escape).collect::<String>().into()
}

/// The longest value an error repeats, in characters.
const VALUE_SHOWN: usize = 200;

/// The problems found so far.
#[derive(Debug, Default)]
pub(crate) struct Problems(Vec<Problem>);

impl Problems {
    /// Adds one about a value.
    pub fn about(&mut self, path: impl Into<String>, value: &serde_json::Value, fault: Fault) {
        let mut shown = value.to_string();
        if let Some((end, _)) = shown.char_indices().nth(VALUE_SHOWN) {
            shown.truncate(end);
            shown.push_str("...");
        }
        self.0.push(Problem { path: path.into(), value: Some(shown), fault });
    }

    /// Adds one about something that has no value, or is missing.
    pub fn at(&mut self, path: impl Into<String>, fault: Fault) {
        self.0.push(Problem { path: path.into(), value: None, fault });
    }

    /// True if there is one at this path or below it, so that nothing built on it needs another.
    pub fn under(&self, path: &str) -> bool {
        self.0.iter().any(|problem| {
            problem
                .path
                .strip_prefix(path)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The value, unless there are problems.
    pub fn none_or<T>(self, value: T) -> Result<T, Vec<Problem>> {
        if self.0.is_empty() { Ok(value) } else { Err(self.0) }
    }

    /// All of them, in the order in which they were found.
    pub fn into_vec(self) -> Vec<Problem> {
        self.0
    }
}

/// Everything that is wrong with a configuration; the process exits with [`EXIT_USAGE`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// At least one, in the order flags, environment, document, what concerns several values.
    pub problems: Vec<Problem>,
    /// What is odd but no error; often the reason of an error, such as a misspelt variable.
    pub warnings: Vec<String>,
    /// The document that paths without dashes refer to: a file, or `WHICHPOD_CONFIG`.
    pub document: Option<String>,
}

impl Failure {
    /// The process's exit code: [`EXIT_USAGE`].
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        EXIT_USAGE
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.problems.len();
        write!(f, "invalid configuration: {count} error{}", if count == 1 { "" } else { "s" })?;
        if let Some(document) = &self.document {
            write!(f, " (document: {document})")?;
        }
        for problem in &self.problems {
            write!(f, "\n{problem}")?;
        }
        for warning in &self.warnings {
            write!(f, "\nwarning: {}", legible(warning))?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}
