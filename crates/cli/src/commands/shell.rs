//! `whichpod completions` and `whichpod man`: what packages and shells want to know of the command line.

use std::process::ExitCode;

use clap::Command;
use clap_complete::Shell;

use crate::exit::{Exit, Failure};
use crate::output;

/// The shells with completions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum CompletedShell {
    /// `source <(whichpod completions bash)`
    Bash,
    /// `source <(whichpod completions zsh)`
    Zsh,
    /// `whichpod completions fish | source`
    Fish,
}

/// Flags of `whichpod completions`.
#[derive(Debug, clap::Args)]
pub struct CompletionOptions {
    /// The shell.
    shell: CompletedShell,
}

/// Flags of `whichpod man`.
#[derive(Debug, clap::Args)]
pub struct ManOptions {
    /// The page of this command instead of the whole.
    #[arg(value_name = "COMMAND")]
    command: Option<String>,
}

/// Prints the shell's script.
///
/// # Errors
/// If it cannot be printed.
pub fn completions(flags: &CompletionOptions, mut command: Command) -> Result<ExitCode, Failure> {
    let shell = match flags.shell {
        CompletedShell::Bash => Shell::Bash,
        CompletedShell::Zsh => Shell::Zsh,
        CompletedShell::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "whichpod", &mut script);
    output::print(&script)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints a page in roff, for `man -l -`.
///
/// # Errors
/// If there is no such command.
pub fn man(flags: &ManOptions, mut command: Command) -> Result<ExitCode, Failure> {
    // Names the subcommands as they are called.
    command.build();
    let page = match &flags.command {
        None => command,
        Some(name) => command.find_subcommand(name).cloned().ok_or_else(|| {
            let names: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
            Failure::usage(format!("{name:?} is no command; there are {}", names.join(", ")))
        })?,
    };
    let mut roff = Vec::new();
    clap_mangen::Man::new(page)
        .render(&mut roff)
        .map_err(|error| Failure::new(Exit::Failed, format!("the page cannot be made: {error}")))?;
    output::print(&roff)?;
    Ok(ExitCode::SUCCESS)
}
