//! Flags and environment variables: one table, two sources.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::builder::ValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::Value;

use crate::env::Env;
use crate::error::{Fault, Problems};
use crate::form::Kind;
use crate::names::{self, flag, variable};
use crate::nearest::nearest;
use crate::raw::{self, Document};
use crate::{balance, kinds, target};

/// A flag and its variable.
#[derive(Debug)]
pub struct Setting {
    /// Without the dashes.
    pub flag: &'static str,
    /// The environment variable.
    pub variable: &'static str,
    /// The path in the document; empty if it is none of the document's.
    pub key: &'static str,
    /// How many values there can be.
    pub takes: Takes,
    /// What stands for the value in the help.
    pub value: &'static str,
    /// What it does.
    pub help: &'static str,
    set: fn(&mut Layer, &mut Given<'_>),
}

/// How many values a setting can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// Exactly one.
    One,
    /// Several: the flag is repeated; commas or white space part the values.
    Many,
    /// `true` or `false`; the flag alone means `true`.
    Switch,
}

/// What one source says.
#[derive(Debug, Default)]
pub(crate) struct Layer {
    pub document: Document,
    pub file: Option<PathBuf>,
    pub check: Option<bool>,
    /// The flags or variables that were given, by the path in the document.
    given: Vec<(&'static str, String)>,
    /// Something could not be read at all, so that what seems missing may have been there.
    pub incomplete: bool,
}

impl Layer {
    /// The name under which this source gave a value of the document, if it did.
    pub fn origin(&self, key: &str) -> Option<&str> {
        self.given.iter().find(|(given, _)| *given == key).map(|(_, name)| name.as_str())
    }
}

/// The text of a flag or variable, to be read by the rule of its kind.
struct Given<'a> {
    name: &'a str,
    text: &'a str,
    problems: &'a mut Problems,
}

impl Given<'_> {
    fn one<T>(&mut self, kind: &Kind<T>) -> Option<T> {
        let parsed = (kind.parse)(self.text);
        parsed.map_err(|fault| self.problems.about(self.name, &Value::from(self.text), fault)).ok()
    }

    fn many<T>(&mut self, parse: fn(&str) -> Result<T, Fault>) -> Option<Vec<T>> {
        let items = self.text.split(|c: char| c == ',' || c.is_whitespace()).filter(|item| !item.is_empty());
        // What is wrong is a problem already; the others are still worth checking.
        let read = items.filter_map(|item| {
            parse(item).map_err(|fault| self.problems.about(self.name, &Value::from(item), fault)).ok()
        });
        Some(read.collect())
    }
}

/// `[LISTEN=]HOST:PORT`
fn parse_upstream(text: &str) -> Result<raw::Upstream, Fault> {
    let (listen, target) = match text.split_once('=') {
        Some((listen, target)) => (Some(target::parse_address(listen)?), target),
        None => (None, text),
    };
    Ok(raw::Upstream { listen, target: Some(target.parse()?), ..raw::Upstream::default() })
}

