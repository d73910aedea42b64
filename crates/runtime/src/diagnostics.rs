//! Diagnostics: what the process says about itself, on standard error.
//!
//! One line of text per event: time (RFC 3339, milliseconds, UTC), level, target, message. A write blocks its thread when
//! nobody reads standard error, and on a worker thread that holds up traffic, so nothing at `info` or above may be said
//! per request or per connection; such events belong to `debug` and `trace`, or are counted and said at intervals.

use std::fmt;
use std::io;
use std::str::FromStr;

use jiff::Timestamp;
use tracing::level_filters::LevelFilter;
use tracing::subscriber::{SetGlobalDefaultError, set_global_default};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Registry, reload};

/// Changes the level while the process runs; clones act on the same subscriber.
#[derive(Debug, Clone)]
pub struct Diagnostics {
    filter: reload::Handle<Targets, Registry>,
}

/// Why diagnostics could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum DiagnosticsError {
    /// Not a level and not a list of `target=level`.
    #[error(
        "log level {level:?}: {part:?} is not a level; use off, error, warn, info, debug or trace, or several as in \
         info,whichpod_upstream=debug"
    )]
    Level {
        /// The whole value as given.
        level: String,
        /// The part of it that is wrong.
        part: String,
    },
    /// [`init`] was called before.
    #[error("diagnostics are already set up in this process; set them up once, at the start of main: {0}")]
    AlreadySet(#[from] SetGlobalDefaultError),
    /// The subscriber is gone, which happens only while the process ends.
    #[error("the log level cannot be changed any more: {0}; start the process anew")]
    Gone(#[from] reload::Error),
}

/// Sends the process's events to standard error, without colours, those of `level` and above.
///
/// `level` is `off`, `error`, `warn`, `info`, `debug` or `trace`, or a list with targets: `info,whichpod_upstream=debug`.
///
/// # Errors
/// When `level` is something else or diagnostics are set up already.
pub fn init(level: &str) -> Result<Diagnostics, DiagnosticsError> {
    let (subscriber, diagnostics) = subscriber(level, io::stderr)?;
    set_global_default(subscriber)?;
    Ok(diagnostics)
}

impl Diagnostics {
    /// Replaces the level, in the same words as [`init`]; at once and for all threads.
    ///
    /// # Errors
    /// When `level` is wrong (the old one stays).
    pub fn set_level(&self, level: &str) -> Result<(), DiagnosticsError> {
        Ok(self.filter.reload(parse(level)?)?)
    }

    /// The level now, in the words of [`init`]; empty if the process is ending.
    pub fn level(&self) -> String {
        self.filter.with_current(ToString::to_string).unwrap_or_default()
    }
}

fn subscriber<W>(level: &str, writer: W) -> Result<(impl tracing::Subscriber, Diagnostics), DiagnosticsError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(parse(level)?);
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_timer(Milliseconds)
        .with_writer(writer)
        // It would be said on standard error, where writing has just failed, and a failure there panics.
        .log_internal_errors(false);
    Ok((Registry::default().with(filter).with(lines), Diagnostics { filter: handle }))
}

/// Stricter than `tracing_subscriber`'s own words, in which a misspelt level is the name of a target, so that it would
/// silence everything.
fn parse(level: &str) -> Result<Targets, DiagnosticsError> {
    level.split(',').map(str::trim).try_fold(Targets::new(), |targets, part| {
        let (target, name) = part.split_once('=').map_or((None, part), |(target, name)| (Some(target), name));
        let wrong = || DiagnosticsError::Level { level: level.to_owned(), part: part.to_owned() };
        let filter = level_filter(name).ok_or_else(wrong)?;
        match target {
            None => Ok(targets.with_default(filter)),
            Some("") => Err(wrong()),
            Some(target) => Ok(targets.with_target(target, filter)),
        }
    })
}

/// A level by name alone; `tracing` also takes numbers and nothing at all.
fn level_filter(name: &str) -> Option<LevelFilter> {
    let is_word = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphabetic());
    is_word.then(|| LevelFilter::from_str(name).ok()).flatten()
}

struct Milliseconds;

impl FormatTime for Milliseconds {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        write!(writer, "{:.3}", Timestamp::now())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use proptest::prelude::*;
    use tracing::subscriber::with_default;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Lines {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Everything that `act` says at a level, as text.
    fn said(level: &str, act: impl FnOnce(&Diagnostics)) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let (subscriber, diagnostics) = subscriber(level, move || writer.clone()).unwrap();
        with_default(subscriber, || act(&diagnostics));
        lines.text()
    }

    #[test]
    fn a_line_has_a_time_with_milliseconds_a_level_and_a_target_and_no_colour() {
        let text = said("info", |_| tracing::warn!(target: "whichpod_upstream", pods = 2, "set published"));
        let (time, rest) = text.split_once(' ').unwrap();
        assert_eq!(time.len(), "2026-11-21T05:30:00.123Z".len(), "{time}");
        assert!(time.parse::<Timestamp>().is_ok(), "{time}");
        assert_eq!(rest, " WARN whichpod_upstream: set published pods=2\n");
    }

    #[test]
    fn the_level_changes_while_the_process_runs() {
        let text = said("info", |diagnostics| {
            tracing::debug!("first");
            diagnostics.set_level("debug").unwrap();
            assert_eq!(diagnostics.level(), "debug");
            tracing::debug!("second");
            diagnostics.set_level("off").unwrap();
            tracing::error!("third");
        });
        assert!(text.ends_with("second\n"), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }

    #[test]
    fn one_target_can_say_more_than_the_others() {
        let text = said("warn, dns=debug", |_| {
            tracing::debug!(target: "dns", "asked");
            tracing::info!(target: "proxy", "unheard");
            tracing::warn!(target: "proxy", "heard");
        });
        assert!(text.contains("DEBUG dns: asked\n") && text.contains("WARN proxy: heard\n"), "{text}");
        assert_eq!(text.lines().count(), 2, "{text}");
    }

    #[test]
    fn a_misspelt_level_is_refused_and_the_old_one_stays() {
        said("info", |diagnostics| {
            for level in ["verbose", "", "info,", "dns=loud", "=debug", "3", "dns", "debug;info"] {
                let error = diagnostics.set_level(level).unwrap_err().to_string();
                assert!(error.starts_with(&format!("log level {level:?}: ")), "{error}");
                assert!(error.contains("use off, error, warn, info, debug or trace"), "{error}");
            }
            assert_eq!(diagnostics.level(), "info");
        });
    }

    #[test]
    fn what_a_client_sent_cannot_forge_a_line() {
        let text = said("info", |_| tracing::warn!(header = "a\n2026 ERROR forged\u{1b}[31m", "refused"));
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
    }

    proptest! {
        #[test]
        fn no_level_text_panics(level in ".{0,40}") {
            let _ = parse(&level);
        }

        #[test]
        fn every_level_is_understood_in_any_case(
            name in "(?i)(off|error|warn|info|debug|trace)", target in "[a-z_]{1,8}(::[a-z_]{1,8})?"
        ) {
            let both = format!("{name},{target}={name}");
            prop_assert!(parse(&name).is_ok());
            prop_assert!(parse(&both).is_ok(), "{}", both);
        }
    }
}
