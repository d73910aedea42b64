//! `whichpod cleanup`: headless twins that nobody uses any more.

use std::collections::BTreeSet;
use std::process::ExitCode;

use serde_json::Value;
use whichpod_injection::{Kind, ServiceName, names, twin, twins_wanted};

use super::block_on;
use crate::cluster::resources::{RESOURCES, controller};
use crate::cluster::{Cluster, ClusterFlags, Need, WriteError};
use crate::exit::{Exit, Failure};
use crate::output;

/// Flags of `whichpod cleanup`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// In every namespace.
    #[arg(long, conflicts_with = "namespace")]
    all: bool,
    /// Also those that sidecars still ask for (an installed webhook makes them again).
    #[arg(long)]
    in_use: bool,
    /// Delete them, instead of telling which would be deleted.
    #[arg(long)]
    apply: bool,
    #[command(flatten)]
    cluster: ClusterFlags,
}

/// Deletes headless Services that whichpod made; reports on standard error.
///
/// # Errors
/// If the flags are wrong, the cluster refuses or cannot be reached.
pub fn run(flags: &Options) -> Result<ExitCode, Failure> {
    if !flags.all && flags.cluster.namespace.is_none() {
        return Err(Failure::usage(
            "no namespace is named; give -n NAMESPACE, or --all for the whole cluster",
        ));
    }
    block_on(clean_up(flags))
}

async fn clean_up(flags: &Options) -> Result<ExitCode, Failure> {
    let cluster = flags.cluster.connect(Need::Required).await?;
    let collection = match flags.all {
        true => "/api/v1/services".to_owned(),
        false => services(&cluster.namespace),
    };
    let labels = format!("{}={},{}", names::MANAGED_BY_LABEL, names::MANAGED_BY, names::TWIN_LABEL);
    let mut twins = Vec::new();
    cluster.list(&collection, Some(&labels), &mut |service| twins.extend(Twin::of(service))).await?;
    let used = if flags.in_use || twins.is_empty() { BTreeSet::new() } else { used(&cluster).await? };
    let mut code = ExitCode::SUCCESS;
    for Twin { service, live } in &twins {
        let name = live["metadata"]["name"].as_str().unwrap_or_default();
        let line =
            |verdict: &str| output::tell(&format!("service/{name} in {}: {verdict}", service.namespace));
        if used.contains(service) {
            line("unchanged: sidecars ask for it");
            continue;
        }
        if !flags.apply {
            line("would be deleted");
            continue;
        }
        match cluster.delete(&services(&service.namespace), live).await {
            Ok(()) => line("deleted"),
            Err(WriteError::Conflict) => {
                line("skipped: somebody changed it in the meantime; try again");
                code = Exit::Failed.into();
            }
            Err(WriteError::Failed(failure)) => return Err(failure),
        }
    }
    if !flags.apply && !twins.is_empty() {
        output::tell("nothing was changed; add --apply");
    }
    Ok(code)
}

/// A headless Service that whichpod made.
struct Twin {
    /// The Service it stands for.
    service: ServiceName,
    live: Value,
}

impl Twin {
    fn of(live: Value) -> Option<Twin> {
        let namespace = live["metadata"]["namespace"].as_str()?.to_owned();
        let name = live["metadata"]["labels"][names::TWIN_LABEL].as_str()?.to_owned();
        twin::is_twin_of(&live, &name).then_some(Twin { service: ServiceName { namespace, name }, live })
    }
}

/// The Services whose twins anybody asks for, in whatever namespace.
async fn used(cluster: &Cluster) -> Result<BTreeSet<ServiceName>, Failure> {
    let mut used = BTreeSet::new();
    let injected = format!("{}=true", names::INJECTED_LABEL);
    for resource in &RESOURCES {
        let labels = (resource.kind == Kind::Pod).then_some(injected.as_str());
        let mut take = |object: Value| {
            // An old ReplicaSet of a Deployment only remembers; its pods speak for themselves.
            if resource.kind == Kind::Pod || controller(&object).is_none() {
                used.extend(twins_wanted(&object));
            }
        };
        cluster.list_resource(resource, None, labels, &mut take).await?;
    }
    Ok(used)
}

fn services(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/services")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_twins_of_ours_are_ever_deleted() {
        let service = |labels: Value| json!({"metadata": {"name": "a-whichpod", "namespace": "shop", "labels": labels}});
        let ours = json!({names::MANAGED_BY_LABEL: "whichpod", names::TWIN_LABEL: "a"});
        assert_eq!(Twin::of(service(ours)).unwrap().service.name, "a");
        assert!(Twin::of(service(json!({names::TWIN_LABEL: "a"}))).is_none());
        assert!(Twin::of(service(json!({names::MANAGED_BY_LABEL: "whichpod"}))).is_none());
    }
}
