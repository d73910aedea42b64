//! Ours: as injection configures it, with nothing but defaults besides what is asked of all.

use std::path::Path;

use serde_json::json;

use super::{Launch, Protocol, Setup, words};

/// How to start it.
#[must_use]
pub fn launch(program: &Path, setup: &Setup<'_>) -> Launch {
    let protocol = match setup.protocol {
        Protocol::Http1 => "http1",
        Protocol::H2c => "h2c",
        Protocol::Grpc => "grpc",
        Protocol::Tcp => "tcp",
    };
    let log =
        if setup.log { setup.folder.join("access.log").display().to_string() } else { "off".to_owned() };
    let document = json!({
        "upstreams": [{
            "name": "pods",
            "listen": setup.listen.to_string(),
            "target": format!("{}:{}", setup.name, setup.port),
            "protocol": protocol,
        }],
        // Pods are on loopback addresses here.
        "dns": {"servers": [setup.dns.to_string()], "allow_loopback": true},
        "access_log": {"path": log},
        "admin": {"address": "127.0.0.1:0"},
        "health": {"address": "127.0.0.1:0"},
        "workers": setup.workers,
    });
    Launch {
        file: "whichpod.json",
        text: format!("{document:#}\n"),
        command: words(program, &["--config", "whichpod.json"]),
    }
}
