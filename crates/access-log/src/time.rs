//! Times as `strftime` writes them; a second is rendered once, and its digits are reused.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use jiff::fmt::strtime::{BrokenDownTime, Config, PosixCustom};
use jiff::tz::TimeZone;

use crate::escape::cut;

/// How a time is written, compiled.
#[derive(Debug, Clone)]
pub(crate) struct TimeFormat {
    parts: Vec<Part>,
    zone: TimeZone,
}

/// Calendar fields are the same for a whole second; fractions are not.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// Directives that jiff knows.
    Calendar(String),
    /// So many digits of the fraction of the second, 1 to 9.
    Fraction(usize),
}

/// What `strftime` has, as C++'s `put_time` documents it, and `%s`.
const DIRECTIVES: &str = "%tYyCGgbhBmUWVjdeaAwuHIMScxXDFrRTpzZs";

impl TimeFormat {
    /// ISO 8601 with milliseconds, in UTC.
    pub(crate) fn iso() -> Self {
        let calendar = |text: &str| Part::Calendar(text.to_owned());
        Self {
            parts: vec![calendar("%Y-%m-%dT%H:%M:%S."), Part::Fraction(3), calendar("Z")],
            zone: TimeZone::UTC,
        }
    }

    /// A `strftime` text with `%f` and `%1f` to `%9f`; `Err` is the reason why it is none.
    pub(crate) fn parse(text: &str, zone: TimeZone) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut calendar = String::new();
        let mut rest = text.chars();
        while let Some(character) = rest.next() {
            match character {
                '\n' | '\r' => return Err("a line break would split the line".to_owned()),
                '%' => match directive(&mut rest)? {
                    Directive::Fraction(digits) => {
                        parts.push(Part::Calendar(std::mem::take(&mut calendar)));
                        parts.push(Part::Fraction(digits));
                    }
                    Directive::Calendar(directive) => calendar.push_str(&directive),
                },
                other => calendar.push(other),
            }
        }
        parts.push(Part::Calendar(calendar));
        parts.retain(|part| *part != Part::Calendar(String::new()));
        let format = Self { parts, zone };
        // A date that all directives can say.
        format.render(1_700_000_000, &mut Rendered::default()).map_err(|error| error.to_string())?;
        Ok(format)
    }

    fn render(&self, second: i64, rendered: &mut Rendered) -> Result<(), jiff::Error> {
        rendered.text.clear();
        rendered.fractions.clear();
        let zoned = Timestamp::from_second(second)?.to_zoned(self.zone.clone());
        let time = BrokenDownTime::from(&zoned);
        let config = Config::new().custom(PosixCustom::new());
        for part in &self.parts {
            match part {
                Part::Calendar(text) => time.format_with_config(&config, text, &mut rendered.text)?,
                Part::Fraction(digits) => {
                    rendered.fractions.push((rendered.text.len(), *digits));
                    rendered.text.push_str(&"000000000"[..*digits]);
                }
            }
        }
        Ok(())
    }
}

enum Directive {
    Calendar(String),
    Fraction(usize),
}

/// Reads what follows a `%`.
fn directive(rest: &mut std::str::Chars<'_>) -> Result<Directive, String> {
    let mut prefix = String::from("%");
    let mut modified = false;
    loop {
        let Some(character) = rest.next() else {
            return Err(format!("{prefix:?} at its end is no directive"));
        };
        match character {
            'f' if prefix == "%" => return Ok(Directive::Fraction(9)),
            'f' => {
                return match prefix[1..].parse() {
                    Ok(digits @ 1..=9) => Ok(Directive::Fraction(digits)),
                    _ => Err(format!("{prefix}f is no fraction; it is %f or %1f to %9f")),
                };
            }
            'n' => return Err("%n would split the line".to_owned()),
            // Locale variants: this is the C locale, which has none.
            'E' | 'O' if !modified => modified = true,
            '-' | '_' | '0'..='9' | '^' | '#' if !modified => prefix.push(character),
            known if DIRECTIVES.contains(known) => {
                prefix.push(known);
                return Ok(Directive::Calendar(prefix));
            }
            other => return Err(format!("{prefix}{other} is no directive of strftime")),
        }
    }
}

