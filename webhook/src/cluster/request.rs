//! One request to the API server: with a deadline, and with an error that says what it was about and what to do.

use std::future::Future;
use std::time::Duration;

use kube::core::Status;

/// A connection that has died silently must not stall whoever waits for an answer on it.
const DEADLINE: Duration = Duration::from_secs(10);

/// A request that failed.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {reason}")]
pub struct Failed {
    /// What was asked for.
    pub what: String,
    /// Why there is no answer.
    pub reason: Reason,
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum Reason {
    /// RBAC, a quota or a policy says no.
    #[error("{0}; if a right is missing, compare the service account's roles with the chart's")]
    Forbidden(String),
    /// The API server finds fault with the object.
    #[error("{0}")]
    Invalid(String),
    /// The API server says something else.
    #[error("the API server answered {code}: {message}")]
    Refused {
        /// The HTTP status.
        code: u16,
        /// The API server's words.
        message: String,
    },
    /// The object has changed since it was read.
    #[error("somebody else has changed it at the same time")]
    Overtaken,
    /// It could not be asked.
    #[error("cannot ask the API server: {0}")]
    Unreachable(String),
    /// It did not answer in time.
    #[error("the API server did not answer within {} s", DEADLINE.as_secs())]
    Late,
}

/// Waits for the answer, ten seconds at most.
///
/// # Errors
/// With what the request was about.
pub async fn get<T>(
    what: impl Fn() -> String,
    answer: impl Future<Output = kube::Result<T>>,
) -> Result<T, Failed> {
    let reason = match tokio::time::timeout(DEADLINE, answer).await {
        Ok(Ok(answer)) => return Ok(answer),
        Ok(Err(error)) => reason(error),
        Err(_) => Reason::Late,
    };
    Err(Failed { what: what(), reason })
}

/// The same for a write with a precondition: `None` if somebody else has changed, made or removed the object meanwhile.
///
/// # Errors
/// With what the request was about.
pub async fn put<T>(
    what: impl Fn() -> String,
    answer: impl Future<Output = kube::Result<T>>,
) -> Result<Option<T>, Failed> {
    let answer = async {
        match answer.await {
            Err(kube::Error::Api(status)) if is_overtaken(&status) => Ok(None),
            other => other.map(Some),
        }
    };
    get(what, answer).await
}

fn is_overtaken(status: &Status) -> bool {
    status.is_conflict() || status.is_already_exists() || status.is_not_found()
}

fn reason(error: kube::Error) -> Reason {
    match error {
        kube::Error::Api(status) if status.is_forbidden() => Reason::Forbidden(status.message),
        kube::Error::Api(status) if status.is_invalid() => Reason::Invalid(status.message),
        kube::Error::Api(status) => Reason::Refused { code: status.code, message: status.message },
        other => Reason::Unreachable(with_sources(&other)),
    }
}

/// An error with what caused it, each once: the cause of a failed connection is three levels down.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: u16, reason: &str) -> kube::Error {
        kube::Error::Api(Status::failure("no", reason).with_code(code).boxed())
    }

    #[tokio::test]
    async fn whoever_was_overtaken_is_told_so_and_may_look_again() {
        for (code, reason) in [(409, "Conflict"), (409, "AlreadyExists"), (404, "NotFound")] {
            let written = put(|| "it".to_owned(), async { Err::<(), _>(refused(code, reason)) }).await;
            assert!(matches!(written, Ok(None)), "{reason}");
        }
        let error =
            put(|| "it".to_owned(), async { Err::<(), _>(refused(403, "Forbidden")) }).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "it: no; if a right is missing, compare the service account's roles with the chart's"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_api_server_stalls_nobody() {
        let error =
            get(|| "Secret x".to_owned(), std::future::pending::<kube::Result<()>>()).await.unwrap_err();
        assert_eq!(error.to_string(), "Secret x: the API server did not answer within 10 s");
    }
}
