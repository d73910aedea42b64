//! JSON manifests: values one after the other.

use serde::Serialize;
use serde_json::Value;
use serde_json::ser::PrettyFormatter;

use super::{Document, Fault, Format};

/// Takes a text apart. White space between two values goes with the second.
pub(super) fn read(text: &str) -> Result<Vec<Document>, Fault> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let mut documents = Vec::new();
    let mut start = 0;
    while let Some(value) = values.next() {
        let end = values.byte_offset();
        let value = value.map_err(|error| Fault {
            document: documents.len() + 1,
            line: error.line().max(1),
            column: error.column().max(1),
            reason: reason(&error),
        })?;
        documents.push(Document {
            text: text[start..end].to_owned(),
            format: Format::Json,
            value: Some(value),
        });
        start = end;
    }
    if let Some(last) = documents.last_mut() {
        last.text.push_str(&text[start..]);
    }
    Ok(documents)
}

/// The error without its place, which is told once.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    text.strip_suffix(&place).map_or_else(|| text.clone(), str::to_owned)
}

/// Writes a value as the text was written that it came from: with the same indentation, and the white space around it.
pub(super) fn write(value: &Value, original: &str) -> String {
    let body = original.trim();
    let at = original.find(body).unwrap_or(0);
    let (before, after) = (&original[..at], &original[at + body.len()..]);
    let written = match indent(body) {
        Some(indent) => pretty(value, indent),
        None => value.to_string(),
    };
    format!("{before}{written}{after}")
}

/// Writes a value over several lines.
pub(super) fn pretty(value: &Value, indent: &str) -> String {
    let mut bytes = Vec::new();
    let mut serializer =
        serde_json::Serializer::with_formatter(&mut bytes, PrettyFormatter::with_indent(indent.as_bytes()));
    // A value in memory can always be written to memory.
    let _ = value.serialize(&mut serializer);
    String::from_utf8(bytes).unwrap_or_default()
}

/// The white space before the first member, if it stands on a line of its own.
fn indent(body: &str) -> Option<&str> {
    let (_, rest) = body.strip_prefix('{')?.split_once('\n').filter(|(rest, _)| rest.trim().is_empty())?;
    let member = rest.trim_start_matches([' ', '\t']);
    Some(&rest[..rest.len() - member.len()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn texts(text: &str) -> Vec<String> {
        read(text).unwrap().into_iter().map(|document| document.text).collect()
    }

    #[test]
    fn values_are_told_apart() {
        assert_eq!(texts("{\"a\":1}\n"), ["{\"a\":1}\n"]);
        assert_eq!(texts(" {\"a\":1}\n\n{\"b\":2} {}"), [" {\"a\":1}", "\n\n{\"b\":2}", " {}"]);
        assert_eq!(texts(""), Vec::<String>::new());
    }

    #[test]
    fn the_place_of_an_error_is_that_in_the_file() {
        let fault = read("{\"a\": 1}\n{\"b\": ]}").unwrap_err();
        assert_eq!(fault.to_string(), "document 2, line 2, column 7: expected value");
        assert!(read("{a: 1}").is_err());
        assert!(read("{\"a\": 1} ---\n").is_err());
    }

    #[test]
    fn the_layout_is_kept() {
        for text in ["\n{\"a\":1}\n", "{\n    \"a\": 1\n}\n", "{\n\t\"a\": 1\n}", "{\n  \"a\": 1\n}"] {
            assert_eq!(write(&json!({"a": 1}), text), text);
        }
    }
}
