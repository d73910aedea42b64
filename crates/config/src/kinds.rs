//! One rule per kind of value: what its text means, and how it is written.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use jiff::fmt::friendly::{Spacing, SpanParser, SpanPrinter};
use serde_json::Value;

use crate::error::Fault;
use crate::form::{Kind, Scalar};
use crate::nearest::nearest;
use crate::target::{parse_address, parse_dns_server, parse_domain, parse_label};
use crate::types::{Balance, Protocol, RetryOn, Target};

/// A value that is written as text.
const fn text<T: fmt::Display>(parse: fn(&str) -> Result<T, Fault>) -> Kind<T> {
    Kind { scalar: Scalar::Text, parse, write: |value| Value::from(value.to_string()) }
}

/// A value that is written as a number.
const fn number<T>(parse: fn(&str) -> Result<T, Fault>, write: fn(&T) -> Value) -> Kind<T> {
    Kind { scalar: Scalar::Number, parse, write }
}

/// A duration that is refused below a least one.
const fn duration(parse: fn(&str) -> Result<Duration, Fault>) -> Kind<Duration> {
    Kind { scalar: Scalar::Text, parse, write: |duration| Value::from(print_duration(*duration)) }
}

pub(crate) const NAME: Kind<String> = text(parse_name);
pub(crate) const ADDRESS: Kind<SocketAddr> = text(parse_address);
pub(crate) const ADMIN_ADDRESS: Kind<SocketAddr> = text(parse_admin_address);
pub(crate) const DNS_SERVER: Kind<SocketAddr> = text(parse_dns_server);
pub(crate) const TARGET: Kind<Target> = text(str::parse);
pub(crate) const DOMAIN: Kind<String> =
    text(|text| parse_domain(text).map(|name| name.trim_end_matches('.').to_owned()));
pub(crate) const NAMESPACE: Kind<String> = text(parse_label);
pub(crate) const PREFIX: Kind<String> = text(parse_prefix);
pub(crate) const FORMAT: Kind<String> =
    text(|text| not_empty(text, "a preset or a format").map(str::to_owned));
pub(crate) const RESPONSE_FLAG: Kind<String> = text(|text| Ok(text.to_owned()));
pub(crate) const HEADER_NAME: Kind<String> = text(parse_header_name);
pub(crate) const HEADER_VALUE: Kind<String> = text(parse_header_value);
pub(crate) const LOG_LEVEL: Kind<String> = text(parse_log_level);
pub(crate) const PATH: Kind<PathBuf> = Kind {
    scalar: Scalar::Text,
    parse: parse_path,
    write: |path| Value::from(path.to_string_lossy().into_owned()),
};

pub(crate) const PROTOCOL: Kind<Protocol> = text(|text| parse_word(text, &PROTOCOLS));
pub(crate) const BALANCE: Kind<Balance> = text(|text| parse_word(text, &BALANCES));
pub(crate) const RETRY_ON: Kind<RetryOn> = text(|text| parse_word(text, &RETRY_CONDITIONS));

pub(crate) const DURATION: Kind<Duration> = duration(parse_duration);
pub(crate) const POSITIVE_DURATION: Kind<Duration> = duration(|text| at_least(text, Duration::from_nanos(1)));
/// Below this, answers with a TTL of zero would have DNS asked without a pause.
pub(crate) const REFRESH: Kind<Duration> = duration(|text| at_least(text, Duration::from_millis(10)));

pub(crate) const WORKERS: Kind<NonZeroUsize> = number(parse_workers, |workers| Value::from(workers.get()));
pub(crate) const STATUS: Kind<u16> =
    number(|text| parse_whole(text, 100..=599), |status| Value::from(*status));
pub(crate) const ATTEMPTS: Kind<u32> =
    number(|text| parse_whole(text, 0..=100), |attempts| Value::from(*attempts));
