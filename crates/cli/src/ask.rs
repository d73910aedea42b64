//! What is asked for on the command line: the annotations to write, and the operator's options.

use std::path::PathBuf;

use whichpod_access_log::Format;
use whichpod_injection::Options;
use whichpod_injection::names::annotation;

use crate::documents;
use crate::exit::{Exit, Failure};

/// The annotations that are written into the workload; what is not given stays as the workload has it.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "What the sidecar does (written as annotations)")]
pub struct AnnotationFlags {
    /// What the app calls: HOST:PORT, HOST:PORTNAME, tcp://HOST:PORT, HOST:PORT=HEADLESS:PORT, or *; may be repeated.
    #[arg(long = "upstream", value_name = "UPSTREAM")]
    upstreams: Vec<String>,
    /// How the app's connections get to the sidecar: hosts, env or none.
    #[arg(long, value_name = "HOW")]
    redirect: Option<String>,
    /// How a pod is chosen: round_robin, least_request, ewma, random, or maglev:header:NAME (cookie:NAME, source_address).
    #[arg(long, value_name = "POLICY")]
    balance: Option<String>,
    /// What the pods speak: auto (as the app), http1, h2c, grpc or tcp.
    #[arg(long, value_name = "PROTOCOL")]
    protocol: Option<String>,
    /// The access log: text, json, nginx, otel, ecs, or an Envoy format string.
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// A ConfigMap with the sidecar's whole configuration: NAME or NAME/KEY.
    #[arg(long, value_name = "CONFIGMAP")]
    config: Option<String>,
    /// The sidecar's resources: requests.cpu=10m, requests.memory=32Mi, limits.memory=64Mi.
    #[arg(long, value_name = "RESOURCES")]
    resources: Option<String>,
    /// Whether it is a native sidecar: auto, true or false.
    #[arg(long, value_name = "WHEN")]
    native_sidecar: Option<String>,
    /// Ports on which the app listens without declaring them: 8080, 8443.
    #[arg(long, value_name = "PORTS")]
    app_ports: Option<String>,
}

impl AnnotationFlags {
    /// The annotations by their names without the prefix.
    ///
    /// # Errors
    /// Every value that is not accepted.
    pub fn annotations(&self) -> Result<Vec<(String, String)>, Failure> {
        let upstreams = (!self.upstreams.is_empty()).then(|| self.upstreams.join(", "));
        let flags = [
            (annotation::UPSTREAMS, &upstreams),
            (annotation::REDIRECT, &self.redirect),
            (annotation::BALANCE, &self.balance),
            (annotation::PROTOCOL, &self.protocol),
            (annotation::LOG_FORMAT, &self.log_format),
            (annotation::CONFIG, &self.config),
            (annotation::RESOURCES, &self.resources),
            (annotation::NATIVE_SIDECAR, &self.native_sidecar),
            (annotation::APP_PORTS, &self.app_ports),
        ];
        let given = flags.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.clone()?)));
        let annotations: Vec<(String, String)> = given.collect();
        // One rule for a value, wherever it stands.
        for (name, value) in &annotations {
            let defaults = [(name.clone(), value.clone())].into();
            let options = Options { defaults, ..base_options() };
            if let Some(error) = options.errors().into_iter().next() {
                let flag = if name == annotation::UPSTREAMS { "upstream" } else { name };
                let error =
                    error.strip_prefix("defaults.").and_then(|error| error.strip_prefix(name.as_str()));
                return Err(Failure::usage(format!("--{flag}{}", error.unwrap_or(" is not accepted"))));
            }
        }
        Ok(annotations)
    }
}

/// What an operator decides for the whole cluster; the installed webhook's are taken if nothing is given.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "What the operator decides")]
pub struct OptionFlags {
    /// The webhook's options as JSON or YAML, instead of those of the installed one.
    #[arg(long, value_name = "FILE")]
    pub options: Option<PathBuf>,
    /// The sidecar's image.
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<String>,
    /// The cluster's DNS domain.
    #[arg(long, value_name = "DOMAIN")]
    pub cluster_domain: Option<String>,
}

