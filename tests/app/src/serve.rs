//! The backend: answers with the name of its pod.
//!
//! Paths that do something else: `/headers` answers with the request's headers, `/status/503` with that status,
//! `/sleep/250` after so many milliseconds.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Body;

use crate::server::{pod, text};

/// Answers once the whole request is there.
pub(crate) async fn answer<B: Body>(request: Request<B>) -> Response<Full<Bytes>> {
    let path = request.uri().path().trim_start_matches('/').to_owned();
    let headers = request.headers().clone();
    let Ok(body) = request.into_body().collect().await else {
        return text(StatusCode::BAD_REQUEST, "the request's body did not come\n");
    };
    let received = body.to_bytes().len();
    let mut status = StatusCode::OK;
    let mut answer = format!("i am backend in {}\n", pod());
    match path.split_once('/').unwrap_or((&path, "")) {
        ("headers", _) => {
            answer = headers.iter().map(|(name, value)| format!("{name}: {value:?}\n")).collect();
        }
        ("status", code) => status = code.parse().unwrap_or(StatusCode::BAD_REQUEST),
        ("sleep", time) => tokio::time::sleep(Duration::from_millis(time.parse().unwrap_or(0))).await,
        _ => {}
    }
    let mut response = text(status, answer);
    response.headers_mut().insert("x-received-bytes", received.into());
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn asked(path: &str, body: &'static str) -> (StatusCode, String, usize) {
        let request = Request::post(path).header("x-a", "b").body(Full::new(Bytes::from(body))).unwrap();
        let response = answer(request).await;
        let received = response.headers()["x-received-bytes"].to_str().unwrap().parse().unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap(), received)
    }

    #[tokio::test(start_paused = true)]
    async fn the_answer_names_the_pod_and_the_path_scripts_it() {
        let (status, body, received) = asked("/test?a=b", "abc").await;
        assert_eq!((status, received), (StatusCode::OK, 3));
        assert!(body.starts_with("i am backend in ") && body.ends_with('\n'), "{body}");
        assert_eq!(asked("/status/503", "").await.0, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(asked("/headers", "").await.1, "x-a: \"b\"\n");
        let started = tokio::time::Instant::now();
        asked("/sleep/250", "").await;
        assert_eq!(started.elapsed(), Duration::from_millis(250));
    }
}