/// hyper needs 8 KiB.
pub(crate) const HEAD_BYTES: Kind<usize> =
    number(|text| parse_whole(text, 8 * 1024..=1024 * 1024), |bytes| Value::from(*bytes));
/// A header map holds some 24,000 fields.
pub(crate) const HEADERS: Kind<usize> =
    number(|text| parse_whole(text, 1..=10_000), |headers| Value::from(*headers));
/// More would be one connection's worth of everybody's memory.
pub(crate) const STREAMS: Kind<u32> =
    number(|text| parse_whole(text, 1..=65_536), |streams| Value::from(*streams));
pub(crate) const SAMPLE: Kind<f64> = number(parse_share, |share| Value::from(*share));
pub(crate) const SWITCH: Kind<bool> =
    Kind { scalar: Scalar::Switch, parse: parse_switch, write: |switch| Value::from(*switch) };

/// The words of an enumeration.
type Words<T, const N: usize> = [(&'static str, T); N];

const PROTOCOLS: Words<Protocol, 4> =
    [("auto", Protocol::Auto), ("http1", Protocol::Http1), ("h2c", Protocol::H2c), ("grpc", Protocol::Grpc)];
const BALANCES: Words<Balance, 2> =
    [("round_robin", Balance::RoundRobin), ("least_request", Balance::LeastRequest)];
const RETRY_CONDITIONS: Words<RetryOn, 12> = [
    ("connect-failure", RetryOn::ConnectFailure),
    ("refused-stream", RetryOn::RefusedStream),
    ("reset", RetryOn::Reset),
    ("5xx", RetryOn::ServerError),
    ("gateway-error", RetryOn::GatewayError),
    ("retriable-4xx", RetryOn::Retriable4xx),
    ("retriable-status-codes", RetryOn::StatusCodes),
    ("cancelled", RetryOn::GrpcCancelled),
    ("deadline-exceeded", RetryOn::GrpcDeadlineExceeded),
    ("resource-exhausted", RetryOn::GrpcResourceExhausted),
    ("internal", RetryOn::GrpcInternal),
    ("unavailable", RetryOn::GrpcUnavailable),
];

macro_rules! display {
    ($($type:ty: $words:expr;)*) => {$(
        impl fmt::Display for $type {
            /// The word of the document and the flags.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($words.iter().find(|(_, value)| value == self).map_or("", |(word, _)| word))
            }
        }
    )*};
}

display! {
    Protocol: PROTOCOLS;
    Balance: BALANCES;
    RetryOn: RETRY_CONDITIONS;
}

fn parse_word<T: Copy>(text: &str, words: &[(&'static str, T)]) -> Result<T, Fault> {
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
        return Ok(*value);
    }
    let accepted: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    let mut remedy = format!("accepted: {}", accepted.join(", "));
    if let Some(word) = nearest(text, accepted) {
        remedy = format!("did you mean {word}? {remedy}");
    }
    Err(Fault::new("not known here", remedy))
}

/// Longer durations are slips, and would overflow a clock somewhere; zero means no limit already.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);

fn parse_duration(text: &str) -> Result<Duration, Fault> {
    const REMEDY: &str = "write a number and a unit (ms, s, m, h), e.g. 250ms, 1s, 5m or 1h30m";
    let parser = SpanParser::new();
    if let Ok(duration) = parser.parse_unsigned_duration(text) {
        if duration > LONGEST {
            return Err(Fault::new(
                "longer than a year",
                "write at most 8784h; 0s means no limit where that is possible",
            ));
        }
        return Ok(duration);
    }
    let number = text.trim().trim_start_matches(['+', '-']);
    let bare = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    Err(if bare {
        Fault::new("no unit", REMEDY)
    } else if parser.parse_duration(text).is_ok_and(|duration| duration.is_negative()) {
        Fault::new("negative", "write a duration of 0s or more")
    } else {
        Fault::new("not a duration", REMEDY)
    })
}

fn at_least(text: &str, least: Duration) -> Result<Duration, Fault> {
    let duration = parse_duration(text)?;
    if duration.is_zero() {
        return Err(Fault::new("this cannot be off", "write a duration above 0s, e.g. 1s"));
    }
    if duration < least {
        return Err(Fault::new("too short", format!("write at least {}", print_duration(least))));
    }
    Ok(duration)
}

/// As `parse_duration` reads it: `1h30m`.
pub(crate) fn print_duration(duration: Duration) -> String {
    SpanPrinter::new().spacing(Spacing::None).unsigned_duration_to_string(&duration)
}

fn parse_whole<T: TryFrom<u64>>(text: &str, range: RangeInclusive<u64>) -> Result<T, Fault> {
    let fault = |reason| {
        Fault::new(reason, format!("write a whole number from {} to {}", range.start(), range.end()))
    };
    let whole: i128 = text.parse().map_err(|_| fault("not a whole number"))?;
    u64::try_from(whole)
        .ok()
        .filter(|whole| range.contains(whole))
        .and_then(|whole| T::try_from(whole).ok())
        .ok_or_else(|| fault("out of range"))
}

fn parse_workers(text: &str) -> Result<NonZeroUsize, Fault> {
    // Zero is out of range already.
    parse_whole(text, 1..=64).map(|workers| NonZeroUsize::new(workers).unwrap_or(NonZeroUsize::MIN))
}

fn parse_share(text: &str) -> Result<f64, Fault> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        Ok(_) => Err(Fault::new("not a share", "write a number from 0 to 1, e.g. 0.1 for every tenth line")),
        Err(_) => {
            Err(Fault::new("not a number", "write a number from 0 to 1, e.g. 0.1 for every tenth line"))
        }
    }
}

