//! How the demo speaks: a story for people, one object for scripts. Colour and progress only on a terminal.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use super::story::Outcome;
use super::tally::Row;

/// Where the demo's words go.
pub struct Output {
    json: bool,
    colour: bool,
}

impl Output {
    /// Colour on a terminal, unless `NO_COLOR` is set (<https://no-color.org>).
    pub fn new(json: bool) -> Self {
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { json, colour: !no_colour && io::stdout().is_terminal() }
    }

    /// The heading of a part.
    pub fn heading(&self, text: &str) -> io::Result<()> {
        self.line(&format!("\n{}", self.paint("1", text)))
    }

    /// A line of the story.
    pub fn line(&self, text: &str) -> io::Result<()> {
        if self.json {
            return Ok(());
        }
        writeln!(io::stdout().lock(), "{text}")
    }

    /// A line of the access log.
    pub fn log_line(&self, text: &str) -> io::Result<()> {
        self.line(&format!("  {}", self.paint("36", text)))
    }

    /// Something to be careful about.
    pub fn warning(&self, text: &str) -> io::Result<()> {
        self.line(&format!("  {} {text}", self.paint("33", "warning:")))
    }

    /// The pods' table.
    pub fn table(&self, rows: &[Row]) -> io::Result<()> {
        let width = rows.iter().map(|row| row.pod.len()).max().unwrap_or(0).max(3);
        let address = rows.iter().map(|row| row.address.len()).max().unwrap_or(0).max(7);
        self.line(&format!("  {:width$}  {:address$}  in the log  counted by the pod", "pod", "address"))?;
        for row in rows {
            self.line(&format!(
                "  {:width$}  {:address$}  {:>10}  {:>18}",
                row.pod, row.address, row.log, row.backend
            ))?;
        }
        Ok(())
    }

    /// Waits, and shows on a terminal that it does.
    pub async fn wait(&self, what: &'static str, duration: Duration) {
        let bar = if self.json || !io::stderr().is_terminal() {
            indicatif::ProgressBar::hidden()
        } else {
            indicatif::ProgressBar::new_spinner().with_message(what)
        };
        bar.enable_steady_tick(Duration::from_millis(100));
        tokio::time::sleep(duration).await;
        bar.finish_and_clear();
    }

    /// The verdict.
    pub fn outcome(&self, outcome: &Outcome) -> anyhow::Result<()> {
        if self.json {
            writeln!(io::stdout().lock(), "{}", serde_json::to_string(outcome)?)?;
            return Ok(());
        }
        self.heading("The verdict")?;
        let (colour, text) = if outcome.agree {
            ("32", "the log and the pods agree on every request, and nothing failed")
        } else {
            ("31", "the log and the pods DISAGREE, or a request failed")
        };
        self.line(&format!(
            "  {} requests, {} failed: {}",
            outcome.requests,
            outcome.failed,
            self.paint(colour, text)
        ))?;
        for problem in &outcome.problems {
            self.line(&format!("  - {problem}"))?;
        }
        Ok(())
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}
