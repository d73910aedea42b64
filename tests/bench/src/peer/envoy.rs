//! Envoy: one listener, one cluster by strict DNS, its default access log.

use std::path::Path;

use serde_json::{Value, json};

use super::{Launch, Protocol, Setup, words};

const TYPES: &str = "type.googleapis.com/envoy.extensions";

/// How to start it.
#[must_use]
pub fn launch(program: &Path, setup: &Setup<'_>) -> Launch {
    let workers = setup.workers.to_string();
    let document = json!({
        "static_resources": {"listeners": [listener(setup)], "clusters": [cluster(setup)]},
    });
    Launch {
        file: "envoy.json",
        text: format!("{document:#}\n"),
        command: words(
            program,
            &["-c", "envoy.json", "--concurrency", &workers, "--disable-hot-restart", "--log-level", "error"],
        ),
    }
}

fn listener(setup: &Setup<'_>) -> Value {
    let filter = if setup.protocol == Protocol::Tcp { tcp(setup) } else { http(setup) };
    json!({
        "address": address(&setup.listen.ip().to_string(), setup.listen.port()),
        "filter_chains": [{"filters": [filter]}],
    })
}

fn tcp(setup: &Setup<'_>) -> Value {
    let mut config = json!({
        "@type": format!("{TYPES}.filters.network.tcp_proxy.v3.TcpProxy"),
        "stat_prefix": "pods",
        "cluster": "pods",
    });
    if setup.log {
        config["access_log"] = access_log(setup);
    }
    json!({"name": "envoy.filters.network.tcp_proxy", "typed_config": config})
}

fn http(setup: &Setup<'_>) -> Value {
    let mut config = json!({
        "@type": format!("{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "pods",
        "codec_type": if setup.protocol == Protocol::Http1 { "HTTP1" } else { "HTTP2" },
        "generate_request_id": true,
        "preserve_external_request_id": true,
        "stream_idle_timeout": "0s",
        "route_config": {"virtual_hosts": [{
            "name": "pods",
            "domains": ["*"],
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "pods", "timeout": "0s"}}],
        }]},
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": {"@type": format!("{TYPES}.filters.http.router.v3.Router")},
        }],
    });
    if setup.log {
        config["access_log"] = access_log(setup);
    }
    json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": config})
}

/// The default format, which names the upstream's address.
fn access_log(setup: &Setup<'_>) -> Value {
    json!([{
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": format!("{TYPES}.access_loggers.file.v3.FileAccessLog"),
            "path": setup.folder.join("access.log"),
        },
    }])
}

fn cluster(setup: &Setup<'_>) -> Value {
    let mut cluster = json!({
        "name": "pods",
        "type": "STRICT_DNS",
        "connect_timeout": "1s",
        "lb_policy": "ROUND_ROBIN",
        "dns_lookup_family": "V4_ONLY",
        "dns_refresh_rate": "1s",
        "typed_dns_resolver_config": {
            "name": "envoy.network.dns_resolver.cares",
            "typed_config": {
                "@type": format!("{TYPES}.network.dns_resolver.cares.v3.CaresDnsResolverConfig"),
                "resolvers": [address(&setup.dns.ip().to_string(), setup.dns.port())],
            },
        },
        "circuit_breakers": {"thresholds": [{
            "max_connections": 20000, "max_pending_requests": 20000, "max_requests": 20000,
        }]},
        "load_assignment": {"cluster_name": "pods", "endpoints": [{"lb_endpoints": [
            {"endpoint": {"address": address(setup.name.trim_end_matches('.'), setup.port)}},
        ]}]},
    });
    if matches!(setup.protocol, Protocol::H2c | Protocol::Grpc) {
        cluster["typed_extension_protocol_options"] = json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": format!("{TYPES}.upstreams.http.v3.HttpProtocolOptions"),
                "explicit_http_config": {"http2_protocol_options": {}},
            },
        });
    }
    cluster
}

fn address(host: &str, port: u16) -> Value {
    json!({"socket_address": {"address": host, "port_value": port}})
}
