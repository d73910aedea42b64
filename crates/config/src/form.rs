//! The machinery of the document form: one listing of fields gives reading that collects every error,
//! writing, and laying one document over another.

use serde_json::{Map, Value};

use crate::error::{Fault, Problems};
use crate::nearest::offer;
use crate::source;

/// How a value stands in the document.
pub(crate) trait Reader<T> {
    /// The value, or `None` and at least one problem.
    fn read(&self, value: &Value, path: &str, problems: &mut Problems) -> Option<T>;
    /// The same from a text that stands alone, in which numbers, lists and mappings have a short form, too.
    fn read_text(&self, text: &str, path: &str, problems: &mut Problems) -> Option<T>;
    /// The opposite of `read`.
    fn write(&self, value: &T) -> Value;
    /// What holds where both a weaker and a stronger source say something.
    fn overlay(&self, _base: T, over: T) -> T {
        over
    }
}

/// A value as it was written.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Written<'a> {
    /// A part of a document.
    Value(&'a Value),
    /// A text that stands alone.
    Text(&'a str),
}

/// The JSON type of a scalar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scalar {
    Text,
    Number,
    Switch,
}

/// A scalar: one rule for its text, whether it comes from the document, a flag or a variable.
pub(crate) struct Kind<T> {
    pub scalar: Scalar,
    pub parse: fn(&str) -> Result<T, Fault>,
    pub write: fn(&T) -> Value,
}

impl<T> Reader<T> for Kind<T> {
    fn read(&self, value: &Value, path: &str, problems: &mut Problems) -> Option<T> {
        let (found, text) = match value {
            Value::String(text) => (Some(Scalar::Text), text.clone()),
            Value::Number(number) => (Some(Scalar::Number), number.to_string()),
            Value::Bool(switch) => (Some(Scalar::Switch), switch.to_string()),
            Value::Null | Value::Array(_) | Value::Object(_) => (None, String::new()),
        };
        let parsed = match found {
            None => {
                Err(Fault::new(format!("{}, not {}", noun(value), self.scalar.noun()), "write one value"))
            }
            // What is wrong with the text says more (a duration without a unit) than its type does.
            Some(found) => (self.parse)(&text).and_then(|parsed| match (found, self.scalar) {
                (found, wanted) if found == wanted => Ok(parsed),
                (_, Scalar::Text) => {
                    Err(Fault::new(format!("{}, not a text", noun(value)), "put it in quotes"))
                }
                (_, wanted) => Err(Fault::new(
                    format!("{}, not {}", noun(value), wanted.noun()),
                    "write it without quotes",
                )),
            }),
        };
        parsed.map_err(|fault| problems.about(path, value, fault)).ok()
    }

    fn read_text(&self, text: &str, path: &str, problems: &mut Problems) -> Option<T> {
        (self.parse)(text.trim()).map_err(|fault| problems.about(path, &Value::from(text), fault)).ok()
    }

    fn write(&self, value: &T) -> Value {
        (self.write)(value)
    }
}

impl Scalar {
    fn noun(self) -> &'static str {
        match self {
            Self::Text => "a text",
            Self::Number => "a number",
            Self::Switch => "true or false",
        }
    }
}

/// What a value is, in words.
fn noun(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}

/// A list of what another reader reads; the stronger source's list replaces the weaker's.
pub(crate) struct List<R>(pub R);

impl<T, R: Reader<T>> Reader<Vec<T>> for List<R> {
    fn read(&self, value: &Value, path: &str, problems: &mut Problems) -> Option<Vec<T>> {
        let Value::Array(items) = value else {
            let fault =
                Fault::new(format!("{}, not a list", noun(value)), "write [...], or one \"- \" per item");
            problems.about(path, value, fault);
            return None;
        };
        let read: Vec<Option<T>> = items
            .iter()
            .enumerate()
            .map(|(index, item)| self.0.read(item, &format!("{path}[{index}]"), problems))
            .collect();
        read.into_iter().collect()
    }

    /// `[a, b]`, or `a, b`.
    fn read_text(&self, text: &str, path: &str, problems: &mut Problems) -> Option<Vec<T>> {
        if text.trim_start().starts_with(['[', '{']) || text.trim_start().starts_with("- ") {
            return self.read(&yaml(text, path, problems)?, path, problems);
        }
        let items = text.split(|c: char| c == ',' || c.is_whitespace()).filter(|item| !item.is_empty());
        let read: Vec<Option<T>> = items
            .enumerate()
            .map(|(index, item)| self.0.read_text(item, &format!("{path}[{index}]"), problems))
            .collect();
        read.into_iter().collect()
    }

