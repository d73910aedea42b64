//! What the backend answers to which path.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, TRAILER};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use serde_json::{Map, Value};

use super::State;

type Body = UnsyncBoxBody<Bytes, hyper::Error>;

const POD: HeaderName = HeaderName::from_static("x-pod");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRAILER_NAME: HeaderName = HeaderName::from_static("x-trailer");

const ALPHABET: &[u8; 26] = b"abcdefghijklmnopqrstuvwxyz";

/// Byte `index` of what `/bytes/N` answers: the alphabet, over and over.
pub fn byte_at(index: u64) -> u8 {
    ALPHABET[(index % 26) as usize]
}

/// Answers one request.
///
/// # Errors
/// When the request's body cannot be read to its end; the connection is then of no use.
pub(super) async fn answer(
    state: Arc<State>,
    request: Request<Incoming>,
) -> Result<Response<Body>, hyper::Error> {
    state.count(request.headers().get(REQUEST_ID));
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    let mut response = if path == "/echo" {
        // Not collected first: the answer begins while the request still comes.
        Response::new(body.boxed_unsync())
    } else {
        body.collect().await?;
        match route(path) {
            Ok(Route::Name(status, delay)) => {
                tokio::time::sleep(delay).await;
                let mut response = text(identity(&state));
                *response.status_mut() = status;
                response
            }
            Ok(Route::Held) => {
                // Fails only if the sender is gone, and this state has it.
                let _ = state.released.subscribe().wait_for(|released| *released).await;
                text(identity(&state))
            }
            Ok(Route::Headers) => json(&head.headers),
            Ok(Route::Bytes(count)) => counted(count),
            Ok(Route::Chunks(count)) => chunks(count),
            Ok(Route::Trailers) => trailers(&state),
            Err(problem) => {
                let mut response = text(problem);
                *response.status_mut() = StatusCode::BAD_REQUEST;
                response
            }
        }
    };
    response.headers_mut().insert(POD, state.name.clone());
    Ok(response)
}

#[derive(Debug, PartialEq, Eq)]
enum Route {
    Name(StatusCode, Duration),
    Held,
    Headers,
    Bytes(u64),
    Chunks(u64),
    Trailers,
}

fn route(path: &str) -> Result<Route, String> {
    let mut segments = path.split('/').skip(1);
    let name = |status| Route::Name(status, Duration::ZERO);
    match (segments.next(), segments.next(), segments.next()) {
        (Some("held"), None, None) => Ok(Route::Held),
        (Some("headers"), None, None) => Ok(Route::Headers),
        (Some("trailers"), None, None) => Ok(Route::Trailers),
        (Some("bytes"), Some(count), None) => Ok(Route::Bytes(number(path, count)?)),
        (Some("chunks"), Some(count), None) => Ok(Route::Chunks(number(path, count)?)),
        (Some("delay"), Some(ms), None) => {
            Ok(Route::Name(StatusCode::OK, Duration::from_millis(number(path, ms)?)))
        }
        (Some("status"), Some(status), None) => match status.parse().map(StatusCode::from_u16) {
            Ok(Ok(status)) if !status.is_informational() => Ok(name(status)),
            _ => Err(format!("{path}: {status:?} is not a final status; use one of 200 to 999\n")),
        },
        _ => Ok(name(StatusCode::OK)),
    }
}

fn number(path: &str, text: &str) -> Result<u64, String> {
    text.parse().map_err(|error| format!("{path}: {text:?} is not a number ({error}); use a whole number\n"))
}

fn identity(state: &State) -> String {
    format!("i am backend in {}\n", state.name())
}

fn text(text: String) -> Response<Body> {
    typed("text/plain", Full::from(text).map_err(never).boxed_unsync())
}

/// Each name with the list of its values, in the order in which the names came.
fn json(headers: &HeaderMap) -> Response<Body> {
    let value = |value: &HeaderValue| Value::from(String::from_utf8_lossy(value.as_bytes()));
    let values = |name: &HeaderName| headers.get_all(name).iter().map(value).collect::<Value>();
    let all: Map<String, Value> = headers.keys().map(|name| (name.to_string(), values(name))).collect();
    typed("application/json", Full::from(Value::Object(all).to_string()).map_err(never).boxed_unsync())
}

fn counted(count: u64) -> Response<Body> {
    // A multiple of the alphabet's length, so that each piece begins where the one before ended.
    const PIECE: usize = 26 * 2048;
    let whole = Bytes::from(ALPHABET.repeat(PIECE / 26));
    let pieces = (0..count.div_ceil(PIECE as u64)).map(move |index| {
        let left = count - index * PIECE as u64;
        usize::try_from(left).map_or(whole.clone(), |left| whole.slice(..left.min(PIECE)))
    });
    let mut response = streamed(pieces.map(Frame::data));
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(count));
    response
}

fn chunks(count: u64) -> Response<Body> {
    streamed((0..count).map(|index| Frame::data(Bytes::from(format!("chunk {index}\n")))))
}

fn trailers(state: &State) -> Response<Body> {
    let trailers = HeaderMap::from_iter([(TRAILER_NAME, state.name.clone())]);
    let frames = [Frame::data(Bytes::from(identity(state))), Frame::trailers(trailers)];
    let mut response = streamed(frames.into_iter());
    response.headers_mut().insert(TRAILER, HeaderValue::from_name(TRAILER_NAME));
    response
}

fn streamed(frames: impl Iterator<Item = Frame<Bytes>> + Send + 'static) -> Response<Body> {
    typed("text/plain", StreamBody::new(stream::iter(frames.map(Ok))).boxed_unsync())
}

fn typed(content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn never(never: Infallible) -> hyper::Error {
    match never {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_where_the_table_says_and_wrong_numbers_are_named() {
        let name =
            |status, ms| Ok(Route::Name(StatusCode::from_u16(status).unwrap(), Duration::from_millis(ms)));
        assert_eq!(route("/"), name(200, 0));
        assert_eq!(route("/test"), name(200, 0));
        assert_eq!(route("/status/503"), name(503, 0));
        assert_eq!(route("/delay/20"), name(200, 20));
        assert_eq!(route("/held"), Ok(Route::Held));
        assert_eq!(route("/bytes/0"), Ok(Route::Bytes(0)));
        assert_eq!(route("/chunks/3"), Ok(Route::Chunks(3)));
        assert_eq!(route("/bytes/1/2"), name(200, 0));
        for wrong in ["/bytes/-1", "/chunks/", "/delay/soon", "/status/101", "/status/99", "/status/ok"] {
            assert!(route(wrong).unwrap_err().starts_with(wrong), "{wrong}");
        }
    }
}
