//! The annotation that holds everything that was added, so that it can be recognised and taken out again by any version.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::changes::{Change, Record, Take, WrongShape};
use crate::json;
use crate::names;
use crate::service::ServiceName;

const ANNOTATIONS: &str = "/metadata/annotations";

/// What the annotation says. Unknown fields of later versions are passed over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status {
    /// The version that wrote it.
    pub(crate) version: String,
    /// What the additions were made from; nothing if all that was written is `inject: "false"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) inputs: Option<Inputs>,
    /// The Services whose headless twins are asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) twins: Vec<ServiceName>,
    /// The changes of the pod template.
    #[serde(default)]
    pub(crate) added: Record,
}

/// Hashes of what the additions were made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Inputs {
    /// Of the annotations of workload, template and namespace.
    pub(crate) settings: String,
    /// Of the user's part of the template.
    pub(crate) template: String,
}

/// The text of the status in a pod or pod template, if there is one.
pub(crate) fn text(template: &Value) -> Option<&Value> {
    json::member(template, ANNOTATIONS, names::STATUS)
}

impl Status {
    /// The status of a pod or pod template; an error if it has one that nobody can read, or follow in time.
    pub(crate) fn read(template: &Value) -> Result<Option<Status>, ()> {
        let Some(text) = text(template) else { return Ok(None) };
        let status: Option<Status> = text.as_str().and_then(|text| serde_json::from_str(text).ok());
        status.filter(|status| status.added.is_affordable(template)).map(Some).ok_or(())
    }

    /// Whether all that was written is `inject: "false"`.
    pub(crate) fn is_opt_out(&self) -> bool {
        self.inputs.is_none()
    }

    /// The template without what was added, and what somebody changed of it (see [`Record::undo`]).
    pub(crate) fn take_out(&self, template: &Value, take: Take) -> (Value, Vec<String>) {
        let mut user = template.clone();
        if let Some(annotations) = user.pointer_mut(ANNOTATIONS).and_then(Value::as_object_mut) {
            annotations.shift_remove(names::STATUS);
        }
        let edited = self.added.undo(&mut user, take);
        (user, edited)
    }

    /// Makes changes of a template and writes the status into it.
    pub(crate) fn write(mut self, mut template: Value, changes: &[Change]) -> Result<Value, WrongShape> {
        for change in changes {
            self.added.apply(&mut template, change)?;
        }
        // Its parents are recorded, too, so it is put in before the status is made a text.
        self.added.make(&mut template, ANNOTATIONS, &Value::Object(Map::new()))?;
        let text = serde_json::to_string(&self).unwrap_or_default();
        put(&mut template, Value::String(text))?;
        Ok(template)
    }

    /// Makes the changes of an earlier template again, and writes its status as it was.
    pub(crate) fn restore(&self, earlier: &Value, template: &Value) -> Option<Value> {
        let mut result = template.clone();
        let mut record = Record::default();
        for change in self.added.as_in(earlier)? {
            record.apply(&mut result, &change).ok()?;
        }
        record.make(&mut result, ANNOTATIONS, &Value::Object(Map::new())).ok()?;
        put(&mut result, text(earlier)?.clone()).ok()?;
        Some(result)
    }
}

fn put(template: &mut Value, status: Value) -> Result<(), WrongShape> {
    let annotations = template.pointer_mut(ANNOTATIONS).and_then(Value::as_object_mut);
    let annotations = annotations.ok_or_else(|| WrongShape { path: ANNOTATIONS.to_owned() })?;
    annotations.insert(names::STATUS.to_owned(), status);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status() -> Status {
        Status {
            version: "0.1.0".to_owned(),
            inputs: Some(Inputs { settings: "a".to_owned(), template: "b".to_owned() }),
            twins: vec![ServiceName { namespace: "shop".to_owned(), name: "backend".to_owned() }],
            added: Record::default(),
        }
    }

    #[test]
    fn what_was_written_is_read_and_taken_out_again() {
        for template in
            [json!({}), json!({"metadata": null}), json!({"metadata": {"annotations": {"a": "b"}}})]
        {
            let changes =
                [Change::append("/spec/hostAliases", json!({"ip": "127.77.1.2", "hostnames": ["a"]}))];
            let written = status().write(template.clone(), &changes).unwrap();
            let read = Status::read(&written).unwrap().unwrap();
            assert_eq!(
                (&read.version, &read.inputs, &read.twins),
                (&status().version, &status().inputs, &status().twins)
            );
            assert!(read.added.intact(&written));
            assert_eq!(read.take_out(&written, Take::Unchanged), (template.clone(), Vec::new()));
            assert_eq!(read.restore(&written, &template), Some(written));
        }
    }

    #[test]
    fn a_status_of_a_later_version_can_be_read_but_nonsense_cannot() {
        let with = |status: Value| json!({"metadata": {"annotations": {"whichpod.io/status": status}}});
        let later = r#"{"version":"9.0.0","mood":"good","added":{"changes":[],"more":1}}"#;
        assert!(Status::read(&with(json!(later))).unwrap().unwrap().is_opt_out());
        for nonsense in [json!(""), json!("{}"), json!("injected"), json!({}), json!(null), json!("[1]")] {
            assert_eq!(Status::read(&with(nonsense)), Err(()));
        }
        assert_eq!(Status::read(&json!([])), Ok(None));
    }

    #[test]
    fn a_forged_status_does_not_keep_the_webhook_from_others() {
        let forged = |changes: usize, variables: usize| {
            let env: Vec<_> = (0..variables).map(|n| json!({"name": n.to_string()})).collect();
            let change = Change::append("/spec/containers/name=a/env", json!({"name": "none"}));
            let added = Record { changes: vec![change; changes], ..Record::default() };
            let status = serde_json::to_string(&Status { added, ..status() }).unwrap();
            json!({"metadata": {"annotations": {"whichpod.io/status": status}},
                "spec": {"containers": [{"name": "a", "env": env}]}})
        };
        assert!(Status::read(&forged(300, 1000)).unwrap().is_some());
        assert_eq!(Status::read(&forged(2000, 30_000)), Err(()));
    }
}
