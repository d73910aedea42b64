//! Waiting for a condition, never for a time.

use anyhow::{Result, bail};
use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_millis(50);

/// Probes until the answer is `Some`, an error, or `limit` has passed; `what` completes "waiting for …" in the error.
pub fn wait_for<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = probe()? {
            return Ok(found);
        }
        if start.elapsed() > limit {
            bail!("gave up waiting for {what} after {} s", limit.as_secs());
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "between two probes of the condition; no runtime here"
        )]
        std::thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_answer_ends_the_wait() {
        let mut probes = 0;
        let answer = wait_for("the third probe", Duration::from_secs(60), || {
            probes += 1;
            Ok((probes == 3).then_some("here"))
        });
        assert_eq!((answer.unwrap(), probes), ("here", 3));
    }

    #[test]
    fn giving_up_says_on_what() {
        let answer: Result<()> = wait_for("a sign", Duration::ZERO, || Ok(None));
        assert_eq!(answer.unwrap_err().to_string(), "gave up waiting for a sign after 0 s");
    }
}
