//! One configured upstream as the request path needs it.

use std::sync::Arc;

use http::{HeaderValue, Version};
use whichpod_config::{Host, Protocol, TargetPort, Upstream as Settings};
use whichpod_protocols::error::Failure;
use whichpod_upstream::Upstream;

use crate::limits::Limits;
use crate::stats::Stats;
use crate::transport::Tls;

/// A listening address and what is behind it; shared by the workers.
pub struct Site {
    /// What the user configured.
    pub config: Settings,
    /// Who the pods are.
    pub upstream: Arc<Upstream>,
    /// What is counted.
    pub stats: Stats,
    /// How much may be under way.
    pub limits: Limits,
    /// The Host of a request that has none (HTTP/1.0).
    pub host: HeaderValue,
    /// How pods are spoken to over TLS; `None`: in clear text.
    pub tls: Option<Tls>,
    routes: Vec<(String, Arc<str>)>,
}

impl Site {
    /// Joins the configuration with its discovered upstream.
    #[must_use]
    pub fn new(config: Settings, upstream: Arc<Upstream>, tls: Option<Tls>) -> Self {
        let routes = config.routes.iter().map(|r| (r.prefix.clone(), Arc::from(r.name.as_str()))).collect();
        let limits = Limits::new(&config);
        let host = default_host(&config);
        Self { host, routes, tls, config, upstream, stats: Stats::default(), limits }
    }

    /// What the pods speak to a request that came in this version: the same, unless the user says otherwise.
    #[must_use]
    pub fn pods_speak(&self, client: Version) -> Version {
        match self.config.protocol {
            Protocol::H2c | Protocol::Grpc => Version::HTTP_2,
            // Over TLS a version has to be agreed upon before it is known what the client speaks.
            Protocol::Auto if self.tls.is_some() => Version::HTTP_11,
            Protocol::Auto if client == Version::HTTP_2 => Version::HTTP_2,
            _ => Version::HTTP_11,
        }
    }

    /// The name of the first route whose prefix fits, `None` where no routes are configured.
    ///
    /// # Errors
    /// [`Failure::NoRoute`] if routes are configured and none fits.
    pub fn route(&self, path: &str) -> Result<Option<Arc<str>>, Failure> {
        if self.routes.is_empty() {
            return Ok(None);
        }
        let (_, name) = self
            .routes
            .iter()
            .find(|(prefix, _)| path.starts_with(prefix.as_str()))
            .ok_or(Failure::NoRoute)?;
        Ok((!name.is_empty()).then(|| Arc::clone(name)))
    }
}

fn default_host(config: &Settings) -> HeaderValue {
    let host = match &config.target.host {
        Host::Name(name) => name.trim_end_matches('.').to_owned(),
        Host::Ip(std::net::IpAddr::V6(ip)) => format!("[{ip}]"),
        Host::Ip(ip) => ip.to_string(),
    };
    let text = match &config.target.port {
        TargetPort::Number(port) => format!("{host}:{port}"),
        TargetPort::Name(_) => host,
    };
    // A checked name is a valid header value; its address stands in for one that is not.
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("upstream"))
}