fn parse_switch(text: &str) -> Result<bool, Fault> {
    text.parse().map_err(|_| Fault::new("neither true nor false", "write true or false"))
}

fn not_empty<'a>(text: &'a str, what: &str) -> Result<&'a str, Fault> {
    if text.is_empty() { Err(Fault::new("empty", format!("write {what}"))) } else { Ok(text) }
}

fn parse_path(text: &str) -> Result<PathBuf, Fault> {
    if text.contains('\0') {
        return Err(Fault::new("a path cannot hold a NUL", "remove it"));
    }
    not_empty(text, "a path").map(PathBuf::from)
}

/// Names stand in log lines and metric labels.
fn parse_name(text: &str) -> Result<String, Fault> {
    not_empty(text, "a name")?;
    if text.len() > 253 {
        return Err(Fault::new("a name of more than 253 bytes", "shorten it"));
    }
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(Fault::new("a name with a space or control character", "use '-' in its place"));
    }
    Ok(text.to_owned())
}

fn parse_prefix(text: &str) -> Result<String, Fault> {
    let in_no_path = |c: char| c.is_whitespace() || c.is_control() || c == '?' || c == '#';
    if !text.starts_with('/') {
        return Err(Fault::new("a path prefix begins with a slash", format!("write /{}", text.trim())));
    }
    match text.chars().find(|c| in_no_path(*c)) {
        Some(c) => Err(Fault::new(
            format!("{c:?} is in no path, so that this would never match"),
            "write the path alone, percent-encoded as the client sends it",
        )),
        None => Ok(text.to_owned()),
    }
}

/// In lower case; a token of RFC 9110 §5.6.2.
fn parse_header_name(text: &str) -> Result<String, Fault> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if text.is_empty() || !text.bytes().all(token) {
        return Err(Fault::new(
            "not a header's name",
            "write a name like x-debug, and its value under value",
        ));
    }
    Ok(text.to_ascii_lowercase())
}

/// RFC 9110 §5.5, ASCII only.
fn parse_header_value(text: &str) -> Result<String, Fault> {
    let visible = text.bytes().all(|b| b == b' ' || b == b'\t' || b.is_ascii_graphic());
    if !visible || text.trim() != text {
        let remedy = "write visible ASCII without spaces at the ends";
        return Err(Fault::new("not what a header's value can be", remedy));
    }
    Ok(text.to_owned())
}

