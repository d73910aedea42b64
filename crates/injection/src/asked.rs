//! Who gets a sidecar: what the namespace's label and the annotations say.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::facts::Namespace;
use crate::hash::Fnv;
use crate::json;
use crate::malformed::Malformed;
use crate::names::{self, annotation};
use crate::nearest;
use crate::options::Options;
use crate::reason::Reason;
use crate::settings::Settings;
use crate::warning::{self, Warning};
use crate::workload::Kind;

/// What the namespace and the annotations ask for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Answer {
    /// A sidecar with these settings.
    Yes(Box<Settings>),
    /// None.
    No(Reason),
    /// Nobody can tell: nothing is to be changed.
    Unclear(Reason),
}

/// Where the annotations are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asker<'a> {
    pub(crate) kind: Kind,
    /// The workload as the user wrote it.
    pub(crate) object: &'a Value,
    /// Its pod template as the user wrote it; the same as `object` for a pod.
    pub(crate) template: &'a Value,
    pub(crate) namespace_name: &'a str,
    pub(crate) namespace: Option<&'a Namespace>,
}

impl<'a> Asker<'a> {
    /// The one place that says who gets a sidecar: `disabled` namespaces and `inject: "false"` never, then whoever asks, then
    /// the pods of `enabled` namespaces.
    pub(crate) fn answer(self, options: &Options, warnings: &mut Vec<Warning>) -> Answer {
        self.warn_of_misspelt(warnings);
        let label = self.namespace.and_then(Namespace::injection);
        let inject = match self.inject(warnings) {
            Ok(inject) => inject,
            Err(()) => return Answer::Unclear(Reason::UnknownValue),
        };
        let asked = inject == Some(true) || self.says(annotation::UPSTREAMS);
        let namespace = || self.namespace_name.to_owned();
        match (label, inject) {
            (Some("disabled"), _) => {
                if asked && inject != Some(false) {
                    warnings.push(Warning::NamespaceDisabled { namespace: namespace() });
                }
                Answer::No(Reason::NamespaceDisabled)
            }
            (_, Some(false)) => Answer::No(Reason::OptedOut),
            (Some(value), _) if value != "enabled" => {
                warnings.push(Warning::UnknownLabel { namespace: namespace(), value: value.to_owned() });
                Answer::Unclear(Reason::UnknownValue)
            }
            _ if asked => self.settings(options, warnings),
            (Some(_), None) if self.kind == Kind::Pod => self.settings(options, warnings),
            (Some(_), None) => Answer::No(Reason::LeftToPods),
            _ => Answer::No(Reason::NotAsked),
        }
    }

    /// Whether its own annotations ask for a sidecar.
    pub(crate) fn asks(self) -> bool {
        match self.inject(&mut Vec::new()) {
            Ok(Some(inject)) => inject,
            Ok(None) => self.says(annotation::UPSTREAMS),
            Err(()) => false,
        }
    }

    /// Whether the workload itself (not its template) says `inject: "false"`.
    pub(crate) fn opts_out(self) -> bool {
        let value = annotations(self.object)
            .and_then(|annotations| annotations.get(&annotation::key(annotation::INJECT)));
        value.and_then(Value::as_str) == Some("false")
    }

    /// The hash of everything that was said, the operator's defaults left out: these take effect with the next change.
    pub(crate) fn hash(self) -> u64 {
        let mut hash = Fnv::new();
        let said = self.said();
        for (name, value) in &said {
            hash.feed(name.as_bytes());
            hash.feed(value.as_text().as_bytes());
        }
        if self.enabled() && !said.contains_key(annotation::UPSTREAMS) {
            hash.feed(b"*");
        }
        hash.finish()
    }

    fn settings(self, options: &Options, warnings: &mut Vec<Warning>) -> Answer {
        let mut texts = options.defaults.clone();
        for (name, said) in self.said() {
            match said {
                Said::Text(text) if !text.trim().is_empty() => {
                    texts.insert(name.to_owned(), text.to_owned());
                }
                Said::Text(_) => {}
                Said::Other(value) => {
                    let accepted = "a text: put the value in quotes";
                    warnings.push(Warning::Malformed(Malformed::new(name, &value.to_string(), accepted)));
                    return Answer::Unclear(Reason::MalformedAnnotation);
                }
            }
        }
        match Settings::parse(&texts, options) {
            Ok(mut settings) => {
                settings.upstreams.all |= self.enabled() && settings.upstreams.is_empty();
                if settings.config.is_some() {
                    self.warn_of_replaced(warnings);
                }
                Answer::Yes(Box::new(settings))
            }
            Err(malformed) => {
                warnings.extend(malformed.into_iter().map(Warning::Malformed));
                Answer::Unclear(Reason::MalformedAnnotation)
            }
        }
    }

    fn enabled(self) -> bool {
        self.namespace.and_then(Namespace::injection) == Some("enabled")
    }

