//! Makes a value of one YAML document, as kubectl would: scalars by [`resolve`](super::resolve), aliases and merge keys
//! expanded, every key a text.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};
use serde_saphyr::granit_parser::{self, Event, Marker, Parser, ScalarStyle, Span, StrInput, Tag};

use super::resolve;

/// How many nodes aliases may stand for in all. A few lines of YAML can stand for billions.
const MOST_COPIES: usize = 1_000_000;

/// How deep collections may be nested; what writes and drops them recurses.
const DEEPEST: usize = 200;

/// What all standard tags begin with.
const STANDARD: &str = "tag:yaml.org,2002:";

/// What is wrong, and where in the piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrong {
    /// From 1.
    pub(super) line: usize,
    /// From 1.
    pub(super) column: usize,
    pub(super) reason: String,
}

/// Reads a text with at most one document; `None` if it is empty.
pub(super) fn compose(text: &str) -> Result<Option<Value>, Wrong> {
    let mut options = granit_parser::options! {};
    options.set_emit_comments(false);
    let parser = Parser::new_from_str_with_options(text, options);
    let unended = !text.ends_with(['\n', '\r']);
    let end = unended.then_some(text.len());
    let mut composer = Composer { parser, end, anchors: HashMap::new(), copied: 0, depth: 0 };
    let mut value = None;
    while let Some((event, span)) = composer.next()? {
        match event {
            Event::StreamStart | Event::StreamEnd | Event::DocumentStart(..) | Event::DocumentEnd => {}
            _ if value.is_some() => return Err(wrong(span.start, "a second document without --- before it")),
            event => value = Some(composer.node(event, span)?),
        }
    }
    Ok(value.filter(|value| !value.is_null()))
}

struct Composer<'t> {
    parser: Parser<'t, StrInput<'t>>,
    /// Where the text ends, if it does not end with a line break.
    end: Option<usize>,
    anchors: HashMap<usize, Value>,
    copied: usize,
    depth: usize,
}

type Step<'t> = (Event<'t>, Span);

