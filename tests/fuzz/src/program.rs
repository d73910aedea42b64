//! A target without libFuzzer.

use std::io;

/// Runs the files that are named on the command line through a target; it panics at the first that does not hold.
///
/// # Errors
/// When a file cannot be read.
pub fn replay(target: fn(&[u8])) -> io::Result<()> {
    for file in std::env::args_os().skip(1) {
        target(&std::fs::read(file)?);
    }
    Ok(())
}
