//! Which lines are written.

use std::time::Duration;

use http::header::HeaderName;

use crate::error::FilterError;
use crate::flags::Flags;
use crate::format::Format;
use crate::needs::index_of;
use crate::operator::status;
use crate::record::Record;

/// What a line must satisfy to be written: every rule that is set.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rules {
    /// Status at least this; a request without a response counts as 0.
    pub min_status: Option<u16>,
    /// Duration at least this.
    pub min_duration: Option<Duration>,
    /// Any of these response flags (`UF`); `*` is any flag at all; empty asks for none.
    pub flags: Vec<String>,
    /// A request header that is present, or has this exact value.
    pub header: Option<(String, Option<String>)>,
    /// This share of the lines, 0.0 to 1.0, at random.
    pub sample: Option<f64>,
}

/// Compiled [`Rules`].
#[derive(Debug, Clone, Default)]
pub struct Filter {
    min_status: Option<u16>,
    min_duration: Option<Duration>,
    flags: Option<Wanted>,
    /// Index in the record's captured request headers, and the value.
    header: Option<(usize, Option<String>)>,
    sample: Option<f64>,
}

#[derive(Debug, Clone, Copy)]
enum Wanted {
    Any,
    OneOf(Flags),
}

impl Filter {
    /// Compiles rules for records of `format`, whose [`crate::Needs`] the header joins.
    ///
    /// # Errors
    /// For an unknown flag, an impossible header name, and a share that is none.
    pub fn new(rules: &Rules, format: &mut Format) -> Result<Self, FilterError> {
        let header = match &rules.header {
            None => None,
            Some((name, value)) => {
                let name = HeaderName::from_bytes(name.as_bytes())
                    .map_err(|_| FilterError::HeaderName { name: name.clone() })?;
                Some((index_of(name, &mut format.needs_mut().request_headers), value.clone()))
            }
        };
        if let Some(share) = rules.sample.filter(|share| !(0.0..=1.0).contains(share)) {
            return Err(FilterError::Sample { share: share.to_string() });
        }
        Ok(Self {
            min_status: rules.min_status,
            min_duration: rules.min_duration,
            flags: wanted(&rules.flags)?,
            header,
            sample: rules.sample,
        })
    }

    /// True if the line of this record is written.
    #[must_use]
    pub fn admits(&self, record: &Record) -> bool {
        self.min_status.is_none_or(|least| status(record) >= least)
            && self.min_duration.is_none_or(|least| record.duration >= least)
            && self.flags.is_none_or(|wanted| match wanted {
                Wanted::Any => !record.flags.is_empty(),
                Wanted::OneOf(flags) => record.flags.intersects(flags),
            })
            && self.header.as_ref().is_none_or(|(index, wanted)| {
                let value = record.request_headers.get(*index).and_then(Option::as_ref);
                value.is_some_and(|value| wanted.as_ref().is_none_or(|wanted| value == wanted.as_str()))
            })
            // The dice are last: only lines that would be written are sampled.
            && self.sample.is_none_or(|share| fastrand::f64() < share)
    }
}

fn wanted(names: &[String]) -> Result<Option<Wanted>, FilterError> {
    let mut flags = Flags::EMPTY;
    let mut any = false;
    for name in names {
        match Flags::parse(name) {
            Some(flag) => flags |= flag,
            None if name == "*" => any = true,
            None => {
                let known: Vec<_> = Flags::ALL.iter().map(|(_, short, _)| *short).collect();
                return Err(FilterError::UnknownFlag { flag: name.clone(), known: known.join(", ") });
            }
        }
    }
    Ok(match (any, flags.is_empty()) {
        (true, _) => Some(Wanted::Any),
        (false, false) => Some(Wanted::OneOf(flags)),
        (false, true) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderValue, StatusCode};
    use std::time::UNIX_EPOCH;

    fn filter(rules: &Rules) -> (Filter, Format) {
        let mut format = Format::compile("%REQ(X-A)%", &|_| None, "h").unwrap().format;
        (Filter::new(rules, &mut format).unwrap(), format)
    }

    fn record() -> Record {
        let mut record = Record::new(UNIX_EPOCH);
        record.status = Some(StatusCode::BAD_GATEWAY);
        record.duration = Duration::from_millis(20);
        record
    }

    #[test]
    fn without_rules_every_line_is_written() {
        assert!(filter(&Rules::default()).0.admits(&Record::new(UNIX_EPOCH)));
    }

    #[test]
    fn each_rule_alone_keeps_lines_out() {
        let cases = [
            (
                Rules { min_status: Some(502), ..Rules::default() },
                Rules { min_status: Some(503), ..Rules::default() },
            ),
            (
                Rules { min_duration: Some(Duration::from_millis(20)), ..Rules::default() },
                Rules { min_duration: Some(Duration::from_millis(21)), ..Rules::default() },
            ),
            (
                Rules { sample: Some(1.0), ..Rules::default() },
                Rules { sample: Some(0.0), ..Rules::default() },
            ),
        ];
        for (admits, refuses) in cases {
            assert!(filter(&admits).0.admits(&record()), "{admits:?}");
            assert!(!filter(&refuses).0.admits(&record()), "{refuses:?}");
        }
    }

    #[test]
    fn flags_match_any_of_the_list_or_any_at_all() {
        let with = |flags: &[&str]| {
            filter(&Rules { flags: flags.iter().map(|f| (*f).to_owned()).collect(), ..Rules::default() }).0
        };
        let mut failed = record();
        failed.flags = Flags::CONNECT_FAILED | Flags::RETRY_LIMIT;
        assert!(with(&["UC", "UF"]).admits(&failed));
        assert!(!with(&["UC"]).admits(&failed));
        assert!(with(&["*"]).admits(&failed));
        assert!(!with(&["*"]).admits(&record()));
    }

    #[test]
    fn a_header_that_only_the_filter_reads_is_captured_too() {
        let rules = |value: Option<&str>| Rules {
            header: Some(("X-Debug".to_owned(), value.map(str::to_owned))),
            ..Rules::default()
        };
        let (present, format) = filter(&rules(None));
        assert_eq!(format.needs().request_headers, ["x-a", "x-debug"]);
        let (exact, _) = filter(&rules(Some("1")));
        let mut record = record();
        assert!(!present.admits(&record));
        record.request_headers = [None, Some(HeaderValue::from_static("2"))].into_iter().collect();
        assert!(present.admits(&record));
        assert!(!exact.admits(&record));
        record.request_headers[1] = Some(HeaderValue::from_static("1"));
        assert!(exact.admits(&record));
    }

    #[test]
    fn sampling_writes_about_its_share() {
        let (half, _) = filter(&Rules { sample: Some(0.5), ..Rules::default() });
        let written = (0..10_000).filter(|_| half.admits(&record())).count();
        assert!((4_000..6_000).contains(&written), "{written}");
    }

    #[test]
    fn a_rule_that_means_nothing_is_refused_with_its_remedy() {
        let mut format = Format::compile("text", &|_| None, "h").unwrap().format;
        let mut refused = |rules: Rules| Filter::new(&rules, &mut format).unwrap_err().to_string();
        assert!(refused(Rules { flags: vec!["XX".to_owned()], ..Rules::default() }).contains("UH, UF"));
        assert!(
            refused(Rules { header: Some(("a b".to_owned(), None)), ..Rules::default() }).contains("a b")
        );
        assert!(refused(Rules { sample: Some(f64::NAN), ..Rules::default() }).contains("NaN"));
    }
}
