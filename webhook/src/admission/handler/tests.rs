use axum::body::to_bytes;
use http::Request;
use proptest::prelude::*;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::*;

fn service() -> Value {
    json!({
        "metadata": { "namespace": "default", "name": "backend-service" },
        "spec": {
            "clusterIP": "10.0.0.1", "selector": { "app": "backend" },
            "ports": [{ "port": 10000, "targetPort": 10000, "protocol": "TCP" }],
        },
    })
}

fn deployment() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {
            "namespace": "default", "name": "nginx-test",
            "annotations": { "whichpod.io/upstreams": "backend-service:10000" },
        },
        "spec": {
            "selector": { "matchLabels": { "app": "nginx" } },
            "template": {
                "metadata": { "labels": { "app": "nginx" } },
                "spec": { "containers": [{ "name": "nginx", "image": "nginx" }], "aFieldOfTomorrow": { "deep": [1] } },
            },
        },
    })
}

fn review(object: &Value) -> Value {
    let kind = json!({ "group": "apps", "version": "v1", "kind": object["kind"] });
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": kind, "resource": { "group": "apps", "version": "v1", "resource": "deployments" },
            "name": object["metadata"]["name"], "namespace": "default", "operation": "CREATE",
            "userInfo": { "username": "admin" }, "object": object, "oldObject": null, "dryRun": false,
        },
    })
}

struct Webhook {
    router: Router,
    reviews: Arc<Reviews>,
}

fn webhook_with(cache: Cache, options: Options) -> Webhook {
    let reviews = Arc::<Reviews>::default();
    let options = Arc::new(ArcSwap::from_pointee(options));
    let handler = Handler::new(cache, options, Arc::clone(&reviews), Duration::from_secs(4));
    Webhook { router: router(handler), reviews }
}

fn webhook() -> Webhook {
    webhook_with(crate::cache::filled([service()], []), Options::default())
}

impl Webhook {
    async fn post(&self, body: impl Into<Body>) -> (StatusCode, Vec<u8>) {
        let request = Request::post("/mutate?timeout=5s").body(body.into()).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        (status, to_bytes(response.into_body(), usize::MAX).await.unwrap().to_vec())
    }

    async fn review(&self, review: &Value) -> Value {
        let (status, body) = self.post(review.to_string()).await;
        assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).unwrap()
    }

    fn counted(&self) -> Vec<(Counted, &'static str)> {
        self.reviews.counts().into_iter().map(|(key, _)| key).collect()
    }
}

/// The object as the API server would store it.
fn patched(object: &Value, answer: &Value) -> Value {
    let patch: Vec<u8> = match &answer["response"]["patch"] {
        Value::String(text) => {
            use base64::{Engine, engine::general_purpose::STANDARD};
            STANDARD.decode(text).unwrap()
        }
        other => panic!("a patch must be base64 text, not {other}"),
    };
    let patch: json_patch::Patch = serde_json::from_slice(&patch).unwrap();
    let mut object = object.clone();
    json_patch::patch(&mut object, &patch).unwrap();
    object
}

#[tokio::test]
async fn an_annotated_workload_gets_the_sidecar_and_keeps_fields_that_nobody_here_knows() {
    let webhook = webhook();
    let answer = webhook.review(&review(&deployment())).await;
    assert_eq!(
        (&answer["apiVersion"], &answer["kind"]),
        (&json!("admission.k8s.io/v1"), &json!("AdmissionReview"))
    );
    let response = &answer["response"];
    assert_eq!(response["uid"], "705ab4f5-6393-11e8-b7cc-42010a800002");
    assert_eq!((&response["allowed"], &response["patchType"]), (&json!(true), &json!("JSONPatch")));
    assert_eq!(
        response["auditAnnotations"],
        json!({ "reason": "injected", "upstreams": "backend-service:10000", "twins": "default/backend-service" })
    );
    let object = patched(&deployment(), &answer);
    assert!(whichpod_injection::is_injected(&object));
    assert_eq!(object["spec"]["template"]["spec"]["aFieldOfTomorrow"], json!({ "deep": [1] }));
    assert_eq!(webhook.counted(), [(Counted::Patched, "injected")]);
}