fn parse_admin_address(text: &str) -> Result<SocketAddr, Fault> {
    let address = parse_address(text)?;
    if !address.ip().to_canonical().is_loopback() {
        return Err(Fault::new(
            "the admin server is for this pod only",
            format!(
                "write a loopback address, e.g. 127.0.0.1:{}, and use kubectl port-forward",
                address.port()
            ),
        ));
    }
    Ok(address)
}

/// `tracing`'s directives; those with a span's name in brackets are left to it.
fn parse_log_level(text: &str) -> Result<String, Fault> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let remedy =
        || format!("write one of {}, or TARGET=LEVEL, with commas between several", LEVELS.join(", "));
    if text.contains('[') {
        return Ok(text.to_owned());
    }
    for directive in text.split(',') {
        let level = directive.rsplit_once('=').map_or(directive, |(_, level)| level).trim();
        if !LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level)) {
            return Err(Fault::new(format!("{level:?} is no level"), remedy()));
        }
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_have_units() {
        let parse = |text: &str| parse_duration(text).map_err(|fault| fault.reason);
        assert_eq!(parse("1s"), Ok(Duration::from_secs(1)));
        assert_eq!(parse("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse("0s"), Ok(Duration::ZERO));
        for (text, reason) in [
            ("5", "no unit"),
            ("1.5", "no unit"),
            ("-1", "no unit"),
            ("-1s", "negative"),
            ("1s ago", "negative"),
            ("9000h", "longer than a year"),
            ("99999999999999999999h", "not a duration"),
            ("5 parsecs", "not a duration"),
            ("", "not a duration"),
            ("s", "not a duration"),
        ] {
            assert_eq!(parse(text), Err(reason.to_owned()), "{text}");
        }
    }

    #[test]
    fn every_word_is_read_as_it_is_written() {
        for (word, value) in PROTOCOLS {
            assert_eq!((value.to_string().as_str(), (PROTOCOL.parse)(word)), (word, Ok(value)));
        }
        for (word, value) in BALANCES {
            assert_eq!((value.to_string().as_str(), (BALANCE.parse)(word)), (word, Ok(value)));
        }
        for (word, value) in RETRY_CONDITIONS {
            assert_eq!((value.to_string().as_str(), (RETRY_ON.parse)(word)), (word, Ok(value)));
        }
    }

    #[test]
    fn log_levels_are_directives() {
        for accepted in ["info", "WARN", "off", "info,whichpod=debug", "hyper=off", "a[b{c=1,d=2}]=trace"] {
            assert!(parse_log_level(accepted).is_ok(), "{accepted}");
        }
        for refused in ["", "inof", "info,", "hyper", "hyper=", "verbose"] {
            assert!(parse_log_level(refused).is_err(), "{refused}");
        }
    }

    proptest! {
        #[test]
        fn any_duration_is_read_as_it_was_written(nanos in 0..=LONGEST.as_nanos()) {
            let duration = Duration::from_nanos(u64::try_from(nanos).unwrap());
            prop_assert_eq!(parse_duration(&print_duration(duration)), Ok(duration));
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = (parse_duration(&text), parse_name(&text), parse_prefix(&text), parse_log_level(&text));
            let _ = (parse_admin_address(&text), parse_dns_server(&text), parse_domain(&text), parse_label(&text));
            let _ = (parse_header_name(&text), parse_header_value(&text), parse_share(&text), parse_path(&text));
        }

        #[test]
        fn a_target_that_is_accepted_is_read_as_it_is_written(text in "[a-zA-Z0-9._-]{1,20}:[a-zA-Z0-9-]{1,8}|.*") {
            if let Ok(target) = text.parse::<Target>() {
                prop_assert_eq!(target.to_string().parse(), Ok(target));
            }
        }
    }
}