impl<'t> Composer<'t> {
    fn next(&mut self) -> Result<Option<Step<'t>>, Wrong> {
        self.parser.next().transpose().map_err(|error| wrong(*error.marker(), &error.info()))
    }

    /// The next event, where the parser has more to say.
    fn within(&mut self, span: Span) -> Result<Step<'t>, Wrong> {
        self.next()?.ok_or_else(|| wrong(span.start, "the text ends within this"))
    }

    fn node(&mut self, event: Event<'t>, span: Span) -> Result<Value, Wrong> {
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let block = matches!(style, ScalarStyle::Literal | ScalarStyle::Folded);
                // The parser adds the line break that the last line lacks.
                let unended = block && self.end.is_some() && span.end.byte_offset() == self.end;
                let text = if unended { text.strip_suffix('\n').unwrap_or(&text) } else { &text };
                (scalar(text, style, tag.as_deref(), span)?, anchor)
            }
            Event::SequenceStart(_, anchor, _) => (self.nested(span, Self::sequence)?, anchor),
            Event::MappingStart(_, anchor, _) => (self.nested(span, Self::mapping)?, anchor),
            Event::Alias(anchor) => return self.alias(anchor, span),
            _ => return Err(wrong(span.start, "a value is missing here")),
        };
        if anchor != 0 {
            self.anchors.insert(anchor, value.clone());
        }
        Ok(value)
    }

    fn nested(
        &mut self,
        span: Span,
        collection: fn(&mut Self, Span) -> Result<Value, Wrong>,
    ) -> Result<Value, Wrong> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(wrong(span.start, &format!("nested deeper than {DEEPEST} levels")));
        }
        let value = collection(self, span)?;
        self.depth -= 1;
        Ok(value)
    }

    fn sequence(&mut self, span: Span) -> Result<Value, Wrong> {
        let mut items = Vec::new();
        loop {
            match self.within(span)? {
                (Event::SequenceEnd, _) => return Ok(Value::Array(items)),
                (event, span) => items.push(self.node(event, span)?),
            }
        }
    }

    fn mapping(&mut self, span: Span) -> Result<Value, Wrong> {
        let mut members = Map::new();
        let mut seen = HashSet::new();
        loop {
            let (event, at) = match self.within(span)? {
                (Event::MappingEnd, _) => return Ok(Value::Object(members)),
                key => key,
            };
            let merge = is_merge(&event);
            let key = self.node(event, at)?;
            let (event, value_at) = self.within(at)?;
            let value = self.node(event, value_at)?;
            if merge {
                merge_into(&mut members, value)
                    .ok_or_else(|| wrong(value_at.start, "<< takes a mapping or a list of mappings"))?;
                continue;
            }
            let key = key_text(key).map_err(|reason| wrong(at.start, reason))?;
            if !seen.insert(key.clone()) {
                return Err(wrong(at.start, &format!("the key {key:?} is there twice; remove one")));
            }
            members.insert(key, value);
        }
    }

    fn alias(&mut self, anchor: usize, span: Span) -> Result<Value, Wrong> {
        let Some(value) = self.anchors.get(&anchor) else {
            return Err(wrong(span.start, "an anchor cannot contain itself"));
        };
        let (nodes, depth) = extent(value);
        self.copied = self.copied.saturating_add(nodes);
        if self.copied > MOST_COPIES {
            return Err(wrong(span.start, &format!("aliases stand for more than {MOST_COPIES} values")));
        }
        if self.depth + depth > DEEPEST {
            return Err(wrong(span.start, &format!("nested deeper than {DEEPEST} levels")));
        }
        Ok(value.clone())
    }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>, span: Span) -> Result<Value, Wrong> {
    let tag = tag.map(|tag| Cow::from(format!("{}{}", tag.handle(), tag.suffix())));
    let Some(tag) = tag.as_deref().filter(|tag| !tag.is_empty()) else {
        if style != ScalarStyle::Plain {
            return Ok(Value::from(text));
        }
        if resolve::is_not_finite(text) {
            return Err(wrong(
                span.start,
                &format!("{text} is no value of Kubernetes; quote it if it is text"),
            ));
        }
        return Ok(resolve::plain(text));
    };
    let value = resolve::plain(text);
    let fits = match tag.strip_prefix(STANDARD) {
        Some("int") => value.is_i64() || value.is_u64(),
        Some("float") => value.is_number(),
        Some("bool") => value.is_boolean(),
        Some("null") => value.is_null(),
        Some("binary") => {
            return Err(wrong(
                span.start,
                "!!binary has no place in a manifest; Secrets hold base64 as text",
            ));
        }
        _ => return Ok(Value::from(text)),
    };
    if fits { Ok(value) } else { Err(wrong(span.start, &format!("{text:?} does not fit its tag {tag}"))) }
}

fn is_merge(event: &Event<'_>) -> bool {
    matches!(event, Event::Scalar(text, ScalarStyle::Plain, _, None) if text == "<<")
}

/// A merge overwrites what stands before it and is overwritten by what stands after it, as kubectl has it.
fn merge_into(members: &mut Map<String, Value>, value: Value) -> Option<()> {
    match value {
        Value::Object(merged) => members.extend(merged),
        // Earlier ones take precedence.
        Value::Array(items) => {
            for item in items.into_iter().rev() {
                let Value::Object(merged) = item else { return None };
                members.extend(merged);
            }
        }
        _ => return None,
    }
    Some(())
}

fn key_text(key: Value) -> Result<String, &'static str> {
    match key {
        Value::String(text) => Ok(text),
        Value::Bool(_) | Value::Number(_) => Ok(key.to_string()),
        Value::Null => Err("a key is missing here"),
        Value::Array(_) | Value::Object(_) => Err("a collection cannot be a key"),
    }
}

/// How many nodes a value has, and how deep it is.
fn extent(value: &Value) -> (usize, usize) {
    let add = |(nodes, depth): (usize, usize), value| {
        let (more, deep) = extent(value);
        (nodes + more, depth.max(deep + 1))
    };
    match value {
        Value::Array(items) => items.iter().fold((1, 1), add),
        Value::Object(members) => members.values().fold((1, 1), add),
        _ => (1, 0),
    }
}

