//! `whichpod uninject`: the sidecar out of manifests, or out of what runs in the cluster.

use std::process::ExitCode;

use serde_json::{Value, json};
use whichpod_injection::{Facts, Item, Operation, Outcome, Patch, Reason, Request, uninject};

use super::block_on;
use super::change::{change, check_changeable, decided};
use super::found::{Found, has_sidecar};
use super::rendered::{Output, patches, render};
use crate::ask::base_options;
use crate::cluster::resources::{Target, controller};
use crate::cluster::{Cluster, ClusterFlags, Need};
use crate::exit::{Exit, Failure};
use crate::files::{self, FileFlags};
use crate::output;
use crate::report::{self, Doing};

/// Flags of `whichpod uninject`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// What in the cluster is to lose the sidecar, such as deploy/nginx-test; without a name, with -n, everything there.
    #[arg(value_name = "KIND/NAME", conflicts_with = "files")]
    targets: Vec<Target>,
    #[command(flatten)]
    files: FileFlags,
    /// How the documents are printed; by default each as it is written.
    #[arg(short, long, value_name = "FORMAT", requires = "files")]
    output: Option<Output>,
    /// Everything in the cluster, as before an uninstall.
    #[arg(long, conflicts_with_all = ["files", "targets", "namespace"])]
    all: bool,
    /// Make the change in the cluster, which makes pods start anew, instead of telling what would be changed.
    #[arg(long, conflicts_with = "files")]
    apply: bool,
    /// Also annotate whichpod.io/inject: "false", so that a webhook leaves it out. In the cluster that is done where a
    /// webhook would put the sidecar back.
    #[arg(long)]
    keep_out: bool,
    #[command(flatten)]
    cluster: ClusterFlags,
}

/// Takes the sidecar out; reports on standard error.
///
/// # Errors
/// If the flags or the manifests are wrong, or the cluster cannot be reached.
pub fn run(flags: &Options) -> Result<ExitCode, Failure> {
    if !flags.files.files.is_empty() {
        return of_files(flags);
    }
    if flags.targets.is_empty() && !flags.all && flags.cluster.namespace.is_none() {
        return Err(Failure::usage(
            "nothing is named; give -f FILE, KIND/NAME, -n NAMESPACE for everything in it, or --all for the cluster",
        ));
    }
    flags.targets.iter().try_for_each(check_changeable)?;
    block_on(live(flags))
}

