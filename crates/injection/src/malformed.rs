//! An annotation that cannot be understood, and how that is told.

use std::fmt;

use whichpod_config::Problem;

use crate::warning::short;

/// What is wrong with a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Malformed {
    /// Without `whichpod.io/`.
    name: String,
    /// Where in the value, if that is a mapping or a list.
    key: String,
    /// What stands there, as it is to be shown.
    value: Option<String>,
    /// What is wrong and what to do about it, after the value.
    fault: String,
}

impl Malformed {
    /// A value that is none of what is accepted.
    pub(crate) fn new(name: &str, value: &str, accepted: impl fmt::Display) -> Malformed {
        let value = Some(format!("{:?}", short(value, 200)));
        Malformed {
            name: name.to_owned(),
            key: String::new(),
            value,
            fault: format!("; accepted: {accepted}"),
        }
    }

    /// Something in a value that must not be there.
    pub(crate) fn at(name: &str, key: &str, fault: &str) -> Malformed {
        Malformed { name: name.to_owned(), key: key.to_owned(), value: None, fault: format!(": {fault}") }
    }

    /// What the sidecar's configuration refuses; the problem's path begins with the document's key for the annotation,
    /// unless it is another's.
    pub(crate) fn of(name: &str, text: &str, problem: Problem) -> Malformed {
        let Problem { path, value, fault } = problem;
        let own = name.len().min(path.len());
        let inner = match path.split_at_checked(own) {
            Some((start, rest)) if start.replace('_', "-") == name => rest,
            _ => path.as_str(),
        };
        let key = inner.trim_start_matches(['.', ':']).to_owned();
        let whole = || key.is_empty().then(|| format!("{text:?}"));
        Malformed { name: name.to_owned(), value: value.or_else(whole), key, fault: format!(": {fault}") }
    }

    /// As a warning's text of at most so many characters.
    pub(crate) fn told(&self, prefix: &str, end: &str, most: usize) -> String {
        let end = if self.fault.ends_with('?') { end.trim_start_matches('.') } else { end };
        let Malformed { name, key, value, fault } = self;
        let place = Malformed {
            name: format!("{prefix}{}", short(name, 24)),
            key: short(key, 48),
            value: value.as_ref().map(|value| short(value, 40)),
            fault: String::new(),
        };
        let head = place.to_string();
        let left = most.saturating_sub(head.chars().count() + end.chars().count());
        format!("{head}{}{end}", short(fault, left))
    }
}

impl fmt::Display for Malformed {
    /// `redirect is "host"; accepted: ...`, or `retry: attempts is "many": ...`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Malformed { name, key, value, fault } = self;
        f.write_str(name)?;
        if !key.is_empty() {
            write!(f, ": {key}")?;
        }
        if let Some(value) = value {
            write!(f, " is {value}")?;
        }
        f.write_str(fault)
    }
}