fn wrong(at: Marker, reason: &str) -> Wrong {
    Wrong { line: at.line().max(1), column: at.col() + 1, reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn value(text: &str) -> Value {
        compose(text).unwrap().unwrap_or_default()
    }

    #[test]
    fn documents_mean_what_they_mean_to_kubectl() {
        // Each value is what sigs.k8s.io/yaml 1.6 makes of the text.
        for (text, expected) in [
            ("1: a\nyes: b\n1.5: d\n0x10: e\n", json!({"1": "a", "true": "b", "1.5": "d", "16": "e"})),
            ("'yes': 1\n\"on\": 2\n", json!({"yes": 1, "on": 2})),
            ("<<: {a: 1}\nb: 2\na: 3\n", json!({"a": 3, "b": 2})),
            ("a: 3\n<<: {a: 1}\n", json!({"a": 1})),
            ("<<: [{a: 1}, {a: 2}]\n", json!({"a": 1})),
            ("\"<<\": {a: 1}\n", json!({"<<": {"a": 1}})),
            (
                "x: &x {k: 1}\nb: {<<: [*x, {k: 2, j: 3}], c: 2}\n",
                json!({"x": {"k": 1}, "b": {"k": 1, "j": 3, "c": 2}}),
            ),
            ("&a a: &b 1\n*a : *b\n", json!(null)),
            (
                "a: !!str 1\nb: !!int \"1\"\nd: !foo bar\ne: !!float 1\nf: ! 12\n",
                json!(
                {"a": "1", "b": 1, "d": "bar", "e": 1, "f": "12"}),
            ),
            (
                "a: !<tag:yaml.org,2002:str> 1\nb: !!timestamp 2001-01-01\n",
                json!({"a": "1", "b": "2001-01-01"}),
            ),
            ("a: !!str\nb: !!str null\nc: !!null ''\n", json!({"a": "", "b": "null", "c": null})),
            ("a: >\n  x\n  y\n\n   z\n", json!({"a": "x y\n\n z\n"})),
            ("a: |\n  x", json!({"a": "x"})),
            ("a: >+\n  x\n  y\n", json!({"a": "x y\n"})),
            ("a: {b: c, d}\n", json!({"a": {"b": "c", "d": null}})),
            ("a: {\"x\":1}\n", json!({"a": {"x": 1}})),
            ("{\"a\":1,}\n", json!({"a": 1})),
            ("a:\n- b\n-\n", json!({"a": ["b", null]})),
        ] {
            if expected.is_null() {
                assert!(compose(text).unwrap_err().reason.contains("twice"), "{text}");
                continue;
            }
            assert_eq!(value(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (text, line, column, reason) in [
            ("a: b: c\n", 1, 5, "mapping values"),
            ("a: 1\na: 2\n", 2, 1, "\"a\" is there twice"),
            ("a: *x\n", 1, 4, "anchor"),
            ("a: &x [*x]\n", 1, 8, "cannot contain itself"),
            ("a: .inf\n", 1, 4, ".inf is no value"),
            ("a: !!int x\n", 1, 10, "does not fit its tag"),
            ("a: !!binary aGk=\n", 1, 13, "!!binary"),
            ("? [a]\n: b\n", 1, 3, "cannot be a key"),
            ("~: a\n", 1, 1, "a key is missing"),
            ("<<: 1\n", 1, 5, "<< takes a mapping"),
        ] {
            let wrong = compose(text).unwrap_err();
            assert_eq!((wrong.line, wrong.column), (line, column), "{text}: {}", wrong.reason);
            assert!(wrong.reason.contains(reason), "{text}: {}", wrong.reason);
        }
    }

    #[test]
    fn a_few_lines_cannot_fill_the_memory() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
            bomb.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
        }
        assert!(compose(&bomb).unwrap_err().reason.contains("aliases"));
        let mut deep = "a0: &a0 [x]\n".to_owned();
        for level in 1..300 {
            deep.push_str(&format!("a{level}: &a{level} [*a{}]\n", level - 1));
        }
        assert!(compose(&deep).unwrap_err().reason.contains("deeper"));
        for open in ["[", "{a: ", "- ", "? "] {
            assert!(compose(&open.repeat(100_000)).is_err(), "{open}");
        }
    }

    #[test]
    fn a_document_of_comments_has_no_value() {
        for text in ["", "\n", "# c\n", "---\n", "---\n# c\n...\n", "~\n"] {
            assert_eq!(compose(text), Ok(None), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "[-a:&*<!|>%'\"{}\\[\\],#?~ \\t\\n]{0,60}") {
            let _ = compose(&text);
        }
    }
}
