//! What changes the process: POST only.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;

use super::{Admin, Params, bad_request};

const USAGE: &str = "usage: POST /logging?level=LEVEL, or POST /logging to print the level; \
                     one target by name: ?level=info,whichpod::discovery=debug";

/// Prints the level, or sets it first.
pub(super) async fn logging(State(admin): State<Arc<Admin>>, params: Params) -> Response {
    let Some(diagnostics) = &admin.diagnostics else {
        let why = "the log level belongs to the program that this sidecar runs in; set it there\n";
        return (StatusCode::CONFLICT, why).into_response();
    };
    if let Some(unknown) = params.keys().find(|key| *key != "level") {
        return bad_request(&format!("parameter {unknown:?} is unknown; {USAGE}"));
    }
    if let Some(level) = params.get("level") {
        if let Err(error) = diagnostics.set_level(&translate(level)) {
            return bad_request(&error.to_string());
        }
        tracing::info!(level, "log level set by the admin server");
    }
    format!("level: {}\n", diagnostics.level()).into_response()
}

/// Envoy's words for levels, in ours.
fn translate(level: &str) -> String {
    let word = |name: &str| match name.trim().to_ascii_lowercase().as_str() {
        "warning" => "warn".to_owned(),
        "critical" => "error".to_owned(),
        _ => name.to_owned(),
    };
    let part = |part: &str| match part.rsplit_once('=') {
        Some((target, name)) => format!("{target}={}", word(name)),
        None => word(part),
    };
    level.split(',').map(part).collect::<Vec<_>>().join(",")
}

/// Starts the shutdown; the process ends when what runs has ended.
pub(super) async fn quit(State(admin): State<Arc<Admin>>) -> &'static str {
    tracing::info!("told to stop by the admin server");
    admin.quit.start();
    "OK\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn envoys_words_for_levels_are_understood() {
        assert_eq!(translate("warning"), "warn");
        assert_eq!(translate("Critical"), "error");
        assert_eq!(translate("info,whichpod_upstream=warning"), "info,whichpod_upstream=warn");
        assert_eq!(translate("debug"), "debug");
        assert_eq!(translate("=warning"), "=warn", "still refused");
        assert_eq!(translate("mywarning"), "mywarning", "the error names what was typed");
    }
}
