//! Talking to the API server.

use kube::api::{DeleteParams, GetParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::Request;
use serde_json::{Value, json};
use whichpod_injection::Patch as JsonPatch;

use super::connect::{Need, root_cause};
use super::resources::{Resource, Target};
use crate::exit::{Exit, Failure};

/// Who is named as the author of a change.
const FIELD_MANAGER: &str = "whichpod";

/// How many objects are asked for at a time; some are 50 KB.
const PAGE: u32 = 250;

/// A cluster to talk to.
pub struct Cluster {
    pub(super) client: kube::Client,
    /// The namespace that the flags or the context say.
    pub namespace: String,
    pub(super) server: String,
    pub(super) need: Need,
}

/// Why a change was not made.
#[derive(Debug)]
pub enum WriteError {
    /// Somebody else changed the object in the meantime.
    Conflict,
    /// Anything else.
    Failed(Failure),
}

impl Cluster {
    /// Gets one object; `None` if it does not exist.
    ///
    /// # Errors
    /// If the cluster cannot be reached or refuses.
    pub async fn get(&self, collection: &str, name: &str) -> Result<Option<Value>, Failure> {
        let request = Request::new(collection).get(name, &GetParams::default());
        match self.send(request).await {
            Ok(object) => Ok(Some(object)),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(error) => Err(self.failure(&error)),
        }
    }

    /// Gets the object that the command line names.
    ///
    /// # Errors
    /// If it does not exist, and as [`Cluster::get`].
    pub async fn target(&self, target: &Target) -> Result<Value, Failure> {
        let object = self.read(target.resource, &self.namespace, &target.name).await?;
        object.ok_or_else(|| {
            let place = format!("there is no {target} in namespace {}", self.namespace);
            Failure::new(Exit::NoInput, format!("{place}; name the namespace with -n"))
        })
    }

    /// Gets an object of a kind; `None` if it does not exist.
    ///
    /// # Errors
    /// As [`Cluster::get`].
    pub async fn read(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Value>, Failure> {
        let mut object = self.get(&resource.collection(Some(namespace)), name).await?;
        if let Some(object) = &mut object {
            set_kind(object, resource);
        }
        Ok(object)
    }

    /// Calls `each` with every object of a collection, page by page.
    ///
    /// # Errors
    /// As [`Cluster::get`]; the exit code tells whether it was refused.
    pub async fn list(
        &self,
        collection: &str,
        labels: Option<&str>,
        each: &mut dyn FnMut(Value),
    ) -> Result<(), Failure> {
        let mut params = ListParams::default().limit(PAGE);
        params.label_selector = labels.map(str::to_owned);
        loop {
            let answer = self.send(Request::new(collection).list(&params)).await;
            let mut page = answer.map_err(|error| self.failure(&error))?;
            if let Some(items) = page.get_mut("items").and_then(Value::as_array_mut) {
                items.drain(..).for_each(&mut *each);
            }
            match page.pointer("/metadata/continue").and_then(Value::as_str) {
                Some(token) if !token.is_empty() => params.continue_token = Some(token.to_owned()),
                _ => return Ok(()),
            }
        }
    }

    /// Calls `each` with every object of a kind.
    ///
    /// # Errors
    /// As [`Cluster::list`].
    pub async fn list_resource(
        &self,
        resource: &'static Resource,
        namespace: Option<&str>,
        labels: Option<&str>,
        each: &mut dyn FnMut(Value),
    ) -> Result<(), Failure> {
        // The API server leaves the kind out of the items of a list.
        let mut with_kind = |mut object: Value| {
            set_kind(&mut object, resource);
            each(object);
        };
        self.list(&resource.collection(namespace), labels, &mut with_kind).await
    }

    /// Changes an object, provided that it is still what was read.
    ///
    /// # Errors
    /// A conflict if it is not.
    pub async fn patch(
        &self,
        resource: &Resource,
        read: &Value,
        patch: &JsonPatch,
    ) -> Result<(), WriteError> {
        let text = |pointer: &str| read.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        // The version that was read makes the API server refuse the change if there is a newer one.
        let version = json!({"op": "replace", "path": "/metadata/resourceVersion", "value": text("/metadata/resourceVersion")});
        let mut operations = vec![version];
        operations.extend(
            serde_json::to_value(patch)
                .ok()
                .and_then(|patch| patch.as_array().cloned())
                .into_iter()
                .flatten(),
        );
        let guarded: JsonPatch = serde_json::from_value(Value::Array(operations))
            .map_err(|error| WriteError::Failed(Failure::new(Exit::Failed, error.to_string())))?;
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let collection = resource.collection(Some(text("/metadata/namespace")));
        let request =
            Request::new(collection).patch(text("/metadata/name"), &params, &Patch::Json::<()>(guarded));
        self.write(request).await
    }

    /// Makes an object.
    ///
    /// # Errors
    /// A conflict if there is one of that name.
    pub async fn create(&self, collection: &str, object: &Value) -> Result<(), WriteError> {
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        self.write(Request::new(collection).create(&params, object.to_string().into_bytes())).await
    }

    /// Deletes an object, provided that it is still what was read.
    ///
    /// # Errors
    /// A conflict if it is not.
    pub async fn delete(&self, collection: &str, read: &Value) -> Result<(), WriteError> {
        let text = |pointer: &str| read.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let preconditions =
            Preconditions { uid: text("/metadata/uid"), resource_version: text("/metadata/resourceVersion") };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let name = text("/metadata/name").unwrap_or_default();
        self.write(Request::new(collection).delete(&name, &params)).await
    }

    async fn write(&self, request: Built) -> Result<(), WriteError> {
        match self.send(request).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => Err(WriteError::Conflict),
            Err(error) => Err(WriteError::Failed(self.failure(&error))),
        }
    }

    async fn send(&self, request: Built) -> kube::Result<Value> {
        self.client.request(request.map_err(kube::Error::BuildRequest)?).await
    }

    fn failure(&self, error: &kube::Error) -> Failure {
        match error {
            kube::Error::Api(status) if matches!(status.code, 401 | 403) => Failure::new(
                Exit::NoPermission,
                format!(
                    "the cluster refuses: {}; ask for the right, or use another --context",
                    status.message
                ),
            ),
            kube::Error::Api(status) => {
                Failure::new(Exit::Failed, format!("the cluster refuses: {}", status.message))
            }
            error => {
                let offline =
                    if self.need == Need::Optional { ", or use --offline to do without it" } else { "" };
                Failure::new(
                    Exit::Unavailable,
                    format!(
                        "the cluster at {} cannot be reached: {}; choose another with --kubeconfig or --context{offline}",
                        self.server,
                        root_cause(error)
                    ),
                )
            }
        }
    }
}

type Built = Result<http::Request<Vec<u8>>, kube::core::request::Error>;

fn set_kind(object: &mut Value, resource: &Resource) {
    if let Some(members) = object.as_object_mut() {
        members.entry("apiVersion").or_insert_with(|| json!(resource.api_version));
        members.entry("kind").or_insert_with(|| json!(resource.name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::scripted::{cluster, refusal};

    #[tokio::test]
    async fn a_long_list_is_read_to_its_end() {
        let page = |names: &[&str], token: &str| {
            let items: Vec<Value> = names.iter().map(|name| json!({"metadata": {"name": name}})).collect();
            (200, json!({"kind": "PodList", "metadata": {"continue": token}, "items": items}))
        };
        let (cluster, asked) = cluster(vec![page(&["a", "b"], "more"), page(&["c"], "")]);
        let mut objects = Vec::new();
        let target: Target = "pod/x".parse().unwrap();
        cluster
            .list_resource(target.resource, None, Some("a=b"), &mut |object| objects.push(object))
            .await
            .unwrap();
        assert_eq!(objects.len(), 3);
        assert_eq!(objects[2], json!({"metadata": {"name": "c"}, "apiVersion": "v1", "kind": "Pod"}));
        let asked = asked.lock().unwrap();
        assert!(asked[0].0.starts_with("GET /api/v1/pods?") && asked[0].0.contains("labelSelector=a%3Db"));
        assert!(asked[1].0.contains("continue=more"), "{asked:?}");
    }

    #[tokio::test]
    async fn a_refusal_has_its_own_exit_code() {
        let answers =
            vec![(404, refusal(404)), (404, refusal(404)), (403, refusal(403)), (422, refusal(422))];
        let (cluster, _) = cluster(answers);
        assert_eq!(cluster.get("/api/v1/namespaces", "shop").await.unwrap(), None);
        let target: Target = "deploy/web".parse().unwrap();
        let missing = cluster.target(&target).await.unwrap_err();
        assert_eq!(missing.exit, Exit::NoInput);
        assert!(
            missing.message.contains("deployment/web in namespace shop") && missing.message.contains("-n")
        );
        let refused = cluster.get("/api/v1/namespaces", "shop").await.unwrap_err();
        assert_eq!(refused.exit, Exit::NoPermission);
        assert!(refused.message.contains("because"), "{refused}");
        assert_eq!(cluster.get("/api/v1/namespaces", "shop").await.unwrap_err().exit, Exit::Failed);
    }

    #[tokio::test]
    async fn only_what_was_read_is_deleted() {
        let (cluster, asked) = cluster(vec![(409, refusal(409))]);
        let read = json!({"metadata": {"name": "a-whichpod", "uid": "u", "resourceVersion": "7"}});
        let result = cluster.delete("/api/v1/namespaces/shop/services", &read).await;
        assert!(matches!(result, Err(WriteError::Conflict)));
        let asked = asked.lock().unwrap();
        assert!(asked[0].0.starts_with("DELETE /api/v1/namespaces/shop/services/a-whichpod"));
        assert_eq!(asked[0].1["preconditions"], json!({"uid": "u", "resourceVersion": "7"}));
    }
}
