//! The machinery of the document form: one listing of fields gives reading that collects every error,
//! writing, and laying one document over another.

use serde_json::{Map, Value};

use crate::error::{Fault, Problems};
use crate::nearest::offer;

/// How a value stands in the document.
pub(crate) trait Reader<T> {
    /// The value, or `None` and at least one problem.
    fn read(&self, value: &Value, path: &str, problems: &mut Problems) -> Option<T>;
    /// The opposite of `read`.
    fn write(&self, value: &T) -> Value;
    /// What holds where both a weaker and a stronger source say something.
    fn overlay(&self, _base: T, over: T) -> T {
        over
    }
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
    fn set(&mut self, key: &str, value: &Value, path: &str, problems: &mut Problems) -> bool;
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
            let at = join(path, key);
            if !form.set(key, value, &at, problems) {
                problems.at(at, Fault::new("unknown key", offer(key, F::KEYS.iter().copied())));
            }
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

/// A field: absent and null both mean "not set here".
pub(crate) fn read_field<T>(
    reader: &impl Reader<T>,
    value: &Value,
    path: &str,
    problems: &mut Problems,
) -> Option<T> {
    if value.is_null() { None } else { reader.read(value, path, problems) }
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
    read_field(&Table, value, "", problems).unwrap_or_default()
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

        impl $crate::form::Form for $name {
            const KEYS: &'static [&'static str] = &[$(stringify!($field)),*];

            fn set(&mut self, key: &str, value: &Value, path: &str, problems: &mut Problems) -> bool {
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
                let lines: Vec<String> = problems.into_vec().iter().map(ToString::to_string).collect();
                if lines.is_empty() { Ok(form) } else { Err(D::Error::custom(lines.join("\n"))) }
            }
        }
    )*};
}
