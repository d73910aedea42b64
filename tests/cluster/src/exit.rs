//! How the command ends, by the codes of sysexits.h, so that scripts can tell what went wrong.

use std::fmt;
use std::io::ErrorKind;
use std::process::ExitCode;

/// Anything that has no number of its own.
pub(crate) const FAILED: u8 = 1;
/// The command line, or the environment, is wrong.
pub(crate) const USAGE: u8 = 64;
/// A program that is needed is missing.
pub(crate) const UNAVAILABLE: u8 = 69;
/// A file cannot be made: no room, or nowhere to write.
pub(crate) const CANNOT_CREATE: u8 = 73;
/// Reading or writing failed.
pub(crate) const INPUT_OUTPUT: u8 = 74;
/// Only root may do this.
pub(crate) const NO_PERMISSION: u8 = 77;

/// A failure with its exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// The exit code of an error.
pub fn of(error: &anyhow::Error) -> ExitCode {
    ExitCode::from(code(error))
}

fn code(error: &anyhow::Error) -> u8 {
    if let Some(failure) = error.downcast_ref::<Failure>() {
        return failure.code;
    }
    let Some(cause) = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>()) else {
        return FAILED;
    };
    match cause.kind() {
        ErrorKind::PermissionDenied => NO_PERMISSION,
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::ReadOnlyFilesystem => CANNOT_CREATE,
        _ => INPUT_OUTPUT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::{Context, anyhow};

    #[test]
    fn scripts_see_what_kind_of_failure_it_was_however_much_was_said_about_it() {
        let io = |kind: ErrorKind| Err::<(), _>(std::io::Error::from(kind)).context("cannot write /x");
        assert_eq!(code(&io(ErrorKind::ReadOnlyFilesystem).unwrap_err()), CANNOT_CREATE);
        assert_eq!(code(&io(ErrorKind::PermissionDenied).unwrap_err()), NO_PERMISSION);
        assert_eq!(code(&io(ErrorKind::BrokenPipe).unwrap_err()), INPUT_OUTPUT);
        let missing = Err::<(), _>(Failure::new(UNAVAILABLE, "no runc")).context("cannot start");
        assert_eq!(code(&missing.unwrap_err()), UNAVAILABLE);
        assert_eq!(code(&anyhow!("no idea")), FAILED);
    }
}