#[tokio::test]
async fn a_dry_run_gets_the_same_answer() {
    let (one, other) = (webhook(), webhook());
    let mut dry = review(&deployment());
    dry["request"]["dryRun"] = json!(true);
    assert_eq!(one.review(&dry).await, other.review(&review(&deployment())).await);
}

#[tokio::test]
async fn what_is_none_of_ours_passes_untouched() {
    let webhook = webhook();
    let mut plain = deployment();
    plain["metadata"]["annotations"] = json!({});
    let mut deletion = review(&deployment());
    deletion["request"]["operation"] = json!("DELETE");
    deletion["request"]["object"] = json!(null);
    let mut scale = review(&deployment());
    scale["request"]["subResource"] = json!("scale");
    let config_map =
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "x" }, "data": {} });
    for request in [review(&plain), deletion, scale, review(&config_map)] {
        let answer = webhook.review(&request).await;
        assert_eq!(answer["response"]["allowed"], true);
        assert!(
            answer["response"].get("patch").is_none() && answer["response"].get("warnings").is_none(),
            "{answer}"
        );
    }
    assert!(webhook.counted().iter().all(|(result, _)| *result == Counted::Allowed));
}

#[tokio::test]
async fn only_the_operators_policy_refuses_and_says_what_to_do() {
    let options =
        Options { headless_services: whichpod_injection::HeadlessServices::Deny, ..Options::default() };
    let webhook = webhook_with(crate::cache::filled([service()], []), options);
    let answer = webhook.review(&review(&deployment())).await;
    let response = &answer["response"];
    assert_eq!(response["allowed"], false);
    assert_eq!(
        (&response["status"]["code"], &response["status"]["reason"]),
        (&json!(403), &json!("Forbidden"))
    );
    let message = response["status"]["message"].as_str().unwrap();
    assert!(message.contains("backend-service") && message.contains("clusterIP: None"), "{message}");
    assert_eq!(webhook.counted(), [(Counted::Denied, "not_headless")]);
}

#[tokio::test]
async fn a_misspelt_annotation_is_told_to_the_user() {
    let mut object = deployment();
    object["metadata"]["annotations"]["whichpod.io/redirects"] = json!("env");
    let answer = webhook().review(&review(&object)).await;
    let warnings = answer["response"]["warnings"].as_array().unwrap();
    assert!(
        warnings.iter().any(|warning| warning.as_str().unwrap().contains("whichpod.io/redirect?")),
        "{warnings:?}"
    );
}

#[tokio::test]
async fn what_is_no_review_is_an_http_error() {
    let webhook = webhook();
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut review = review(&deployment());
        change(&mut review);
        review.to_string()
    };
    for body in [
        String::new(),
        "{}".to_owned(),
        "[]".to_owned(),
        "null".to_owned(),
        "nonsense".to_owned(),
        changed(&|review| review["apiVersion"] = json!("admission.k8s.io/v1beta1")),
        changed(&|review| review["kind"] = json!("TokenReview")),
        changed(&|review| review["request"] = json!(null)),
        changed(&|review| review["request"]["uid"] = json!("")),
        changed(&|review| review["request"]["operation"] = json!("PATCH")),
    ] {
        let (status, answer) = webhook.post(body.clone()).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("the body is no AdmissionReview of admission.k8s.io/v1: "), "{answer}");
    }
    assert_eq!(webhook.counted(), [(Counted::Malformed, "malformed")]);
    let get = Request::get("/mutate").body(Body::empty()).unwrap();
    assert_eq!(webhook.router.clone().oneshot(get).await.unwrap().status(), StatusCode::METHOD_NOT_ALLOWED);
    let other = Request::post("/validate").body(Body::empty()).unwrap();
    assert_eq!(webhook.router.clone().oneshot(other).await.unwrap().status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn nobody_can_fill_the_memory() {
    let webhook = webhook();
    let announced =
        Request::post("/mutate").header(CONTENT_LENGTH, BODY_LIMIT + 1).body(Body::empty()).unwrap();
    let response = webhook.router.clone().oneshot(announced).await.unwrap();
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let endless =
        futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(&[b' '; 65536])));
    let (status, _) = webhook.post(Body::from_stream(endless)).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(webhook.counted(), [(Counted::Malformed, "too_large")]);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_holds_nothing_for_long() {
    let webhook = webhook();
    let started = Instant::now();
    let silent = futures_util::stream::pending::<Result<Bytes, std::io::Error>>();
    let (status, _) = webhook.post(Body::from_stream(silent)).await;
    assert_eq!(status, StatusCode::REQUEST_TIMEOUT);
    assert_eq!(started.elapsed(), Duration::from_secs(4));
    assert_eq!(webhook.counted(), [(Counted::Malformed, "late")]);
}

