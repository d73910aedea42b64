//! `POST /mutate`: bounded in size, memory and time; a panic or a defect never stops anybody's deployment.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use http::StatusCode;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http_body_util::{BodyExt, Limited};
use kube::core::admission::AdmissionResponse;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use whichpod_injection::{Options, Outcome};

use super::record::{Result as Counted, Reviews};
use super::review::{self, Review};
use crate::cache::Cache;

/// The largest body, in bytes: two objects of the most that etcd takes, and much to spare.
pub const BODY_LIMIT: usize = 10 * 1024 * 1024;

/// Bodies held at a time, in KiB, whoever sends them: anybody in the cluster may be able to.
const MEMORY: u32 = 64 * 1024;

/// What every review needs.
pub struct Handler {
    cache: Cache,
    options: Arc<ArcSwap<Options>>,
    reviews: Arc<Reviews>,
    /// From the head of the request to its answer.
    timeout: Duration,
    memory: Semaphore,
}

impl Handler {
    /// A review that takes longer than `timeout` is given up; less than the API server waits.
    pub fn new(
        cache: Cache,
        options: Arc<ArcSwap<Options>>,
        reviews: Arc<Reviews>,
        timeout: Duration,
    ) -> Self {
        Self { cache, options, reviews, timeout, memory: Semaphore::new(MEMORY as usize) }
    }
}

/// `POST /mutate`, and nothing else.
pub fn router(handler: Handler) -> Router {
    Router::new()
        .route("/mutate", post(mutate))
        .fallback((StatusCode::NOT_FOUND, "not found: this port has POST /mutate\n"))
        .with_state(Arc::new(handler))
}

async fn mutate(State(handler): State<Arc<Handler>>, request: http::Request<Body>) -> Response {
    let deadline = Instant::now() + handler.timeout;
    match timeout_at(deadline, handler.body(request)).await {
        Ok(Ok(body)) => handler.review(&body, deadline).await,
        Ok(Err(refusal)) => handler.refuse(refusal),
        Err(_) => handler.refuse(Refusal::Late),
    }
}

/// Why a request is answered with an HTTP error.
enum Refusal {
    TooLarge,
    Broken(String),
    Late,
    Malformed(review::Malformed),
}

/// A body, and its share of the memory.
struct Held<'a> {
    bytes: Bytes,
    _permit: Option<tokio::sync::SemaphorePermit<'a>>,
}

impl Handler {
    async fn body(&self, request: http::Request<Body>) -> Result<Held<'_>, Refusal> {
        let length = request
            .headers()
            .get(CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
        let length = length.unwrap_or(BODY_LIMIT);
        if length > BODY_LIMIT {
            return Err(Refusal::TooLarge);
        }
        let share = u32::try_from(length / 1024 + 1).unwrap_or(MEMORY);
        // The semaphore is never closed.
        let permit = self.memory.acquire_many(share.min(MEMORY)).await.ok();
        match Limited::new(request.into_body(), BODY_LIMIT).collect().await {
            Ok(body) => Ok(Held { bytes: body.to_bytes(), _permit: permit }),
            Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(Refusal::TooLarge),
            Err(error) => Err(Refusal::Broken(error.to_string())),
        }
    }

    async fn review(&self, body: &Held<'_>, deadline: Instant) -> Response {
        let started = Instant::now();
        let review = match Review::parse(&body.bytes) {
            Ok(review) => review,
            Err(malformed) => return self.refuse(Refusal::Malformed(malformed)),
        };
        // Only in the first moments, before the webhook is ready, and only where the API server asks all the same.
        let synced = self.cache.is_synced() || timeout_at(deadline, self.cache.synced()).await.is_ok();
        let response = if synced { self.answer(&review) } else { self.not_synced(&review) };
        self.reviews.duration.observe(started.elapsed());
        match review::encode(response) {
            Ok(body) => ([(CONTENT_TYPE, "application/json")], body).into_response(),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        }
    }

    fn answer(&self, review: &Review) -> AdmissionResponse {
        let options = self.options.load();
        // Nothing that outlives the panic is changed in there.
        let decided = catch_unwind(AssertUnwindSafe(|| {
            let outcome = self.cache.with(|facts| review.decide(facts, &options));
            let counted = outcome.as_ref().map_or((Counted::Allowed, "other_operation"), counted);
            review::answer(review, outcome).map(|response| (response, counted))
        }));
        match decided {
            Ok(Ok((response, (result, reason)))) => {
                self.record(review, result, reason);
                response
            }
            Ok(Err(reason)) => self.failed(review, "error", &reason),
            Err(_) => self.failed(review, "panic", "a defect in whichpod"),
        }
    }

    fn failed(&self, review: &Review, label: &'static str, reason: &str) -> AdmissionResponse {
        self.reviews.count(Counted::Failed, label);
        tracing::error!(
            kind = review.request.kind.kind,
            namespace = review.request.namespace,
            name = review.name(),
            "a review failed and the object passed as it was: {reason}"
        );
        let warning = "whichpod: an internal error, so nothing was changed; see the log of the webhook, and please report it";
        review::pass(review, warning)
    }

    fn not_synced(&self, review: &Review) -> AdmissionResponse {
        self.reviews.count(Counted::Failed, "not_ready");
        let warning = "whichpod: the webhook has just started and does not know the cluster yet, so nothing was changed; apply it again";
        review::pass(review, warning)
    }

    fn record(&self, review: &Review, result: Counted, reason: &'static str) {
        self.reviews.count(result, reason);
        let request = &review.request;
        if result == Counted::Allowed {
            tracing::debug!(
                kind = request.kind.kind,
                namespace = request.namespace,
                name = review.name(),
                reason,
                "reviewed"
            );
        } else {
            tracing::info!(
                kind = request.kind.kind,
                namespace = request.namespace,
                name = review.name(),
                operation = ?request.operation,
                dry_run = request.dry_run,
                result = result.label(),
                reason,
                "reviewed"
            );
        }
    }

    fn refuse(&self, refusal: Refusal) -> Response {
        let (status, label, text) = match refusal {
            Refusal::TooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "too_large",
                format!("the body is larger than {BODY_LIMIT} bytes"),
            ),
            Refusal::Broken(reason) => {
                (StatusCode::BAD_REQUEST, "broken", format!("the body ended early: {reason}"))
            }
            Refusal::Late => (
                StatusCode::REQUEST_TIMEOUT,
                "late",
                format!("the body did not arrive within {:?}", self.timeout),
            ),
            Refusal::Malformed(malformed) => (StatusCode::BAD_REQUEST, "malformed", malformed.to_string()),
        };
        self.reviews.count(Counted::Malformed, label);
        tracing::debug!("refused a request: {text}");
        (status, format!("{text}\n")).into_response()
    }
}

/// As what an outcome is counted.
fn counted(outcome: &Outcome) -> (Counted, &'static str) {
    let result = match outcome {
        Outcome { denied: Some(_), .. } => Counted::Denied,
        Outcome { patch, .. } if patch.0.is_empty() => Counted::Allowed,
        _ => Counted::Patched,
    };
    (result, outcome.reason.label())
}

#[cfg(test)]
mod tests;
