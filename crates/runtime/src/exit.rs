//! Exit codes: the `sysexits.h` numbers, so that a script can tell a typing error from an outage.

use std::process::ExitCode;

/// Why a process ended; the number is the process's exit code (`sysexits.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Exit {
    /// Everything went as asked.
    Ok = 0,
    /// Wrong flags, environment or configuration on the command's side.
    Usage = 64,
    /// The input could be read but says something wrong.
    DataErr = 65,
    /// An input file is not there or cannot be read.
    NoInput = 66,
    /// A service that is needed is not to be had.
    Unavailable = 69,
    /// A defect in the program itself.
    Software = 70,
    /// The operating system refused something it should grant.
    OsErr = 71,
    /// Reading or writing failed.
    IoErr = 74,
    /// It failed now and may work later.
    TempFail = 75,
    /// A permission is missing.
    NoPerm = 77,
    /// Something around the process is set up wrongly.
    Config = 78,
}

impl Exit {
    /// The number that the shell sees.
    pub const fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_see_the_numbers_of_sysexits() {
        let all = [
            (Exit::Ok, 0),
            (Exit::Usage, 64),
            (Exit::DataErr, 65),
            (Exit::NoInput, 66),
            (Exit::Unavailable, 69),
            (Exit::Software, 70),
            (Exit::OsErr, 71),
            (Exit::IoErr, 74),
            (Exit::TempFail, 75),
            (Exit::NoPerm, 77),
            (Exit::Config, 78),
        ];
        for (exit, code) in all {
            assert_eq!(exit.code(), code, "{exit:?}");
        }
    }
}
