//! `whichpod upgrade KIND/NAME`: the sidecar as this version makes it, although none of its inputs has changed.

use std::process::ExitCode;

use serde_json::Value;
use whichpod_injection::{Ask, Kind, Reason, inject, names};

use super::block_on;
use super::change::{change, check_changeable, decided};
use super::rendered::patches;
use crate::ask::OptionFlags;
use crate::cluster::resources::Target;
use crate::cluster::{ClusterFlags, Need};
use crate::exit::{Exit, Failure};
use crate::output;
use crate::report::{self, Doing};
use crate::world::World;

/// Flags of `whichpod upgrade`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// What has a sidecar, such as deploy/nginx-test; its pods start anew if the sidecar changes.
    #[arg(value_name = "KIND/NAME", required = true)]
    targets: Vec<Target>,
    /// Print the JSON Patch instead of making the change.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    operator: OptionFlags,
    #[command(flatten)]
    cluster: ClusterFlags,
}

/// Writes the sidecar anew; reports on standard error.
///
/// # Errors
/// If an object does not exist or cannot be changed, or the cluster cannot be reached.
pub fn run(flags: &Options) -> Result<ExitCode, Failure> {
    flags.targets.iter().try_for_each(check_changeable)?;
    block_on(upgrade(flags))
}

async fn upgrade(flags: &Options) -> Result<ExitCode, Failure> {
    let cluster = flags.cluster.connect(Need::Required).await?;
    let mut objects = Vec::new();
    for target in &flags.targets {
        objects.push(cluster.target(target).await?);
    }
    let world = World::online(&cluster, &objects, &[], &flags.operator).await?;
    let ask = Ask { namespace: world.namespace.clone(), annotations: Vec::new(), recompute: true };
    let decide = |object: &Value| {
        let mut item = inject(object, &ask, &world.facts, &world.options).1.pop()?;
        if !has_status(object) {
            // Nothing to upgrade, and nobody asked for a sidecar here.
            item.outcome.reason = Reason::NotAsked;
            item.outcome.patch = whichpod_injection::Patch::default();
            item.outcome.warnings = vec!["it has no sidecar; whichpod patch puts one in".to_owned()];
        }
        Some(item)
    };
    let mut items = Vec::new();
    for (target, object) in flags.targets.iter().zip(&objects) {
        let item = match flags.dry_run {
            true => decide(object),
            false => change(&cluster, target.resource, object, &decide).await?,
        };
        items.push(decided(target, item)?);
    }
    report::tell(Doing::Injecting, &items, &world.namespace);
    if flags.dry_run {
        output::print(patches(&items).as_bytes())?;
    }
    let upgraded = |reason| matches!(reason, Reason::Injected | Reason::Unchanged);
    let all = items.iter().all(|item| upgraded(item.outcome.reason));
    Ok(if all { ExitCode::SUCCESS } else { Exit::Failed.into() })
}

/// Whether whichpod has written into what the pods are made from.
fn has_status(object: &Value) -> bool {
    let template = Kind::of(object).and_then(|kind| object.pointer(kind.template()));
    template.is_some_and(|template| template["metadata"]["annotations"][names::STATUS].is_string())
}