/// Every flag and variable, in the order of the help.
#[rustfmt::skip]
pub const SETTINGS: &[Setting] = &[
    Setting { flag: flag::UPSTREAM, variable: variable::UPSTREAM, key: "upstreams", takes: Takes::Many,
        value: "[LISTEN=]HOST:PORT",
        help: "What to discover, and where to listen for it (default 127.0.0.1:PORT; a named port, which is looked \
               up by SRV, needs LISTEN). Repeatable. These take the place of all upstreams of the document",
        set: |layer, given| layer.document.upstreams = given.many(parse_upstream) },
    Setting { flag: flag::PROTOCOL, variable: variable::PROTOCOL, key: "protocol", takes: Takes::One,
           value: "WORD", help: "What the pods of every upstream speak: auto (as the app; default), http1, h2c, grpc or \
               tcp (default for ports of mail, databases and caches)",
        set: |layer, given| layer.document.protocol = given.one(&kinds::PROTOCOL) },
    Setting { flag: flag::BALANCE, variable: variable::BALANCE, key: "balance", takes: Takes::One,
        value: "WORD", help: "How a pod is chosen, for every upstream: round_robin (default), least_request, ewma, random, or \
               maglev:header:NAME, maglev:cookie:NAME, maglev:source_address",
        set: |layer, given| layer.document.balance = given.one(&balance::BALANCE) },
    Setting { flag: flag::CONNECT_TIMEOUT, variable: variable::CONNECT_TIMEOUT, key: "timeouts.connect", takes: Takes::One,
        value: "DURATION", help: "For one TCP connect (default 1s)",
        set: |layer, given| timeouts(layer).connect = given.one(&kinds::POSITIVE_DURATION) },
    Setting { flag: flag::REQUEST_TIMEOUT, variable: variable::REQUEST_TIMEOUT, key: "timeouts.request", takes: Takes::One,
        value: "DURATION", help: "From the end of a request to the end of its response (default 0s: off)",
        set: |layer, given| timeouts(layer).request = given.one(&kinds::DURATION) },
    Setting { flag: flag::IDLE_TIMEOUT, variable: variable::IDLE_TIMEOUT, key: "timeouts.idle", takes: Takes::One,
        value: "DURATION", help: "Without a byte in either direction within a request, tunnel or TCP connection (default 0s: off)",
        set: |layer, given| timeouts(layer).idle = given.one(&kinds::DURATION) },
    Setting { flag: flag::RETRY_ON, variable: variable::RETRY_ON, key: "retry.on", takes: Takes::Many,
        value: "WORD", help: "What is tried again, in Envoy's words (default connect-failure,refused-stream)",
        set: |layer, given| retry(layer).on = given.many(kinds::RETRY_ON.parse) },
    Setting { flag: flag::RETRY_ATTEMPTS, variable: variable::RETRY_ATTEMPTS, key: "retry.attempts", takes: Takes::One,
        value: "N", help: "More attempts after the first (default 2)",
        set: |layer, given| retry(layer).attempts = given.one(&kinds::ATTEMPTS) },
    Setting { flag: flag::APPEND_X_FORWARDED_FOR, variable: variable::APPEND_X_FORWARDED_FOR,
        key: "headers.append_x_forwarded_for", takes: Takes::Switch,
        value: "BOOL", help: "Append the caller's address to x-forwarded-for",
        set: |layer, given| headers(layer).append_x_forwarded_for = given.one(&kinds::SWITCH) },
    Setting { flag: flag::EXPOSE_UPSTREAM, variable: variable::EXPOSE_UPSTREAM,
        key: "headers.expose_upstream", takes: Takes::Switch,
        value: "BOOL", help: "Add x-whichpod-upstream and x-whichpod-pod to responses",
        set: |layer, given| headers(layer).expose_upstream = given.one(&kinds::SWITCH) },
    Setting { flag: flag::DNS_SERVER, variable: variable::DNS_SERVER, key: "dns.servers", takes: Takes::Many,
        value: "IP[:PORT]", help: "Asked instead of resolv.conf's servers. Repeatable",
        set: |layer, given| dns(layer).servers = given.many(kinds::DNS_SERVER.parse) },
    Setting { flag: flag::RESOLV_CONF, variable: variable::RESOLV_CONF, key: "dns.resolv_conf", takes: Takes::One,
        value: "FILE", help: "Where nameservers and the search list come from (default /etc/resolv.conf)",
        set: |layer, given| dns(layer).resolv_conf = given.one(&kinds::PATH) },
    Setting { flag: flag::CLUSTER_DOMAIN, variable: variable::CLUSTER_DOMAIN, key: "dns.cluster_domain", takes: Takes::One,
        value: "DOMAIN", help: "Instead of the one that the search list tells, e.g. cluster.local",
        set: |layer, given| dns(layer).cluster_domain = given.one(&kinds::DOMAIN) },
    Setting { flag: flag::NAMESPACE, variable: variable::NAMESPACE, key: "dns.namespace", takes: Takes::One,
        value: "NAME", help: "Instead of the one that the search list tells",
        set: |layer, given| dns(layer).namespace = given.one(&kinds::NAMESPACE) },
    Setting { flag: flag::ALLOW_LOOPBACK, variable: variable::ALLOW_LOOPBACK, key: "dns.allow_loopback", takes: Takes::Switch,
        value: "BOOL", help: "Accept loopback addresses from DNS; for tests and demos",
        set: |layer, given| dns(layer).allow_loopback = given.one(&kinds::SWITCH) },
    Setting { flag: flag::LOG_FORMAT, variable: variable::LOG_FORMAT, key: "access_log.format", takes: Takes::One,
        value: "FORMAT", help: "text (default), json, nginx, otel, ecs, or an Envoy format string",
        set: |layer, given| access_log(layer).format = given.one(&kinds::FORMAT) },
    Setting { flag: flag::ACCESS_LOG, variable: variable::ACCESS_LOG, key: "access_log.path", takes: Takes::One,
        value: "PATH|off", help: "Where the access log goes (default /dev/stdout)",
        set: |layer, given| access_log(layer).path = given.one(&kinds::PATH) },
    Setting { flag: flag::ADMIN, variable: variable::ADMIN, key: "admin.address", takes: Takes::One,
        value: "IP:PORT", help: "Address of the admin server; loopback only (default 127.0.0.1:9901)",
        set: |layer, given| layer.document.admin.get_or_insert_default().address = given.one(&kinds::ADMIN_ADDRESS) },
    Setting { flag: flag::HEALTH, variable: variable::HEALTH, key: "health.address", takes: Takes::One,
        value: "IP:PORT", help: "Address of /ready and /metrics (default [::]:9902; 0.0.0.0 where there is no IPv6)",
        set: |layer, given| layer.document.health.get_or_insert_default().address = given.one(&kinds::ADDRESS) },
    Setting { flag: flag::WORKERS, variable: variable::WORKERS, key: "workers", takes: Takes::One,
        value: "N", help: "Worker threads, 1 to 64 (default: the cgroup's CPU limit, at most 2)",
        set: |layer, given| layer.document.workers = given.one(&kinds::WORKERS) },
    Setting { flag: flag::GRACE_PERIOD, variable: variable::GRACE_PERIOD, key: "shutdown.grace_period", takes: Takes::One,
        value: "DURATION", help: "The pod's terminationGracePeriodSeconds (default 30s)",
        set: |layer, given| shutdown(layer).grace_period = given.one(&kinds::DURATION) },
    Setting { flag: flag::NATIVE_SIDECAR, variable: variable::NATIVE_SIDECAR, key: "shutdown.native_sidecar", takes: Takes::Switch,
        value: "BOOL", help: "SIGTERM comes after the app's end, so leave as soon as no request runs",
        set: |layer, given| shutdown(layer).native_sidecar = given.one(&kinds::SWITCH) },
    Setting { flag: flag::LOG_LEVEL, variable: variable::LOG_LEVEL, key: "log_level", takes: Takes::One,
        value: "FILTER", help: "Diagnostics on stderr: off, error, warn, info (default), debug, trace, or TARGET=LEVEL,...",
        set: |layer, given| layer.document.log_level = given.one(&kinds::LOG_LEVEL) },
    Setting { flag: flag::CONFIG_FILE, variable: variable::CONFIG_FILE, key: "", takes: Takes::One,
        value: "FILE", help: "The document, YAML or JSON. WHICHPOD_CONFIG holds the document itself; of --config, \
               WHICHPOD_CONFIG and WHICHPOD_CONFIG_FILE the first that is given is read",
        set: |layer, given| layer.file = given.one(&kinds::PATH) },
    Setting { flag: flag::CHECK, variable: variable::CHECK, key: "", takes: Takes::Switch,
        value: "BOOL", help: "Check the configuration, print what would run, and exit: 0 if it can run, 64 if not",
        set: |layer, given| layer.check = given.one(&kinds::SWITCH) },
];

