//! What an operator yields, and how that is written in text and in JSON.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use crate::escape::{Style, cut, escape};
use crate::flags::Flags;
use crate::line::{ip, millis, network, number, seconds, socket, uuid};
use crate::record::{Attempt, Record};
use crate::time::{Scratch, TimeFormat};

/// What an operator yields for one record.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Value<'a> {
    /// `-` in text, `null` in JSON.
    Unset,
    Number(u64),
    Bool(bool),
    /// Of our own vocabulary: needs no escaping.
    Word(&'static str),
    /// From outside.
    Text(&'a [u8]),
    /// From outside, with `_` for every space.
    Underscored(&'a str),
    /// From outside, percent-encoded (RFC 3986 §2.1), to be decoded; at most so many bytes of it.
    Decoded(&'a [u8], usize),
    /// Short or long names, comma separated.
    Flags(Flags, bool),
    Socket(SocketAddr),
    Ip(IpAddr),
    /// An address and the length of the prefix that is shown.
    Network(IpAddr, u8),
    /// With milliseconds.
    Seconds(Duration),
    /// By the format's time with this index.
    Time(usize, SystemTime),
    Attempts(&'a Record, List),
    Uuid,
}

/// How attempts are listed in text; JSON has one form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum List {
    /// `ip:port status ms reason`
    Compact,
    Hosts {
        port: bool,
    },
    Names {
        port: bool,
    },
    NginxAddress,
    NginxStatus,
    NginxTime,
    NginxLength,
}

/// How much of a record is written before it is cut.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    /// Bytes of a field.
    pub field: usize,
    /// Attempts that are listed; of more, the first and the last half of this are.
    pub attempts: usize,
    /// Bytes of a name within an attempt.
    pub name: usize,
}

impl Budget {
    pub(crate) const FULL: Self = Self { field: 2048, attempts: 20, name: 256 };
}

impl<'a> Value<'a> {
    /// Text or nothing; an empty one is nothing, too.
    pub(crate) fn name(text: Option<&'a str>) -> Self {
        text.filter(|text| !text.is_empty()).map_or(Self::Unset, |text| Self::Text(text.as_bytes()))
    }

    pub(crate) fn number(value: Option<impl Into<u64>>) -> Self {
        value.map_or(Self::Unset, |value| Self::Number(value.into()))
    }

    pub(crate) fn millis(duration: Option<Duration>) -> Self {
        Self::number(duration.map(millis))
    }

    pub(crate) fn socket(address: Option<SocketAddr>) -> Self {
        address.map_or(Self::Unset, Self::Socket)
    }

    /// Cut to `max` bytes, between characters.
    pub(crate) fn truncated(self, max: Option<usize>) -> Self {
        match (self, max) {
            (Self::Text(text), Some(max)) => Self::Text(cut(text, max)),
            (Self::Decoded(text, before), Some(max)) => Self::Decoded(text, before.min(max)),
            (other, _) => other,
        }
    }
}

/// What writing a value takes besides the value.
pub(crate) struct Pen<'a> {
    pub line: &'a mut Vec<u8>,
    pub scratch: &'a mut Scratch,
    pub times: &'a [TimeFormat],
    pub budget: Budget,
}

impl Pen<'_> {
    /// Appends a value as text, in at most `limit` bytes.
    pub(crate) fn text(&mut self, value: Value<'_>, limit: usize) {
        let start = self.line.len();
        self.plain(value, Style::Text, limit);
        // Lists, and what is ours at the end of a line that is full.
        if self.line.len() > start + limit {
            let kept = cut(&self.line[start..], limit).len();
            self.line.truncate(start + kept);
        }
    }

    /// Appends a value as JSON.
    pub(crate) fn json(&mut self, value: Value<'_>) {
        match value {
            Value::Unset => self.line.extend_from_slice(b"null"),
            Value::Number(value) => number(value, self.line),
            Value::Bool(value) => self.line.extend_from_slice(if value { b"true" } else { b"false" }),
            Value::Seconds(value) => seconds(value, self.line),
            Value::Attempts(record, _) => self.json_attempts(record),
            Value::Time(slot, time) => {
                self.line.push(b'"');
                if self.time(slot, time, self.budget.field) {
                    self.line.push(b'"');
                } else {
                    self.line.pop();
                    self.line.extend_from_slice(b"null");
                }
            }
            quoted => {
                self.line.push(b'"');
                self.plain(quoted, Style::Json, self.budget.field);
                self.line.push(b'"');
            }
        }
    }

    fn plain(&mut self, value: Value<'_>, style: Style, limit: usize) {
        match value {
            Value::Unset => self.line.push(b'-'),
            Value::Number(value) => number(value, self.line),
            Value::Bool(value) => self.line.extend_from_slice(if value { b"true" } else { b"false" }),
            Value::Word(word) => self.line.extend_from_slice(word.as_bytes()),
            Value::Text(text) => escape(text, style, limit, self.line),
            Value::Underscored(text) => {
                let start = self.line.len();
                escape(text.as_bytes(), style, limit, self.line);
                self.line[start..].iter_mut().filter(|byte| **byte == b' ').for_each(|byte| *byte = b'_');
            }
            Value::Decoded(text, max) => {
                let mut decoded = [0; Budget::FULL.field];
                escape(cut(decode(text, &mut decoded), max), style, limit, self.line);
            }
            Value::Flags(flags, long) => self.flags(flags, long),
            Value::Socket(address) => socket(address, self.line),
            Value::Ip(address) => ip(address, self.line),
            Value::Network(address, prefix) => network(address, prefix, self.line),
            Value::Seconds(value) => seconds(value, self.line),
            Value::Time(slot, time) => {
                if !self.time(slot, time, limit) {
                    self.line.push(b'-');
                }
            }
            Value::Attempts(record, list) => self.text_attempts(record, list),
            Value::Uuid => uuid(self.line),
        }
    }

    fn time(&mut self, slot: usize, time: SystemTime, limit: usize) -> bool {
        self.times.get(slot).is_some_and(|format| self.scratch.write(slot, format, time, limit, self.line))
    }

    fn flags(&mut self, flags: Flags, long: bool) {
        let mut first = true;
        for (_, short, name) in Flags::ALL.iter().filter(|(flag, ..)| flags.contains(*flag)) {
            if !std::mem::take(&mut first) {
                self.line.push(b',');
            }
            self.line.extend_from_slice(if long { name } else { short }.as_bytes());
        }
    }

    fn text_attempts(&mut self, record: &Record, list: List) {
        let separator: &[u8] = match list {
            List::Hosts { .. } | List::Names { .. } => b",",
            _ => b", ",
        };
        let (first, omitted, last) = listed(&record.attempts, self.budget.attempts);
        for (index, attempt) in first.iter().enumerate() {
            if index > 0 {
                self.line.extend_from_slice(separator);
            }
            self.text_attempt(record, attempt, list);
        }
        if omitted > 0 {
            self.line.extend_from_slice(separator);
            if list == List::Compact {
                self.line.push(b'+');
                number(u64::try_from(omitted).unwrap_or(u64::MAX), self.line);
                self.line.extend_from_slice(b" more");
            } else {
                self.line.extend_from_slice(b"...");
            }
        }
        for attempt in last {
            self.line.extend_from_slice(separator);
            self.text_attempt(record, attempt, list);
        }
    }

    fn text_attempt(&mut self, record: &Record, attempt: &Attempt, list: List) {
        let state = State::of(record, attempt);
        match list {
            List::Compact => {
                socket(attempt.address, self.line);
                self.line.push(b' ');
                self.status(attempt);
                self.line.push(b' ');
                number(millis(attempt.duration), self.line);
                self.line.push(b' ');
                escape(state.reason.as_bytes(), Style::Text, self.budget.name, self.line);
            }
            List::Hosts { port: true } | List::NginxAddress => socket(attempt.address, self.line),
            List::Hosts { port: false } => ip(attempt.address.ip(), self.line),
            List::Names { port } => match &attempt.pod {
                Some(pod) => escape(pod.as_bytes(), Style::Text, self.budget.name, self.line),
                None if port => socket(attempt.address, self.line),
                None => ip(attempt.address.ip(), self.line),
            },
            List::NginxStatus => self.status(attempt),
            // nginx counts to the last byte of the response, and has no number while that is under way.
            List::NginxTime if state.open => self.line.push(b'-'),
            List::NginxTime => {
                let body = record.response_tx_duration.filter(|_| state.last).unwrap_or_default();
                seconds(attempt.duration.saturating_add(body), self.line);
            }
            List::NginxLength => {
                number(if state.last && attempt.status.is_some() { record.bytes_sent } else { 0 }, self.line);
            }
        }
    }

    fn status(&mut self, attempt: &Attempt) {
        match attempt.status {
            Some(status) => number(status.as_u16().into(), self.line),
            None => self.line.push(b'-'),
        }
    }

    fn json_attempts(&mut self, record: &Record) {
        let (first, _, last) = listed(&record.attempts, self.budget.attempts);
        self.line.push(b'[');
        for (index, attempt) in first.iter().chain(last).enumerate() {
            if index > 0 {
                self.line.push(b',');
            }
            let state = State::of(record, attempt);
            self.line.extend_from_slice(b"{\"pod\":");
            self.json_name(attempt.pod.as_deref());
            self.line.extend_from_slice(b",\"address\":\"");
            socket(attempt.address, self.line);
            self.line.extend_from_slice(b"\",\"status\":");
            self.json(Value::number(attempt.status.map(|status| status.as_u16())));
            self.line.extend_from_slice(b",\"ms\":");
            number(millis(attempt.duration), self.line);
            self.line.extend_from_slice(b",\"reason\":");
            self.json_name(Some(state.reason));
            self.line.extend_from_slice(b",\"reused_connection\":");
            self.json(Value::Bool(attempt.reused_connection));
            self.line.push(b'}');
        }
        self.line.push(b']');
    }

    fn json_name(&mut self, name: Option<&str>) {
        match name {
            Some(name) => {
                self.line.push(b'"');
                escape(name.as_bytes(), Style::Json, self.budget.name, self.line);
                self.line.push(b'"');
            }
            None => self.line.extend_from_slice(b"null"),
        }
    }
}