    fn write(&self, value: &Vec<T>) -> Value {
        value.iter().map(|item| self.0.write(item)).collect()
    }
}

/// The path of the document itself in errors.
pub(crate) const WHOLE: &str = "document";

/// A mapping with known keys; made by the macro `form!`.
pub(crate) trait Form: Default {
    /// Every key that is accepted.
    const KEYS: &'static [&'static str];
    /// Reads one entry; false if there is no such key.
    fn set(&mut self, key: &str, value: Written<'_>, path: &str, problems: &mut Problems) -> bool;
    /// Reads one entry; a key that is not known is a problem.
    fn take(&mut self, key: &str, value: Written<'_>, path: &str, problems: &mut Problems) {
        if !self.set(key, value, path, problems) {
            problems.at(path, Fault::new("unknown key", offer(key, Self::KEYS.iter().copied())));
        }
    }
    /// What is set, in the order of the declaration.
    fn entries(&self) -> Map<String, Value>;
    /// Self, except where `over` says something.
    #[must_use]
    fn overlay(self, over: Self) -> Self;
}

/// The reader of any [`Form`].
pub(crate) struct Table;

impl<F: Form> Reader<F> for Table {
    /// Never `None`, so that a form with a problem keeps its place in a list.
    fn read(&self, value: &Value, path: &str, problems: &mut Problems) -> Option<F> {
        let mut form = F::default();
        let Value::Object(entries) = value else {
            let keys = format!("accepted keys: {}", F::KEYS.join(", "));
            let at = if path.is_empty() { WHOLE } else { path };
            problems.about(at, value, Fault::new(format!("{}, not a mapping", noun(value)), keys));
            return Some(form);
        };
        for (key, value) in entries {
            form.take(key, Written::Value(value), &join(path, key), problems);
        }
        Some(form)
    }

    /// A mapping in YAML or JSON, or `key=value, key.of.a.mapping=value`.
    fn read_text(&self, text: &str, path: &str, problems: &mut Problems) -> Option<F> {
        if !text.find(['=', ':', '{']).is_some_and(|at| text[at..].starts_with('=')) {
            return read_field(self, Written::Value(&yaml(text, path, problems)?), path, problems);
        }
        let mut form = F::default();
        for (key, text) in words(text, path, problems) {
            form.take(key, Written::Text(&text), &join(path, key), problems);
        }
        Some(form)
    }

    fn write(&self, form: &F) -> Value {
        Value::Object(form.entries())
    }

    fn overlay(&self, base: F, over: F) -> F {
        base.overlay(over)
    }
}

/// `timeouts.connect`; a key that is no plain word is put in quotes.
fn join(path: &str, key: &str) -> String {
    let plain = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    match (path.is_empty(), plain) {
        (true, true) => key.to_owned(),
        (false, true) => format!("{path}.{key}"),
        (_, false) => format!("{path}[{}]", Value::from(key)),
    }
}

/// The keys and texts of `key=value, key=value`. What has no key belongs to the value before it, so that lists need no
/// brackets; those of `key.a=1, key.b=2` are gathered as `a=1, b=2`.
fn words<'a>(text: &'a str, path: &str, problems: &mut Problems) -> Vec<(&'a str, String)> {
    let is_key = |key: &str| key.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b));
    let mut words: Vec<(&str, String)> = Vec::new();
    for part in text.split([',', '\n']).map(str::trim).filter(|part| !part.is_empty()) {
        let Some((key, value)) = part.split_once('=').filter(|(key, _)| is_key(key.trim_end())) else {
            // The text begins with a key.
            if let Some((_, value)) = words.last_mut() {
                value.push_str(", ");
                value.push_str(part);
            }
            continue;
        };
        let (key, value, inner) = match key.trim_end().split_once('.') {
            Some((key, inner)) => (key, format!("{inner}={}", value.trim_start()), true),
            None => (key.trim_end(), value.trim_start().to_owned(), false),
        };
        match words.iter_mut().find(|(known, _)| *known == key) {
            Some((_, known)) if inner => {
                known.push_str(", ");
                known.push_str(&value);
            }
            Some(_) => problems.at(join(path, key), Fault::new("given more than once", "give it once")),
            None => words.push((key, value)),
        }
    }
    words
}

