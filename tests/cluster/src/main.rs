//! Builds, starts and stops a cluster for tests by hand.

use std::io::Write;
use std::process::ExitCode;

use whichpod_cluster::{command, exit};

fn main() -> ExitCode {
    match command::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell if this fails.
            let _ = writeln!(std::io::stderr(), "whichpod-cluster: {error:#}");
            exit::of(&error)
        }
    }
}