fn of_files(flags: &Options) -> Result<ExitCode, Failure> {
    let namespace = flags.cluster.namespace.as_deref().unwrap_or("default");
    let documents = files::read(&flags.files)?;
    let rendered = render(&documents, flags.output, &|value| uninject(value, namespace, flags.keep_out))?;
    report::tell(Doing::Removing, &rendered.items, namespace);
    output::print(rendered.text().as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

async fn live(flags: &Options) -> Result<ExitCode, Failure> {
    let cluster = flags.cluster.connect(Need::Required).await?;
    let namespace = if flags.all { None } else { Some(cluster.namespace.as_str()) };
    let facts = namespaces(&cluster, namespace).await?;
    let decide = |object: &Value| take_out(object, flags.keep_out, &facts);
    let left = if flags.targets.is_empty() {
        everything(&cluster, namespace, flags.apply, &decide).await?
    } else {
        let mut items = Vec::new();
        for target in &flags.targets {
            let object = cluster.target(target).await?;
            let item = match flags.apply {
                true => change(&cluster, target.resource, &object, &decide).await?,
                false => decide(&object),
            };
            items.push(decided(target, item)?);
        }
        report::tell(Doing::Removing, &items, &cluster.namespace);
        if !flags.apply {
            output::print(patches(&items).as_bytes())?;
        }
        items.iter().filter(|item| !is_out(item)).count()
    };
    if !flags.apply && flags.targets.is_empty() {
        output::tell("nothing was changed; add --apply");
    }
    Ok(if left == 0 { ExitCode::SUCCESS } else { Exit::Failed.into() })
}

/// Takes the sidecar out of every workload there is; returns how many are left with one.
async fn everything(
    cluster: &Cluster,
    namespace: Option<&str>,
    apply: bool,
    decide: &dyn Fn(&Value) -> Option<Item>,
) -> Result<usize, Failure> {
    let found = Found::look(cluster, namespace).await?;
    let mut left = 0;
    let usual = namespace.unwrap_or_default();
    for (resource, object) in &found.workloads {
        let item = if apply { change(cluster, resource, object, decide).await } else { Ok(decide(object)) };
        match item {
            // One that is gone has no sidecar.
            Ok(item) => {
                let items: Vec<Item> = item.into_iter().collect();
                left += items.iter().filter(|item| !is_out(item)).count();
                report::tell(Doing::Removing, &items, usual);
            }
            // The others can still be freed.
            Err(failure) if failure.exit != Exit::Unavailable => {
                output::tell(&failure.message);
                left += 1;
            }
            Err(failure) => return Err(failure),
        }
    }
    for (owner, pods) in found.left() {
        left += 1;
        output::tell(&owner.line(pods, usual));
    }
    Ok(left)
}

/// What taking out means for an object. It is kept out if a webhook would put the sidecar back.
fn take_out(object: &Value, keep_out: bool, facts: &Facts) -> Option<Item> {
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
    let (freed, mut items) = uninject(object, namespace, keep_out);
    let left_alone = |reason, warnings| {
        let outcome = Outcome { reason, denied: None, patch: Patch::default(), warnings, twins: Vec::new() };
        items.last().map(|item| Item { outcome, ..item.clone() })
    };
    if let Some((kind, name)) = controller(object) {
        let warning = format!("{kind} {name} makes it as it wants it; uninject that");
        return left_alone(Reason::Owned, vec![warning]);
    }
    if !has_sidecar(object) {
        return left_alone(Reason::NotAsked, Vec::new());
    }
    let request = Request {
        operation: Operation::Update,
        namespace,
        object: &freed,
        old_object: Some(object),
        subresource: None,
        recompute: false,
    };
    let answer = whichpod_injection::admit(&request, facts, &base_options()).reason;
    let stays_out = matches!(
        answer,
        Reason::NotAsked | Reason::OptedOut | Reason::NamespaceDisabled | Reason::ProtectedNamespace
    );
    if !stays_out {
        items = uninject(object, namespace, true).1;
    }
    items.pop()
}

/// Whether there is no sidecar any more; one whose status cannot be read draws a warning.
fn is_out(item: &Item) -> bool {
    let Outcome { reason, warnings, .. } = &item.outcome;
    *reason == Reason::Removed || *reason == Reason::NotAsked && warnings.is_empty()
}

/// The labels and annotations of namespaces.
async fn namespaces(cluster: &Cluster, namespace: Option<&str>) -> Result<Facts, Failure> {
    let mut facts = Facts::unknown();
    let path = "/api/v1/namespaces";
    let result = match namespace {
        Some(name) => cluster.get(path, name).await.map(|namespace| {
            facts.put_namespace(&namespace.unwrap_or_else(|| json!({})));
        }),
        None => cluster.list(path, None, &mut |namespace| facts.put_namespace(&namespace)).await,
    };
    match result {
        Err(failure) if failure.exit == Exit::NoPermission => {
            output::tell(&format!(
                "note: {}; add --keep-out if the namespace's label asks for sidecars",
                failure.message
            ));
            Ok(Facts::unknown())
        }
        result => result.map(|()| facts),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use whichpod_injection::{Ask, inject, names};

    fn deployment(name: &str) -> Value {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": "shop"},
            "spec": {"template": {"metadata": {}, "spec": {"containers": [{"name": "web"}]}}}})
    }

    fn injected(object: &Value) -> Value {
        let annotations = vec![("upstreams".to_owned(), "backend:80".to_owned())];
        let ask = Ask { namespace: "shop".to_owned(), annotations, recompute: false };
        inject(object, &ask, &Facts::unknown(), &base_options()).0
    }

    fn facts(label: Option<&str>) -> Facts {
        let mut facts = Facts::unknown();
        let labels = label.map_or_else(|| json!({}), |value| json!({names::NAMESPACE_LABEL: value}));
        facts.put_namespace(&json!({"metadata": {"name": "shop", "labels": labels}}));
        facts
    }

    fn freed(object: &Value, facts: &Facts) -> Value {
        let item = take_out(object, false, facts).unwrap();
        assert_eq!(item.outcome.reason, Reason::Removed);
        let mut freed = object.clone();
        json_patch::patch(&mut freed, &item.outcome.patch).unwrap();
        freed
    }

    #[test]
    fn what_was_injected_by_hand_is_as_it_was_before() {
        assert_eq!(freed(&injected(&deployment("web")), &facts(None)), deployment("web"));
    }

    #[test]
    fn what_a_webhook_would_put_back_is_kept_out() {
        let inject = "whichpod.io/inject";
        let mut annotated = deployment("web");
        annotated["metadata"]["annotations"] = json!({"whichpod.io/upstreams": "backend:80"});
        let out = freed(&injected(&annotated), &facts(None));
        assert_eq!(out["metadata"]["annotations"][inject], "false");
        let mut out = freed(&injected(&deployment("web")), &facts(Some("enabled")));
        assert_eq!(out["metadata"]["annotations"][inject], "false");
        // So does a webhook write it, which then is no sidecar.
        let request = Request {
            operation: Operation::Update,
            namespace: "shop",
            object: &out,
            old_object: None,
            subresource: None,
            recompute: false,
        };
        let written = whichpod_injection::admit(&request, &facts(Some("enabled")), &base_options()).patch;
        assert!(!written.is_empty());
        json_patch::patch(&mut out, &written).unwrap();
        let again = take_out(&out, false, &facts(None)).unwrap();
        assert_eq!((again.outcome.reason, again.outcome.patch.len()), (Reason::NotAsked, 0));
        let out = freed(&injected(&annotated), &facts(Some("disabled")));
        assert_eq!(out["metadata"]["annotations"][inject], json!(null));
    }

    #[test]
    fn a_template_that_its_owner_keeps_is_left_alone() {
        let mut owned = injected(&deployment("web"));
        owned["metadata"]["ownerReferences"] = json!([{"kind": "Shop", "name": "s", "controller": true}]);
        let item = take_out(&owned, false, &facts(None)).unwrap();
        assert_eq!((item.outcome.reason, item.outcome.patch.len()), (Reason::Owned, 0));
        assert!(!is_out(&item) && item.outcome.warnings[0].contains("Shop s"));
    }

    #[test]
    fn a_sidecar_whose_status_nobody_can_read_is_not_taken_for_gone() {
        let mut object = injected(&deployment("web"));
        object["spec"]["template"]["metadata"]["annotations"][names::STATUS] = json!("?");
        let item = take_out(&object, false, &facts(None)).unwrap();
        assert!(has_sidecar(&object) && !is_out(&item), "{item:?}");
    }
}
