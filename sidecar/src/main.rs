//! `whichpod-sidecar`: parse, build, run, exit.

use std::process::ExitCode;

use whichpod_config::{Outcome, ProcessEnv, load};
use whichpod_runtime::{diagnostics, exit::Exit, limits};
use whichpod_sidecar::{app, log_format};

/// Gives the kernel back what is free: the system's allocator may keep it for ever, and a process that has shed its load
/// would go on shedding.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let (config, warnings, check) = match load(std::env::args_os(), &ProcessEnv, &log_format::checks()) {
        Ok(Outcome::Run { config, warnings }) => (config, warnings, false),
        Ok(Outcome::Check { config, warnings }) => (config, warnings, true),
        Ok(Outcome::Print(text)) => return print(&text),
        Err(failure) => return fail(Exit::Usage, &failure),
    };
    let diagnostics = match diagnostics::init(&config.log_level) {
        Ok(diagnostics) => diagnostics,
        Err(error) => return fail(Exit::Usage, &format_args!("log_level: {error}")),
    };
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    if check {
        return print(&config.describe());
    }
    if let Err(error) = limits::raise_open_files() {
        tracing::warn!("the limit on open files stays as it is: {error}");
    }
    match app::run(config, diagnostics) {
        Ok(()) => Exit::Ok.into(),
        Err(error) => fail(error.exit(), &error),
    }
}

#[expect(clippy::print_stdout, reason = "what was asked for on the command line")]
fn print(text: &str) -> ExitCode {
    print!("{text}");
    Exit::Ok.into()
}

#[expect(clippy::print_stderr, reason = "diagnostics may not exist yet")]
fn fail(exit: Exit, error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("whichpod-sidecar: {error}");
    exit.into()
}
