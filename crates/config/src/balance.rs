//! How a pod is chosen, as it stands in the document: a word, or a mapping where a policy needs more than its name.

use std::fmt;

use serde_json::{Map, Value, json};

use crate::error::{Fault, Problems};
use crate::form::{Form as _, Kind, Reader, Scalar, Table, yaml};
use crate::kinds::{parse_header_name, parse_word};
use crate::raw;
use crate::types::{Balance, HashOn};

/// The policies that need nothing but their name.
const PLAIN: [(&str, Plain); 4] = [
    ("round_robin", Plain::RoundRobin),
    ("least_request", Plain::LeastRequest),
    ("ewma", Plain::Ewma),
    ("random", Plain::Random),
];
const MAGLEV: &str = "maglev";

/// Every policy's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Needs nothing else.
    Plain(Plain),
    /// Needs to know what to hash.
    Maglev,
}

/// A policy that needs nothing but its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plain {
    /// `round_robin`
    RoundRobin,
    /// `least_request`
    LeastRequest,
    /// `ewma`
    Ewma,
    /// `random`
    Random,
}

impl From<Plain> for Balance {
    fn from(plain: Plain) -> Self {
        match plain {
            Plain::RoundRobin => Self::RoundRobin,
            Plain::LeastRequest => Self::LeastRequest,
            Plain::Ewma => Self::Ewma,
            Plain::Random => Self::Random,
        }
    }
}

fn words() -> Vec<(&'static str, Policy)> {
    let plain = PLAIN.into_iter().map(|(word, plain)| (word, Policy::Plain(plain)));
    plain.chain([(MAGLEV, Policy::Maglev)]).collect()
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(words().iter().find(|(_, policy)| policy == self).map_or("", |(word, _)| word))
    }
}

impl fmt::Display for Balance {
    /// The text form: `round_robin`, `maglev:header:x-user`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Maglev(HashOn::Header(name)) => write!(f, "{MAGLEV}:header:{name}"),
            Self::Maglev(HashOn::Cookie(name)) => write!(f, "{MAGLEV}:cookie:{name}"),
            Self::Maglev(HashOn::SourceAddress) => write!(f, "{MAGLEV}:source_address"),
            plain => f.write_str(
                PLAIN.iter().find(|(_, policy)| Self::from(*policy) == *plain).map_or("", |(word, _)| word),
            ),
        }
    }
}

const TEXT_FORMS: &str = "write maglev:header:NAME, maglev:cookie:NAME or maglev:source_address";

fn parse_policy(text: &str) -> Result<Policy, Fault> {
    parse_word(text, &words())
}

/// The text form, as a flag, a variable or an annotation has it.
fn parse_balance(text: &str) -> Result<Balance, Fault> {
    let Some(on) = text.strip_prefix(MAGLEV).and_then(|rest| rest.strip_prefix(':')) else {
        return match parse_policy(text)? {
            Policy::Plain(plain) => Ok(plain.into()),
            Policy::Maglev => Err(Fault::new("it does not say what to hash", TEXT_FORMS)),
        };
    };
    Ok(Balance::Maglev(match on.split_once(':') {
        Some(("header", name)) => HashOn::Header(parse_header_name(name)?),
        Some(("cookie", name)) => HashOn::Cookie(parse_cookie_name(name)?),
        None if on == "source_address" => HashOn::SourceAddress,
        _ => return Err(Fault::new(format!("{on:?} is nothing to hash"), TEXT_FORMS)),
    }))
}

/// A token (RFC 6265 §4.1.1); its case matters.
fn parse_cookie_name(text: &str) -> Result<String, Fault> {
    match parse_header_name(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(Fault::new("not a cookie's name", "write a name like session")),
    }
}

const fn text<T: fmt::Display>(parse: fn(&str) -> Result<T, Fault>) -> Kind<T> {
    Kind { scalar: Scalar::Text, parse, write: |value| Value::from(value.to_string()) }
}

pub(crate) const POLICY: Kind<Policy> = text(parse_policy);
pub(crate) const BALANCE: Kind<Balance> = text(parse_balance);
pub(crate) const COOKIE_NAME: Kind<String> = text(parse_cookie_name);

/// Reads both forms.
pub(crate) struct Either;

impl Reader<Balance> for Either {
    fn read(&self, value: &Value, path: &str, problems: &mut Problems) -> Option<Balance> {
        if !value.is_object() {
            return BALANCE.read(value, path, problems);
        }
        let before = problems.len();
        let form: raw::Balancing = Table.read(value, path, problems)?;
        if problems.len() > before {
            return None;
        }
        from_form(form).map_err(|(key, fault)| problems.at(format!("{path}.{key}"), fault)).ok()
    }

