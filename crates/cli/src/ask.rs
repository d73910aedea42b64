//! What is asked for on the command line: the annotations to write, and the operator's options.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use whichpod_access_log::{Flags, Format};
use whichpod_injection::Options;
use whichpod_injection::names::annotation;

use crate::documents;
use crate::exit::{Exit, Failure};

/// The annotations that are written into the workload; what is not given stays as the workload has it.
#[derive(Debug, Clone, Default)]
pub struct AnnotationFlags(Vec<(String, String)>);

/// Annotation, what stands for its value in the help, and what it does. The flags are named alike, but for `--upstream`.
#[rustfmt::skip]
const FLAGS: [(&str, &str, &str); 29] = [
    (annotation::UPSTREAMS, "UPSTREAM",
     "What the app calls: HOST:PORT, HOST:PORTNAME, tcp://HOST:PORT, HOST:PORT=HEADLESS:PORT, or *; may be repeated"),
    (annotation::REDIRECT, "HOW", "How the app's connections get to the sidecar: hosts, env or none"),
    ("protocol", "PROTOCOL", "What the pods speak: auto (as the app), http1, h2c, grpc or tcp"),
    ("balance", "POLICY",
     "How a pod is chosen: round_robin, least_request, ewma, random, or maglev:header:NAME (cookie:NAME, source_address)"),
    ("timeouts", "SETTINGS", "How long things may take: connect=1s, request=30s, idle=5m, head=10s"),
    ("retry", "SETTINGS", "What is tried again: on=5xx, reset, attempts=3, per_try_timeout=2s, budget.percent=20"),
    ("circuit-breakers", "SETTINGS",
     "How much may be under way: max_connections=100, max_pending_requests=50, max_requests=100, max_retries=3"),
    ("limits", "SETTINGS", "What the app may do: head_bytes=65536, headers=200, streams=100, connections=1000"),
    ("outlier-detection", "SETTINGS",
     "When failures eject a pod: consecutive_5xx=5, base_ejection_time=30s, max_ejection_percent=50; {} takes the defaults"),
    ("health-check", "SETTINGS", "How pods are checked: protocol=http, path=/healthz, interval=5s"),
    ("healthy-panic-threshold", "PERCENT", "With fewer than this percentage of pods well, all are used"),
    ("slow-start", "SETTINGS", "How new pods are warmed up: window=30s"),
    ("headers", "SETTINGS", "What is added to headers: append_x_forwarded_for=true, expose_upstream=true"),
    ("tls", "SETTINGS", "TLS to the pods: ca_file=/etc/ca/ca.crt, server_name=backend.example.com; {} takes the defaults"),
    ("proxy-protocol", "VERSION", "Tells the pods who the client is, below HTTP: v1 or v2"),
    ("lazy", "BOOL", "Whether upstreams are resolved at the first connection only: true or false"),
    (annotation::PER_UPSTREAM, "MAPPING", "What holds for single upstreams: {users: {timeouts: {request: 5s}}}"),
    (annotation::LOG_FORMAT, "FORMAT", "The access log: text, json, nginx, otel, ecs, or an Envoy format string"),
    ("access-log", "SETTINGS", "What is logged: filter.min_status=500, filter.sample=0.1, path=/dev/stdout"),
    ("dns", "SETTINGS", "How names are resolved: refresh_floor=1s, refresh_cap=30s, hold_empty=5s, servers=10.0.0.10"),
    ("workers", "N", "The sidecar's worker threads, 1 to 64"),
    ("memory", "SETTINGS", "When requests are shed: shed_at_percent=90, limit=67108864"),
    ("shutdown", "SETTINGS", "How long the sidecar may take to end, at most as long as the pod: grace_period=20s"),
    ("log-level", "FILTER", "The sidecar's diagnostics: off, error, warn, info, debug, trace, or TARGET=LEVEL"),
    (annotation::CONFIG, "CONFIGMAP", "A ConfigMap with the sidecar's whole configuration: NAME or NAME/KEY"),
    (annotation::RESOURCES, "RESOURCES", "The sidecar's resources: requests.cpu=10m, requests.memory=32Mi, limits.memory=64Mi"),
    (annotation::NATIVE_SIDECAR, "WHEN", "Whether it is a native sidecar: auto, true or false"),
    (annotation::APP_PORTS, "PORTS", "Ports on which the app listens without declaring them: 8080, 8443"),
    (annotation::VOLUME_MOUNTS, "MOUNTS", "Volumes of the pod that the sidecar gets to read: backend-ca=/etc/ca"),
];

