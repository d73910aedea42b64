//! What annotations say of the sidecar's configuration. Each is named after a key of its document (`slow-start` after
//! `slow_start`); what the value may be is known to `whichpod-config` alone, which reads and checks it.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use whichpod_config::{Checks, Document, Problem, raw};

use crate::calls::Destination;
use crate::malformed::Malformed;
use crate::names::annotation;
use crate::options::Options;

/// What is true of a port rather than of a Service: a Service's other ports, which are served because a name in the hosts
/// file knows no ports, may speak something else.
const OF_NAMED_PORTS: [&str; 5] = ["protocol", "tls", "proxy-protocol", "health-check", "lazy"];

/// A value that takes back what a namespace or the operator says.
const DEFAULT: &str = "default";

/// The longest value that is read, in bytes, and the most upstreams one may name: admission waits for it.
const LONGEST: usize = 16 * 1024;
const MOST_SINGLES: usize = 100;

/// The most errors of one annotation; nobody is shown more.
const MOST_ERRORS: usize = 10;

/// What the document is to say besides what the upstreams are.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Configuration {
    pub(crate) document: Document,
    /// What holds on ports that somebody named.
    pub(crate) of_named_ports: raw::Upstream,
    /// What holds for single upstreams, that of a single port after that of all its ports.
    pub(crate) singles: Vec<Single>,
    /// What is odd about it.
    pub(crate) notes: Vec<String>,
}

/// What holds for one upstream.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Single {
    /// As it was written: `NAME` or `NAME:PORT`.
    pub(crate) key: String,
    host: String,
    port: Option<u16>,
    form: raw::Upstream,
}

impl Configuration {
    /// Reads all annotations that are about it, given by their names without `whichpod.io/`.
    pub(crate) fn parse(
        texts: &BTreeMap<String, String>,
        options: &Options,
        errors: &mut Vec<Malformed>,
    ) -> Configuration {
        let mut configuration = Configuration::default();
        let before = errors.len();
        let mut said = false;
        // The format of a log that is said alone counts more than that of all about the log.
        for name in annotation::DOCUMENT.into_iter().chain([annotation::PER_UPSTREAM, annotation::LOG_FORMAT])
        {
            if let Some(text) = texts.get(name).filter(|text| text.trim() != DEFAULT) {
                errors.extend(configuration.set(name, text).err().into_iter().flatten().take(MOST_ERRORS));
                said = true;
            }
        }
        if said && errors.len() == before {
            configuration.check(texts, options, errors);
        }
        configuration
    }

    fn set(&mut self, name: &'static str, text: &str) -> Result<(), Vec<Malformed>> {
        if text.len() > LONGEST {
            let fault = "longer than 16 KiB; shorten it, or name a ConfigMap in whichpod.io/config";
            return Err(vec![Malformed::at(name, "", fault)]);
        }
        let key = name.replace('-', "_");
        let result = match name {
            annotation::PER_UPSTREAM => return self.set_singles(text),
            annotation::LOG_FORMAT if text.trim().is_empty() => {
                let accepted = "text, json, nginx, otel, ecs, or an Envoy format string";
                return Err(vec![Malformed::new(name, text, accepted)]);
            }
            annotation::LOG_FORMAT => {
                self.document.access_log.get_or_insert_default().format = Some(text.to_owned());
                Ok(())
            }
            _ if OF_NAMED_PORTS.contains(&name) => self.of_named_ports.set_text(&key, text),
            _ => self.document.set_text(&key, text),
        };
        let malformed = |problem| Malformed::of(name, text, problem);
        result.map_err(|problems| problems.into_iter().map(malformed).collect::<Vec<_>>())?;
        let shutdown = self.document.shutdown.as_ref().filter(|_| name == "shutdown");
        if shutdown.is_some_and(|shutdown| shutdown.native_sidecar.is_some()) {
            let fault = "whichpod knows that itself; remove it, or set whichpod.io/native-sidecar";
            return Err(vec![Malformed::at(name, "native_sidecar", fault)]);
        }
        Ok(())
    }

