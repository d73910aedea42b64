//! HAProxy.

use std::path::Path;

use super::{Launch, Protocol, Setup, words};
use crate::row::Pods;

/// Without `unique-id`: its own `option httplog`, and who served it, and the request's id.
const HTTP_LOG: &str = r#"log-format "%ci:%cp [%tr] %ft %b/%s %TR/%Tw/%Tc/%Tr/%Ta %ST %B %CC %CS %tsc %ac/%fc/%bc/%sc/%rc %sq/%bq %{+Q}r %si:%sp %ID""#;
const TCP_LOG: &str =
    r#"log-format "%ci:%cp [%t] %ft %b/%s %Tw/%Tc/%Tt %B %ts %ac/%fc/%bc/%sc/%rc %sq/%bq %si:%sp""#;

/// How to start it.
#[must_use]
pub fn launch(program: &Path, setup: &Setup<'_>) -> Launch {
    let http = setup.protocol != Protocol::Tcp;
    let h2 = matches!(setup.protocol, Protocol::H2c | Protocol::Grpc);
    let proto = if h2 { " proto h2" } else { "" };
    let mut lines =
        vec!["global".to_owned(), format!("    nbthread {}", setup.workers), "    maxconn 4000".to_owned()];
    if setup.log {
        // It writes to no files: a container's log is its standard output, which is a file here.
        lines.push("    log stdout format raw local0".to_owned());
    }
    lines.extend([
        "defaults".to_owned(),
        format!("    mode {}", if http { "http" } else { "tcp" }),
        "    timeout connect 1s".to_owned(),
        "    timeout client 1h".to_owned(),
        "    timeout server 1h".to_owned(),
        "    timeout http-keep-alive 1h".to_owned(),
    ]);
    if setup.log {
        lines.push("    log global".to_owned());
        lines.push(format!("    {}", if http { HTTP_LOG } else { TCP_LOG }));
    }
    if http {
        // As the others do: any idle connection serves any request.
        lines.push("    http-reuse always".to_owned());
    }
    lines.extend([
        "resolvers cluster".to_owned(),
        nameserver(setup),
        "    hold valid 1s".to_owned(),
        "    timeout resolve 1s".to_owned(),
        "    timeout retry 1s".to_owned(),
        "frontend pods-in".to_owned(),
        format!("    bind {}{proto}", setup.listen),
    ]);
    if http {
        lines.extend([
            "    unique-id-format %[uuid()]".to_owned(),
            "    http-request set-header x-request-id %[unique-id] unless { req.hdr(x-request-id) -m found }"
                .to_owned(),
        ]);
    }
    lines.extend([
        "    default_backend pods".to_owned(),
        "backend pods".to_owned(),
        "    balance roundrobin".to_owned(),
        format!(
            "    server-template pod {} {}:{}{proto} resolvers cluster init-addr none",
            setup.pods.len(),
            setup.name.trim_end_matches('.'),
            setup.port
        ),
    ]);
    Launch {
        file: "haproxy.cfg",
        text: lines.join("\n") + "\n",
        command: words(program, &["-db", "-f", "haproxy.cfg"]),
    }
}

/// A thousand addresses do not fit into a datagram, and it does not ask again over TCP by itself.
fn nameserver(setup: &Setup<'_>) -> String {
    if setup.changes == Pods::Thousand {
        format!("    nameserver dns tcp@{}\n    accepted_payload_size 65535", setup.dns)
    } else {
        format!("    nameserver dns {}\n    accepted_payload_size 8192", setup.dns)
    }
}