#[tokio::test(start_paused = true)]
async fn a_webhook_that_knows_nothing_yet_changes_nothing_and_says_so() {
    let webhook = webhook_with(Cache::new(), Options::default());
    let answer = webhook.review(&review(&deployment())).await;
    let response = &answer["response"];
    assert_eq!(response["allowed"], true);
    assert!(response.get("patch").is_none());
    assert!(response["warnings"][0].as_str().unwrap().contains("apply it again"));
    assert_eq!(webhook.counted(), [(Counted::Failed, "not_ready")]);
}

#[tokio::test]
async fn a_defect_lets_the_object_pass_with_a_warning() {
    fn defect(_: &str) -> Result<(), String> {
        panic!("a defect, made for this test")
    }
    let options = Options { check_log_format: Some(defect), ..Options::default() };
    let webhook = webhook_with(crate::cache::filled([service()], []), options);
    let mut object = deployment();
    object["metadata"]["annotations"]["whichpod.io/log-format"] = json!("json");
    let answer = webhook.review(&review(&object)).await;
    let response = &answer["response"];
    assert_eq!(
        (&response["allowed"], &response["uid"]),
        (&json!(true), &json!("705ab4f5-6393-11e8-b7cc-42010a800002"))
    );
    assert!(response.get("patch").is_none());
    assert!(response["warnings"][0].as_str().unwrap().contains("internal error"));
    assert_eq!(webhook.counted(), [(Counted::Failed, "panic")]);
    // The next one is served as if nothing had happened.
    assert_eq!(
        webhook.review(&review(&deployment())).await["response"]["auditAnnotations"]["reason"],
        "injected"
    );
}

#[tokio::test]
async fn every_warning_fits_into_what_the_api_server_passes_on() {
    for warning in [webhook_warning(true).await, webhook_warning(false).await] {
        assert!(warning.len() <= whichpod_injection::LONGEST_WARNING, "{warning}");
    }
}

async fn webhook_warning(synced: bool) -> String {
    let review = Review::parse(review(&deployment()).to_string().as_bytes()).unwrap();
    let options = Arc::new(ArcSwap::from_pointee(Options::default()));
    let handler = Handler::new(Cache::new(), options, Arc::default(), Duration::from_secs(4));
    let response = if synced { handler.failed(&review, "panic", "") } else { handler.not_synced(&review) };
    response.warnings.unwrap().remove(0)
}

proptest! {
    #[test]
    fn no_body_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Review::parse(&bytes);
    }

    #[test]
    fn every_review_is_answered_whatever_the_object_is(
        pointer in prop::sample::select(vec![
            "", "/metadata", "/metadata/annotations", "/spec", "/spec/template", "/spec/template/spec",
            "/spec/template/metadata", "/spec/template/spec/containers", "/spec/template/spec/containers/0", "/kind",
        ]),
        value in prop::sample::select(vec![json!(null), json!([]), json!({}), json!(7), json!("x"), json!([null, 1])]),
    ) {
        let mut object = deployment();
        *object.pointer_mut(pointer).unwrap() = value;
        let mut review = review(&deployment());
        review["request"]["object"] = object;
        let parsed = Review::parse(review.to_string().as_bytes()).unwrap();
        let handler = Handler::new(
            crate::cache::filled([service()], []),
            Arc::new(ArcSwap::from_pointee(Options::default())),
            Arc::default(),
            Duration::from_secs(4),
        );
        let response = handler.answer(&parsed);
        prop_assert!(response.allowed);
        prop_assert!(handler.reviews.counts().iter().all(|((result, _), _)| *result != Counted::Failed));
    }
}