fn timeouts(layer: &mut Layer) -> &mut raw::Timeouts {
    layer.document.timeouts.get_or_insert_default()
}

fn retry(layer: &mut Layer) -> &mut raw::Retry {
    layer.document.retry.get_or_insert_default()
}

fn headers(layer: &mut Layer) -> &mut raw::Headers {
    layer.document.headers.get_or_insert_default()
}

fn dns(layer: &mut Layer) -> &mut raw::Dns {
    layer.document.dns.get_or_insert_default()
}

fn access_log(layer: &mut Layer) -> &mut raw::AccessLog {
    layer.document.access_log.get_or_insert_default()
}

fn shutdown(layer: &mut Layer) -> &mut raw::Shutdown {
    layer.document.shutdown.get_or_insert_default()
}

/// Reads the command line; `Err` is the text that `--help` or `--version` asked for.
pub(crate) fn from_flags(
    args: impl IntoIterator<Item = OsString>,
    problems: &mut Problems,
) -> Result<Layer, String> {
    let mut args: Vec<OsString> = args.into_iter().collect();
    let mut layer = Layer::default();
    // The parser stops at what it doesn't know; without that, it tells what else is wrong.
    let matches = loop {
        match command().try_get_matches_from(&args) {
            Ok(matches) => break matches,
            Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
                return Err(error.to_string());
            }
            Err(error) => {
                layer.incomplete = true;
                refuse(&error, problems);
                if error.kind() != ErrorKind::UnknownArgument
                    || !take_out(invalid_argument(&error), &mut args)
                {
                    return Ok(layer);
                }
            }
        }
    };
    for setting in SETTINGS {
        if let Some(value) = value_of(&matches, setting) {
            layer.take(setting, format!("--{}", setting.flag), &value, problems);
        }
    }
    Ok(layer)
}

