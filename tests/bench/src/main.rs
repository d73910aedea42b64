//! `whichpod-bench`: the benchmark against the peers, and the count of our own instructions.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use whichpod_bench::options::{Action, Arguments};
use whichpod_bench::{comparison, instructions, load};

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // Nobody is left to tell if this fails.
            let _ = writeln!(std::io::stderr(), "whichpod-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<bool> {
    match Arguments::parse().action {
        Action::Compare(options) => comparison::run(&options),
        Action::Instructions(options) => instructions::run(&options),
        Action::Echo { address } => load::echo::serve(address),
    }
}
