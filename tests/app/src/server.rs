//! A server that ends as an app in a cluster should.

use std::convert::Infallible;
use std::io::Write;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::{grpc, relay, serve};

/// For requests that still run when SIGTERM comes.
const DRAIN: Duration = Duration::from_secs(20);

/// What an app does.
pub(crate) enum App {
    Serve,
    Relay(relay::Relay),
    Grpc,
}

/// Answers until SIGTERM.
pub(crate) async fn run(port: u16, app: App) -> Result<()> {
    let mut told_to_end = signal(SignalKind::terminate())?;
    let (end, ending) = watch::channel(false);
    let listener =
        TcpListener::bind(("0.0.0.0", port)).await.with_context(|| format!("cannot listen on {port}"))?;
    say(&format!("{} listens on port {port}", pod()));
    let app = Rc::new(app);
    loop {
        tokio::select! {
            connection = listener.accept() => {
                // A connection that breaks concerns nobody else.
                let Ok((connection, _)) = connection else { continue };
                drop(tokio::task::spawn_local(converse(connection, Rc::clone(&app), ending.clone())));
            }
            _ = told_to_end.recv() => break,
        }
    }
    drop((listener, ending));
    say(&format!("{} was told to end", pod()));
    end.send_replace(true);
    // Every connection holds a receiver.
    let _ = tokio::time::timeout(DRAIN, end.closed()).await;
    say(&format!("{} has ended", pod()));
    Ok(())
}

/// Answers the requests of one connection, until it is closed or the app is to end.
async fn converse(connection: TcpStream, app: Rc<App>, ending: watch::Receiver<bool>) {
    let Ok(called) = connection.local_addr() else { return };
    let speaks_grpc = matches!(*app, App::Grpc);
    let answer = |request: Request<Incoming>| {
        let app = Rc::clone(&app);
        async move {
            let line = describe(&request);
            let response = match &*app {
                App::Serve => serve::answer(request).await.map(BodyExt::boxed_unsync),
                App::Relay(relay) => relay.answer(request).await.map(BodyExt::boxed_unsync),
                App::Grpc => grpc::answer(request).await,
            };
            say(&format!("{} {line} {called}", pod()));
            Ok::<_, Infallible>(response)
        }
    };
    let (connection, answer) = (TokioIo::new(connection), service_fn(answer));
    if speaks_grpc {
        let conversation = http2::Builder::new(grpc::Local).serve_connection(connection, answer);
        return to_its_end(pin!(conversation), ending, http2::Connection::graceful_shutdown).await;
    }
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(None);
    let conversation = server.serve_connection(connection, answer);
    to_its_end(pin!(conversation), ending, http1::Connection::graceful_shutdown).await;
}

async fn to_its_end<C: Future>(
    mut conversation: Pin<&mut C>,
    mut ending: watch::Receiver<bool>,
    end: impl FnOnce(Pin<&mut C>),
) {
    tokio::select! {
        _ = conversation.as_mut() => return,
        _ = ending.wait_for(|ending| *ending) => end(conversation.as_mut()),
    }
    let _ = conversation.await;
}

fn describe<B>(request: &Request<B>) -> String {
    let id = request.headers().get("x-request-id").and_then(|id| id.to_str().ok()).unwrap_or("-");
    format!("{} {} {:?} {id}", request.method(), request.uri(), request.version())
}

pub(crate) fn text(status: http::StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
}

#[expect(clippy::disallowed_methods, reason = "the kubelet sets it to the pod's name")]
pub(crate) fn pod() -> String {
    std::env::var("HOSTNAME").unwrap_or_else(|_| "nowhere".to_owned())
}

pub(crate) fn say(line: &str) {
    // Whoever reads the log may have gone.
    let _ = writeln!(std::io::stdout(), "{line}");
}