    /// What is said about each setting: by the workload, else by the template, else by the namespace.
    fn said(self) -> BTreeMap<&'static str, Said<'a>> {
        let mut said = BTreeMap::new();
        let inherited = self.namespace.into_iter().flat_map(|namespace| &namespace.annotations);
        said.extend(inherited.filter_map(|(key, text)| Some((annotation::setting(key)?, Said::Text(text)))));
        let own: Vec<_> = self.own().collect();
        for (key, value) in own.into_iter().rev().flatten() {
            let value = match value {
                Value::String(text) => Said::Text(text),
                other => Said::Other(other),
            };
            said.extend(annotation::setting(key).map(|name| (name, value)));
        }
        said
    }

    /// Whether its own annotations have one of this name.
    pub(crate) fn says(self, name: &str) -> bool {
        let key = annotation::key(name);
        self.own().any(|annotations| annotations.contains_key(&key))
    }

    /// The annotations of the workload, then those of its template.
    fn own(self) -> impl Iterator<Item = &'a Map<String, Value>> {
        let template = (self.kind != Kind::Pod).then_some(self.template);
        [Some(self.object), template].into_iter().flatten().filter_map(annotations)
    }

    /// `false` counts wherever it stands; an error if a value is neither.
    fn inject(self, warnings: &mut Vec<Warning>) -> Result<Option<bool>, ()> {
        let key = annotation::key(annotation::INJECT);
        let mut inject = None;
        for value in self.own().filter_map(|annotations| annotations.get(&key)) {
            match value.as_str() {
                Some("true") => inject = inject.or(Some(true)),
                Some("false") => inject = Some(false),
                _ => {
                    let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                    let malformed = Malformed::new(annotation::INJECT, &value, "\"true\", \"false\"");
                    warnings.push(Warning::Malformed(malformed));
                    return Err(());
                }
            }
        }
        Ok(inject)
    }

    /// A whole configuration of the workload's own leaves nothing to say for these.
    fn warn_of_replaced(self, warnings: &mut Vec<Warning>) {
        let others = [annotation::UPSTREAMS, annotation::PER_UPSTREAM, annotation::LOG_FORMAT];
        let replaced = others.into_iter().chain(annotation::DOCUMENT).filter(|name| self.says(name));
        warnings.extend(replaced.map(|name| Warning::ReplacedByConfig { name: name.to_owned() }));
    }

    fn warn_of_misspelt(self, warnings: &mut Vec<Warning>) {
        let known = || annotation::settings().chain([annotation::INJECT]);
        let keys = self
            .own()
            .flat_map(Map::keys)
            .filter(|key| ![names::STATUS, names::BY_HAND].contains(&key.as_str()));
        let ours = keys.filter_map(|key| key.strip_prefix(names::PREFIX));
        for name in ours.filter(|name| !known().any(|known| known == *name)).take(warning::MOST) {
            let nearest = nearest::of(name, known()).map(str::to_owned);
            warnings.push(Warning::Misspelt { name: name.to_owned(), nearest });
        }
    }
}

/// The value of an annotation.
#[derive(Debug, Clone, Copy)]
enum Said<'a> {
    Text(&'a str),
    /// Not a text, as in a manifest that the API server would refuse.
    Other(&'a Value),
}

impl Said<'_> {
    fn as_text(&self) -> String {
        match self {
            Said::Text(text) => (*text).to_owned(),
            Said::Other(value) => value.to_string(),
        }
    }
}

