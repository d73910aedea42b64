//! Envoy's format strings: text, `%%`, and `%OPERATOR(parameter):length%`.

use crate::error::Problem;

/// A part of a format string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Token<'a> {
    Literal(String),
    Operator {
        /// Bytes from the start of the string.
        offset: usize,
        /// With its percent signs, as it was written.
        text: &'a str,
        name: &'a str,
        parameter: Option<&'a str>,
        length: Option<usize>,
    },
}

/// The text without what ends it: the newline, real or written as `\n`, is the line's own.
pub(crate) fn without_newline(text: &str) -> &str {
    let mut rest = text;
    loop {
        let trimmed = rest.trim_end_matches(['\r', '\n']);
        let trimmed = trimmed.strip_suffix("\\n").unwrap_or(trimmed);
        if trimmed.len() == rest.len() {
            return rest;
        }
        rest = trimmed;
    }
}

/// A line break and the blanks around it, as one space (as YAML folds them): one request is one line.
pub(crate) fn folded(literal: &str) -> String {
    let mut pieces = literal.split(['\r', '\n']);
    let mut folded = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        folded.truncate(folded.trim_end_matches([' ', '\t']).len());
        folded.push(' ');
        folded.push_str(piece.trim_start_matches([' ', '\t']));
    }
    folded
}

/// Splits a format string, and says where it has no meaning.
pub(crate) fn scan(text: &str) -> (Vec<Token<'_>>, Vec<Problem>) {
    let mut tokens = Vec::new();
    let mut problems = Vec::new();
    let mut literal = String::new();
    let mut at = 0;
    while let Some(found) = text[at..].find('%') {
        literal.push_str(&text[at..at + found]);
        at += found;
        let rest = &text[at..];
        if rest.starts_with("%%") {
            literal.push('%');
            at += 2;
            continue;
        }
        match operator(rest) {
            Ok((name, parameter, length, len)) => {
                if !literal.is_empty() {
                    tokens.push(Token::Literal(std::mem::take(&mut literal)));
                }
                tokens.push(Token::Operator { offset: at, text: &rest[..len], name, parameter, length });
                at += len;
            }
            Err((len, reason, remedy)) => {
                let operator = rest[..len].to_owned();
                problems.push(Problem { offset: at, operator, reason: reason.to_owned(), remedy });
                at += len;
            }
        }
    }
    literal.push_str(&text[at..]);
    if !literal.is_empty() {
        tokens.push(Token::Literal(literal));
    }
    (tokens, problems)
}

type Parts<'a> = (&'a str, Option<&'a str>, Option<usize>, usize);

/// Reads an operator at a `%`: its parts and its length; or what is wrong, and how much to leave out.
fn operator(text: &str) -> Result<Parts<'_>, (usize, &'static str, String)> {
    let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let after_name = text[1..].find(|c| !is_name(c)).map_or(text.len(), |len| 1 + len);
    let name = &text[1..after_name];
    let mut rest = &text[after_name..];
    let mut parameter = None;
    if !name.is_empty() && rest.starts_with('(') {
        let Some((inside, tail)) = closing(rest) else {
            return Err((after_name, "its parameter does not end", format!("close it: %{name}(...)%")));
        };
        parameter = Some(inside);
        rest = tail;
    }
    match length(rest) {
        Some((length, tail)) if !name.is_empty() => Ok((name, parameter, length, text.len() - tail.len())),
        _ => Err(malformed(text, after_name)),
    }
}

/// The text between parentheses, and what follows: the first `)` that an operator can end after.
fn closing(text: &str) -> Option<(&str, &str)> {
    text.match_indices(')')
        .map(|(at, _)| (&text[1..at], &text[at + 1..]))
        .find(|(_, tail)| length(tail).is_some())
}

/// Reads `%` or `:Z%`: the length and what follows the percent sign.
fn length(text: &str) -> Option<(Option<usize>, &str)> {
    if let Some(tail) = text.strip_prefix('%') {
        return Some((None, tail));
    }
    let (digits, tail) = text.strip_prefix(':')?.split_once('%')?;
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    // More than fits is as good as no limit.
    is_number.then(|| (Some(digits.parse().unwrap_or(usize::MAX)), tail))
}

