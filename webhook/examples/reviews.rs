//! How many reviews one core answers, how long each takes, and what 5,000 Services cost, from the bytes of a request to
//! those of its answer: `cargo run --release -p whichpod-webhook --example reviews`. Ends with an error if a target is
//! missed. What is measured is the processor's time, so that a busy machine measures the same; a word after `--` selects
//! the cases that have it in their name.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use http::{Request, StatusCode};
use serde_json::{Value, json};
use tower::ServiceExt;
use whichpod_injection::Options;
use whichpod_webhook::admission::{Handler, router};
use whichpod_webhook::cache;

/// As the webhook's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SERVICES: usize = 5_000;
const REVIEWS: u32 = 5_000;
/// What must hold: for an object of 100 KB, on one core, with all the Services in the cache.
const LONGEST: Duration = Duration::from_millis(1);
const FEWEST_A_SECOND: f64 = 5_000.0;
const MOST_BYTES: usize = 30_000_000;

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::print_stdout, reason = "it prints what it measured")]
async fn main() -> anyhow::Result<()> {
    let cache = cache::filled((0..SERVICES).map(service), namespaces());
    let options = Arc::new(ArcSwap::from_pointee(Options::default()));
    let router = router(Handler::new(cache, options, Arc::default(), Duration::from_secs(4)));
    let asking = json!({ "whichpod.io/upstreams": "service-0:80, service-100:80" });
    let (plain, annotated) = (deployment(&json!({}), small()), deployment(&asking, small()));
    let injected = admitted(&router, &annotated).await?;
    let managed = with_managed_fields(admitted(&router, &deployment(&asking, settings(400))).await?);
    let cases = [
        ("a Deployment that does not ask", review("CREATE", &plain, None), false),
        ("a Deployment that asks", review("CREATE", &annotated, None), true),
        ("it is scaled", review("UPDATE", &injected, Some(&injected)), false),
        ("it gets another image", review("UPDATE", &with_another_image(&injected), Some(&injected)), true),
        ("a pod of a labelled namespace, with 50 Services", review("CREATE", &pod(), None), true),
        ("100 KB, half of it managed fields, scaled", review("UPDATE", &managed, Some(&managed)), false),
        (
            "100 KB, half of it managed fields, another image",
            review("UPDATE", &with_another_image(&managed), Some(&managed)),
            true,
        ),
        ("100 KB in long texts", review("CREATE", &deployment(&asking, long_texts()), None), true),
        ("100 KB in small members", review("CREATE", &deployment(&asking, settings(2000)), None), true),
    ];
    println!("{:<50} {:>8} {:>11} {:>10} {:>10} {:>10}", "", "bytes", "reviews/s", "p50", "p99", "max");
    let mut slow = Vec::new();
    let selected = std::env::args().nth(1).unwrap_or_default();
    for (name, body, patched) in cases.into_iter().filter(|(name, ..)| name.contains(&selected)) {
        let (rate, [p50, p99, max]) = measure(&router, &body, patched).await?;
        println!("{name:<50} {:>8} {rate:>11.0} {p50:>10.1?} {p99:>10.1?} {max:>10.1?}", body.len());
        // Of a hundred listeners the answer alone is half of 100 KB.
        let ordinary = body.len() < 20_000 && !name.contains("50 Services");
        if p99 > LONGEST || (ordinary && rate < FEWEST_A_SECOND) {
            slow.push(name);
        }
    }
    let kept = resident()?;
    println!("{SERVICES} Services in the cache: {:.1} MB resident in all", as_mega(kept));
    anyhow::ensure!(slow.is_empty(), "too slow: {}", slow.join("; "));
    anyhow::ensure!(kept <= MOST_BYTES, "more than {} MB", as_mega(MOST_BYTES));
    Ok(())
}

/// Reviews a second, and how long the median, all but a hundredth, and all of them took at most.
async fn measure(router: &Router, body: &Bytes, patched: bool) -> anyhow::Result<(f64, [Duration; 3])> {
    let mut times = Vec::new();
    let start = processor_time();
    for _ in 0..REVIEWS {
        let started = processor_time();
        let answer = ask(router, body).await?;
        times.push(processor_time().saturating_sub(started));
        anyhow::ensure!(answer.windows(8).any(|window| window == b"\"patch\":") == patched, "patched?");
    }
    let rate = f64::from(REVIEWS) / processor_time().saturating_sub(start).as_secs_f64();
    times.sort_unstable();
    let at = |share: usize| times[(times.len() * share / 1000).min(times.len() - 1)];
    Ok((rate, [at(500), at(990), at(1000)]))
}

/// How long this thread has run.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

async fn ask(router: &Router, body: &Bytes) -> anyhow::Result<Bytes> {
    let request = Request::post("/mutate").body(Body::from(body.clone()))?;
    let response = router.clone().oneshot(request).await?;
    anyhow::ensure!(response.status() == StatusCode::OK, "answered {}", response.status());
    Ok(to_bytes(response.into_body(), usize::MAX).await?)
}

