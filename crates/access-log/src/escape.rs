//! Values from outside: what a request says can neither forge nor split a line.

/// How what is unsafe is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// `\xNN` for each byte, also for quotes and backslashes, so that a quote in a line is always the format's.
    Text,
    /// RFC 8259 §7, without the surrounding quotes; bytes that are not UTF-8 become U+FFFD.
    Json,
}

/// Appends `value`, escaped, in at most `limit` bytes; cut between characters.
pub(crate) fn escape(value: &[u8], style: Style, limit: usize, line: &mut Vec<u8>) {
    // Nothing gets shorter by escaping, so what is past the limit need not be looked at.
    let value = cut(value, limit);
    if value.iter().fold(true, |plain, byte| plain & is_plain(*byte)) {
        line.extend_from_slice(value);
    } else {
        escape_slowly(value, style, limit, line);
    }
}

/// The longest start of `value` with at most `limit` bytes that ends between characters.
pub(crate) fn cut(value: &[u8], limit: usize) -> &[u8] {
    if value.len() <= limit {
        return value;
    }
    let is_continuation = |at: &usize| value[*at] & 0b1100_0000 == 0b1000_0000;
    // Four bytes back there is a boundary, or the bytes are not UTF-8 and any place is as good.
    let boundary = (limit.saturating_sub(3)..=limit).rev().find(|at| !is_continuation(at));
    &value[..boundary.unwrap_or(limit)]
}

/// Printable ASCII without quote and backslash.
fn is_plain(byte: u8) -> bool {
    (0x20..0x7f).contains(&byte) & (byte != b'"') & (byte != b'\\')
}

/// Controls (C0, DEL, C1), line and paragraph separators, and what reorders text on a screen.
fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(character, '"' | '\\' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cold]
fn escape_slowly(value: &[u8], style: Style, limit: usize, line: &mut Vec<u8>) {
    let end = line.len() + limit;
    let mut piece = Piece::default();
    for chunk in value.utf8_chunks() {
        for character in chunk.valid().chars() {
            piece.clear();
            match style {
                _ if !is_unsafe(character) => piece.character(character),
                Style::Text => piece.text(character.encode_utf8(&mut [0; 4]).as_bytes()),
                Style::Json => piece.json(character),
            }
            if !piece.append(line, end) {
                return;
            }
        }
        if !chunk.invalid().is_empty() {
            piece.clear();
            match style {
                Style::Text => piece.text(chunk.invalid()),
                Style::Json => piece.character(char::REPLACEMENT_CHARACTER),
            }
            if !piece.append(line, end) {
                return;
            }
        }
    }
}

/// One escaped character: written whole or not at all.
#[derive(Default)]
struct Piece {
    bytes: [u8; 16],
    len: usize,
}

impl Piece {
    fn clear(&mut self) {
        self.len = 0;
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    fn character(&mut self, character: char) {
        self.push(character.encode_utf8(&mut [0; 4]).as_bytes());
    }

    fn hex(&mut self, prefix: &[u8], byte: u8) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        self.push(prefix);
        self.push(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 0xf)]]);
    }

    fn text(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.hex(b"\\x", *byte);
        }
    }

    fn json(&mut self, character: char) {
        match character {
            '"' => self.push(b"\\\""),
            '\\' => self.push(b"\\\\"),
            '\n' => self.push(b"\\n"),
            '\r' => self.push(b"\\r"),
            '\t' => self.push(b"\\t"),
            // Every unsafe character is in the basic plane: one unit of UTF-16.
            _ => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    let [high, low] = unit.to_be_bytes();
                    self.hex(b"\\u", high);
                    self.hex(b"", low);
                }
            }
        }
    }

    fn append(&self, line: &mut Vec<u8>, end: usize) -> bool {
        let fits = line.len() + self.len <= end;
        if fits {
            line.extend_from_slice(&self.bytes[..self.len]);
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn escaped(value: &[u8], style: Style, limit: usize) -> String {
        let mut line = Vec::new();
        escape(value, style, limit, &mut line);
        String::from_utf8(line).unwrap()
    }

    fn unescaped(text: &str) -> Vec<u8> {
        let mut parts = text.split("\\x");
        let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
        for part in parts {
            bytes.push(u8::from_str_radix(&part[..2], 16).unwrap());
            bytes.extend_from_slice(&part.as_bytes()[2..]);
        }
        bytes
    }

    #[test]
    fn a_value_cannot_close_its_quotes_or_move_the_cursor() {
        let hostile = "a\"b\\c\n\r\t\x00\x1b[2J\x7f\u{85}\u{9b}\u{2028}\u{202e}ü".as_bytes();
        assert_eq!(
            escaped(hostile, Style::Text, 2048),
            r"a\x22b\x5cc\x0a\x0d\x09\x00\x1b[2J\x7f\xc2\x85\xc2\x9b\xe2\x80\xa8\xe2\x80\xaeü"
        );
        assert_eq!(
            escaped(hostile, Style::Json, 2048),
            r#"a\"b\\c\n\r\t\u0000\u001b[2J\u007f\u0085\u009b\u2028\u202eü"#
        );
    }

    #[test]
    fn bytes_that_are_not_text_stay_legible() {
        assert_eq!(escaped(b"\x85a\xff\xfe", Style::Text, 2048), r"\x85a\xff\xfe");
        assert_eq!(escaped(b"\x85a\xff\xfe", Style::Json, 2048), "\u{fffd}a\u{fffd}\u{fffd}");
    }

    #[test]
    fn a_long_value_is_cut_between_characters_and_escapes() {
        assert_eq!(escaped("aüb".as_bytes(), Style::Text, 2), "a");
        assert_eq!(escaped("aüb".as_bytes(), Style::Json, 3), "aü");
        assert_eq!(escaped(b"a\"b", Style::Text, 4), "a");
        assert_eq!(escaped(b"a\"b", Style::Json, 2), "a");
        assert_eq!(escaped("a😀".as_bytes(), Style::Json, 4), "a");
        assert_eq!(escaped(b"abc", Style::Text, 0), "");
        assert_eq!(cut(b"\x80\x80\x80\x80\x80\x80", 5).len(), 5);
    }

    proptest! {
        #[test]
        fn no_bytes_escape_from_text(value: Vec<u8>, limit in 0..300usize) {
            let text = escaped(&value, Style::Text, limit);
            prop_assert!(text.len() <= limit);
            prop_assert!(!text.chars().any(|c| c.is_control() || c == '"'));
        }

        #[test]
        fn text_can_be_turned_back_into_what_was_said(value: Vec<u8>) {
            let text = escaped(&value, Style::Text, usize::MAX / 2);
            prop_assert_eq!(unescaped(&text), value);
        }

        #[test]
        fn json_says_what_was_said(value: String) {
            let text = escaped(value.as_bytes(), Style::Json, usize::MAX / 2);
            prop_assert_eq!(serde_json::from_str::<String>(&format!("\"{text}\"")).unwrap(), value);
        }

        #[test]
        fn json_is_json_wherever_it_is_cut(value: Vec<u8>, limit in 0..300usize) {
            let text = escaped(&value, Style::Json, limit);
            prop_assert!(text.len() <= limit);
            let said: String = serde_json::from_str(&format!("\"{text}\"")).unwrap();
            prop_assert!(String::from_utf8_lossy(&value).starts_with(said.as_str()) || limit < value.len());
        }
    }
}
