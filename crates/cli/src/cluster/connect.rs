//! Which cluster: the kubeconfig, as kubectl finds it.

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};

use super::request::Cluster;
use crate::exit::{Exit, Failure};

/// How long a connection may take. A cluster that is there answers within milliseconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an answer may take; admission webhooks may add 30 s.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// Which cluster and which namespace, by kubectl's flags.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Cluster")]
pub struct ClusterFlags {
    /// The namespace; by default the kubeconfig context's.
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// The kubeconfig's context.
    #[arg(long, value_name = "CONTEXT")]
    pub context: Option<String>,
    /// The kubeconfig; by default KUBECONFIG or ~/.kube/config.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
}

/// Whether a command can do without a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// There is `--offline`.
    Optional,
    /// There is no other way.
    Required,
}

impl ClusterFlags {
    /// Reads the kubeconfig; nothing is sent yet.
    ///
    /// # Errors
    /// If there is none, or it has no such context.
    pub async fn connect(&self, need: Need) -> Result<Cluster, Failure> {
        let unusable = |error: &(dyn Error + 'static)| {
            let offline = if need == Need::Optional { ", or --offline to do without a cluster" } else { "" };
            Failure::new(
                Exit::Unavailable,
                format!(
                    "no cluster is configured: {}; name one with --kubeconfig or --context{offline}",
                    kubeconfig_cause(error)
                ),
            )
        };
        let mut config = match self.config().await {
            Ok(config) => config,
            Err(error) => return Err(unusable(&error)),
        };
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        config.read_timeout = Some(READ_TIMEOUT);
        let server = config.cluster_url.to_string();
        let namespace = self.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).map_err(|error| unusable(&error))?;
        Ok(Cluster { client, namespace, server, need })
    }

    async fn config(&self) -> Result<Config, kube::Error> {
        if self.kubeconfig.is_none() && self.context.is_none() {
            // Also from within a pod.
            return Config::infer().await.map_err(kube::Error::InferConfig);
        }
        let read = || -> Result<Kubeconfig, KubeconfigError> {
            self.kubeconfig.as_ref().map_or_else(Kubeconfig::read, Kubeconfig::read_from)
        };
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        Ok(Config::from_custom_kubeconfig(read()?, &options).await?)
    }
}

/// What is at the bottom of an error: the rest only repeats it.
pub(super) fn root_cause(error: &(dyn Error + 'static)) -> String {
    causes(error).last().map(ToString::to_string).unwrap_or_default()
}

/// What is wrong with the kubeconfig, with its name.
fn kubeconfig_cause(error: &(dyn Error + 'static)) -> String {
    let cause = causes(error).find(|cause| cause.is::<KubeconfigError>());
    cause.map_or_else(|| root_cause(error), ToString::to_string)
}

fn causes<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}
