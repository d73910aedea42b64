//! Injection without a webhook: whole documents in, changed documents out, with a report for each workload in them.
//! The annotations are written, too, so that an installed webhook agrees, and which these are, so that they can be taken
//! out again.

use serde_json::{Map, Value, json};

use crate::Outcome;
use crate::asked::Asker;
use crate::changes::{Change, Record, Take, WrongShape};
use crate::decision::{self, Operation, Request};
use crate::facts::Facts;
use crate::json;
use crate::names::{self, annotation};
use crate::options::Options;
use crate::patch;
use crate::reason::Reason;
use crate::status::Status;
use crate::warning::{self, Warning};
use crate::workload::Kind;

const ANNOTATIONS: &str = "/metadata/annotations";

/// What somebody asks for on the command line.
#[derive(Debug, Clone, Default)]
pub struct Ask {
    /// The namespace of objects that don't say theirs.
    pub namespace: String,
    /// Annotations to write, by their names without `whichpod.io/`: `upstreams`, `redirect`, ...
    pub annotations: Vec<(String, String)>,
    /// Compute anew even if nothing has changed.
    pub recompute: bool,
}

/// What became of one workload of a document.
#[derive(Debug, Clone)]
pub struct Item {
    /// `Deployment`, ...
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name (or the beginning of the name that it will get).
    pub name: String,
    /// What was decided; the patch fits this workload alone.
    pub outcome: Outcome,
}

/// Injects every workload of a document (an object or a `List`); other kinds pass through.
pub fn inject(document: &Value, ask: &Ask, facts: &Facts, options: &Options) -> (Value, Vec<Item>) {
    each(document, &ask.namespace, &|object, namespace| inject_one(object, namespace, ask, facts, options))
}

/// Takes the sidecar out of every workload of a document. With `keep_out` the workloads are also annotated
/// `inject: "false"`, without which an installed webhook would put it back where an annotation asks for it.
pub fn uninject(document: &Value, namespace: &str, keep_out: bool) -> (Value, Vec<Item>) {
    each(document, namespace, &|object, _| uninject_one(object, keep_out))
}

fn inject_one(
    object: &Value,
    namespace: &str,
    ask: &Ask,
    facts: &Facts,
    options: &Options,
) -> (Value, Outcome) {
    let Ok(annotated) = annotated(object, annotations(object, namespace, ask, facts)) else {
        let warning = Warning::MalformedObject { path: ANNOTATIONS.to_owned() };
        return (object.clone(), Outcome::left_alone(Reason::MalformedObject, &[warning]));
    };
    let request = Request {
        operation: Operation::Create,
        namespace,
        object: &annotated,
        old_object: None,
        subresource: None,
        recompute: ask.recompute,
    };
    let decision = decision::decide(&request, facts, options);
    // Annotations without what they ask for would only make the webhook try in vain.
    let mut result = if decision.reason == Reason::Injected { annotated } else { object.clone() };
    if let (Some(slot), Some(rewrite)) = (template_of(&mut result), &decision.rewrite) {
        rewrite.put(slot);
    }
    let patch = patch::between("", object, &result);
    (result, Outcome::of(decision, patch))
}

/// What is to be written: what was asked for, and `inject` where nothing asks otherwise.
fn annotations(object: &Value, namespace: &str, ask: &Ask, facts: &Facts) -> Vec<(String, String)> {
    let mut annotations = ask.annotations.clone();
    let Some(kind) = Kind::of(object) else { return annotations };
    let template = object.pointer(kind.template()).unwrap_or(&Value::Null);
    let facts = facts.namespace(namespace);
    let asker = Asker { kind, object, template, namespace_name: namespace, namespace: facts };
    let asked = asker.asks() || annotations.iter().any(|(name, _)| name == annotation::UPSTREAMS);
    if !asked && !asker.says(annotation::INJECT) {
        annotations.push((annotation::INJECT.to_owned(), "true".to_owned()));
    }
    annotations
}