/// Takes an unknown flag, and what looks like its value, out of the arguments; false if it is not found.
fn take_out(argument: &str, args: &mut Vec<OsString>) -> bool {
    let is_it =
        |arg: &str| arg.strip_prefix(argument).is_some_and(|rest| rest.is_empty() || rest.starts_with('='));
    let Some(at) = args.iter().skip(1).position(|arg| arg.to_str().is_some_and(is_it)) else {
        return false;
    };
    let removed = args.remove(at + 1);
    let separate_value = |next: &OsString| !next.to_string_lossy().starts_with('-');
    if argument.starts_with('-') && removed == argument && args.get(at + 1).is_some_and(separate_value) {
        args.remove(at + 1);
    }
    true
}

/// Reads the environment; an empty variable counts as not set.
pub(crate) fn from_environment(env: &dyn Env, problems: &mut Problems) -> Layer {
    let mut layer = Layer::default();
    for setting in SETTINGS {
        if let Some(value) = env.get(setting.variable).filter(|value| !value.is_empty()) {
            layer.take(setting, setting.variable.to_owned(), &value, problems);
        }
    }
    layer
}

impl Layer {
    fn take(&mut self, setting: &'static Setting, name: String, value: &OsStr, problems: &mut Problems) {
        match value.to_str() {
            Some(text) => (setting.set)(self, &mut Given { name: &name, text, problems }),
            None => problems.about(
                &name,
                &Value::from(value.to_string_lossy()),
                Fault::new("not UTF-8", "write it in UTF-8"),
            ),
        }
        self.given.push((setting.key, name));
    }
}

/// The values of a flag; those of a repeated one are joined as its variable would hold them.
fn value_of(matches: &ArgMatches, setting: &Setting) -> Option<OsString> {
    let values: Vec<&OsStr> = matches.get_many::<OsString>(setting.flag)?.map(OsString::as_os_str).collect();
    Some(values.join(OsStr::new(",")))
}

