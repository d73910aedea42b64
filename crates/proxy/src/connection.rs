//! A client's connection: finds out what is spoken on it, and hands it to whoever speaks that.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use whichpod_config::Protocol;
use whichpod_protocols::detect::{Verdict, detect, is_http_response, taken_for};
use whichpod_protocols::error::{ConnectFailure, Failure};

use crate::connect;
use crate::downstream::Downstream;
use crate::exchange::Exchange;
use crate::http1;
use crate::http2;
use crate::io::DownstreamIo;
use crate::site::Site;
use crate::tcp::{self, Begun};
use crate::worker::Worker;

/// A client that has said nothing for this long may wait for the server to speak first.
const SILENCE: Duration = Duration::from_millis(250);
/// So much of a greeting is read to see whether it is one.
const GREETING: usize = 512;

/// Serves one connection until either side ends it.
pub async fn serve(worker: Rc<Worker>, site: Arc<Site>, stream: TcpStream, downstream: Rc<Downstream>) {
    let mut io = DownstreamIo::new(stream, Rc::clone(&downstream), Arc::clone(&site), Rc::clone(&worker));
    let begin = || Exchange::begin_connection(Rc::clone(&worker), Arc::clone(&site), Rc::clone(&downstream));
    let spoken = match site.config.protocol {
        // The client may speak either version, whichever the pods speak.
        Protocol::Http1 | Protocol::H2c | Protocol::Grpc => match first_word(&mut io).await {
            Some(Verdict::Tcp | Verdict::Undecided) => Spoken::Http1,
            said => said.into(),
        },
        Protocol::Tcp => Spoken::Tcp(None),
        Protocol::Auto => find_out(&mut io, begin).await,
    };
    match spoken {
        Spoken::Nothing => {}
        Spoken::Http1 => serve_http1(worker, site, io, downstream).await,
        Spoken::Http2 => Box::pin(http2::serve(worker, site, io, downstream)).await,
        Spoken::Tcp(begun) => {
            let begun = begun.unwrap_or_else(|| Begun::new(begin()));
            Box::pin(tcp::serve(begun, io)).await;
        }
    }
}

/// Serves requests; while the client is silent for long, nothing but its socket is kept.
async fn serve_http1(worker: Rc<Worker>, site: Arc<Site>, io: DownstreamIo, downstream: Rc<Downstream>) {
    let mut awake = Some(io);
    while let Some(io) = awake {
        // In a box of its own, which is given back meanwhile.
        let serving = http1::serve(Rc::clone(&worker), Arc::clone(&site), io, Rc::clone(&downstream));
        awake = Box::pin(serving).await;
        if let Some(resting) = &mut awake
            && resting.looked_at().is_empty()
            && !poll_fn(|cx| resting.poll_look(cx)).await.is_ok_and(|count| count > 0)
        {
            return;
        }
    }
}

/// What is spoken on a connection.
enum Spoken {
    /// Nothing: the client has left.
    Nothing,
    Http1,
    Http2,
    /// And what has been done for it already.
    Tcp(Option<Begun>),
}

impl From<Option<Verdict>> for Spoken {
    fn from(said: Option<Verdict>) -> Self {
        match said {
            None => Self::Nothing,
            Some(Verdict::Http1) => Self::Http1,
            Some(Verdict::Http2) => Self::Http2,
            Some(Verdict::Tcp | Verdict::Undecided) => Self::Tcp(None),
        }
    }
}

/// Waits for the client's first bytes; when it stays silent, for those of a pod, too.
async fn find_out(io: &mut DownstreamIo, begin: impl Fn() -> Box<Exchange>) -> Spoken {
    match timeout(SILENCE, first_word(io)).await {
        Ok(said) => said.into(),
        Err(_) if !io.looked_at().is_empty() => first_word(io).await.into(),
        // In a box of its own, because most connections never come to this.
        Err(_) => Box::pin(who_speaks_first(io, begin())).await,
    }
}

/// What the client's first bytes say, or what it has to be taken for when it stops; `None` if it leaves without a word.
async fn first_word(io: &mut DownstreamIo) -> Option<Verdict> {
    loop {
        let said = io.looked_at();
        let verdict = detect(said);
        if verdict != Verdict::Undecided {
            return Some(verdict);
        }
        let waits = said.is_empty() || taken_for(said) != Verdict::Tcp;
        let more = poll_fn(|cx| io.poll_look(cx));
        let more =
            if waits { more.await.ok() } else { timeout(SILENCE, more).await.ok().and_then(Result::ok) };
        if more.is_none_or(|count| count == 0) {
            let said = io.looked_at();
            return (!said.is_empty()).then(|| taken_for(said));
        }
    }
}

/// Connects to a pod for a client that says nothing, and goes with whoever speaks first.
async fn who_speaks_first(io: &mut DownstreamIo, mut exchange: Box<Exchange>) -> Spoken {
    let opened = {
        let mut opening = pin!(connect::open(&mut exchange));
        tokio::select! {
            biased;
            said = first_word(io) => match said {
                Some(Verdict::Tcp) => opening.await,
                other => return other.into(),
            },
            opened = &mut opening => opened,
        }
    };
    let mut opened = match opened {
        Ok(opened) => opened,
        // A pod that takes connections only to end them has no greeting.
        Err(Failure::Connect(ConnectFailure::Other)) => return first_word(io).await.into(),
        // As without us: a server that cannot be reached does not let its clients wait for a greeting.
        Err(failure) => return Spoken::Tcp(Some(Begun::failed(exchange, failure))),
    };
    let mut greeting = Vec::with_capacity(GREETING);
    let said = tokio::select! {
        biased;
        said = first_word(io) => said,
        greeted = opened.stream.read_buf(&mut greeting) => {
            if greeted.is_ok() && !is_http_response(&greeting) {
                return Spoken::Tcp(Some(Begun::connected(exchange, opened, greeting)));
            }
            drop(opened);
            return first_word(io).await.into();
        }
    };
    match said {
        Some(Verdict::Tcp) => Spoken::Tcp(Some(Begun::connected(exchange, opened, greeting))),
        other => other.into(),
    }
}