/// The object with these annotations, and with a record of those that it did not have.
fn annotated(object: &Value, annotations: Vec<(String, String)>) -> Result<Value, WrongShape> {
    let mut annotated = object.clone();
    let mut record = Record::default();
    for (name, value) in annotations {
        let change = Change::set(&annotated, ANNOTATIONS, &annotation::key(&name), Value::from(value));
        change.map_or(Ok(()), |change| record.apply(&mut annotated, &change))?;
    }
    if !record.is_empty() {
        let mut all = written_by_hand(object);
        all.merge(&record);
        let text = serde_json::to_string(&all).unwrap_or_default();
        record.apply(
            &mut annotated,
            &Change::Set {
                path: format!("{ANNOTATIONS}/{}", json::escape(names::BY_HAND)),
                from: None,
                to: Value::from(text),
            },
        )?;
    }
    Ok(annotated)
}

/// Which annotations of a workload were written by hand.
fn written_by_hand(object: &Value) -> Record {
    let text = json::member(object, ANNOTATIONS, names::BY_HAND).and_then(Value::as_str);
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// Takes them out again; returns what somebody changed since and which therefore stays.
fn take_out_annotations(object: &mut Value) -> Vec<String> {
    let record = written_by_hand(object);
    if let Some(annotations) = object.pointer_mut(ANNOTATIONS).and_then(Value::as_object_mut) {
        annotations.shift_remove(names::BY_HAND);
    }
    record.undo(object, Take::Unchanged)
}

fn uninject_one(object: &Value, keep_out: bool) -> (Value, Outcome) {
    let mut freed = object.clone();
    let mut warnings = Vec::new();
    let mut reason = Reason::NotAsked;
    let template = Kind::of(object).and_then(|kind| object.pointer(kind.template()));
    match template.map(Status::read) {
        Some(Ok(Some(status))) => {
            let (template, mut kept) = status.take_out(template.unwrap_or(&Value::Null), Take::Unchanged);
            if let Some(slot) = template_of(&mut freed) {
                *slot = template;
            }
            kept.extend(take_out_annotations(&mut freed));
            warnings.extend(kept.into_iter().map(|what| Warning::Kept { what }));
            reason = Reason::Removed;
        }
        Some(Err(())) => warnings.push(Warning::StatusUnreadable),
        Some(Ok(None)) => {}
        None => return (freed, Outcome::left_alone(Reason::UnsupportedKind, &[])),
    }
    let inject = Change::set(&freed, ANNOTATIONS, &annotation::key(annotation::INJECT), json!("false"));
    if let Some(change) = inject.filter(|_| keep_out && reason == Reason::Removed) {
        let before = freed.clone();
        if Record::default().apply(&mut freed, &change).is_err() {
            freed = before;
            warnings.push(Warning::MalformedObject { path: ANNOTATIONS.to_owned() });
        }
    }
    let outcome = Outcome {
        patch: patch::between("", object, &freed),
        warnings: warning::texts(&warnings),
        ..Outcome::left_alone(reason, &[])
    };
    (freed, outcome)
}

fn template_of(object: &mut Value) -> Option<&mut Value> {
    let path = Kind::of(object)?.template();
    object.pointer_mut(path)
}

/// Calls `act` with every workload of a document and its namespace.
fn each(
    document: &Value,
    namespace: &str,
    act: &dyn Fn(&Value, &str) -> (Value, Outcome),
) -> (Value, Vec<Item>) {
    let is_list = json::text(document, "/kind").is_some_and(|kind| kind.ends_with("List"));
    if let (true, Some(items)) = (is_list, document.get("items").and_then(Value::as_array)) {
        let mut changed = Vec::with_capacity(items.len());
        let mut reports = Vec::new();
        for item in items {
            let (item, of_item) = each(item, namespace, act);
            changed.push(item);
            reports.extend(of_item);
        }
        let mut document = document.as_object().cloned().unwrap_or_else(Map::new);
        document.insert("items".to_owned(), Value::Array(changed));
        return (Value::Object(document), reports);
    }
    if Kind::of(document).is_none() {
        return (document.clone(), Vec::new());
    }
    let own = json::text(document, "/metadata/namespace").unwrap_or(namespace);
    let (changed, outcome) = act(document, own);
    let text = |pointer: &str| json::text(document, pointer).map(str::to_owned);
    let item = Item {
        kind: text("/kind").unwrap_or_default(),
        namespace: own.to_owned(),
        name: text("/metadata/name").or_else(|| text("/metadata/generateName")).unwrap_or_default(),
        outcome,
    };
    (changed, vec![item])
}