    fn read_text(&self, text: &str, path: &str, problems: &mut Problems) -> Option<Balance> {
        if !text.trim_start().starts_with('{') {
            return BALANCE.read_text(text, path, problems);
        }
        self.read(&yaml(text, path, problems)?, path, problems)
    }

    fn write(&self, balance: &Balance) -> Value {
        let hash = match balance {
            Balance::Maglev(HashOn::Header(name)) => json!({ "header": name }),
            Balance::Maglev(HashOn::Cookie(name)) => json!({ "cookie": name }),
            Balance::Maglev(HashOn::SourceAddress) => json!({ "source_address": true }),
            plain => return BALANCE.write(plain),
        };
        json!({ "policy": MAGLEV, "hash": hash })
    }
}

fn from_form(form: raw::Balancing) -> Result<Balance, (&'static str, Fault)> {
    let remedy = "write hash: {header: NAME}, {cookie: NAME} or {source_address: true}";
    match (form.policy, form.hash) {
        (None, _) => {
            let words: Vec<_> = words().into_iter().map(|(word, _)| word).collect();
            Err(("policy", Fault::new("missing", format!("write one of {}", words.join(", ")))))
        }
        (Some(Policy::Plain(plain)), None) => Ok(plain.into()),
        (Some(Policy::Plain(_)), Some(_)) => {
            Err(("hash", Fault::new("only maglev hashes", "remove it, or write policy: maglev")))
        }
        (Some(Policy::Maglev), None) => Err(("hash", Fault::new("missing", remedy))),
        (Some(Policy::Maglev), Some(hash)) => match hash {
            raw::HashOn { header: Some(name), cookie: None, source_address: None | Some(false) } => {
                Ok(Balance::Maglev(HashOn::Header(name)))
            }
            raw::HashOn { header: None, cookie: Some(name), source_address: None | Some(false) } => {
                Ok(Balance::Maglev(HashOn::Cookie(name)))
            }
            raw::HashOn { header: None, cookie: None, source_address: Some(true) } => {
                Ok(Balance::Maglev(HashOn::SourceAddress))
            }
            other if Map::is_empty(&other.entries()) => Err(("hash", Fault::new("empty", remedy))),
            _ => Err(("hash", Fault::new("not exactly one thing to hash", remedy))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_every_policy_are_read_as_they_are_written() {
        let all = [
            Balance::RoundRobin,
            Balance::LeastRequest,
            Balance::Ewma,
            Balance::Random,
            Balance::Maglev(HashOn::Header("x-user".into())),
            Balance::Maglev(HashOn::Cookie("Session".into())),
            Balance::Maglev(HashOn::SourceAddress),
        ];
        for balance in all {
            assert_eq!(parse_balance(&balance.to_string()).as_ref(), Ok(&balance));
            let mut problems = Problems::default();
            let written = Either.write(&balance);
            assert_eq!(Either.read(&written, "balance", &mut problems), Some(balance), "{written}");
        }
        let plain = Either.read(&json!({"policy": "ewma"}), "balance", &mut Problems::default());
        assert_eq!(plain, Some(Balance::Ewma));
    }

    #[test]
    fn what_cannot_be_meant_is_answered_with_what_can() {
        let told = |value: Value| {
            let mut problems = Problems::default();
            assert_eq!(Either.read(&value, "balance", &mut problems), None);
            problems.into_vec().iter().map(ToString::to_string).collect::<Vec<_>>().join("|")
        };
        let hash = "write hash: {header: NAME}, {cookie: NAME} or {source_address: true}";
        assert_eq!(
            told(json!("maglev")),
            format!("balance: \"maglev\": it does not say what to hash; {TEXT_FORMS}")
        );
        assert_eq!(
            told(json!("maglev:user")),
            format!("balance: \"maglev:user\": \"user\" is nothing to hash; {TEXT_FORMS}")
        );
        assert_eq!(told(json!({"policy": "maglev"})), format!("balance.hash: missing; {hash}"));
        assert_eq!(told(json!({"policy": "maglev", "hash": {}})), format!("balance.hash: empty; {hash}"));
        let two = json!({"policy": "maglev", "hash": {"header": "a", "cookie": "b"}});
        assert_eq!(told(two), format!("balance.hash: not exactly one thing to hash; {hash}"));
        assert_eq!(
            told(json!({"policy": "random", "hash": {"header": "a"}})),
            "balance.hash: only maglev hashes; remove it, or write policy: maglev"
        );
        assert_eq!(
            told(json!({})),
            "balance.policy: missing; write one of round_robin, least_request, ewma, random, maglev"
        );
        assert!(
            told(json!({"policy": "maglev", "hash": {"header": "a b"}}))
                .starts_with("balance.hash.header: \"a b\": not a header's name")
        );
        assert!(told(json!("magelv")).contains("did you mean maglev?"));
    }
}