/// What YAML or JSON says; a problem if it is neither.
pub(crate) fn yaml(text: &str, path: &str, problems: &mut Problems) -> Option<Value> {
    source::parse(text, path).map_err(|(path, fault)| problems.at(path, fault)).ok()
}

/// A field: absent and null both mean "not set here".
pub(crate) fn read_field<T>(
    reader: &impl Reader<T>,
    value: Written<'_>,
    path: &str,
    problems: &mut Problems,
) -> Option<T> {
    match value {
        Written::Value(Value::Null) => None,
        Written::Value(value) => reader.read(value, path, problems),
        Written::Text(text) => reader.read_text(text, path, problems),
    }
}

/// The stronger field, or the weaker where the stronger is not set.
pub(crate) fn overlay_field<T>(reader: &impl Reader<T>, base: Option<T>, over: Option<T>) -> Option<T> {
    match (base, over) {
        (Some(base), Some(over)) => Some(reader.overlay(base, over)),
        (base, over) => over.or(base),
    }
}

/// Reads a whole document.
pub(crate) fn read<F: Form>(value: &Value, problems: &mut Problems) -> F {
    read_field(&Table, Written::Value(value), "", problems).unwrap_or_default()
}

/// Reads a mapping of whatever names to forms.
pub(crate) fn read_each<F: Form>(text: &str, problems: &mut Problems) -> Vec<(String, F)> {
    let Some(value) = yaml(text, "", problems) else { return Vec::new() };
    let Value::Object(entries) = &value else {
        let fault = Fault::new(format!("{}, not a mapping", noun(&value)), "write {NAME: {KEY: VALUE}}");
        problems.about("", &value, fault);
        return Vec::new();
    };
    let read = |(name, value): (&String, &Value)| {
        Some((name.clone(), Table.read(value, &join("", name), problems)?))
    };
    entries.iter().filter_map(read).collect()
}

/// Declares forms: `key: Type = reader`. Every field is optional; unknown keys are problems.
macro_rules! form {
    ($(
        $(#[$doc:meta])*
        pub struct $name:ident {
            $($(#[$field_doc:meta])* $field:ident: $type:ty = $reader:expr,)*
        }
    )*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Default)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: Option<$type>,)*
        }

        impl $name {
            /// Every key that is accepted.
            pub const KEYS: &'static [&'static str] = &[$(stringify!($field)),*];

            /// Sets one key from a text that stands alone: a scalar as it is, a list as `a, b`, a mapping as
            /// `key=value, key=value`, and each of them also in YAML or JSON.
            ///
            /// # Errors
            /// Every problem, at a path that begins with the key.
            pub fn set_text(&mut self, key: &str, text: &str) -> Result<(), Vec<Problem>> {
                let mut problems = Problems::default();
                self.take(key, Written::Text(text), key, &mut problems);
                problems.none_or(())
            }

            /// Self, except where `over` says something.
            #[must_use]
            pub fn overlay(self, over: Self) -> Self {
                Form::overlay(self, over)
            }
        }

        impl $crate::form::Form for $name {
            const KEYS: &'static [&'static str] = Self::KEYS;

            fn set(&mut self, key: &str, value: Written<'_>, path: &str, problems: &mut Problems) -> bool {
                match key {
                    $(stringify!($field) => self.$field = read_field(&$reader, value, path, problems),)*
                    _ => return false,
                }
                true
            }

            fn entries(&self) -> Map<String, Value> {
                let mut entries = Map::new();
                $(if let Some(value) = &self.$field {
                    entries.insert(stringify!($field).to_owned(), $reader.write(value));
                })*
                entries
            }

            fn overlay(self, over: Self) -> Self {
                Self { $($field: overlay_field(&$reader, self.$field, over.$field),)* }
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                self.entries().serialize(serializer)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            /// The error lists every problem.
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let mut problems = Problems::default();
                let form = read(&Value::deserialize(deserializer)?, &mut problems);
                problems.none_or(form).map_err(|problems| {
                    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
                    D::Error::custom(lines.join("\n"))
                })
            }
        }
    )*};
}