fn flag(name: &'static str) -> &'static str {
    if name == annotation::UPSTREAMS { "upstream" } else { name }
}

impl Args for AnnotationFlags {
    fn augment_args(command: Command) -> Command {
        command.args(FLAGS.map(|(name, value, help)| {
            let several = name == annotation::UPSTREAMS;
            Arg::new(name)
                .long(flag(name))
                .value_name(value)
                .help(help)
                .help_heading("What the sidecar does (written as annotations)")
                .action(if several { ArgAction::Append } else { ArgAction::Set })
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for AnnotationFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let value = |name: &str| {
            let values: Vec<&str> = matches.get_many::<String>(name)?.map(String::as_str).collect();
            Some((name.to_owned(), values.join(", ")))
        };
        Ok(Self(FLAGS.iter().filter_map(|(name, ..)| value(name)).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl AnnotationFlags {
    /// The annotations by their names without the prefix.
    ///
    /// # Errors
    /// Every value that is not accepted.
    pub fn annotations(&self) -> Result<Vec<(String, String)>, Failure> {
        // One rule for a value, wherever it stands.
        let options = Options { defaults: self.0.iter().cloned().collect(), ..base_options() };
        let errors = options.errors();
        if errors.is_empty() {
            return Ok(self.0.clone());
        }
        let by_flag = errors.iter().map(|error| {
            let error = error.strip_prefix("defaults.").unwrap_or(error);
            let rest = error.strip_prefix(annotation::UPSTREAMS);
            rest.map_or_else(
                || format!("--{error}"),
                |rest| format!("--{}{rest}", flag(annotation::UPSTREAMS)),
            )
        });
        Err(Failure::usage(by_flag.collect::<Vec<_>>().join("\n")))
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
    checking(Options::default())
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
    Ok(checking(options))
}

fn checking(options: Options) -> Options {
    let is_response_flag = |flag: &str| Flags::parse(flag).is_some();
    Options { check_log_format: Some(check_log_format), is_response_flag: Some(is_response_flag), ..options }
}

fn check_log_format(format: &str) -> Result<(), String> {
    Format::compile(format, &|_| None, "pod").map(drop).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(flags: &[&str]) -> Result<Vec<(String, String)>, Failure> {
        let command = AnnotationFlags::augment_args(Command::new("inject"));
        let matches = command.try_get_matches_from([&["inject"], flags].concat()).unwrap();
        AnnotationFlags::from_arg_matches(&matches).unwrap().annotations()
    }

    #[test]
    fn flags_become_annotations() {
        let annotation = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let flags =
            ["--retry", "on=5xx", "--upstream", "backend:80", "--redirect=env", "--upstream=tcp://db:5432"];
        assert_eq!(
            given(&flags).unwrap(),
            [
                annotation("upstreams", "backend:80, tcp://db:5432"),
                annotation("redirect", "env"),
                annotation("retry", "on=5xx")
            ]
        );
        assert_eq!(given(&[]).unwrap(), []);
    }

    #[test]
    fn every_annotation_has_its_flag() {
        let mut flags: Vec<&str> = FLAGS.iter().map(|(name, ..)| *name).collect();
        let mut annotations: Vec<&str> = annotation::settings().collect();
        flags.sort_unstable();
        annotations.sort_unstable();
        assert_eq!(flags, annotations);
    }

    #[test]
    fn a_wrong_value_is_named_by_its_flag() {
        let message = |flags: &[&str]| given(flags).unwrap_err().message;
        assert_eq!(message(&["--redirect=host"]), "--redirect is \"host\"; accepted: hosts, env, none");
        assert!(message(&["--upstream=a b"]).starts_with("--upstream is "));
        let format = message(&["--log-format=%NOPE%"]);
        assert!(format.starts_with("--log-format is "), "{format}");
        let both = message(&["--timeouts", "connect=1", "--access-log", "filter.flags=XX"]);
        let lines: Vec<&str> = both.lines().collect();
        assert!(lines[0].starts_with("--timeouts: connect is \"1\": no unit"), "{both}");
        assert!(given(&["--access-log", "filter.flags=UH"]).is_ok());
        assert!(message(&["--access-log", "filter.flags=XX"]).contains("no response flag"));
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
