//! The client: in the cluster by the pod's service account, elsewhere by a kubeconfig.

use std::path::Path;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The kubeconfig cannot be used.
    #[error("kubeconfig {path}: {reason}")]
    Kubeconfig {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Not in a cluster.
    #[error(
        "not in a cluster ({0}); run it in a pod with a service account, or name a kubeconfig with --kubeconfig"
    )]
    NotInCluster(String),
    /// The client cannot be made, as with a certificate that is none.
    #[error("cannot make a client for the API server: {0}")]
    Client(String),
}

/// A client, and the namespace that its configuration names. Nothing is asked yet.
///
/// # Errors
/// When the configuration is missing or cannot be used.
pub async fn connect(kubeconfig: Option<&Path>) -> Result<(Client, String), ConnectError> {
    let config = match kubeconfig {
        Some(path) => from_file(path).await?,
        None => Config::incluster().map_err(|error| ConnectError::NotInCluster(error.to_string()))?,
    };
    let namespace = config.default_namespace.clone();
    let client = Client::try_from(config).map_err(|error| ConnectError::Client(error.to_string()))?;
    Ok((client, namespace))
}

async fn from_file(path: &Path) -> Result<Config, ConnectError> {
    let failed = |reason: String| ConnectError::Kubeconfig { path: path.display().to_string(), reason };
    let kubeconfig = Kubeconfig::read_from(path).map_err(|error| failed(error.to_string()))?;
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(|error| failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_kubeconfig_that_cannot_be_used_is_named() {
        let text =
            |error: Result<_, ConnectError>| error.map(|_: (Client, String)| ()).unwrap_err().to_string();
        let missing = text(connect(Some(Path::new("/no/such/kubeconfig"))).await);
        assert!(missing.starts_with("kubeconfig /no/such/kubeconfig: "), "{missing}");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "not: [a kubeconfig").unwrap();
        let broken = text(connect(Some(file.path())).await);
        assert!(broken.contains("failed to parse kubeconfig"), "{broken}");
    }
}
