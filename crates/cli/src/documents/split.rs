//! Where one YAML document ends and the next begins. `---` and `...` at the beginning of a line mean that everywhere, also
//! within a block scalar (YAML 1.2.2, 9.1.2), so no parser is needed to know.

/// One document of a YAML stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece<'t> {
    /// With everything around it: the pieces together are the stream.
    pub(super) text: &'t str,
    /// The number of its first line in the stream, from 0.
    pub(super) line: usize,
}

/// Takes a stream apart. Comments and directives before a document are its own.
pub(super) fn split(stream: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut current = Piece { text: stream, line: 0 };
    let mut state = State::default();
    let mut offset = 0;
    for (number, line) in stream.split_inclusive('\n').enumerate() {
        if state.ends_before(line) {
            let (text, rest) = current.text.split_at(offset);
            pieces.push(Piece { text, ..current });
            current = Piece { text: rest, line: number };
            state = State::default();
            offset = 0;
        }
        state.take(line);
        offset += line.len();
    }
    pieces.push(current);
    pieces
}

/// What the lines of a piece have shown so far.
#[derive(Default)]
struct State {
    separator: bool,
    content: bool,
    ended: bool,
}

impl State {
    fn ends_before(&self, line: &str) -> bool {
        if marker(line, "---").is_some() {
            return self.separator || self.content || self.ended;
        }
        self.ended && !is_aside(line) && marker(line, "...").is_none()
    }

    fn take(&mut self, line: &str) {
        if let Some(rest) = marker(line, "---") {
            self.separator = true;
            self.content = !is_aside(rest);
        } else if marker(line, "...").is_some() {
            self.ended = true;
        } else if !is_aside(line) && (self.separator || !line.starts_with('%')) {
            self.content = true;
        }
    }
}

/// What is around the content of a document and can be kept when the content is written anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame<'t> {
    /// Comments, directives and the separator, up to the first line of content.
    pub(super) head: &'t str,
    /// Comments after the last line of content, and the end marker.
    pub(super) tail: &'t str,
}

/// Finds what is around the content of a piece.
pub(super) fn frame(piece: &str) -> Frame<'_> {
    // A carriage return alone ends a line of YAML, too (YAML 1.2.2 §5.4): a comment may have content behind it.
    if piece.replace("\r\n", "").contains('\r') {
        return Frame { head: "", tail: "" };
    }
    let mut head = 0;
    for line in piece.split_inclusive('\n') {
        let separator = marker(line, "---");
        if separator.is_some_and(|rest| !is_aside(rest)) {
            // `--- {a: b}`
            head += "---".len();
            break;
        }
        if separator.is_none() && !is_aside(line) && !line.starts_with('%') {
            break;
        }
        head += line.len();
    }
    let mut tail = piece.len();
    let mut start = piece.len();
    for line in piece[head..].split_inclusive('\n').rev() {
        start -= line.len();
        // An indented comment may be the content of a block scalar, and so may empty lines.
        if line.starts_with('#') || marker(line, "...").is_some() {
            tail = start;
        } else if !line.trim().is_empty() {
            break;
        }
    }
    Frame { head: &piece[..head], tail: &piece[tail..] }
}

/// Whether a document says itself where it begins.
pub(super) fn has_separator(document: &str) -> bool {
    let mut lines = document.split_inclusive('\n').skip_while(|line| is_aside(line) || line.starts_with('%'));
    lines.next().is_some_and(|line| marker(line, "---").is_some())
}

/// Whether a document says itself where it ends.
pub(super) fn has_end(document: &str) -> bool {
    let mut lines = document.split_inclusive('\n').rev().skip_while(|line| is_aside(line));
    lines.next().is_some_and(|line| marker(line, "...").is_some())
}

