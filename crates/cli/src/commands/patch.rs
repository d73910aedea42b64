//! `whichpod patch KIND/NAME`: a JSON Patch that puts the sidecar into one object.

use std::process::ExitCode;

use serde_json::Value;
use whichpod_injection::{Ask, Item, Reason, inject};

use super::block_on;
use super::change::{change, check_changeable, decided};
use super::rendered::patches;
use crate::ask::{AnnotationFlags, OptionFlags};
use crate::cluster::resources::Target;
use crate::cluster::{Cluster, ClusterFlags, Need, WriteError};
use crate::exit::{Exit, Failure};
use crate::files::{self, FileFlags};
use crate::output;
use crate::report::{self, Doing};
use crate::world::{World, objects};

/// Flags of `whichpod patch`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// What is to get the sidecar, such as deploy/nginx-test.
    #[arg(value_name = "KIND/NAME")]
    target: Target,
    #[command(flatten)]
    files: FileFlags,
    /// Make no connection: take the Services that the annotations and the manifests name as they name them.
    #[arg(long, requires = "files")]
    offline: bool,
    /// Make the change instead of printing the patch.
    #[arg(long, conflicts_with = "files")]
    apply: bool,
    /// Also make the headless Services that the sidecar asks for and that do not exist (an installed webhook makes them).
    #[arg(long, requires = "apply")]
    twins: bool,
    #[command(flatten)]
    annotations: AnnotationFlags,
    #[command(flatten)]
    operator: OptionFlags,
    #[command(flatten)]
    cluster: ClusterFlags,
}

/// Prints the patch for `kubectl patch --type=json`, or makes the change; reports on standard error.
///
/// # Errors
/// If the object does not exist or cannot be changed, or the cluster cannot be reached.
pub fn run(flags: &Options) -> Result<ExitCode, Failure> {
    let annotations = flags.annotations.annotations()?;
    if flags.files.files.is_empty() {
        block_on(live(flags, annotations))
    } else {
        of_files(flags, annotations)
    }
}

/// For the object as it stands in a manifest.
fn of_files(flags: &Options, annotations: Vec<(String, String)>) -> Result<ExitCode, Failure> {
    let documents = files::read(&flags.files)?;
    let values: Vec<Value> = documents.into_iter().filter_map(|document| document.value).collect();
    let namespace = flags.cluster.namespace.as_deref();
    let object = find(&values, &flags.target, namespace)?;
    let mut world = if flags.offline {
        World::offline(namespace, &flags.operator)?
    } else {
        block_on(async {
            let cluster = flags.cluster.connect(Need::Optional).await?;
            World::online(&cluster, std::slice::from_ref(object), &annotations, &flags.operator).await
        })?
    };
    world.add(&values);
    let ask = Ask { namespace: world.namespace.clone(), annotations, recompute: false };
    let item = decided(&flags.target, inject(object, &ask, &world.facts, &world.options).1.pop())?;
    world.tell_of_twins(&world.missing_twins(std::slice::from_ref(&item)));
    print(&item, &world.namespace)
}

/// For the object as the cluster has it.
async fn live(flags: &Options, annotations: Vec<(String, String)>) -> Result<ExitCode, Failure> {
    check_changeable(&flags.target)?;
    let cluster = flags.cluster.connect(Need::Required).await?;
    let object = cluster.target(&flags.target).await?;
    let world = World::online(&cluster, std::slice::from_ref(&object), &annotations, &flags.operator).await?;
    let ask = Ask { namespace: world.namespace.clone(), annotations, recompute: false };
    let decide = |object: &Value| inject(object, &ask, &world.facts, &world.options).1.pop();
    let planned = decided(&flags.target, decide(&object))?;
    // The sidecar finds its Services from the first moment on.
    let missing = world.missing_twins(std::slice::from_ref(&planned));
    if flags.twins {
        make_twins(&cluster, &missing).await?;
    } else {
        world.tell_of_twins(&missing);
    }
    if !flags.apply {
        return print(&planned, &world.namespace);
    }
    let changed = change(&cluster, flags.target.resource, &object, &decide).await?;
    let item = decided(&flags.target, changed)?;
    let code = code(&item);
    report::tell(Doing::Injecting, &[item], &world.namespace);
    Ok(code)
}

/// Makes headless Services; one that somebody made in the meantime is as good.
async fn make_twins(cluster: &Cluster, twins: &[Value]) -> Result<(), Failure> {
    for twin in twins {
        let text = |key: &str| twin["metadata"][key].as_str().unwrap_or_default();
        let collection = format!("/api/v1/namespaces/{}/services", text("namespace"));
        match cluster.create(&collection, twin).await {
            Ok(()) => output::tell(&format!("service/{}: created", text("name"))),
            Err(WriteError::Conflict) => {}
            Err(WriteError::Failed(failure)) => return Err(failure),
        }
    }
    Ok(())
}

fn print(item: &Item, namespace: &str) -> Result<ExitCode, Failure> {
    report::tell(Doing::Injecting, std::slice::from_ref(item), namespace);
    if code(item) == ExitCode::SUCCESS {
        output::print(patches(std::slice::from_ref(item)).as_bytes())?;
    }
    Ok(code(item))
}

/// The one object was asked for, so it fails if it was skipped.
fn code(item: &Item) -> ExitCode {
    match item.outcome.reason {
        Reason::Injected | Reason::Restored | Reason::Unchanged => ExitCode::SUCCESS,
        _ => Exit::Failed.into(),
    }
}

/// The object that the target names.
fn find<'v>(documents: &'v [Value], target: &Target, namespace: Option<&str>) -> Result<&'v Value, Failure> {
    let text = |object: &Value, key: &str| object["metadata"][key].as_str().map(str::to_owned);
    let is_it = |object: &&Value| {
        object["apiVersion"] == target.resource.api_version
            && object["kind"] == target.resource.name
            && object["metadata"]["name"] == target.name.as_str()
            && namespace.is_none_or(|wanted| text(object, "namespace").is_none_or(|own| own == wanted))
    };
    documents.iter().flat_map(objects).find(is_it).ok_or_else(|| {
        Failure::new(Exit::NoInput, format!("there is no {target} in the manifests; name its file with -f"))
    })
}