/// Says what a `%` that begins no operator may have been meant to be.
fn malformed(text: &str, after_name: usize) -> (usize, &'static str, String) {
    // The rest of a word up to its percent sign is left out, too, lest that sign is taken for a beginning.
    let word = text[1..].find(['%', ' ', '\t', '\n']).map_or(text.len(), |len| 1 + len);
    if !text[word..].starts_with('%') {
        let reason = "a percent sign that begins no operator";
        return (after_name.max(1), reason, "write %% for a percent sign, %NAME% for an operator".to_owned());
    }
    let inside = &text[1..word];
    let upper = inside.to_ascii_uppercase();
    let remedy = if upper == inside {
        "operators are %NAME%, %NAME(parameter)% or %NAME(parameter):length%".to_owned()
    } else {
        format!("operators are upper case: %{upper}%")
    };
    (word + 1, "no operator is written so", remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operators(text: &str) -> Vec<(usize, &str, Option<&str>, Option<usize>)> {
        let (tokens, problems) = scan(text);
        assert_eq!(problems, []);
        tokens
            .into_iter()
            .filter_map(|token| match token {
                Token::Operator { offset, name, parameter, length, .. } => {
                    Some((offset, name, parameter, length))
                }
                Token::Literal(_) => None,
            })
            .collect()
    }

    #[test]
    fn operators_are_read_as_envoy_reads_them() {
        assert_eq!(operators("a%PROTOCOL%"), [(1, "PROTOCOL", None, None)]);
        assert_eq!(operators("%REQ(X?:Y):25%%%"), [(0, "REQ", Some("X?:Y"), Some(25))]);
        assert_eq!(
            operators("%START_TIME(%Y/%m/%dT%H:%M:%S%z %s)% %PROTOCOL%"),
            [(0, "START_TIME", Some("%Y/%m/%dT%H:%M:%S%z %s"), None), (37, "PROTOCOL", None, None)]
        );
        assert_eq!(
            operators("%CEL(request.url_path.contains('v1'))%"),
            [(0, "CEL", Some("request.url_path.contains('v1')"), None)]
        );
        assert_eq!(operators("%A_1()%"), [(0, "A_1", Some(""), None)]);
    }

    #[test]
    fn a_doubled_percent_sign_is_one() {
        let literal = |text: &str| vec![Token::Literal(text.to_owned())];
        assert_eq!(scan("100%%").0, literal("100%"));
        assert_eq!(scan("%%PROTOCOL%%").0, literal("%PROTOCOL%"));
    }

    #[test]
    fn every_mistake_is_told_at_once_and_where_it_is() {
        let (tokens, problems) = scan("100% of %start_time% and %REQ(X %DURATION% %REQ:x%");
        let places: Vec<_> = problems.iter().map(|p| (p.offset, p.operator.as_str())).collect();
        assert_eq!(places, [(3, "%"), (8, "%start_time%"), (25, "%REQ"), (43, "%REQ:x%")]);
        assert!(problems[0].remedy.contains("%%"));
        assert!(problems[1].remedy.contains("%START_TIME%"));
        assert!(tokens.iter().any(|t| matches!(t, Token::Operator { name: "DURATION", .. })));
    }

    #[test]
    fn one_newline_ends_the_line_however_it_was_written() {
        for text in ["x", "x\n", "x\r\n", "x\\n", "x\\n\n", "x\n\n"] {
            assert_eq!(without_newline(text), "x", "{text:?}");
        }
        assert_eq!(without_newline("a\\nb"), "a\\nb");
    }

    #[test]
    fn a_format_over_several_lines_still_writes_one() {
        assert_eq!(folded("a  \n\t b"), "a b");
        assert_eq!(folded("\n   "), " ");
        assert_eq!(folded("a\r\n\r\nb"), "a b");
        assert_eq!(folded("a  b"), "a  b");
    }
}
