//! `POST /mutate`: any bytes get 400 or an answer, and a patch applies to what was sent.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::{Body, to_bytes};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::{Request, StatusCode};
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};
use tower::ServiceExt;
use whichpod_injection::{LONGEST_WARNING, Options};
use whichpod_webhook::admission::{Handler, router};
use whichpod_webhook::cache;

thread_local! {
    static WEBHOOK: (Runtime, Router) = {
        let service = json!({
            "metadata": {"namespace": "default", "name": "backend-service"},
            "spec": {
                "clusterIP": "10.0.0.1", "selector": {"app": "backend"},
                "ports": [{"port": 10000, "targetPort": 10000, "protocol": "TCP"}],
            },
        });
        let namespace = json!({"metadata": {"name": "orders", "labels": {"whichpod.io/injection": "enabled"}}});
        let options = Arc::new(ArcSwap::from_pointee(Options::default()));
        let cache = cache::filled([service], [namespace]);
        let handler = Handler::new(cache, options, Arc::default(), Duration::from_secs(4));
        let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
        (runtime, router(handler))
    };
}

/// Any body of a review.
pub fn admission(bytes: &[u8]) {
    let (status, answer) = WEBHOOK.with(|(runtime, router)| {
        runtime.block_on(async {
            let request =
                Request::post("/mutate?timeout=5s").body(Body::from(bytes.to_vec())).expect("a request");
            let response = router.clone().oneshot(request).await.expect("an answer");
            let status = response.status();
            (status, to_bytes(response.into_body(), usize::MAX).await.expect("a body"))
        })
    });
    if status != StatusCode::OK {
        assert_eq!(status, StatusCode::BAD_REQUEST, "{}", String::from_utf8_lossy(&answer));
        return;
    }
    let asked: Value = serde_json::from_slice(bytes).expect("only JSON is answered");
    let answer: Value = serde_json::from_slice(&answer).expect("JSON");
    let response = &answer["response"];
    assert_eq!(
        (&answer["apiVersion"], &answer["kind"]),
        (&json!("admission.k8s.io/v1"), &json!("AdmissionReview"))
    );
    assert_eq!(response["uid"], asked["request"]["uid"]);
    assert!(response["allowed"].is_boolean());
    for warning in response["warnings"].as_array().into_iter().flatten() {
        let warning = warning.as_str().expect("text");
        assert!(warning.chars().count() <= LONGEST_WARNING, "{warning}");
        assert!(!warning.contains("internal error"), "{warning}");
    }
    if let Some(patch) = response["patch"].as_str() {
        let patch = BASE64.decode(patch).expect("base64");
        let patch: json_patch::Patch = serde_json::from_slice(&patch).expect("a JSON Patch");
        let mut object = asked["request"]["object"].clone();
        json_patch::patch(&mut object, &patch).expect("it applies");
    }
}
