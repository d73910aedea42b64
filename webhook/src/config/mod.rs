//! The webhook's configuration: flags and `WHICHPOD_WEBHOOK_*` variables, checked all at once.

mod flags;

use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use jiff::SignedDuration;
use whichpod_injection::{HeadlessServices, Options, Resources};

use crate::certificates::Source;
use crate::certificates::keeper::Files;
use crate::certificates::material::Lifetimes;
use crate::cluster::detect::Wanted;
use flags::{Flags, NativeSidecar};

/// A valid configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the API server reaches the webhook.
    pub listen: SocketAddr,
    /// Where kubelet and Prometheus reach it.
    pub health: SocketAddr,
    /// In the words of [`whichpod_runtime::diagnostics::init`].
    pub log_level: String,
    /// How to reach the API server; `None` in a cluster.
    pub kubeconfig: Option<PathBuf>,
    /// The webhook's own namespace; `None` takes that of the service account or kubeconfig.
    pub namespace: Option<String>,
    /// This replica.
    pub identity: String,
    /// The Service that the API server calls.
    pub service_name: String,
    /// The MutatingWebhookConfigurations that name this webhook.
    pub configurations: Vec<String>,
    /// The Lease of the election.
    pub lease_name: String,
    /// Where the certificate comes from.
    pub certificates: Source,
    /// Names in the certificate besides the Service's.
    pub tls_names: Vec<String>,
    /// The longest time for one review.
    pub request_timeout: Duration,
    /// How long to go on after SIGTERM as if nothing had happened.
    pub shutdown_delay: Duration,
    /// How long running reviews may take after that.
    pub shutdown_timeout: Duration,
    /// What injection needs; what is [wanted](Self::wanted) is filled in later.
    pub options: Options,
    /// What is to be found out.
    pub wanted: Wanted,
}

/// What came of the command line.
#[derive(Debug)]
pub enum Outcome {
    /// Run with this.
    Run(Box<Config>),
    /// Print this (help or version) and end well.
    Print(String),
}

/// Everything that is wrong, a line each.
#[derive(Debug)]
pub struct Wrong(Vec<String>);

/// Reads flags and variables.
///
/// # Errors
/// Everything that is wrong with them; what cannot even be parsed is reported alone.
pub fn load(arguments: impl IntoIterator<Item = OsString>, host: &str) -> Result<Outcome, Wrong> {
    match Flags::try_parse_from(arguments) {
        Ok(flags) => check(flags, host).map(|config| Outcome::Run(Box::new(config))),
        Err(error) if error.use_stderr() => Err(Wrong(vec![error.to_string().trim_end().to_owned()])),
        Err(help) => Ok(Outcome::Print(help.to_string())),
    }
}

fn check(flags: Flags, host: &str) -> Result<Config, Wrong> {
    let mut wrong = Vec::new();
    let options = options(&flags, &mut wrong);
    let certificates = certificates(&flags, &mut wrong);
    let mut duration = |name: &str, value: SignedDuration| {
        Duration::try_from(value).unwrap_or_else(|_| {
            wrong.push(format!("--{name} is {value:#}, which is below zero; use a duration such as 5s"));
            Duration::ZERO
        })
    };
    let request_timeout = duration("request-timeout", flags.request_timeout);
    let shutdown_delay = duration("shutdown-delay", flags.shutdown_delay);
    let shutdown_timeout = duration("shutdown-timeout", flags.shutdown_timeout);
    if request_timeout.is_zero() {
        wrong.push(
            "--request-timeout is 0, in which nothing can be answered; use a duration such as 4s".to_owned(),
        );
    }
    for (name, values) in [
        ("service-name", std::slice::from_ref(&flags.service_name)),
        ("lease-name", std::slice::from_ref(&flags.lease_name)),
        ("secret-name", std::slice::from_ref(&flags.secret_name)),
        ("webhook-configuration", &flags.webhook_configuration),
        ("protected-namespace", &flags.protected_namespace),
        ("image-pull-secret", &flags.image_pull_secret),
        ("namespace", flags.namespace.as_slice()),
    ] {
        for value in values.iter().filter(|value| !is_name(value)) {
            wrong.push(format!(
                "--{name} is {value:?}, which is no name of an object in Kubernetes; use lower-case letters, digits, \"-\" and \".\""
            ));
        }
    }
    if !wrong.is_empty() {
        return Err(Wrong(wrong));
    }
    Ok(Config {
        listen: flags.listen,
        health: flags.health,
        log_level: flags.log_level,
        kubeconfig: flags.kubeconfig,
        namespace: flags.namespace,
        identity: flags.identity.unwrap_or_else(|| host.to_owned()),
        service_name: flags.service_name,
        configurations: flags.webhook_configuration,
        lease_name: flags.lease_name,
        certificates,
        tls_names: flags.tls_san,
        request_timeout,
        shutdown_delay,
        shutdown_timeout,
        wanted: Wanted {
            native_sidecars: flags.native_sidecar == NativeSidecar::Auto,
            domain: flags.cluster_domain.is_none(),
            dns: flags.cluster_dns.is_empty(),
        },
        options,
    })
}

