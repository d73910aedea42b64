//! Standard output holds what was asked for, standard error what is to be known about it.

use std::io::{self, Write};

use crate::exit::{Exit, Failure};

/// Writes everything that was asked for, at once.
///
/// # Errors
/// If nobody reads it, or the disk is full.
pub fn print(text: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text).and_then(|()| out.flush()).map_err(|error| {
        Failure::new(
            Exit::Output,
            format!("standard output cannot be written: {error}; nothing was lost, run it again"),
        )
    })
}

/// Tells the user one line.
pub fn tell(line: &str) {
    // Who has no standard error wants no messages.
    let _ = writeln!(io::stderr(), "{line}");
}
