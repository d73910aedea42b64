//! What Helm runs besides the webhook: `test` after an installation and for `helm test`, `pre-delete` before an
//! uninstallation.

mod left;
mod trial;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use jiff::SignedDuration;
use whichpod_runtime::exit::Exit;

use crate::cluster::connect::connect;
use crate::command::Verdict;

/// One of them, with its flags.
#[derive(Debug, Parser)]
#[command(name = "whichpod-webhook", version, max_term_width = 110)]
pub struct Hook {
    #[command(subcommand)]
    action: Action,
    /// How to reach the API server, outside of a cluster
    #[arg(long, global = true, env = "WHICHPOD_WEBHOOK_KUBECONFIG", value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the workloads that carry a sidecar, and fail if there are any
    PreDelete,
    /// Ask the API server, in a dry run, for an annotated Deployment, and look for the sidecar in it
    Test {
        /// Where the Deployment would be
        #[arg(long, value_name = "NAME")]
        namespace: String,
        /// How long to ask again while there is none, as 4m
        #[arg(long, value_name = "DURATION", default_value = "0s")]
        wait: SignedDuration,
    },
}

impl Hook {
    /// Whether this command line names a hook.
    pub fn is_named(arguments: &[OsString]) -> bool {
        arguments.get(1).is_some_and(|first| first == "pre-delete" || first == "test")
    }

    /// Reads the command line of a hook.
    ///
    /// # Errors
    /// What to print instead, and how to end.
    pub fn parse(arguments: &[OsString]) -> Result<Self, Verdict> {
        Self::try_parse_from(arguments).map_err(|error| {
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Ok };
            Verdict { text: error.to_string().trim_end().to_owned(), exit }
        })
    }

    /// Runs it.
    pub async fn run(self) -> Verdict {
        let client = match connect(self.kubeconfig.as_deref()).await {
            Ok((client, _)) => client,
            Err(error) => return Verdict { text: error.to_string(), exit: Exit::Config },
        };
        let verdict = match self.action {
            Action::PreDelete => left::look(&client).await,
            Action::Test { namespace, wait } => trial::run(&client, &namespace, wait.unsigned_abs()).await,
        };
        verdict.unwrap_or_else(|error| Verdict { text: error.to_string(), exit: Exit::Unavailable })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    #[test]
    fn what_the_chart_runs_is_understood() {
        let all = words(&["whichpod-webhook", "test", "--namespace=whichpod-system"]);
        assert!(Hook::is_named(&all));
        assert!(
            matches!(Hook::parse(&all).unwrap().action, Action::Test { namespace, wait } if namespace == "whichpod-system" && wait.is_zero())
        );
        let all = words(&["whichpod-webhook", "test", "--namespace=whichpod-system", "--wait=4m"]);
        let expected = SignedDuration::from_mins(4);
        assert!(matches!(Hook::parse(&all).unwrap().action, Action::Test { wait, .. } if wait == expected));
        let all = words(&["whichpod-webhook", "pre-delete"]);
        assert!(Hook::is_named(&all) && matches!(Hook::parse(&all).unwrap().action, Action::PreDelete));
        assert!(!Hook::is_named(&words(&["whichpod-webhook", "--image=x"])));
        let wrong = Hook::parse(&words(&["whichpod-webhook", "test"])).unwrap_err();
        assert_eq!(wrong.exit, Exit::Usage);
        assert!(wrong.text.contains("--namespace"), "{}", wrong.text);
    }
}