fn command() -> Command {
    let args = SETTINGS.iter().map(|setting| {
        let arg = Arg::new(setting.flag)
            .long(setting.flag)
            .value_name(setting.value)
            .value_parser(ValueParser::os_string())
            .allow_negative_numbers(true)
            .help(format!("{} [{}]", setting.help, setting.variable));
        match setting.takes {
            Takes::One => arg.action(ArgAction::Set),
            Takes::Many => arg.action(ArgAction::Append),
            Takes::Switch => {
                arg.action(ArgAction::Set).num_args(0..=1).require_equals(true).default_missing_value("true")
            }
        }
    });
    Command::new(names::BINARY)
        .version(env!("CARGO_PKG_VERSION"))
        .about("Proxies each upstream to the pods behind it, and logs the pod of every request")
        .after_help(
            "Every flag can be given as the environment variable in brackets. Flags beat the environment, the \
             environment beats the document. Durations have units: 250ms, 1s, 5m, 1h30m.",
        )
        .args(args)
}

/// The argument that the parser refuses; a known flag together with its value's name.
fn invalid_argument(error: &clap::Error) -> &str {
    match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(argument)) => argument,
        Some(ContextValue::Strings(arguments)) => arguments.first().map_or("", String::as_str),
        _ => "",
    }
}

/// What the parser refuses, in our words where it says enough, else in its own.
fn refuse(error: &clap::Error, problems: &mut Problems) {
    let argument = invalid_argument(error);
    let known_flag = argument.split([' ', '=', '[']).next().unwrap_or_default();
    let (path, reason, remedy) = match error.kind() {
        ErrorKind::UnknownArgument if argument.starts_with('-') => {
            let known = SETTINGS.iter().map(|setting| setting.flag).chain(["help", "version"]);
            let offered = nearest(argument.trim_start_matches('-'), known);
            let remedy = offered.map_or("see --help".to_owned(), |flag| format!("did you mean --{flag}?"));
            (argument, "unknown flag".to_owned(), remedy)
        }
        ErrorKind::UnknownArgument if argument.parse::<bool>().is_ok() => (
            argument,
            "not a flag".to_owned(),
            format!("write --FLAG={argument}, or the flag alone for true"),
        ),
        ErrorKind::UnknownArgument => {
            let remedy = format!("to name an upstream, write --{} {argument}", flag::UPSTREAM);
            (argument, "not a flag".to_owned(), remedy)
        }
        ErrorKind::ArgumentConflict => {
            (known_flag, "given more than once".to_owned(), "give it once".to_owned())
        }
        ErrorKind::InvalidValue => (known_flag, "no value".to_owned(), format!("write {argument}")),
        _ => {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            let reason = first.strip_prefix("error: ").unwrap_or(first);
            (known_flag, reason.to_owned(), "see --help".to_owned())
        }
    };
    problems.at(if path.is_empty() { "command line" } else { path }, Fault::new(reason, remedy));
}

/// A warning for each variable that looks like ours and is not. Those that Kubernetes makes for a Service
/// whose name begins with `whichpod` are left alone.
pub(crate) fn unknown_variables(env: &dyn Env) -> Vec<String> {
    let names: Vec<String> =
        env.names().into_iter().filter(|name| name.starts_with(names::VARIABLE_PREFIX)).collect();
    let services: Vec<&str> = names.iter().filter_map(|name| name.strip_suffix("_SERVICE_HOST")).collect();
    let of_a_service = |name: &str| {
        services
            .iter()
            .filter_map(|service| name.strip_prefix(service))
            .any(|rest| rest == "_PORT" || rest.starts_with("_PORT_") || rest.starts_with("_SERVICE_"))
    };
    let known = || SETTINGS.iter().map(|setting| setting.variable).chain([names::INLINE_DOCUMENT]);
    names
        .iter()
        .filter(|name| !known().any(|known| known == name.as_str()) && !of_a_service(name))
        .map(|name| {
            // The prefix that all share says nothing about likeness.
            let suffix = name.trim_start_matches(names::VARIABLE_PREFIX);
            let suffixes = known().filter_map(|known| known.strip_prefix(names::VARIABLE_PREFIX));
            match nearest(suffix, suffixes) {
                Some(near) => {
                    format!("{name}: unknown variable; did you mean {}{near}?", names::VARIABLE_PREFIX)
                }
                None => format!("{name}: unknown variable, which is ignored"),
            }
        })
        .collect()
}
