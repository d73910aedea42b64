//! nginx, as an ingress has it.

use std::path::Path;

use super::{Launch, Protocol, Setup, words};
use crate::programs::STREAM_MODULE;

/// ingress-nginx's own format.
const HTTP_LOG: &str = r#"'$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent" $request_length $request_time $upstream_addr $upstream_response_length $upstream_response_time $upstream_status $req_id'"#;
const TCP_LOG: &str =
    "'$remote_addr [$time_local] $status $bytes_sent $bytes_received $session_time $upstream_addr'";

/// How to start it.
#[must_use]
pub fn launch(program: &Path, setup: &Setup<'_>) -> Launch {
    let log = setup.folder.join("access.log");
    // Written in batches, as whichpod and Envoy do.
    let log = |format: &str| {
        if setup.log {
            format!("log_format pods {format};\n    access_log {} pods buffer=64k flush=1s;", log.display())
        } else {
            "access_log off;".to_owned()
        }
    };
    let servers: String =
        setup.pods.iter().map(|pod| format!("        server {pod}:{} max_fails=0;\n", setup.port)).collect();
    let Setup { listen, workers, .. } = setup;
    let body = match setup.protocol {
        Protocol::Tcp => format!(
            "stream {{
    {log}
    tcp_nodelay on;
    upstream pods {{
{servers}    }}
    server {{
        listen {listen};
        proxy_pass pods;
    }}
}}
",
            log = log(TCP_LOG)
        ),
        protocol => {
            let (parameter, pass) = match protocol {
                // To its upstreams it speaks HTTP/2 only for gRPC, and by that name passes any request on.
                Protocol::H2c | Protocol::Grpc => {
                    (" http2", "grpc_pass grpc://pods;\n            grpc_set_header x-request-id $req_id;")
                }
                _ => (
                    "",
                    "proxy_pass http://pods;\n            proxy_http_version 1.1;\n            proxy_set_header Host $http_host;\n            proxy_set_header Connection \"\";\n            proxy_set_header x-request-id $req_id;\n            proxy_max_temp_file_size 0;",
                ),
            };
            format!(
                "http {{
    {log}
    keepalive_timeout 1h;
    keepalive_requests 100000000;
    http2_max_concurrent_streams 1024;
    client_body_temp_path body;
    map $http_x_request_id $req_id {{
        default $http_x_request_id;
        \"\" $request_id;
    }}
    upstream pods {{
{servers}        keepalive {keepalive};
        keepalive_requests 100000000;
    }}
    server {{
        listen {listen}{parameter};
        location / {{
            {pass}
        }}
    }}
}}
",
                log = log(HTTP_LOG),
                // Per worker; a smaller cache would close connections that are needed again at once.
                keepalive = 256.max(setup.pods.len()),
            )
        }
    };
    let text = format!(
        "load_module {STREAM_MODULE};
daemon off;
user root;
pid nginx.pid;
worker_processes {workers};
error_log stderr error;
events {{
    worker_connections 8192;
}}
{body}"
    );
    let folder = format!("{}/", setup.folder.display());
    Launch {
        file: "nginx.conf",
        text,
        command: words(program, &["-p", &folder, "-e", "stderr", "-c", "nginx.conf"]),
    }
}
