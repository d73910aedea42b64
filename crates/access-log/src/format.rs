//! A format, compiled once, and the line it makes of a record.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::compile::Compiler;
use crate::error::{FormatError, Problem};
use crate::escape::cut;
use crate::nearest::nearest;
use crate::needs::Needs;
use crate::operator::{Op, Operator};
use crate::parse::{Token, folded, scan, without_newline};
use crate::preset::{self, Member, Preset};
use crate::record::Record;
use crate::time::{Scratch, TimeFormat};
use crate::value::{Budget, Pen, Value, omitted};

/// The most bytes of a line with its newline: container runtimes split at 16 KiB.
pub const LINE_LIMIT: usize = 16_000;

/// What a JSON line is cut down to until it fits; with the last it always does.
const BUDGETS: [Budget; 3] = [
    Budget::FULL,
    Budget { field: 512, attempts: 8, name: 128 },
    Budget { field: 128, attempts: 4, name: 64 },
];

/// A compiled format.
#[derive(Debug)]
pub struct Format {
    /// Tells formats apart in a [`Scratch`].
    id: u64,
    body: Body,
    times: Vec<TimeFormat>,
    needs: Needs,
}

/// A format, and what its user should know about it.
#[derive(Debug)]
pub struct Compiled {
    /// The format.
    pub format: Format,
    /// Sentences for the user, such as: operator %X% is accepted but whichpod has no value for it; it renders -
    pub warnings: Vec<String>,
}

#[derive(Debug)]
enum Body {
    Text(Vec<Piece>),
    Json(Vec<JsonMember>),
}

#[derive(Debug)]
enum Piece {
    Literal(Box<str>),
    Operator(Operator),
}

#[derive(Debug)]
struct JsonMember {
    /// `{"key":` or `,"key":`
    key: Box<str>,
    value: JsonValue,
}

#[derive(Debug)]
enum JsonValue {
    Operator(Operator),
    Constant(&'static str),
}

impl Format {
    /// Compiles a preset (`text`, `json`, `nginx`, `otel`, `ecs`) or an Envoy format string.
    ///
    /// `environment` looks environment variables up, for `ENVIRONMENT(X)` and the time zone (`TZ`).
    ///
    /// # Errors
    /// Everything in `text` that Envoy doesn't know, at once.
    pub fn compile(
        text: &str,
        environment: &dyn Fn(&str) -> Option<String>,
        hostname: &str,
    ) -> Result<Compiled, FormatError> {
        let mut compiler = Compiler::new(environment, hostname);
        let body = match preset::find(text.trim()) {
            Some(Preset::Text(text)) => compile_text(text, &mut compiler)?,
            Some(Preset::Json(members)) => compile_json(members, &mut compiler)?,
            None => compile_text(text, &mut compiler)?,
        };
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let Compiler { needs, times, warnings, .. } = compiler;
        Ok(Compiled { format: Self { id, body, times, needs }, warnings })
    }

    /// The headers to be captured for the records of this format (and of the filters made for it).
    #[must_use]
    pub fn needs(&self) -> &Needs {
        &self.needs
    }

    pub(crate) fn needs_mut(&mut self) -> &mut Needs {
        &mut self.needs
    }