/// What an attempt is within its request.
struct State {
    last: bool,
    /// The one that is still running.
    open: bool,
    reason: &'static str,
}

impl State {
    fn of(record: &Record, attempt: &Attempt) -> Self {
        let last = record.attempts.last().is_some_and(|last| std::ptr::eq(last, attempt));
        let open = last && record.open;
        Self { last, open, reason: if open { "open" } else { attempt.reason } }
    }
}

/// The attempts that are listed: the first ones, how many are left out, and the last ones.
fn listed(attempts: &[Attempt], most: usize) -> (&[Attempt], usize, &[Attempt]) {
    if attempts.len() <= most {
        return (attempts, 0, &[]);
    }
    let half = most / 2;
    (&attempts[..half], attempts.len() - 2 * half, &attempts[attempts.len() - half..])
}

/// How many attempts a list leaves out.
pub(crate) fn omitted(record: &Record, budget: Budget) -> usize {
    listed(&record.attempts, budget.attempts).1
}

/// Undoes percent-encoding as far as there is room; what is no encoding stays as it is.
fn decode<'a>(text: &[u8], into: &'a mut [u8]) -> &'a [u8] {
    let digit = |at: usize| text.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let mut at = 0;
    let mut len = 0;
    while let (Some(byte), Some(place)) = (text.get(at), into.get_mut(len)) {
        let encoded = (*byte == b'%').then(|| Some(digit(at + 1)? * 16 + digit(at + 2)?)).flatten();
        (*place, at) = match encoded.map(u8::try_from) {
            Some(Ok(decoded)) => (decoded, at + 3),
            _ => (*byte, at + 1),
        };
        len += 1;
    }
    &into[..len]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_encoding_is_undone_where_it_is_one() {
        let decoded = |text: &[u8]| decode(text, &mut [0; 8]).to_vec();
        assert_eq!(decoded(b"a%20b"), b"a b");
        assert_eq!(decoded(b"%c3%BC"), "ü".as_bytes());
        assert_eq!(decoded(b"50%"), b"50%");
        assert_eq!(decoded(b"%zz%4"), b"%zz%4");
        assert_eq!(decoded(b"123456789"), b"12345678");
    }
}
