//! How many reviews one core answers, and what 5,000 Services cost: `cargo run --release -p whichpod-webhook --example reviews`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use axum::body::{Body, to_bytes};
use http::{Request, StatusCode};
use serde_json::{Value, json};
use tower::ServiceExt;
use whichpod_injection::Options;
use whichpod_webhook::admission::{Handler, router};
use whichpod_webhook::cache;

const SERVICES: usize = 5_000;
const REVIEWS: u32 = 2_000;
const OBJECT_BYTES: usize = 100 * 1024;

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::print_stdout, reason = "it prints what it measured")]
async fn main() -> anyhow::Result<()> {
    let before = resident()?;
    let cache = cache::filled((0..SERVICES).map(service), [namespace()]);
    let kept = resident()?.saturating_sub(before);
    println!("{SERVICES} Services: {:.1} MB resident", as_mega(kept));

    let options = Arc::new(ArcSwap::from_pointee(Options::default()));
    let router = router(Handler::new(cache, options, Arc::default(), Duration::from_secs(4)));
    let body = review().to_string();
    let mut times = Vec::new();
    let start = Instant::now();
    for _ in 0..REVIEWS {
        let started = Instant::now();
        let request = Request::post("/mutate").body(Body::from(body.clone()))?;
        let response = router.clone().oneshot(request).await?;
        anyhow::ensure!(response.status() == StatusCode::OK, "answered {}", response.status());
        let answer = to_bytes(response.into_body(), usize::MAX).await?;
        anyhow::ensure!(answer.windows(7).any(|window| window == b"\"patch\""), "no patch");
        times.push(started.elapsed());
    }
    let rate = f64::from(REVIEWS) / start.elapsed().as_secs_f64();
    times.sort_unstable();
    let at = |share: usize| times[(times.len() * share / 1000).min(times.len() - 1)];
    println!("an object of {} KB: {rate:.0} reviews/s on one core", body.len() / 1024);
    println!("p50 {:?}, p99 {:?}, max {:?}", at(500), at(990), at(1000));
    Ok(())
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

fn namespace() -> Value {
    json!({ "metadata": { "name": "team-0", "labels": {} } })
}

/// A Deployment with much in it, as generators make them.
fn review() -> Value {
    let padding = "x".repeat(1000);
    let env: Vec<_> =
        (0..OBJECT_BYTES / 1050).map(|n| json!({ "name": format!("VALUE_{n}"), "value": padding })).collect();
    let object = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {
            "namespace": "team-0", "name": "app", "annotations": { "whichpod.io/upstreams": "service-0:80, service-100:80" },
        },
        "spec": {
            "selector": { "matchLabels": { "app": "app" } },
            "template": {
                "metadata": { "labels": { "app": "app" } },
                "spec": { "containers": [{ "name": "app", "image": "app", "env": env }] },
            },
        },
    });
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": { "group": "apps", "version": "v1", "kind": "Deployment" },
            "resource": { "group": "apps", "version": "v1", "resource": "deployments" },
            "name": "app", "namespace": "team-0", "operation": "CREATE", "userInfo": {}, "object": object,
        },
    })
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
