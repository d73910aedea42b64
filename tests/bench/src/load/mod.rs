//! Load: our own for HTTP/1.1 and TCP, `h2load` for HTTP/2.

pub mod answer;
pub mod driver;
pub mod echo;
pub mod h2load;

use std::time::Duration;

use crate::statistics::quantile;

/// How requests are offered.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// Each connection sends the next request when it has the answer: as fast as it goes.
    Closed,
    /// So many requests a second, whatever the answers do; late answers count from when their request was due.
    Open(f64),
}

/// When a load ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Until {
    /// After this time.
    Time(Duration),
    /// After so many requests.
    Requests(usize),
}

/// What has come of a load.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Right answers.
    pub ok: usize,
    /// Wrong answers, and requests without one.
    pub failed: usize,
    /// Why the first of them failed.
    pub reason: Option<String>,
    /// From the first request to the last answer.
    pub elapsed: Duration,
    /// Of every right answer, in microseconds, sorted.
    pub latencies: Vec<f64>,
}

impl Outcome {
    /// Right answers a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.ok as f64 / self.elapsed.as_secs_f64()
    }

    /// Half, 99 % and 99.9 % of the answers came within so many microseconds.
    #[must_use]
    pub fn percentiles(&self) -> [f64; 3] {
        [0.5, 0.99, 0.999].map(|share| quantile(&self.latencies, share).unwrap_or(f64::NAN))
    }
}
