//! One twin, made to be as it should be. What that is says [`whichpod_injection::twin`].

use k8s_openapi::api::core::v1::{ObjectReference, Service};
use kube::api::{ApiResource, DeleteParams, DynamicObject, PostParams, Preconditions};
use kube::runtime::events::EventType;
use kube::{Api, Client};
use serde_json::Value;
use whichpod_injection::ServiceName;
use whichpod_injection::twin::{self, Step};

use crate::cluster::request::{self, Failed, Reason};
use crate::events::Events;

pub(super) struct Reconciler {
    client: Client,
    events: Events,
}

/// Who is named as the last one to have changed the twins' fields.
const FIELD_MANAGER: &str = "whichpod";

impl Reconciler {
    pub(super) fn new(client: Client, events: Events) -> Self {
        Self { client, events }
    }

    /// Looks at a Service and its twin and does what is to be done; true if it wrote something.
    pub(super) async fn reconcile(&self, service: &ServiceName) -> Result<bool, Failed> {
        let resource = ApiResource::erase::<Service>(&());
        let services =
            Api::<DynamicObject>::namespaced_with(self.client.clone(), &service.namespace, &resource);
        let Some(live) = get(&services, &service.name).await? else {
            // Its twin goes with it, by its owner reference.
            return Ok(false);
        };
        let name = twin::twin_name(&service.name);
        let twin = get(&services, &name).await?;
        let done = self.take(&services, &name, twin::step(&live, twin.as_ref()), twin.as_ref()).await;
        match &done {
            Ok(Done::Nothing | Done::Overtaken) => {}
            Ok(Done::Wrote(what)) => {
                tracing::info!(
                    namespace = service.namespace,
                    service = service.name,
                    twin = name,
                    "{what} the twin"
                );
            }
            Ok(Done::Foreign) => {
                let note = format!(
                    "The headless Service {name} is not whichpod's, so pods of {} cannot be told apart; rename it, or name a \
                     headless Service after \"=\" in whichpod.io/upstreams",
                    service.name
                );
                self.tell(&live, "TwinNameTaken", note).await;
            }
            Err(error) if is_refusal(error) => {
                let note = format!("whichpod cannot write the headless Service {name}: {}", error.reason);
                self.tell(&live, "TwinRefused", note).await;
            }
            Err(_) => {}
        }
        match done {
            Ok(Done::Overtaken) => Err(Failed {
                what: format!("Service {}/{name}", service.namespace),
                reason: Reason::Overtaken,
            }),
            other => other.map(|done| matches!(done, Done::Wrote(_))),
        }
    }

    async fn take(
        &self,
        services: &Api<DynamicObject>,
        name: &str,
        step: Step,
        twin: Option<&Value>,
    ) -> Result<Done, Failed> {
        let written = match step {
            Step::Nothing => return Ok(Done::Nothing),
            Step::Foreign => return Ok(Done::Foreign),
            Step::Create(twin) => create(services, name, twin).await?.then_some("made"),
            Step::Replace(twin) => match replace(services, name, twin.clone()).await {
                Ok(written) => written.then_some("changed"),
                Err(Failed { reason: Reason::Invalid(_), .. }) => recreate(services, name, twin).await?,
                Err(error) => return Err(error),
            },
            Step::Recreate(desired) => {
                let uid = twin.and_then(|twin| twin.pointer("/metadata/uid")).cloned();
                let mut desired = desired;
                if let (Some(uid), Some(metadata)) = (uid, desired["metadata"].as_object_mut()) {
                    metadata.insert("uid".to_owned(), uid);
                }
                recreate(services, name, desired).await?
            }
        };
        Ok(written.map_or(Done::Overtaken, Done::Wrote))
    }

    async fn tell(&self, service: &Value, reason: &str, note: String) {
        let text = |pointer: &str| service.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let regarding = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Service".to_owned()),
            namespace: text("/metadata/namespace"),
            name: text("/metadata/name"),
            uid: text("/metadata/uid"),
            ..ObjectReference::default()
        };
        self.events.publish(EventType::Warning, reason, "CreateTwin", note, &regarding).await;
    }
}

/// Whether a quota, a policy or the API server itself forbids the twin, and goes on doing so.
pub(super) fn is_refusal(error: &Failed) -> bool {
    matches!(error.reason, Reason::Forbidden(_) | Reason::Invalid(_))
}

/// What came of a step.
enum Done {
    Nothing,
    Wrote(&'static str),
    /// The name is somebody else's.
    Foreign,
    /// Somebody changed it meanwhile.
    Overtaken,
}

async fn get(services: &Api<DynamicObject>, name: &str) -> Result<Option<Value>, Failed> {
    let found = request::get(|| format!("Service {name}"), services.get_opt(name)).await?;
    Ok(found.and_then(|found| serde_json::to_value(found).ok()))
}

async fn create(services: &Api<DynamicObject>, name: &str, twin: Value) -> Result<bool, Failed> {
    let twin = object(name, twin)?;
    let parameters = parameters();
    let created = services.create(&parameters, &twin);
    Ok(request::put(|| format!("creating Service {name}"), created).await?.is_some())
}

async fn replace(services: &Api<DynamicObject>, name: &str, twin: Value) -> Result<bool, Failed> {
    let twin = object(name, twin)?;
    let parameters = parameters();
    let replaced = services.replace(name, &parameters, &twin);
    Ok(request::put(|| format!("changing Service {name}"), replaced).await?.is_some())
}

/// Deletes our own twin (the `uid` says that it is the one that was looked at) and makes it anew.
async fn recreate(
    services: &Api<DynamicObject>,
    name: &str,
    mut twin: Value,
) -> Result<Option<&'static str>, Failed> {
    let metadata = twin["metadata"].as_object_mut();
    let uid = metadata.and_then(|metadata| {
        metadata.remove("resourceVersion");
        metadata.remove("uid")
    });
    let preconditions = Preconditions {
        uid: uid.as_ref().and_then(Value::as_str).map(str::to_owned),
        resource_version: None,
    };
    let delete = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    request::put(|| format!("deleting Service {name}"), services.delete(name, &delete)).await?;
    Ok(create(services, name, twin).await?.then_some("made anew"))
}

fn object(name: &str, twin: Value) -> Result<DynamicObject, Failed> {
    serde_json::from_value(twin).map_err(|error| Failed {
        what: format!("Service {name}"),
        reason: Reason::Invalid(error.to_string()),
    })
}

fn parameters() -> PostParams {
    PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() }
}