/// The time zone that `TZ` names, and a warning where that can't be had.
pub(crate) fn local_zone(tz: Option<&str>) -> (TimeZone, Option<String>) {
    // A leading colon asks for a file (POSIX, Base Definitions §8.3).
    let name = tz.unwrap_or_default().trim_start_matches(':');
    if matches!(name, "" | "UTC" | "Etc/UTC") {
        return (TimeZone::UTC, None);
    }
    match TimeZone::posix(name) {
        Ok(zone) => (zone, None),
        Err(_) => (
            TimeZone::UTC,
            Some(format!(
                "TZ={name:?}: whichpod carries no time zone database, so local times are in UTC; write the zone \
                 as POSIX does, such as CET-1CEST,M3.5.0,M10.5.0/3"
            )),
        ),
    }
}

/// What a worker keeps from line to line: the last second's text of each time in its format.
#[derive(Debug, Default)]
pub struct Scratch {
    format: u64,
    slots: Vec<Rendered>,
}

#[derive(Debug, Default)]
struct Rendered {
    /// `None`: nothing yet.
    second: Option<i64>,
    /// Empty if this second can't be written.
    text: String,
    /// Where the digits of the fraction are: offset and number.
    fractions: Vec<(usize, usize)>,
}

impl Scratch {
    /// Makes room for the times of the format with this number.
    pub(crate) fn prepare(&mut self, format: u64, times: usize) {
        if self.format != format {
            self.format = format;
            self.slots.clear();
            self.slots.resize_with(times, Rendered::default);
        }
    }

    /// Appends `time` in at most `limit` bytes; false if it is outside of the calendar (years -9999 to 9999).
    pub(crate) fn write(
        &mut self,
        slot: usize,
        format: &TimeFormat,
        time: SystemTime,
        limit: usize,
        line: &mut Vec<u8>,
    ) -> bool {
        let (Some((second, nanosecond)), Some(rendered)) = (split(time), self.slots.get_mut(slot)) else {
            return false;
        };
        if rendered.second != Some(second) {
            if format.render(second, rendered).is_err() {
                rendered.text.clear();
                rendered.fractions.clear();
            }
            rendered.second = Some(second);
        }
        if rendered.text.is_empty() {
            return false;
        }
        let start = line.len();
        line.extend_from_slice(cut(rendered.text.as_bytes(), limit));
        for (offset, digits) in &rendered.fractions {
            let mut fraction = nanosecond;
            let mut all = [b'0'; 9];
            for digit in all.iter_mut().rev() {
                *digit += u8::try_from(fraction % 10).unwrap_or_default();
                fraction /= 10;
            }
            if let Some(place) = line.get_mut(start + offset..start + offset + digits) {
                place.copy_from_slice(&all[..*digits]);
            }
        }
        true
    }
}

/// Whole seconds since 1970 and the nanoseconds after them.
fn split(time: SystemTime) -> Option<(i64, u32)> {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => Some((i64::try_from(since.as_secs()).ok()?, since.subsec_nanos())),
        Err(error) => {
            let before = error.duration();
            let seconds = i64::try_from(before.as_secs()).ok()?;
            match before.subsec_nanos() {
                0 => Some((-seconds, 0)),
                nanos => Some((-seconds - 1, 1_000_000_000 - nanos)),
            }
        }
    }
}

