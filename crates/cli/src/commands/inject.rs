//! `whichpod inject`: manifests in, manifests with the sidecar out.

use std::process::ExitCode;

use serde_json::Value;
use whichpod_injection::{Ask, inject};

use super::block_on;
use super::rendered::{Output, render};
use crate::ask::{AnnotationFlags, OptionFlags};
use crate::cluster::{ClusterFlags, Need};
use crate::exit::Failure;
use crate::files::{self, FileFlags};
use crate::output;
use crate::report::{self, Doing};
use crate::world::{World, has_workloads};

/// Flags of `whichpod inject`.
#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    files: FileFlags,
    /// How the documents are printed; by default each as it is written.
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<Output>,
    /// Make no connection: take the Services that the annotations and the manifests name as they name them.
    #[arg(long)]
    offline: bool,
    /// Also print the headless Services that the sidecars ask for and that do not exist (an installed webhook makes them).
    #[arg(long)]
    twins: bool,
    #[command(flatten)]
    annotations: AnnotationFlags,
    #[command(flatten)]
    operator: OptionFlags,
    #[command(flatten)]
    cluster: ClusterFlags,
}

/// Prints the manifests with the sidecar in every workload, and reports on standard error.
///
/// # Errors
/// If the flags or the manifests are wrong, or the cluster cannot be reached. Then nothing is printed.
pub fn run(flags: &Options) -> Result<ExitCode, Failure> {
    let annotations = flags.annotations.annotations()?;
    if flags.files.files.is_empty() {
        return Err(Failure::usage(
            "no manifest is named; give -f FILE, -f DIRECTORY, or -f - for standard input",
        ));
    }
    let documents = files::read(&flags.files)?;
    let values: Vec<Value> = documents.iter().filter_map(|document| document.value.clone()).collect();
    let world = world(flags, &values, &annotations)?;
    let ask = Ask { namespace: world.namespace.clone(), annotations, recompute: false };
    let change = |value: &Value| inject(value, &ask, &world.facts, &world.options);
    let mut rendered = render(&documents, flags.output, &change)?;
    let missing = world.missing_twins(&rendered.items);
    if flags.twins {
        for twin in &missing {
            rendered.printer.add(twin)?;
        }
    } else {
        world.tell_of_twins(&missing);
    }
    report::tell(Doing::Injecting, &rendered.items, &world.namespace);
    output::print(rendered.text().as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn world(flags: &Options, values: &[Value], annotations: &[(String, String)]) -> Result<World, Failure> {
    let mut world = if flags.offline || !has_workloads(values) {
        World::offline(flags.cluster.namespace.as_deref(), &flags.operator)?
    } else {
        block_on(async {
            let cluster = flags.cluster.connect(Need::Optional).await?;
            World::online(&cluster, values, annotations, &flags.operator).await
        })?
    };
    world.add(values);
    Ok(world)
}
