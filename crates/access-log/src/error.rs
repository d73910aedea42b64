//! Errors: each names the thing, the value, the reason and the remedy.

use std::fmt;
use std::path::PathBuf;

/// A format that can't be compiled: everything that is wrong with it, at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormatError {
    /// In the order of the text; at least one.
    pub problems: Vec<Problem>,
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("log format: ")?;
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for FormatError {}

/// One thing that is wrong with a format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Bytes from the start of the text to the operator.
    pub offset: usize,
    /// The operator as it was written, or the whole text where no operator is at fault.
    pub operator: String,
    /// What is wrong.
    pub reason: String,
    /// What to write instead.
    pub remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { offset, operator, reason, remedy } = self;
        let shown: String = operator.chars().take(80).collect();
        let more = if shown.len() < operator.len() { "..." } else { "" };
        write!(f, "{shown:?}{more} at byte {offset}: {reason} ({remedy})")
    }
}

/// A filter that can't be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// No such response flag.
    #[error("log filter: flag {flag:?}: no such response flag; take one of {known}, or * for any")]
    UnknownFlag {
        /// As it was written.
        flag: String,
        /// All there are, comma separated.
        known: String,
    },
    /// Not the name of a header (RFC 9110 §5.1).
    #[error(
        "log filter: header {name:?}: not a header name; take letters, digits and dashes, such as x-debug"
    )]
    HeaderName {
        /// As it was written.
        name: String,
    },
    /// Not a share.
    #[error("log filter: sample {share}: not a share; take a number from 0.0 (no line) to 1.0 (every line)")]
    Sample {
        /// As it was written.
        share: String,
    },
}

/// A log that can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file can't be opened for appending.
    #[error("access log {}: {source}; name a file in a directory that this process may write to, or /dev/stdout", path.display())]
    File {
        /// As it was configured.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The writer's thread can't be started.
    #[error("access log: no thread for the writer: {0}; allow the process more threads (pids limit)")]
    Thread(std::io::Error),
}