/// `time` and `after`, without the panic past the end of the clock.
pub(crate) fn plus(time: SystemTime, after: Duration) -> SystemTime {
    time.checked_add(after).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(format: &TimeFormat, time: SystemTime) -> Option<String> {
        let mut scratch = Scratch::default();
        scratch.prepare(1, 1);
        let mut line = Vec::new();
        scratch.write(0, format, time, 100, &mut line).then(|| String::from_utf8(line).unwrap())
    }

    fn at(seconds: u64, nanos: u32) -> SystemTime {
        UNIX_EPOCH + Duration::new(seconds, nanos)
    }

    fn utc(text: &str) -> TimeFormat {
        TimeFormat::parse(text, TimeZone::UTC).unwrap()
    }

    #[test]
    fn the_default_is_iso_8601_in_utc_with_milliseconds() {
        let time = at(1_522_796_769, 123_999_999);
        assert_eq!(written(&TimeFormat::iso(), time).unwrap(), "2018-04-03T23:06:09.123Z");
    }

    #[test]
    fn envoys_time_directives_render_as_documented() {
        let time = at(1_527_590_590, 528_123_456);
        for (text, expected) in [
            ("%Y/%m/%dT%H:%M:%S%z %s", "2018/05/29T10:43:10+0000 1527590590"),
            ("%s.%3f", "1527590590.528"),
            ("%s.%6f", "1527590590.528123"),
            ("%s.%9f", "1527590590.528123456"),
            ("%f", "528123456"),
            ("%1f|%2f|%3f|%4f|%5f|%6f|%7f|%8f", "5|52|528|5281|52812|528123|5281234|52812345"),
            ("%d/%b/%Y:%H:%M:%S %z", "29/May/2018:10:43:10 +0000"),
            ("%c", "Tue May 29 10:43:10 2018"),
            ("%Ey %Od %-d %e %j %p %Z %D %R %T", "18 29 29 29 149 AM UTC 05/29/18 10:43 10:43:10"),
            ("100%% at %H", "100% at 10"),
            ("", ""),
        ] {
            assert_eq!(written(&utc(text), time).unwrap_or_default(), expected, "{text}");
        }
    }

    #[test]
    fn a_time_that_would_split_the_line_or_means_nothing_is_refused() {
        for text in ["%n", "%En", "%-n", "a\nb", "%", "%Q", "%0f", "%12f", "%-3f", "%EEy"] {
            assert!(TimeFormat::parse(text, TimeZone::UTC).is_err(), "{text}");
        }
    }

    #[test]
    fn a_second_is_rendered_once_and_the_next_one_is_not_stale() {
        let format = utc("%S.%3f");
        let mut scratch = Scratch::default();
        scratch.prepare(1, 1);
        let mut line = Vec::new();
        for (seconds, millis) in [(5, 1), (5, 2), (6, 3), (5, 4)] {
            assert!(scratch.write(0, &format, at(seconds, millis * 1_000_000), 100, &mut line));
            line.push(b' ');
        }
        assert_eq!(String::from_utf8(line).unwrap(), "05.001 05.002 06.003 05.004 ");
    }

    #[test]
    fn a_clock_far_off_renders_nothing_rather_than_a_guess() {
        let far = UNIX_EPOCH.checked_add(Duration::from_secs(1 << 40)).unwrap();
        assert_eq!(written(&TimeFormat::iso(), far), None);
        let before = UNIX_EPOCH - Duration::from_millis(1);
        assert_eq!(written(&TimeFormat::iso(), before).unwrap(), "1969-12-31T23:59:59.999Z");
    }

    #[test]
    fn local_times_follow_a_posix_zone_and_say_so_where_there_is_none() {
        let (zone, warning) = local_zone(Some("CET-1CEST,M3.5.0,M10.5.0/3"));
        assert_eq!(warning, None);
        let format = TimeFormat::parse("%H:%M %z", zone).unwrap();
        assert_eq!(written(&format, at(1_527_590_590, 0)).unwrap(), "12:43 +0200");
        let (zone, warning) = local_zone(Some("Mars/Olympus"));
        assert!(warning.unwrap().contains("Mars/Olympus"));
        assert_eq!(zone, TimeZone::UTC);
        assert_eq!(local_zone(None), (TimeZone::UTC, None));
    }

    proptest! {
        #[test]
        fn no_time_format_panics(text: String, seconds: i32, nanos in 0..1_000_000_000u32) {
            if let Ok(format) = TimeFormat::parse(&text, TimeZone::UTC) {
                let time = if seconds < 0 {
                    UNIX_EPOCH - Duration::new(seconds.unsigned_abs().into(), nanos)
                } else {
                    at(seconds.unsigned_abs().into(), nanos)
                };
                written(&format, time);
            }
        }
    }
}