fn annotations(object: &Value) -> Option<&Map<String, Value>> {
    json::members(object, "/metadata/annotations")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Redirect;
    use serde_json::json;

    struct Case {
        kind: Kind,
        object: Value,
        template: Value,
        namespace: Namespace,
    }

    impl Case {
        fn new(label: Option<&str>, annotations: &Value) -> Case {
            let label = label.map(|value| ("whichpod.io/injection".to_owned(), value.to_owned()));
            Case {
                kind: Kind::Deployment,
                object: json!({"metadata": {"annotations": annotations}}),
                template: json!({}),
                namespace: Namespace { labels: label.into_iter().collect(), ..Namespace::default() },
            }
        }

        fn asker(&self) -> Asker<'_> {
            Asker {
                kind: self.kind,
                object: &self.object,
                template: if self.kind == Kind::Pod { &self.object } else { &self.template },
                namespace_name: "shop",
                namespace: Some(&self.namespace),
            }
        }

        fn answer(&self) -> (Answer, Vec<Warning>) {
            let mut warnings = Vec::new();
            (self.asker().answer(&Options::default(), &mut warnings), warnings)
        }
    }

    fn upstreams(answer: &Answer) -> Option<(bool, usize)> {
        match answer {
            Answer::Yes(settings) => Some((settings.upstreams.all, settings.upstreams.entries.len())),
            _ => None,
        }
    }

    #[test]
    fn every_row_of_the_table_holds() {
        let none = json!({});
        let asks = json!({"whichpod.io/inject": "true"});
        let names = json!({"whichpod.io/upstreams": "backend:80"});
        let refuses = json!({"whichpod.io/inject": "false", "whichpod.io/upstreams": "backend:80"});
        let answer = |label, annotations: &Value, kind| {
            let case = Case { kind, ..Case::new(label, annotations) };
            let (answer, warnings) = case.answer();
            (answer, warnings.len())
        };
        let no = |reason, warnings| (Answer::No(reason), warnings);
        for kind in [Kind::Deployment, Kind::Pod] {
            assert_eq!(answer(None, &none, kind), no(Reason::NotAsked, 0));
            assert_eq!(upstreams(&answer(None, &asks, kind).0), Some((false, 0)));
            assert_eq!(upstreams(&answer(None, &names, kind).0), Some((false, 1)));
            assert_eq!(upstreams(&answer(Some("enabled"), &asks, kind).0), Some((true, 0)));
            assert_eq!(upstreams(&answer(Some("enabled"), &names, kind).0), Some((false, 1)));
            for label in [None, Some("enabled"), Some("sometimes")] {
                assert_eq!(answer(label, &refuses, kind), no(Reason::OptedOut, 0), "{label:?}");
            }
            assert_eq!(answer(Some("disabled"), &none, kind), no(Reason::NamespaceDisabled, 0));
            assert_eq!(answer(Some("disabled"), &asks, kind), no(Reason::NamespaceDisabled, 1));
            assert_eq!(answer(Some("disabled"), &refuses, kind), no(Reason::NamespaceDisabled, 0));
            assert_eq!(answer(Some("on"), &asks, kind), (Answer::Unclear(Reason::UnknownValue), 1));
        }
        assert_eq!(upstreams(&answer(Some("enabled"), &none, Kind::Pod).0), Some((true, 0)));
        assert_eq!(answer(Some("enabled"), &none, Kind::Deployment), no(Reason::LeftToPods, 0));
    }

    #[test]
    fn unknown_values_are_named() {
        for value in [json!("yes"), json!("True"), json!(""), json!(true), json!(null)] {
            let (answer, warnings) = Case::new(None, &json!({"whichpod.io/inject": value})).answer();
            assert_eq!(answer, Answer::Unclear(Reason::UnknownValue));
            assert!(warnings[0].to_string().contains("accepted: \"true\", \"false\""), "{}", warnings[0]);
        }
        let (answer, warnings) =
            Case::new(None, &json!({"whichpod.io/upstreams": "a:1", "whichpod.io/app-ports": 80})).answer();
        assert_eq!(answer, Answer::Unclear(Reason::MalformedAnnotation));
        assert!(warnings[0].to_string().contains("quotes"));
    }

    #[test]
    fn false_counts_wherever_it_stands() {
        let mut case = Case::new(None, &json!({"whichpod.io/inject": "true"}));
        case.template = json!({"metadata": {"annotations": {"whichpod.io/inject": "false"}}});
        assert_eq!(case.answer().0, Answer::No(Reason::OptedOut));
        assert!(!case.asker().opts_out(), "the template says it already");
    }

    #[test]
    fn the_workload_outranks_its_template_which_outranks_the_namespace() {
        let mut case = Case::new(None, &json!({"whichpod.io/upstreams": "a:1"}));
        case.template = json!({"metadata": {"annotations": {"whichpod.io/redirect": "none", "whichpod.io/upstreams": "b:1,c:1"}}});
        case.namespace.annotations = BTreeMap::from([
            ("whichpod.io/redirect".to_owned(), "env".to_owned()),
            ("whichpod.io/protocol".to_owned(), "http1".to_owned()),
        ]);
        let Answer::Yes(settings) = case.answer().0 else { panic!() };
        assert_eq!(settings.redirect, Redirect::None);
        assert_eq!(settings.configuration.of_named_ports.protocol, Some(whichpod_config::Protocol::Http1));
        assert_eq!(settings.upstreams.entries[0].call.to_string(), "a:1");
        let before = case.asker().hash();
        case.namespace.annotations.insert("whichpod.io/protocol".to_owned(), "auto".to_owned());
        assert_ne!(case.asker().hash(), before, "a change of the namespace is a change of the inputs");
    }

    #[test]
    fn a_misspelt_annotation_is_offered_its_nearest_name() {
        let (_, warnings) = Case::new(
            None,
            &json!({"whichpod.io/upstream": "a:1", "whichpod.io/status": "x", "other.io/a": "b"}),
        )
        .answer();
        let texts: Vec<String> = warnings.iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), 1);
        assert!(
            texts[0].contains("whichpod.io/upstream ") && texts[0].contains("whichpod.io/upstreams"),
            "{texts:?}"
        );
    }
}
