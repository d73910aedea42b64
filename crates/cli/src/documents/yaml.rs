//! YAML manifests: reading each document of a stream, and writing one that was changed.

use serde::{Serialize, Serializer};
use serde_json::Value;
use serde_saphyr::DoubleQuoted;

use super::{Document, Fault, Format, compose, split};

/// Reads every document of a stream.
pub(super) fn read(stream: &str) -> Result<Vec<Document>, Fault> {
    let mut documents = Vec::new();
    for piece in split::split(stream) {
        let value = compose::compose(piece.text).map_err(|wrong| Fault {
            document: 1 + documents.iter().filter(|document: &&Document| document.value.is_some()).count(),
            line: piece.line + wrong.line,
            column: wrong.column,
            reason: wrong.reason,
        })?;
        documents.push(Document { text: piece.text.to_owned(), format: Format::Yaml, value });
    }
    Ok(documents)
}

/// Writes a value in place of the document's content; comments before and after it stay.
pub(super) fn rewrite(value: &Value, original: &str) -> Result<String, serde_saphyr::SerializeError> {
    let frame = split::frame(original);
    let windows = original.contains("\r\n");
    let line_end = if windows { "\r\n" } else { "\n" };
    let between = if frame.head.is_empty() || frame.head.ends_with('\n') { "" } else { line_end };
    let mut content = write(value)?;
    if windows {
        // A line break means the same to every reader, also within a text.
        content = content.replace('\n', line_end);
    }
    Ok(format!("{}{between}{content}{}", frame.head, frame.tail))
}

/// Writes a value so that readers of YAML 1.1 and 1.2 read the same.
pub(super) fn write(value: &Value) -> Result<String, serde_saphyr::SerializeError> {
    // Nothing is folded: a long line is easier to compare than to put together.
    let options = serde_saphyr::ser_options! { folded_wrap_chars: usize::MAX };
    serde_saphyr::to_string_with_options(&Readable(value), options)
}

/// Keeps texts out of block scalars in which readers would take their own white space for indentation.
struct Readable<'v>(&'v Value);

impl Serialize for Readable<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::String(text) if text.contains('\n') && text.starts_with([' ', '\t', '\n']) => {
                DoubleQuoted(text).serialize(serializer)
            }
            Value::Array(items) => serializer.collect_seq(items.iter().map(Readable)),
            Value::Object(members) => {
                serializer.collect_map(members.iter().map(|(key, value)| (key, Readable(value))))
            }
            value => value.serialize(serializer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn strings_that_look_like_something_else_are_quoted() {
        for text in [
            "yes",
            "No",
            "ON",
            "off",
            "y",
            "N",
            "true",
            "null",
            "~",
            "",
            "0644",
            "08",
            "1e3",
            "1E3",
            "0x1F",
            "0b1",
            "0o7",
            "1_000",
            "12:30:45",
            "1:30",
            "2001-01-01",
            "2001-01-01T10:00:00Z",
            "1.",
            ".5",
            "+1",
            "-1",
            ".inf",
            "-.INF",
            ".nan",
            "=",
            "<<",
            "12e400",
            "---",
            "...",
            "- a",
            "a: b",
            "a #b",
            "#a",
            "&a",
            "*a",
            "!a",
            "%a",
            "@a",
            "`a",
            "{a",
            "[a",
            "|",
            ">",
            "'a'",
            "\"a\"",
            " a",
            "a ",
            "a:",
            "?",
            "-",
            ",",
            "\t",
            "a\tb",
            "\u{85}",
            "\u{feff}",
        ] {
            let written = write(&json!({ text: text })).unwrap();
            let line = written.strip_suffix('\n').unwrap();
            let (key, value) = line.split_at(line.len() / 2);
            assert!(
                key.starts_with(['"', '\'']) || compose::compose(key).unwrap() == Some(json!(text)),
                "{line}"
            );
            assert!(
                value.ends_with(['"', '\'']) || value.contains(text) && text.contains([' ', ',']),
                "{line}"
            );
            assert_eq!(compose::compose(&written).unwrap().unwrap(), json!({ text: text }));
        }
    }

    #[test]
    fn multi_line_strings_stay_readable() {
        let script = "#!/bin/sh\nset -e\n\n  indented: yes\nend\n";
        let led = ["  a\nb\n", "\ta\nb\n", "\n\ta\n"];
        let value = json!({"script": script, "kept": "a\n\n", "cut": "a\nb", "led": led});
        let written = write(&value).unwrap();
        assert!(written.contains("script: |\n  #!/bin/sh\n  set -e\n"), "{written}");
        assert!(
            written.contains(r#"- "\ta\nb\n""#),
            "libyaml takes a leading tab for indentation: {written}"
        );
        assert_eq!(compose::compose(&written).unwrap().unwrap(), value);
    }

    #[test]
    fn a_file_with_the_line_ends_of_windows_keeps_them() {
        let value = json!({"a": "x\n  y\n", "b": [1, "\r"]});
        let text = rewrite(&value, "# before\r\na: 1\r\n# after\r\n").unwrap();
        assert!(text.starts_with("# before\r\n") && text.ends_with("# after\r\n"), "{text:?}");
        assert!(!text.replace("\r\n", "").contains(['\r', '\n']), "{text:?}");
        assert_eq!(read(&text).unwrap()[0].value, Some(value));
    }

    #[test]
    fn comments_around_a_changed_document_stay() {
        let original = "# Source: chart/templates/a.yaml\n---\n# the app\na: 1 # one\n# the end\n";
        assert_eq!(
            rewrite(&json!({"a": 2}), original).unwrap(),
            "# Source: chart/templates/a.yaml\n---\n# the app\na: 2\n# the end\n"
        );
        assert_eq!(rewrite(&json!({"a": 2}), "--- {a: 1}\n").unwrap(), "---\na: 2\n");
    }

    #[test]
    fn a_fault_names_the_document_and_the_line_of_the_file() {
        let fault = read("# only a comment\n---\na: 1\n---\nb: 2\nc: d: e\n").unwrap_err();
        assert_eq!((fault.document, fault.line, fault.column), (2, 6, 5));
    }

    /// Texts that are hard to write: words of YAML 1.1, numbers, indicators, line ends, white space.
    fn hard() -> impl Strategy<Value = String> {
        prop_oneof![
            "\\PC{0,12}",
            "[-+.0-9xobeE_:]{1,8}",
            "([yYnNtToOfF~=<]|yes|no|on|off|null|true|[ \\t\\r\\n#:,'\"|>&*!%@{}\\[\\]?-]){0,8}",
            "( {0,3}[a#:-]{0,4}\n){1,4} {0,2}",
            "[\\u{0}-\\u{20}\\u{7f}-\\u{a0}\\u{2028}\\u{2029}\\u{feff}\\u{fffe}\\u{e000}\\u{10ffff}a]{0,6}",
        ]
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            (-1e9..1e9).prop_map(|value: f64| json!((value * 8.0).round() / 8.0 + 0.0625)),
            hard().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((hard(), inner), 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn kubectl_reads_what_was_written(value in values()) {
            let value = json!({ "spec": value });
            let written = write(&value).unwrap();
            prop_assert_eq!(compose::compose(&written), Ok(Some(value)), "{}", written);
        }
    }
}
