//! The admin server: the paths that users of Envoy type, on loopback only; and the port of `/ready` and `/metrics`.

mod actions;
mod clusters;
mod guard;
mod pages;
mod server;
mod stats;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::Query;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Router, middleware};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde_json::Value;
use tokio::time::Instant;
use whichpod_access_log::Log;
use whichpod_config::Config;
use whichpod_proxy::worker::Shared;
use whichpod_runtime::diagnostics::Diagnostics;
use whichpod_runtime::readiness::Readiness;
use whichpod_runtime::shutdown::Trigger;
use whichpod_runtime::{health_server, http_server};

use crate::metrics;

/// What the admin server shows and can do.
pub struct Admin {
    /// What the sidecar runs with.
    pub config: Config,
    /// The upstreams' names and where they listen, after binding.
    pub listeners: Vec<(Arc<str>, SocketAddr)>,
    /// How many workers there are.
    pub workers: usize,
    /// The upstreams, their endpoints and their counters.
    pub shared: Arc<Shared>,
    /// The access log's destination and its counters.
    pub log: Log,
    /// `None` in processes that own their diagnostics themselves (tests, the demo).
    pub diagnostics: Option<Diagnostics>,
    /// What `/ready` says.
    pub readiness: Readiness,
    /// Ends the process as SIGTERM does.
    pub quit: Trigger,
    /// When the process started.
    pub started: (Instant, SystemTime),
}

/// Serves the admin paths until it is dropped; a listener that cannot be used is logged, and traffic goes on without.
pub async fn serve(listener: std::net::TcpListener, state: Arc<Admin>) {
    let Err(error) = http_server::serve(listener, router(state)).await;
    tracing::error!("the admin server cannot run: {error}");
}

/// Serves `/ready` and `/metrics` until it is dropped; a listener that cannot be used is logged.
pub async fn serve_health(listener: std::net::TcpListener, state: Arc<Admin>) {
    let readiness = state.readiness.clone();
    let Err(error) = health_server::serve(listener, readiness, move || metrics::text(&state)).await;
    tracing::error!("/ready and /metrics cannot be served: {error}");
}

/// Every admin path, behind the checks against pages in a browser.
pub fn router(state: Arc<Admin>) -> Router {
    Router::new()
        .route("/", get(pages::index))
        .route("/clusters", get(clusters::show))
        .route("/config_dump", get(server::config_dump))
        .route("/help", get(pages::help))
        .route("/listeners", get(server::listeners))
        .route("/logging", post(actions::logging))
        .route("/quitquitquit", post(actions::quit))
        .route("/ready", get(server::ready))
        .route("/server_info", get(server::info))
        .route("/stats", get(stats::show))
        .route("/stats/prometheus", get(stats::prometheus))
        .fallback(pages::not_found)
        .method_not_allowed_fallback(pages::wrong_method)
        .layer(middleware::from_fn(guard::check))
        .with_state(state)
}

/// A request's query; of several equal keys the last counts.
type Params = Query<BTreeMap<String, String>>;

/// How a page is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    Json,
    Prometheus,
}

/// What `?format=` asks for, text if nothing; an error names what there is.
fn form(params: &Params, offered: &[(&str, Form)]) -> Result<Form, Box<Response>> {
    let Some(asked) = params.get("format") else { return Ok(Form::Text) };
    offered.iter().find(|(name, _)| name == asked).map(|(_, form)| *form).ok_or_else(|| {
        let names: Vec<_> = offered.iter().map(|(name, _)| *name).collect();
        Box::new(bad_request(&format!("format={asked}: unknown; use one of {}", names.join(", "))))
    })
}

const TEXT_OR_JSON: &[(&str, Form)] = &[("text", Form::Text), ("json", Form::Json)];

fn bad_request(what: &str) -> Response {
    (StatusCode::BAD_REQUEST, format!("{what}\n")).into_response()
}

fn json(value: &Value) -> Response {
    ([(CONTENT_TYPE, "application/json")], format!("{value:#}\n")).into_response()
}