/// What follows a marker that a line begins with.
fn marker<'l>(line: &'l str, marker: &str) -> Option<&'l str> {
    line.strip_prefix(marker).filter(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// Nothing or a comment.
fn is_aside(line: &str) -> bool {
    let text = line.trim_start();
    text.is_empty() || text.starts_with('#')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn texts(stream: &str) -> Vec<&str> {
        split(stream).into_iter().map(|piece| piece.text).collect()
    }

    #[test]
    fn documents_are_told_apart_with_what_belongs_to_them() {
        assert_eq!(texts("a: 1\n"), ["a: 1\n"]);
        assert_eq!(
            texts("# licence\n---\na: 1\n---\n# b\nb: 2\n"),
            ["# licence\n---\na: 1\n", "---\n# b\nb: 2\n"]
        );
        assert_eq!(texts("--- {a: 1}\n--- # c\nb: 2"), ["--- {a: 1}\n", "--- # c\nb: 2"]);
        assert_eq!(texts("---\n---\na: 1\r\n---\r\nb: 2\r\n"), ["---\n", "---\na: 1\r\n", "---\r\nb: 2\r\n"]);
        assert_eq!(texts("a: 1\n...\n# c\nb: 2\n...\n"), ["a: 1\n...\n# c\n", "b: 2\n...\n"]);
        assert_eq!(
            texts("%YAML 1.1\n---\na: 1\n...\n%YAML 1.1\n---\nb: 2\n"),
            ["%YAML 1.1\n---\na: 1\n...\n", "%YAML 1.1\n---\nb: 2\n"]
        );
        assert_eq!(texts(""), [""]);
    }

    #[test]
    fn text_that_only_looks_like_a_separator_stays_text() {
        for text in ["a: |\n  ---\n  b\n", "a: ---\n", "---a: 1\n", "----\n", "a: |\n ---\n"] {
            assert_eq!(texts(text), [text]);
        }
    }

    #[test]
    fn lines_are_counted_for_messages() {
        let lines: Vec<usize> = split("a: 1\n---\n\n---\nb: 2\n").iter().map(|piece| piece.line).collect();
        assert_eq!(lines, [0, 1, 3]);
    }

    #[test]
    fn comments_around_a_document_are_found() {
        let frame = |piece| {
            let Frame { head, tail } = frame(piece);
            (head, tail)
        };
        assert_eq!(frame("# a\n---\n  # b\n\na: 1\n  # c\n# d\n\n"), ("# a\n---\n  # b\n\n", "# d\n\n"));
        assert_eq!(frame("--- {a: 1}\n"), ("---", ""));
        assert_eq!(frame("a: |+\n  b\n\n"), ("", ""));
        assert_eq!(frame("a: |\n  b\n# c\n  # d\n"), ("", ""));
        assert_eq!(frame("%YAML 1.1\n---\na: 1\n...\n"), ("%YAML 1.1\n---\n", "...\n"));
        assert_eq!(frame("# c\n"), ("# c\n", ""));
        assert_eq!(frame("# c\ra: 1\n"), ("", ""), "content behind a comment");
        assert_eq!(frame("# c\r\na: 1\r\n"), ("# c\r\n", ""));
    }

    proptest! {
        #[test]
        fn the_pieces_together_are_the_text(stream in "([-.#%a: \\r\\n]{0,3}(---|\\.\\.\\.|\n)?){0,20}") {
            prop_assert_eq!(texts(&stream).concat(), stream.clone());
            for piece in split(&stream) {
                prop_assert!(stream.lines().skip(piece.line).eq(stream[stream.len() - suffix(&stream, &piece)..].lines()));
                let Frame { head, tail } = frame(piece.text);
                prop_assert!(head.len() + tail.len() <= piece.text.len());
            }
        }
    }

    /// How many bytes there are from the beginning of a piece to the end.
    fn suffix(stream: &str, piece: &Piece<'_>) -> usize {
        let before: usize = stream.split_inclusive('\n').take(piece.line).map(str::len).sum();
        stream.len() - before
    }
}
