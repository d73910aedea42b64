//! The sidecar's container. It passes the `restricted` Pod Security Standard, has no volume of its own (an emptyDir would keep the
//! cluster autoscaler from removing the node) and no preStop hook (it would run too early).

use serde_json::{Map, Value, json};

use crate::names;
use crate::options::{Options, Resources};
use crate::settings::{Settings, VolumeMount};
use crate::sidecar_config::OwnPorts;
use crate::workload::Pod;

/// The container; `environment` is its `env`. What the API server would add as a default is written out, so that the
/// stored object equals what was written.
pub(crate) fn container(
    environment: Vec<Value>,
    native: bool,
    ports: OwnPorts,
    settings: &Settings,
    pod: Pod<'_>,
    options: &Options,
) -> Value {
    let mut container = Map::new();
    let mut put = |key: &str, value: Value| drop(container.insert(key.to_owned(), value));
    put("name", json!(names::CONTAINER));
    put("image", json!(options.image));
    put("imagePullPolicy", json!(options.image_pull_policy));
    if native {
        put("restartPolicy", json!("Always"));
    }
    put("env", Value::Array(environment));
    put(
        "ports",
        json!([{"name": names::HEALTH_PORT_NAME, "containerPort": ports.health, "protocol": "TCP"}]),
    );
    if native {
        // The app and the other init containers start once this has succeeded.
        put(
            "startupProbe",
            json!({
                "httpGet": {"path": "/ready", "port": ports.health, "scheme": "HTTP"},
                "periodSeconds": 1,
                "timeoutSeconds": 1,
                "successThreshold": 1,
                "failureThreshold": 120,
            }),
        );
    }
    if let Some(resources) = resource_requirements(&settings.resources, pod) {
        put("resources", resources);
    }
    if !settings.volume_mounts.is_empty() {
        let mount =
            |mount: &VolumeMount| json!({"name": mount.volume, "mountPath": mount.path, "readOnly": true});
        put("volumeMounts", settings.volume_mounts.iter().map(mount).collect());
    }
    put("securityContext", security_context(options.run_as_user));
    put("terminationMessagePath", json!("/dev/termination-log"));
    put("terminationMessagePolicy", json!("FallbackToLogsOnError"));
    Value::Object(container)
}

/// A Guaranteed pod stays so; a pod with resources of its own shares them.
fn resource_requirements(resources: &Resources, pod: Pod<'_>) -> Option<Value> {
    if pod.has_own_resources() {
        return None;
    }
    let Resources { cpu_request, memory_request, memory_limit, cpu_limit } = resources;
    if pod.guaranteed() {
        let both = json!({"cpu": cpu_limit.as_ref().unwrap_or(cpu_request), "memory": memory_limit});
        return Some(json!({"requests": both, "limits": both}));
    }
    let mut limits = json!({"memory": memory_limit});
    if let Some(cpu) = cpu_limit {
        limits["cpu"] = json!(cpu);
    }
    Some(json!({"requests": {"cpu": cpu_request, "memory": memory_request}, "limits": limits}))
}

fn security_context(run_as_user: Option<u32>) -> Value {
    let mut context = json!({
        "runAsNonRoot": true,
        "readOnlyRootFilesystem": true,
        "allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    });
    if let Some(user) = run_as_user {
        context["runAsUser"] = json!(user);
    }
    context
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requirements(pod: &Value, resources: &Resources) -> Option<Value> {
        resource_requirements(resources, Pod(pod))
    }

    #[test]
    fn there_is_no_cpu_limit_unless_somebody_wants_one() {
        let pod = json!({"spec": {"containers": [{"name": "app"}]}});
        let mut resources = Resources::default();
        let written = requirements(&pod, &resources).unwrap();
        assert_eq!(
            written,
            json!({"requests": {"cpu": "50m", "memory": "32Mi"}, "limits": {"memory": "64Mi"}})
        );
        resources.cpu_limit = Some("1".to_owned());
        assert_eq!(requirements(&pod, &resources).unwrap()["limits"]["cpu"], "1");
    }

    #[test]
    fn a_guaranteed_pod_stays_guaranteed() {
        let mut pod = json!({"spec": {"containers": [
            {"name": "app", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1Gi"}}}]}});
        let written = requirements(&pod, &Resources::default()).unwrap();
        assert_eq!(
            written,
            json!({"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"cpu": "50m", "memory": "64Mi"}})
        );
        pod["spec"]["containers"]
            .as_array_mut()
            .unwrap()
            .push(json!({"name": "whichpod", "resources": written}));
        assert!(Pod(&pod).guaranteed());
    }

    #[test]
    fn a_pod_with_resources_of_its_own_is_not_made_invalid() {
        let pod = json!({"spec": {"resources": {"limits": {"cpu": "1"}}, "containers": [{"name": "app"}]}});
        assert_eq!(requirements(&pod, &Resources::default()), None);
    }

    #[test]
    fn the_container_passes_the_restricted_standard() {
        let context = security_context(Some(65532));
        assert_eq!(context["runAsUser"], 65532);
        assert_eq!(context["capabilities"], json!({"drop": ["ALL"]}));
        for key in ["runAsNonRoot", "readOnlyRootFilesystem"] {
            assert_eq!(context[key], true);
        }
        assert_eq!(context["allowPrivilegeEscalation"], false);
        assert!(security_context(None).get("runAsUser").is_none(), "OpenShift chooses one of its range");
    }
}
