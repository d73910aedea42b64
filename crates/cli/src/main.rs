//! `whichpod`: parse the command line, run the command, exit.

mod ask;
mod cluster;
mod command_line;
mod commands;
mod demo;
mod files;
mod output;
mod report;
mod world;

use std::process::ExitCode;

use clap::FromArgMatches;
use whichpod::{documents, exit};

use command_line::{Arguments, Command, command};
use commands::{cleanup, inject, patch, shell, uninject, upgrade};
use exit::Exit;

fn main() -> ExitCode {
    let command = command(std::env::args_os().next().as_deref());
    let matches = command.clone().try_get_matches();
    match matches.and_then(|matches| Arguments::from_arg_matches(&matches)) {
        Ok(arguments) => run(&arguments.command, command).unwrap_or_else(|error| {
            output::tell(&format!("whichpod: {error:#}"));
            exit::of(&error).into()
        }),
        Err(error) => {
            // What cannot be printed has no reader.
            let _ = error.print();
            if error.use_stderr() { Exit::Usage.into() } else { ExitCode::SUCCESS }
        }
    }
}

fn run(chosen: &Command, command: clap::Command) -> anyhow::Result<ExitCode> {
    Ok(match chosen {
        Command::Demo(flags) => demo::run(flags)?,
        Command::Inject(flags) => inject::run(flags)?,
        Command::Uninject(flags) => uninject::run(flags)?,
        Command::Patch(flags) => patch::run(flags)?,
        Command::Upgrade(flags) => upgrade::run(flags)?,
        Command::Cleanup(flags) => cleanup::run(flags)?,
        Command::Completions(flags) => shell::completions(flags, command)?,
        Command::Man(flags) => shell::man(flags, command)?,
    })
}
