//! The proxies, each configured as somebody who knows it well would do it for a sidecar, and all with the same features:
//! an access log that names the pod, a request id made where there is none, keep-alive on both sides, round robin.

pub mod envoy;
pub mod haproxy;
pub mod nginx;
pub mod whichpod;

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use crate::programs::Programs;
use crate::row::Pods;

/// Which proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// Ours.
    Whichpod,
    /// envoyproxy.io
    Envoy,
    /// haproxy.org
    Haproxy,
    /// nginx.org
    Nginx,
}

/// What is spoken, on both sides of the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    H2c,
    /// gRPC over HTTP/2 with prior knowledge.
    Grpc,
    /// Any bytes.
    Tcp,
}

/// What a proxy is to do.
#[derive(Debug, Clone)]
pub struct Setup<'a> {
    /// What is spoken.
    pub protocol: Protocol,
    /// Where it listens.
    pub listen: SocketAddr,
    /// The name of all pods.
    pub name: &'a str,
    /// The port of all pods.
    pub port: u16,
    /// The pods at the start, for who cannot ask DNS.
    pub pods: &'a [Ipv4Addr],
    /// Whether they change.
    pub changes: Pods,
    /// Who knows the name.
    pub dns: SocketAddr,
    /// Worker threads or processes.
    pub workers: usize,
    /// With an access log.
    pub log: bool,
    /// For its files: the configuration, `access.log`.
    pub folder: &'a Path,
}

/// How to start a proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// The configuration file's name.
    pub file: &'static str,
    /// What is in it.
    pub text: String,
    /// Program and arguments; run in the folder of the file.
    pub command: Vec<OsString>,
}

impl Peer {
    /// How to start it.
    #[must_use]
    pub fn launch(self, programs: &Programs, setup: &Setup<'_>) -> Launch {
        match self {
            Self::Whichpod => whichpod::launch(&programs.sidecar, setup),
            Self::Envoy => envoy::launch(&programs.envoy, setup),
            Self::Haproxy => haproxy::launch(&programs.haproxy, setup),
            Self::Nginx => nginx::launch(&programs.nginx, setup),
        }
    }

    /// What it cannot do by its nature, if that is what is asked.
    #[must_use]
    pub fn cannot(self, setup: &Setup<'_>) -> Option<&'static str> {
        match (self, setup.changes) {
            (Self::Nginx, Pods::Changing) => {
                Some("it asks DNS only at its start, where it keeps connections")
            }
            _ => None,
        }
    }
}

fn words(program: &Path, arguments: &[&str]) -> Vec<OsString> {
    std::iter::once(program.as_os_str().to_owned()).chain(arguments.iter().map(OsString::from)).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const PODS: [Ipv4Addr; 3] =
        [Ipv4Addr::new(127, 90, 0, 1), Ipv4Addr::new(127, 90, 0, 2), Ipv4Addr::new(127, 90, 0, 3)];

    pub(crate) fn setup(protocol: Protocol, log: bool) -> Setup<'static> {
        Setup {
            protocol,
            listen: SocketAddr::from(([127, 0, 0, 1], 10_000)),
            name: "pods.bench.test.",
            port: 8_080,
            pods: &PODS,
            changes: Pods::Three,
            dns: SocketAddr::from(([127, 0, 0, 1], 5_353)),
            workers: 2,
            log,
            folder: Path::new("/folder"),
        }
    }

    #[test]
    fn nobody_is_compared_with_a_proxy_that_logs_while_it_does_not() {
        let program = Path::new("/program");
        let launches = |log| {
            [Protocol::Http1, Protocol::H2c, Protocol::Grpc, Protocol::Tcp].map(|protocol| {
                let setup = setup(protocol, log);
                [
                    whichpod::launch(program, &setup),
                    envoy::launch(program, &setup),
                    haproxy::launch(program, &setup),
                    nginx::launch(program, &setup),
                ]
                .map(|launch| launch.text)
            })
        };
        let logs = |text: &str| text.contains("/folder/access.log") || text.contains("log-format");
        assert!(launches(true).iter().flatten().all(|text| logs(text)));
        assert!(!launches(false).iter().flatten().any(|text| logs(text)));
    }
}
