//! Puts documents together again.

use std::fmt;

use serde_json::Value;

use super::{Document, json, split, yaml};
use crate::exit::{Exit, Failure};

/// How a document is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// As JSON.
    Json,
    /// As YAML.
    Yaml,
}

/// Documents of any number of files, on their way to standard output.
#[derive(Debug, Default)]
pub struct Printer {
    /// Every document in this format; else each in its own.
    format: Option<Format>,
    parts: Vec<(Format, String)>,
}

/// A value that cannot be written.
#[derive(Debug)]
pub struct Unwritable(serde_saphyr::SerializeError);

impl fmt::Display for Unwritable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a document cannot be written as YAML ({}); use --output json", self.0)
    }
}

impl std::error::Error for Unwritable {}

impl From<Unwritable> for Failure {
    fn from(error: Unwritable) -> Failure {
        Failure::new(Exit::Data, error.to_string())
    }
}

impl Printer {
    /// Prints every document in this format, or each in its own.
    pub fn new(format: Option<Format>) -> Printer {
        Printer { format, parts: Vec::new() }
    }

    /// Adds a document whose value is now `value`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn put(&mut self, document: &Document, value: Option<&Value>) -> Result<(), Unwritable> {
        let format = self.format.unwrap_or(document.format);
        if format == document.format {
            let text = match value.filter(|value| Some(*value) != document.value.as_ref()) {
                None => document.text.clone(),
                Some(value) if format == Format::Json => json::write(value, &document.text),
                Some(value) => yaml::rewrite(value, &document.text).map_err(Unwritable)?,
            };
            self.parts.push((format, text));
        } else if let Some(value) = value {
            self.push_value(format, value)?;
        }
        Ok(())
    }

    /// Adds a document of our own, written as the others are.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn add(&mut self, value: &Value) -> Result<(), Unwritable> {
        let last = self.parts.last().map(|(format, _)| *format);
        let format = self.format.or(last).unwrap_or(Format::Yaml);
        self.push_value(format, value)
    }

    /// What is to be printed. JSON values follow each other; where there is YAML, too, kubectl wants `---` between all.
    pub fn finish(self) -> String {
        let all_json = self.parts.iter().all(|(format, _)| *format == Format::Json);
        let mut out = String::new();
        for (format, text) in &self.parts {
            let begins = text.starts_with([' ', '\t', '\n', '\r']) && all_json;
            if !out.is_empty() && !out.ends_with('\n') && !begins {
                out.push('\n');
            }
            let told = split::has_end(&out) || *format == Format::Yaml && split::has_separator(text);
            if !all_json && !told && !out.is_empty() && !text.is_empty() {
                out.push_str("---\n");
            }
            out.push_str(text);
        }
        out
    }

    fn push_value(&mut self, format: Format, value: &Value) -> Result<(), Unwritable> {
        let text = match format {
            Format::Json => pretty(value),
            Format::Yaml => yaml::write(value).map_err(Unwritable)?,
        };
        self.parts.push((format, text));
        Ok(())
    }
}

/// A value as JSON over several lines, indented as kubectl does.
pub fn pretty(value: &Value) -> String {
    json::pretty(value, "    ") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documents::read;
    use proptest::prelude::*;
    use serde_json::json;

    fn print(format: Option<Format>, files: &[&str], change: impl Fn(&Value) -> Value) -> String {
        let mut printer = Printer::new(format);
        for document in files.iter().flat_map(|file| read(file).unwrap()) {
            let value = document.value.as_ref().map(&change);
            printer.put(&document, value.as_ref()).unwrap();
        }
        printer.finish()
    }

    #[test]
    fn files_are_joined_by_separators() {
        let same = |files: &[&str]| print(None, files, Value::clone);
        assert_eq!(same(&["a: 1\n", "b: 2\n"]), "a: 1\n---\nb: 2\n");
        assert_eq!(same(&["a: 1", "---\nb: 2\n"]), "a: 1\n---\nb: 2\n");
        assert_eq!(same(&["a: 1\n...\n", "b: 2\n"]), "a: 1\n...\nb: 2\n");
        assert_eq!(same(&["{\"a\":1}", "{\"b\":2}"]), "{\"a\":1}\n{\"b\":2}");
        assert_eq!(same(&["{\"a\":1}\n", "b: 2\n", "{\"c\":3}"]), "{\"a\":1}\n---\nb: 2\n---\n{\"c\":3}");
        let mixed = "{\"a\":1}\n---\n\n{\"b\":2}\n---\nc: 3\n";
        assert_eq!(same(&["{\"a\":1}\n{\"b\":2}", "c: 3\n"]), mixed, "kubectl takes no other mixture");
        assert_eq!(same(&["", "# c\n", "a: 1\n"]), "# c\n---\na: 1\n");
        assert_eq!(same(&["\u{feff}a: 1\n"]), "a: 1\n");
    }

    #[test]
    fn only_the_changed_document_is_written_anew() {
        let text = "# one\n---\nkind:   A # a\n---\n# two\nkind:   B # b\n---\nkind:   C # c\n";
        let change = |value: &Value| {
            let mut value = value.clone();
            if value["kind"] == "B" {
                value["x"] = json!("yes");
            }
            value
        };
        assert_eq!(
            print(None, &[text], change),
            "# one\n---\nkind:   A # a\n---\n# two\nkind: B\nx: \"yes\"\n---\nkind:   C # c\n"
        );
    }

    #[test]
    fn a_document_of_our_own_is_written_as_the_others_are() {
        let with = |text: &str| {
            let mut printer = Printer::default();
            for document in read(text).unwrap() {
                printer.put(&document, document.value.as_ref()).unwrap();
            }
            printer.add(&json!({"b": 2})).unwrap();
            printer.finish()
        };
        assert_eq!(with("a: 1\n"), "a: 1\n---\nb: 2\n");
        assert_eq!(with("{\"a\": 1}"), "{\"a\": 1}\n{\n    \"b\": 2\n}\n");
    }

    #[test]
    fn every_document_can_be_had_in_one_format() {
        let files = ["# c\n---\na: 1 # one\n", "{\"b\": 2}"];
        assert_eq!(print(Some(Format::Yaml), &files, Value::clone), "# c\n---\na: 1 # one\n---\nb: 2\n");
        assert_eq!(print(Some(Format::Json), &files, Value::clone), "{\n    \"a\": 1\n}\n{\"b\": 2}");
    }

    proptest! {
        #[test]
        fn what_nobody_changed_is_printed_as_it_was(
            text in "((# c|---|\\.\\.\\.|[ab]: 1|  - x|a: \\|| ---|\\{\"a\": 1\\})?\r?\n){0,12}(b: 2)?",
        ) {
            if let Ok(documents) = read(&text) {
                let mut printer = Printer::new(None);
                for document in &documents {
                    printer.put(document, document.value.as_ref()).unwrap();
                }
                prop_assert_eq!(printer.finish(), text);
            }
        }
    }
}