    fn set_singles(&mut self, text: &str) -> Result<(), Vec<Malformed>> {
        let name = annotation::PER_UPSTREAM;
        let malformed = |problem| Malformed::of(name, text, problem);
        let each = raw::Upstream::read_each(text)
            .map_err(|problems| problems.into_iter().map(malformed).collect::<Vec<_>>())?;
        if each.len() > MOST_SINGLES {
            let fault = format!(
                "more than {MOST_SINGLES} upstreams; say what holds for most in the other annotations"
            );
            return Err(vec![Malformed::at(name, "", &fault)]);
        }
        let mut errors = Vec::new();
        for (key, form) in each {
            let taken = [
                ("name", form.name.is_some()),
                ("listen", form.listen.is_some()),
                ("target", form.target.is_some()),
                ("fallback", form.fallback.is_some()),
            ];
            for (member, _) in taken.into_iter().filter(|(_, given)| *given) {
                let fault = "whichpod knows that itself; remove it, or see whichpod.io/upstreams";
                errors.push(Malformed::at(name, &format!("{key}.{member}"), fault));
            }
            let (host, port) = match key.rsplit_once(':') {
                Some((host, port)) => (host, Some(port.parse::<u16>())),
                None => (key.as_str(), None),
            };
            match port.transpose() {
                Ok(port) => {
                    let host = host.to_ascii_lowercase().trim_end_matches('.').to_owned();
                    self.singles.push(Single { host, port, key, form });
                }
                Err(_) => {
                    errors.push(Malformed::at(name, &key, "no NAME or NAME:PORT; write the port's number"));
                }
            }
        }
        self.singles.sort_by_key(|single| single.port.is_some());
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// The stand-ins for the upstreams show what is wrong, or odd, wherever they lead.
    fn check(&mut self, texts: &BTreeMap<String, String>, options: &Options, errors: &mut Vec<Malformed>) {
        let of_one = self.singles.iter().map(|one| {
            let same = self.singles.iter().filter(|single| {
                single.host == one.host && (single.port.is_none() || single.port == one.port)
            });
            same.map(|single| single.form.clone()).reduce(raw::Upstream::overlay)
        });
        let forms = [None].into_iter().chain(of_one).map(Option::unwrap_or_default);
        let upstreams = forms.enumerate().map(|(index, form)| raw::Upstream {
            name: Some(index.to_string()),
            // Where the kernel chooses the port, nobody is in the way.
            listen: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
            target: "upstream:80".parse().ok(),
            ..self.of_named_ports.clone().overlay(form)
        });
        let document = Document { upstreams: Some(upstreams.collect()), ..self.document.clone() };
        let key = |index: usize| self.singles.get(index.wrapping_sub(1)).map(|single| single.key.clone());
        match check(document, options) {
            Ok(warnings) => {
                for warning in warnings {
                    // Who it is about does not matter where it is said of all.
                    let text = warning.split_once(": ").map_or(warning.as_str(), |(_, text)| text).to_owned();
                    if !self.notes.contains(&text) {
                        self.notes.push(text);
                    }
                }
            }
            Err(problems) => errors.extend(attributed(problems, texts, key)),
        }
    }

    /// What holds for the upstream behind one port of a destination alone.
    pub(crate) fn of_one(&self, destination: &Destination<'_>, port: u16) -> Option<Box<raw::Upstream>> {
        let forms = self.singles.iter().filter(|single| single.is(destination, Some(port)));
        forms.map(|single| single.form.clone()).reduce(raw::Upstream::overlay).map(Box::new)
    }
}

impl Single {
    /// Whether this is about a destination, or one port of it.
    pub(crate) fn is(&self, destination: &Destination<'_>, port: Option<u16>) -> bool {
        let Destination { title, forms, listen_on, listeners, .. } = destination;
        let host = *title == self.host
            || forms.contains(&self.host)
            || listen_on.is_some_and(|ip| self.host.parse() == Ok(ip));
        let has = |wanted: u16| match port {
            Some(port) => wanted == port,
            None => listeners.iter().any(|listener| listener.port == wanted),
        };
        host && self.port.is_none_or(has)
    }
}

/// Checks a document as the sidecar would at its start; what is odd but no error is returned.
pub(crate) fn check(document: Document, options: &Options) -> Result<Vec<String>, Vec<Problem>> {
    let checks = Checks {
        log_format: &|format| options.check_log_format.map_or(Ok(()), |check| check(format)),
        response_flag: &|flag| options.is_response_flag.is_none_or(|is| is(flag)),
    };
    whichpod_config::check(document, &checks)
}

/// Which annotations are the cause: `key` says which single upstream stands at a place of the list.
pub(crate) fn attributed(
    problems: Vec<Problem>,
    texts: &BTreeMap<String, String>,
    key: impl Fn(usize) -> Option<String>,
) -> Vec<Malformed> {
    // What is said of all upstreams is wrong in each.
    let mut of_all = Vec::new();
    let mut of_one = Vec::new();
    for Problem { path, value, fault } in problems {
        let listed = path.strip_prefix("upstreams[").and_then(|rest| rest.split_once(']'));
        let single = listed.and_then(|(index, _)| key(index.parse().ok()?));
        let path = listed.map_or(path.as_str(), |(_, rest)| rest.trim_start_matches('.')).to_owned();
        match single {
            Some(key) => {
                let path = format!("{key}.{path}");
                of_one.push(Malformed::of(annotation::PER_UPSTREAM, "", Problem { path, value, fault }));
            }
            None if path == "access_log.format" && texts.contains_key(annotation::LOG_FORMAT) => {
                let path = annotation::LOG_FORMAT.to_owned();
                of_all.push(Malformed::of(annotation::LOG_FORMAT, "", Problem { path, value, fault }));
            }
            None => {
                let name = path.split(['.', '[']).next().unwrap_or_default().replace('_', "-");
                let text = texts.get(&name).map(String::as_str).unwrap_or_default();
                of_all.push(Malformed::of(&name, text, Problem { path, value, fault }));
            }
        }
    }
    if of_all.is_empty() { of_one } else { of_all }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn parse(texts: &[(&str, &str)]) -> Result<Configuration, Vec<String>> {
        let options = Options {
            check_log_format: Some(
                |text| if text.contains("%NOPE%") { Err("no operator".into()) } else { Ok(()) },
            ),
            is_response_flag: Some(|flag| flag == "UH"),
            ..Options::default()
        };
        let texts = texts.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        let mut errors = Vec::new();
        let configuration = Configuration::parse(&texts, &options, &mut errors);
        if errors.is_empty() {
            Ok(configuration)
        } else {
            Err(errors.iter().map(ToString::to_string).collect())
        }
    }

    fn document(name: &str, text: &str) -> Value {
        let Configuration { document, of_named_ports, .. } = parse(&[(name, text)]).unwrap();
        let (mut document, of_ports) = (json!(document), json!(of_named_ports));
        document.as_object_mut().unwrap().extend(of_ports.as_object().unwrap().clone());
        document
    }

    fn wrong(texts: &[(&str, &str)]) -> String {
        parse(texts).unwrap_err().join("|")
    }

    #[test]
    fn every_key_of_the_sidecars_document_has_an_annotation() {
        let kept = ["upstreams", "admin", "health", "name", "listen", "target", "fallback", "routes"];
        let keys = Document::KEYS.iter().chain(raw::Upstream::KEYS);
        for key in keys.filter(|key| !kept.contains(key)) {
            assert!(annotation::DOCUMENT.contains(&key.replace('_', "-").as_str()), "{key}");
        }
        for name in annotation::DOCUMENT {
            let form = if OF_NAMED_PORTS.contains(&name) { raw::Upstream::KEYS } else { Document::KEYS };
            assert!(form.contains(&name.replace('-', "_").as_str()), "{name}");
        }
    }

    #[test]
    fn words_and_yaml_say_the_same() {
        let retry = json!({"retry": {"on": ["5xx", "reset"], "attempts": 3, "budget": {"percent": 10, "min_concurrency": 1}}});
        for text in [
            "on=5xx, reset, attempts=3, budget.percent=10, budget.min_concurrency=1",
            "on=[5xx, reset], attempts=3, budget={percent: 10, min_concurrency: 1}",
            "{on: [5xx, reset], attempts: 3, budget: {percent: 10, min_concurrency: 1}}",
            r#"{"on": ["5xx", "reset"], "attempts": 3, "budget": {"percent": 10, "min_concurrency": 1}}"#,
            "on: [5xx, reset]\nattempts: 3\nbudget:\n  percent: 10\n  min_concurrency: 1\n",
        ] {
            assert_eq!(document("retry", text), retry, "{text}");
        }
        assert_eq!(document("retry", "attempts=2\non=5xx"), json!({"retry": {"on": ["5xx"], "attempts": 2}}));
        assert_eq!(document("tls", "{}"), json!({"tls": {}}));
        assert_eq!(document("workers", " 2 "), json!({"workers": 2}));
        assert_eq!(document("lazy", "true"), json!({"lazy": true}));
        assert_eq!(
            document("balance", "maglev:header:X-User")["balance"]["hash"],
            json!({"header": "x-user"})
        );
        assert_eq!(document("balance", "{policy: random}"), json!({"balance": "random"}));
        assert_eq!(document("log-level", "info,hyper=debug"), json!({"log_level": "info,hyper=debug"}));
        let check = document("health-check", "protocol=http, path=/ok, host=backend:80");
        assert_eq!(check["health_check"], json!({"protocol": "http", "path": "/ok", "host": "backend:80"}));
    }

    #[test]
    fn every_error_names_the_place_the_value_the_reason_and_the_remedy() {
        for (name, text, told) in [
            (
                "balance",
                "round-robin",
                "balance is \"round-robin\": not known here; did you mean round_robin? accepted: round_robin, least_request",
            ),
            (
                "protocol",
                "spdy",
                "protocol is \"spdy\": not known here; accepted: auto, http1, h2c, grpc, tcp",
            ),
            ("timeouts", "connect=1", "timeouts: connect is \"1\": no unit; write a number and a unit"),
            ("timeouts", "conect=1s", "timeouts: conect: unknown key; did you mean connect?"),
            ("timeouts", "connect=1s, connect=2s", "timeouts: connect: given more than once"),
            ("timeouts", "fast", "timeouts is \"fast\": a text, not a mapping; accepted keys: connect,"),
            ("timeouts", "{connect: [", "timeouts: "),
            ("retry", "on=5xx, resets", "retry: on[1] is \"resets\": not known here; did you mean reset?"),
            ("health-check", "protocol=http", "health-check: path: missing; write path: /PATH"),
            ("tls", "cert_file=/a", "tls: key_file: missing"),
            (
                "healthy-panic-threshold",
                "101",
                "healthy-panic-threshold is \"101\": out of range; write a whole number from 0 to 100",
            ),
            ("dns", "refresh_floor=2m", "dns: refresh_floor is \"2m\": refresh_floor (2m) is above"),
            ("access-log", "filter.flags=XX", "access-log: filter.flags[0] is \"XX\": no response flag"),
            ("access-log", "format=%NOPE%", "access-log: format is \"%NOPE%\": no operator"),
            ("log-format", "%NOPE%", "log-format is \"%NOPE%\": no operator; write a preset"),
            ("shutdown", "native_sidecar=true", "shutdown: native_sidecar: whichpod knows that itself"),
            (
                "per-upstream",
                "{users: {timeouts: {request: 5}}}",
                "per-upstream: users.timeouts.request is 5: no unit",
            ),
            (
                "per-upstream",
                "{'users:80': {target: 'a:1'}}",
                "per-upstream: users:80.target: whichpod knows",
            ),
            (
                "per-upstream",
                "{'users:http': {lazy: true}}",
                "per-upstream: users:http: no NAME or NAME:PORT",
            ),
            (
                "per-upstream",
                "{users: {health_check: {}}}",
                "per-upstream: users.health_check.protocol: missing",
            ),
            ("per-upstream", "users", "per-upstream is \"users\": a text, not a mapping"),
        ] {
            let text = wrong(&[(name, text)]);
            assert!(text.starts_with(told), "{text}");
        }
        let both = wrong(&[
            ("balance", "maglev:source_address"),
            ("slow-start", "window=10s"),
            ("per-upstream", "{users: {lazy: true}}"),
        ]);
        assert!(both.starts_with("slow-start is \"10s\": maglev sends"), "{both}");
        assert_eq!(both.matches("maglev sends").count(), 1, "{both}");
    }

    #[test]
    fn what_the_sidecar_would_warn_of_at_its_start_is_told_at_admission() {
        let tls = ("tls", "insecure_skip_verify=true");
        let configuration = parse(&[tls, ("per-upstream", "{a: {lazy: true}}")]).unwrap();
        assert_eq!(configuration.notes.len(), 1, "{:?}", configuration.notes);
        assert!(configuration.notes[0].starts_with("TLS WITHOUT VERIFICATION"), "{:?}", configuration.notes);
    }

    #[test]
    fn a_huge_value_keeps_admission_waiting_for_no_time() {
        let long = format!("on={}", "5xx,".repeat(5_000));
        assert!(wrong(&[("retry", &long)]).starts_with("retry: longer than 16 KiB"));
        let keys: String = (0..1000).map(|n| format!("k{n}=1,")).collect();
        assert_eq!(parse(&[("retry", &keys)]).unwrap_err().len(), MOST_ERRORS);
        let upstreams: String = (0..200).map(|n| format!("u{n}: {{lazy: true}}\n")).collect();
        assert!(wrong(&[("per-upstream", &upstreams)]).starts_with("per-upstream: more than 100 upstreams"));
        let many: String = (0..100).map(|n| format!("u{n}: {{lazy: true}}\n")).collect();
        assert_eq!(parse(&[("per-upstream", &many)]).unwrap().singles.len(), 100);
    }

    #[test]
    fn default_takes_back_what_a_weaker_source_says() {
        assert_eq!(parse(&[("tls", " default "), ("workers", "default")]).unwrap(), Configuration::default());
    }
}