fn options(flags: &Flags, wrong: &mut Vec<String>) -> Options {
    let usual = Options::default();
    let or = |value: &Option<String>, usual: &str| value.clone().unwrap_or_else(|| usual.to_owned());
    let mut options = Options {
        image: flags.image.clone(),
        image_pull_policy: flags.image_pull_policy.clone(),
        image_pull_secrets: flags.image_pull_secret.clone(),
        resources: Resources {
            cpu_request: or(&flags.cpu_request, &usual.resources.cpu_request),
            memory_request: or(&flags.memory_request, &usual.resources.memory_request),
            memory_limit: or(&flags.memory_limit, &usual.resources.memory_limit),
            cpu_limit: flags.cpu_limit.clone(),
        },
        native_sidecars: flags.native_sidecar == NativeSidecar::True,
        headless_services: match flags.headless_services {
            flags::HeadlessServices::Create => HeadlessServices::Create,
            flags::HeadlessServices::Warn => HeadlessServices::Warn,
            flags::HeadlessServices::Deny => HeadlessServices::Deny,
        },
        cluster_domain: or(&flags.cluster_domain, &usual.cluster_domain),
        cluster_dns: flags.cluster_dns.clone(),
        protected_namespaces: flags.protected_namespace.clone(),
        check_log_format: Some(check_log_format),
        is_response_flag: Some(|flag| whichpod_access_log::Flags::parse(flag).is_some()),
        ..usual
    };
    match flags.run_as_user.as_deref() {
        None => {}
        Some("none") => options.run_as_user = None,
        Some(text) => match text.parse() {
            Ok(user) => options.run_as_user = Some(user),
            Err(_) => wrong.push(format!("--run-as-user is {text:?}; use a number such as 65532, or none")),
        },
    }
    for default in flags.defaults.iter().map(|default| default.trim()).filter(|default| !default.is_empty()) {
        match default.split_once('=') {
            Some((name, value)) => {
                options.defaults.insert(name.trim().to_owned(), value.trim().to_owned());
            }
            None => wrong.push(format!("--default is {default:?}; use NAME=VALUE, such as redirect=env")),
        }
    }
    wrong.extend(options.errors());
    options
}

/// The sidecar would refuse to start with a format that it does not understand, and the app would wait for it.
fn check_log_format(format: &str) -> Result<(), String> {
    // What the environment and the host's name put in is the sidecar's own.
    whichpod_access_log::Format::compile(format, &|_| None, "").map(drop).map_err(|error| error.to_string())
}

fn certificates(flags: &Flags, wrong: &mut Vec<String>) -> Source {
    let lifetimes = Lifetimes { authority: flags.authority_lifetime, leaf: flags.certificate_lifetime };
    if lifetimes.leaf < SignedDuration::from_mins(1) {
        wrong.push(format!("--certificate-lifetime is {:#}; use at least 1m", lifetimes.leaf));
    } else if lifetimes.leaf.checked_mul(3).is_none_or(|least| lifetimes.authority < least) {
        wrong.push(format!(
            "--authority-lifetime is {:#}, less than three times --certificate-lifetime ({:#}); a certificate must not outlive \
             its authority",
            lifetimes.authority, lifetimes.leaf
        ));
    }
    let made = || Source::SelfManaged { secret: flags.secret_name.clone(), lifetimes };
    match (&flags.tls_cert, &flags.tls_key) {
        (Some(certificate), Some(key)) => {
            Source::Files(Files { certificate: certificate.clone(), key: key.clone() })
        }
        (None, None) => made(),
        (Some(_), None) => {
            wrong.push(
                "--tls-cert is given without --tls-key; give both, or none to have a certificate made"
                    .to_owned(),
            );
            made()
        }
        (None, Some(_)) => {
            wrong.push(
                "--tls-key is given without --tls-cert; give both, or none to have a certificate made"
                    .to_owned(),
            );
            made()
        }
    }
}

/// A DNS subdomain (RFC 1123), as most objects' names must be.
fn is_name(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

#[cfg(test)]
mod tests;