/// An object as the API server stores it after its review.
async fn admitted(router: &Router, object: &Value) -> anyhow::Result<Value> {
    use base64::Engine;
    let answer: Value = serde_json::from_slice(&ask(router, &review("CREATE", object, None)).await?)?;
    let patch = answer["response"]["patch"].as_str().unwrap_or_default();
    let patch: json_patch::Patch =
        serde_json::from_slice(&base64::engine::general_purpose::STANDARD.decode(patch)?)?;
    let mut object = object.clone();
    json_patch::patch(&mut object, &patch)?;
    Ok(object)
}

fn service(number: usize) -> Value {
    json!({
        "metadata": {
            "namespace": format!("team-{}", number % 100), "name": format!("service-{number}"),
            "labels": { "app.kubernetes.io/name": format!("service-{number}") },
        },
        "spec": {
            "clusterIP": "10.0.0.1", "selector": { "app": format!("app-{number}"), "tier": "backend" },
            "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }, { "name": "metrics", "port": 9090 }],
        },
    })
}

fn namespaces() -> Vec<Value> {
    let named = |number: usize| {
        let labels = if number == 1 { json!({ "whichpod.io/injection": "enabled" }) } else { json!({}) };
        json!({ "metadata": { "name": format!("team-{number}"), "labels": labels } })
    };
    (0..100).map(named).collect()
}

/// About as much as a chart writes.
fn small() -> Value {
    settings(10)
}

fn settings(count: usize) -> Value {
    (0..count).map(|n| json!({ "name": format!("SETTING_{n}"), "value": format!("value-{n}") })).collect()
}

fn with_another_image(object: &Value) -> Value {
    let mut changed = object.clone();
    changed["spec"]["template"]["spec"]["containers"][0]["image"] = json!("app:2");
    changed
}

/// As the API server keeps them for `kubectl apply --server-side`: of every field that somebody has set.
fn with_managed_fields(mut object: Value) -> Value {
    fn fields(value: &Value) -> Value {
        match value {
            Value::Object(members) => {
                members.iter().map(|(name, value)| (format!("f:{name}"), fields(value))).collect()
            }
            Value::Array(elements) if elements.iter().all(|element| element["name"].is_string()) => {
                let of = |element: &Value| {
                    let mut all = fields(element);
                    all["."] = json!({});
                    (format!("k:{{\"name\":{}}}", element["name"]), all)
                };
                elements.iter().map(of).collect()
            }
            _ => json!({}),
        }
    }
    object["metadata"]["managedFields"] = json!([{
        "manager": "kubectl", "operation": "Apply", "apiVersion": "apps/v1", "time": "2026-01-01T00:00:00Z",
        "fieldsType": "FieldsV1", "fieldsV1": { "f:spec": fields(&object["spec"]) },
    }]);
    object
}

/// As generators that embed files make them.
fn long_texts() -> Value {
    let text = "x".repeat(1000);
    (0..97).map(|n| json!({ "name": format!("VALUE_{n}"), "value": text })).collect()
}

fn pod_spec(env: &Value) -> Value {
    let probe =
        json!({ "httpGet": { "path": "/healthz", "port": 8080, "scheme": "HTTP" }, "periodSeconds": 10 });
    json!({
        "serviceAccountName": "app", "dnsPolicy": "ClusterFirst", "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 30, "securityContext": { "runAsNonRoot": true },
        "containers": [{
            "name": "app", "image": "app:1", "imagePullPolicy": "IfNotPresent", "env": env,
            "ports": [{ "containerPort": 8080, "name": "http", "protocol": "TCP" }],
            "livenessProbe": probe, "readinessProbe": probe,
            "resources": { "requests": { "cpu": "100m", "memory": "128Mi" }, "limits": { "memory": "256Mi" } },
            "volumeMounts": [{ "name": "config", "mountPath": "/etc/app" }],
        }],
        "volumes": [{ "name": "config", "configMap": { "name": "app", "defaultMode": 420 } }],
    })
}

#[expect(clippy::needless_pass_by_value, reason = "each is made where it is passed")]
fn deployment(annotations: &Value, env: Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "namespace": "team-0", "name": "app", "annotations": annotations },
        "spec": {
            "replicas": 3, "selector": { "matchLabels": { "app": "app" } },
            "template": { "metadata": { "labels": { "app": "app" } }, "spec": pod_spec(&env) },
        },
    })
}

fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "namespace": "team-1", "generateName": "app-", "labels": { "app": "app" } },
        "spec": pod_spec(&small()),
    })
}

fn review(operation: &str, object: &Value, old: Option<&Value>) -> Bytes {
    let kind = object["kind"].as_str().unwrap_or_default();
    let (group, resource) = if kind == "Pod" { ("", "pods") } else { ("apps", "deployments") };
    let review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": { "group": group, "version": "v1", "kind": kind },
            "resource": { "group": group, "version": "v1", "resource": resource },
            "name": "app", "namespace": object["metadata"]["namespace"], "operation": operation,
            "userInfo": { "username": "admin", "groups": ["system:masters", "system:authenticated"] },
            "object": object, "oldObject": old, "dryRun": false,
        },
    });
    review.to_string().into()
}

/// Bytes of memory that the process has in use.
fn resident() -> anyhow::Result<usize> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes: usize =
        line.and_then(|line| line.split_whitespace().next()).unwrap_or_default().parse()?;
    Ok(kilobytes * 1024)
}

#[expect(clippy::cast_precision_loss, reason = "for one decimal")]
fn as_mega(bytes: usize) -> f64 {
    bytes as f64 / 1e6
}
