//! A template before and after it was changed. One that had nothing of ours is not copied as a whole: of a large object the
//! copy would be a fifth of the review.

use json_patch::Patch;
use serde_json::Value;

use crate::changes::Change;
use crate::patch;

/// What becomes of a template.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Rewrite {
    /// As it is to be.
    Whole(Value),
    /// Both without what stays as it is.
    Parts { before: Value, after: Value },
}

impl Rewrite {
    /// The patch of the template, which stands at `at` in its object.
    pub(crate) fn patch(&self, at: &str, template: &Value) -> Patch {
        match self {
            Rewrite::Whole(after) => patch::between(at, template, after),
            Rewrite::Parts { before, after } => patch::between(at, before, after),
        }
    }

    /// Makes the template what it is to be.
    pub(crate) fn put(&self, template: &mut Value) {
        match self {
            Rewrite::Whole(after) => *template = after.clone(),
            Rewrite::Parts { before, after } => put_members(template, before, after),
        }
    }
}

/// The template with null for all members of its `spec` that none of the changes touches.
pub(crate) fn touched(template: &Value, changes: &[Change]) -> Value {
    let Some(members) = template.as_object() else { return template.clone() };
    let keys: Vec<&str> = changes.iter().filter_map(Change::spec_member).collect();
    let part = |(key, value): (&String, &Value)| {
        let value = match value {
            Value::Object(spec) if key == "spec" => spec
                .iter()
                .map(|(key, value)| {
                    let touched = keys.contains(&key.as_str());
                    (key.clone(), if touched { value.clone() } else { Value::Null })
                })
                .collect(),
            other => other.clone(),
        };
        (key.clone(), value)
    };
    members.iter().map(part).collect()
}

/// What was written is there afterwards; what was not touched is null on both sides.
fn put_members(template: &mut Value, before: &Value, after: &Value) {
    match (template, after) {
        (Value::Object(members), Value::Object(after)) => {
            for (key, value) in after.iter().filter(|(key, value)| before.get(key) != Some(value)) {
                match (members.get_mut(key), before.get(key)) {
                    (Some(member), Some(before)) => put_members(member, before, value),
                    _ => drop(members.insert(key.clone(), value.clone())),
                }
            }
        }
        (template, after) => *template = after.clone(),
    }
}