impl OptionFlags {
    /// The options of the file, if one is named.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn of_file(&self) -> Result<Option<Options>, Failure> {
        let Some(path) = &self.options else { return Ok(None) };
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::new(Exit::NoInput, format!("{name} cannot be read: {error}")))?;
        parse_options(&text).map(Some).map_err(|error| Failure::new(Exit::Data, format!("{name}: {error}")))
    }

    /// Lays the flags over options.
    ///
    /// # Errors
    /// Everything that is wrong with the result.
    pub fn lay_over(&self, mut options: Options) -> Result<Options, Failure> {
        if let Some(image) = &self.image {
            options.image.clone_from(image);
        }
        if let Some(domain) = &self.cluster_domain {
            options.cluster_domain.clone_from(domain);
        }
        let errors = options.errors();
        if !errors.is_empty() {
            return Err(Failure::usage(format!("the options are not accepted: {}", errors.join("; "))));
        }
        Ok(options)
    }
}

/// The options where nobody decided anything.
pub fn base_options() -> Options {
    Options { check_log_format: Some(check_log_format), ..Options::default() }
}

/// Reads a webhook's options.
///
/// # Errors
/// What is wrong with them.
pub fn parse_options(text: &str) -> Result<Options, String> {
    let documents = documents::read(text).map_err(|fault| fault.to_string())?;
    let value = documents.into_iter().find_map(|document| document.value);
    let options: Options = match value {
        Some(value) => serde_json::from_value(value).map_err(|error| error.to_string())?,
        None => Options::default(),
    };
    Ok(Options { check_log_format: Some(check_log_format), ..options })
}

fn check_log_format(format: &str) -> Result<(), String> {
    Format::compile(format, &|_| None, "pod").map(drop).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_become_annotations() {
        let flags = AnnotationFlags {
            upstreams: vec!["backend:80".to_owned(), "tcp://db:5432".to_owned()],
            redirect: Some("env".to_owned()),
            ..AnnotationFlags::default()
        };
        let annotation = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            flags.annotations().unwrap(),
            [annotation("upstreams", "backend:80, tcp://db:5432"), annotation("redirect", "env")]
        );
        assert_eq!(AnnotationFlags::default().annotations().unwrap(), []);
    }

    #[test]
    fn a_wrong_value_is_named_by_its_flag() {
        let message = |flags: AnnotationFlags| flags.annotations().unwrap_err().message;
        let some = |text: &str| Some(text.to_owned());
        let redirect = message(AnnotationFlags { redirect: some("host"), ..AnnotationFlags::default() });
        assert_eq!(redirect, "--redirect is \"host\"; accepted: hosts, env, none");
        let upstream = AnnotationFlags { upstreams: vec!["a b".to_owned()], ..AnnotationFlags::default() };
        assert!(message(upstream).starts_with("--upstream is "));
        let format = message(AnnotationFlags { log_format: some("%NOPE%"), ..AnnotationFlags::default() });
        assert!(format.starts_with("--log-format is "), "{format}");
    }

    #[test]
    fn options_are_read_as_the_webhook_reads_them() {
        let options =
            parse_options("image: example.test/whichpod-sidecar:1\nheadlessServices: warn\n").unwrap();
        assert_eq!(options.image, "example.test/whichpod-sidecar:1");
        assert!(parse_options("imagePolicy: Always\n").unwrap_err().contains("imagePolicy"));
        assert!(parse_options("image: [").unwrap_err().contains("line 1"));
        let flags = OptionFlags { image: Some(" ".to_owned()), ..OptionFlags::default() };
        let failure = flags.lay_over(options).unwrap_err();
        assert!(failure.message.contains("image is empty"), "{failure}");
    }
}
