//! What the process is: its state, its configuration, its addresses.

use std::fmt::Write;
use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::{Value, json};
use whichpod_runtime::readiness::Status;

use super::{Admin, Form, Params, TEXT_OR_JSON, form};

/// The same as `/ready` on the health port.
pub(super) async fn ready(State(admin): State<Arc<Admin>>) -> (StatusCode, String) {
    let status = admin.readiness.status();
    let code = if status == Status::Ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, format!("{status}\n"))
}

pub(super) async fn info(State(admin): State<Arc<Admin>>) -> Response {
    let status = admin.readiness.status();
    let mut info = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "state": state(&status).0,
        "uptime_current_epoch": format!("{}s", admin.started.0.elapsed().as_secs()),
        "workers": admin.workers,
    });
    if let Status::Waiting(what) = status {
        info["waiting_for"] = what.into();
    }
    super::json(&info)
}

/// Envoy's word and number (`ServerInfo.State`).
pub(super) fn state(status: &Status) -> (&'static str, u64) {
    match status {
        Status::Ready => ("LIVE", 0),
        Status::ShuttingDown => ("DRAINING", 1),
        Status::Waiting(_) => ("PRE_INITIALIZING", 2),
    }
}

/// The document form, so that it can be started with.
pub(super) async fn config_dump(State(admin): State<Arc<Admin>>) -> Response {
    match serde_json::to_value(admin.config.to_document()) {
        Ok(document) => super::json(&document),
        Err(error) => {
            let why = format!("the configuration cannot be written as JSON: {error}\n");
            (StatusCode::INTERNAL_SERVER_ERROR, why).into_response()
        }
    }
}

pub(super) async fn listeners(State(admin): State<Arc<Admin>>, params: Params) -> Response {
    match form(&params, TEXT_OR_JSON) {
        Err(refusal) => *refusal,
        Ok(Form::Json) => super::json(&listeners_json(&admin)),
        Ok(_) => listeners_text(&admin).into_response(),
    }
}

fn listeners_text(admin: &Admin) -> String {
    admin.listeners.iter().fold(String::new(), |mut text, (name, address)| {
        let _ = writeln!(text, "{name}::{address}");
        text
    })
}

/// In the form of Envoy's `Listeners` message.
fn listeners_json(admin: &Admin) -> Value {
    let listeners = admin
        .listeners
        .iter()
        .map(|(name, address)| json!({ "name": name.as_ref(), "local_address": socket_address(*address) }));
    json!({ "listener_statuses": listeners.collect::<Vec<_>>() })
}

/// In the form of Envoy's `Address` message.
pub(super) fn socket_address(address: std::net::SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } })
}
