//! Manifests as text: taken apart into documents, and put together again. What nobody changed is printed as it was, byte
//! for byte. Pure.

mod compose;
mod json;
mod print;
mod resolve;
mod split;
mod yaml;

use std::fmt;

use serde_json::Value;

pub use print::{Format, Printer, pretty};

/// One document of a manifest.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Its text, with the separator and the comments before it.
    text: String,
    /// How it was written.
    format: Format,
    /// What it says; `None` if there are only comments.
    pub value: Option<Value>,
}

/// Why a text is no manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Of the text, from 1.
    pub document: usize,
    /// Of the text, from 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// What is wrong there.
    pub reason: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fault { document, line, column, reason } = self;
        write!(f, "document {document}, line {line}, column {column}: {reason}")
    }
}

impl std::error::Error for Fault {}

/// Takes a text apart: JSON values one after the other, or YAML documents. YAML is read as kubectl reads it (YAML 1.1).
///
/// # Errors
/// Where and why it is neither.
pub fn read(text: &str) -> Result<Vec<Document>, Fault> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let Some(rest) = text.trim_start().strip_prefix('{') else { return yaml::read(text) };
    json::read(text).or_else(|fault| {
        // YAML in flow style begins like that, too.
        let is_json = rest.trim_start().starts_with('"');
        yaml::read(text).map_err(|of_yaml| if is_json { fault } else { of_yaml })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn json_and_yaml_are_told_apart() {
        let values = |text: &str| -> Vec<Option<Value>> {
            read(text).unwrap().into_iter().map(|document| document.value).collect()
        };
        assert_eq!(values("{\"a\": 1}{\"b\": 2}"), [Some(json!({"a": 1})), Some(json!({"b": 2}))]);
        assert_eq!(values("{a: 1}\n---\nb: 2\n"), [Some(json!({"a": 1})), Some(json!({"b": 2}))]);
        assert_eq!(values("{\"a\": 1}\n---\nb: 2\n"), [Some(json!({"a": 1})), Some(json!({"b": 2}))]);
        assert_eq!(values("\u{feff}# c\n"), [None]);
        let reason = |text: &str| read(text).unwrap_err().to_string();
        assert_eq!(
            reason("{\n  \"a\": 1\n  \"b\": 2\n}"),
            "document 1, line 3, column 3: expected `,` or `}`"
        );
        assert!(reason("{a: 1").starts_with("document 1, line 1"));
    }
}