    /// Appends one line that ends with its only newline, of at most [`LINE_LIMIT`] bytes.
    ///
    /// Nothing is allocated but what `line` (and, once, `scratch`) needs to grow.
    pub fn write(&self, record: &Record, scratch: &mut Scratch, line: &mut Vec<u8>) {
        scratch.prepare(self.id, self.times.len());
        let start = line.len();
        let mut pen = Pen { line, scratch, times: &self.times, budget: Budget::FULL };
        match &self.body {
            Body::Text(pieces) => write_text(pieces, record, start + LINE_LIMIT - 1, &mut pen),
            Body::Json(members) => {
                for budget in BUDGETS {
                    pen.budget = budget;
                    pen.line.truncate(start);
                    write_json(members, record, &mut pen);
                    if pen.line.len() < start + LINE_LIMIT {
                        break;
                    }
                }
            }
        }
        pen.line.push(b'\n');
    }
}

fn write_text(pieces: &[Piece], record: &Record, end: usize, pen: &mut Pen<'_>) {
    for piece in pieces {
        let room = end - pen.line.len();
        match piece {
            Piece::Literal(text) if text.len() > room => {
                pen.line.extend_from_slice(cut(text.as_bytes(), room));
                return;
            }
            Piece::Literal(text) => pen.line.extend_from_slice(text.as_bytes()),
            Piece::Operator(operator) => pen.text(operator.value(record), room.min(pen.budget.field)),
        }
    }
}

fn write_json(members: &[JsonMember], record: &Record, pen: &mut Pen<'_>) {
    for JsonMember { key, value } in members {
        pen.line.extend_from_slice(key.as_bytes());
        let value = match value {
            JsonValue::Operator(operator) => operator.value(record),
            JsonValue::Constant(text) => Value::Word(text),
        };
        pen.json(value);
        if matches!(value, Value::Attempts(..)) && omitted(record, pen.budget) > 0 {
            // `,"attempts":` and `,"attempts_omitted":`
            pen.line.extend_from_slice(key.trim_end_matches("\":").as_bytes());
            pen.line.extend_from_slice(b"_omitted\":");
            pen.json(Value::number(u64::try_from(omitted(record, pen.budget)).ok()));
        }
    }
    pen.line.push(b'}');
}

fn compile_text(text: &str, compiler: &mut Compiler<'_>) -> Result<Body, FormatError> {
    let text = without_newline(text);
    let (tokens, mut problems) = scan(text);
    let mut pieces = Vec::with_capacity(tokens.len());
    let mut operators = 0;
    for token in tokens {
        match token {
            Token::Literal(literal) => {
                let folded = folded(&literal);
                if folded != literal {
                    compiler.warn("a line break in the log format is written as a space".to_owned());
                }
                pieces.push(Piece::Literal(folded.into()));
            }
            Token::Operator { offset, text, name, parameter, length } => {
                operators += 1;
                match compiler.operator(name, parameter, length) {
                    Ok(operator) => pieces.push(Piece::Operator(operator)),
                    Err(complaint) => problems.push(Problem {
                        offset,
                        operator: text.to_owned(),
                        reason: complaint.reason,
                        remedy: complaint.remedy,
                    }),
                }
            }
        }
    }
    if operators == 0 && problems.is_empty() {
        problems.push(no_operator(text));
    }
    if text.trim_start().starts_with('{') {
        compiler.warn(
            "the log format looks like JSON, but values in it are escaped as text; the presets json, otel and \
             ecs are JSON for certain"
                .to_owned(),
        );
    }
    problems.sort_by_key(|problem| problem.offset);
    if problems.is_empty() { Ok(Body::Text(pieces)) } else { Err(FormatError { problems }) }
}

/// A text that would write the same line for every request is a mistake: mostly a preset's name.
fn no_operator(text: &str) -> Problem {
    let remedy = match nearest(text.trim(), preset::NAMES) {
        Some(near) => format!("did you mean {near}?"),
        None => format!(
            "take one of {}, or a string with operators such as %UPSTREAM_HOST%",
            preset::NAMES.join(", ")
        ),
    };
    Problem {
        offset: 0,
        operator: text.to_owned(),
        reason: "neither a preset nor a format string with an operator".to_owned(),
        remedy,
    }
}

fn compile_json(members: &[(&str, Member)], compiler: &mut Compiler<'_>) -> Result<Body, FormatError> {
    let mut compiled = Vec::with_capacity(members.len());
    for (index, (key, member)) in members.iter().enumerate() {
        let value = match member {
            Member::Operator(text) => {
                let Body::Text(pieces) = compile_text(text, compiler)? else { continue };
                let Some(Piece::Operator(operator)) = pieces.into_iter().next() else { continue };
                JsonValue::Operator(operator)
            }
            Member::Field(field) => JsonValue::Operator(Operator { op: Op::Field(*field), max: None }),
            Member::Constant(text) => JsonValue::Constant(text),
        };
        let before = if index == 0 { '{' } else { ',' };
        compiled.push(JsonMember { key: format!("{before}\"{key}\":").into(), value });
    }
    Ok(Body::Json(compiled))
}
