//! The command line. Installed as `kubectl-whichpod` the command is `kubectl whichpod`.

use std::ffi::OsStr;
use std::path::Path;

use clap::{CommandFactory, Parser, Subcommand};

use crate::commands::{cleanup, inject, patch, shell, uninject, upgrade};
use crate::demo;

/// Tells you which pod served every request.
#[derive(Parser)]
#[command(name = "whichpod", version, max_term_width = 110)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Subcommand)]
pub enum Command {
    /// Shows the product's main job on this machine: real sockets, real DNS, no cluster
    Demo(demo::Options),
    /// Puts the sidecar into manifests
    ///
    /// whichpod inject -f app.yaml --upstream backend-service:10000 | kubectl apply -f -
    ///
    /// Documents without a workload are printed as they are. A changed one is written anew: comments before and after
    /// it stay, those within it are lost. What became of each workload is told on standard error.
    Inject(Box<inject::Options>),
    /// Takes the sidecar out of manifests (-f), or out of what runs in the cluster
    ///
    /// whichpod uninject -f app.yaml
    /// whichpod uninject deploy/nginx-test --apply
    /// whichpod uninject --all --apply
    ///
    /// The last is what to run before whichpod is uninstalled. It ends with 1 if something is left with a sidecar.
    #[command(verbatim_doc_comment)]
    Uninject(Box<uninject::Options>),
    /// Prints the JSON Patch that puts the sidecar into one object, or makes the change
    ///
    /// kubectl patch deploy nginx-test --type=json \
    ///   -p "$(whichpod patch deploy/nginx-test --upstream backend-service:10000)"
    /// whichpod patch deploy/nginx-test --upstream backend-service:10000 --apply
    ///
    /// It ends with 1 if the object cannot have a sidecar.
    #[command(verbatim_doc_comment)]
    Patch(Box<patch::Options>),
    /// Writes the sidecar of an object as this version and today's Services make it
    Upgrade(Box<upgrade::Options>),
    /// Deletes headless Services that whichpod made and that nobody uses any more
    Cleanup(cleanup::Options),
    /// Prints a shell's completions
    Completions(shell::CompletionOptions),
    /// Prints the manual page
    Man(shell::ManOptions),
}

/// The command line under the name by which it was called: kubectl runs `kubectl-whichpod` for `kubectl whichpod`.
pub fn command(program: Option<&OsStr>) -> clap::Command {
    let name = program.map(Path::new).and_then(Path::file_stem);
    let is_plugin = name.is_some_and(|name| name == "kubectl-whichpod");
    Arguments::command().bin_name(if is_plugin { "kubectl whichpod" } else { "whichpod" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_has_no_contradictions() {
        command(None).debug_assert();
    }

    #[test]
    fn as_a_plugin_it_is_called_by_way_of_kubectl() {
        let name = |program: &str| command(Some(OsStr::new(program))).get_bin_name().map(str::to_owned);
        assert_eq!(name("/usr/local/bin/kubectl-whichpod").as_deref(), Some("kubectl whichpod"));
        assert_eq!(name("C:/kubectl-whichpod.exe").as_deref(), Some("kubectl whichpod"));
        assert_eq!(name("whichpod").as_deref(), Some("whichpod"));
    }
}
