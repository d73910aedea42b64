//! How the command ends, by the codes of sysexits.h, so that scripts can tell what went wrong.

use std::fmt;
use std::process::ExitCode;

/// Why the command fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Anything else, or something is left to do.
    Failed = 1,
    /// The command line is wrong.
    Usage = 64,
    /// A manifest cannot be read.
    Data = 65,
    /// A file or an object does not exist.
    NoInput = 66,
    /// The cluster cannot be reached.
    Unavailable = 69,
    /// Standard output cannot be written.
    Output = 74,
    /// The cluster says no.
    NoPermission = 77,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// A failure with its exit code.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What happened, why, and what to do about it.
    pub message: String,
}

impl Failure {
    /// A failure with this exit code.
    pub fn new(exit: Exit, message: impl Into<String>) -> Failure {
        Failure { exit, message: message.into() }
    }

    /// The command line is wrong.
    pub fn usage(message: impl Into<String>) -> Failure {
        Failure::new(Exit::Usage, message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// The exit code of an error.
pub fn of(error: &anyhow::Error) -> Exit {
    error.downcast_ref::<Failure>().map_or(Exit::Failed, |failure| failure.exit)
}
