//! A connection to a pod: an idle one, or a new one, with fail-over to other pods until one takes it.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::Version;
use smallvec::SmallVec;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use whichpod_protocols::error::{ConnectFailure, Failure};
use whichpod_upstream::{Choice, EndpointId, NoEndpoint};

use crate::body::Link;
use crate::exchange::Exchange;
use crate::http2;
use crate::limits::{self, Full, Permit};
use crate::peer::Peer;
use crate::pending::{Room, make_room, room};
use crate::site::Site;
use crate::transport::Transport;
use crate::upstream_connection::UpstreamConnection;
use crate::worker::spawn;

/// All connects of one attempt together.
const ALL_CONNECTS: Duration = Duration::from_secs(5);
/// A second pod is tried when the first has not answered for this long.
const STAGGER: Duration = Duration::from_millis(250);
/// Keep-alive probes start after this silence, on all sockets.
pub const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Of pods that refused connections lately a request tries so many: where all of a thousand pods are down, to ask each of them
/// for each request would cost more than it could help.
const MOST_ASIDE: usize = 32;
/// Unacknowledged bytes end a connection to a pod: a node that vanished sends nothing.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// Pods that a request has already met.
#[derive(Default)]
pub struct Tried {
    /// They did not take a connection: never again for this request.
    refused: SmallVec<[EndpointId; 4]>,
    /// They took the request and failed: again only if there is no other.
    failed: SmallVec<[EndpointId; 4]>,
}

impl Tried {
    /// None was met yet.
    fn is_empty(&self) -> bool {
        self.refused.is_empty() && self.failed.is_empty()
    }

    /// The pod took the request and failed.
    pub fn failed(&mut self, endpoint: EndpointId) {
        self.failed.push(endpoint);
    }
}

/// A new connection to a pod, and who that is.
pub struct Opened {
    /// Our end.
    pub stream: Transport,
    /// The pod.
    pub peer: Peer,
}

/// What the request can be sent on now: over HTTP/1 a connection not idle for longer than `max_idle`.
///
/// # Errors
/// [`Failure::NoEndpoint`], [`Failure::DnsFailed`], or how the last connect failed.
pub async fn acquire(
    exchange: &mut Exchange,
    tried: &mut Tried,
    max_idle: Duration,
    version: Version,
) -> Result<Link, Failure> {
    // Most requests find a pod and a connection at once: what the others need is in boxes of its own.
    let choice = match tried.is_empty().then(|| exchange.site.upstream.choose_at_once(&[], exchange.hash)) {
        Some(Some(choice)) => choice.map_err(without_endpoint)?,
        _ => Box::pin(choose(exchange, tried, [])).await?,
    };
    exchange.chosen(&choice);
    if version == Version::HTTP_2 {
        let slot = match take_stream(exchange, &choice) {
            Some(slot) => slot,
            None => Box::pin(open_stream(exchange, tried, choice)).await?,
        };
        return Ok(Link::Http2(slot));
    }
    let connection = match take_connection(exchange, &choice, max_idle, choice.at) {
        Some(connection) => connection,
        None => Box::pin(open_connection(exchange, tried, choice, max_idle)).await?,
    };
    Ok(Link::Http1(connection))
}

fn take_stream(exchange: &Exchange, choice: &Choice) -> Option<http2::Slot> {
    exchange.worker.http2.borrow_mut().take((choice.endpoint.id(), exchange.owner()))
}

fn take_connection(
    exchange: &Exchange,
    choice: &Choice,
    max_idle: Duration,
    now: Instant,
) -> Option<Box<UpstreamConnection>> {
    exchange.worker.pool.borrow_mut().take(choice.endpoint.id(), exchange.owner(), max_idle, now)
}

/// A place on an HTTP/2 connection. There is one to each pod, and another at the pod's limit; while one request opens it,
/// the others wait.
async fn open_stream(
    exchange: &mut Exchange,
    tried: &mut Tried,
    mut choice: Choice,
) -> Result<http2::Slot, Failure> {
    let started = choice.at;
    loop {
        if let Some(slot) = take_stream(exchange, &choice) {
            return Ok(slot);
        }
        let key = (choice.endpoint.id(), exchange.owner());
        let opening = exchange.worker.http2.borrow().opening(key);
        if let Some(opening) = opening {
            if timeout_at(started + ALL_CONNECTS, opening.notified()).await.is_err() {
                exchange.connect_failed(&choice, ConnectFailure::Timeout.reason(), started);
                return Err(Failure::Connect(ConnectFailure::Timeout));
            }
            if !exchange.site.upstream.aside(&choice.endpoint) && !choice.endpoint.is_gone() {
                continue;
            }
        } else {
            let permit = match make_room(exchange) {
                Ok(permit) => permit,
                // One connection to each pod there may be, as with Envoy: else one pod's would starve the others for ever.
                Err(Full) if !exchange.worker.http2.borrow().has(key) => None,
                Err(Full) => return Err(Failure::Overflow),
            };
            let opening = http2::Opening::begin(&exchange.worker.http2, key);
            let opened = match connect(exchange, tried, choice, permit, take_stream).await? {
                Found::Idle(slot) => return Ok(slot),
                Found::New(opened) => opened,
            };
            let pod = Arc::clone(&opened.peer.endpoint);
            let limits = exchange.site.config.limits;
            if let Ok(slot) =
                http2::Connection::open(opened, exchange.owner(), limits, &exchange.worker).await
            {
                return Ok(slot);
            }
            drop(opening);
            tried.refused.push(pod.id());
        }
        choice = choose(exchange, tried, []).await?;
        exchange.chosen(&choice);
    }
}

async fn open_connection(
    exchange: &mut Exchange,
    tried: &mut Tried,
    choice: Choice,
    max_idle: Duration,
) -> Result<Box<UpstreamConnection>, Failure> {
    let idle =
        |exchange: &Exchange, choice: &Choice| take_connection(exchange, choice, max_idle, Instant::now());
    match room(exchange, &choice, idle).await? {
        Room::Idle(connection) => Ok(connection),
        Room::New(permit) => match connect(exchange, tried, choice, permit, idle).await? {
            Found::Idle(connection) => Ok(connection),
            Found::New(opened) => {
                let config = &exchange.site.config;
                let (limits, idle) = (config.limits, config.timeouts.upstream_idle);
                let worker = Rc::clone(&exchange.worker);
                let connection =
                    UpstreamConnection::open(opened, exchange.owner(), limits, idle, worker).await;
                connection.map(Box::new).map_err(|_| Failure::Connect(ConnectFailure::Other))
            }
        },
    }
}

/// A connection of its own to a pod. It may be used for days: where no further one is allowed, nobody waits.
///
/// # Errors
/// As [`acquire`].
pub async fn open(exchange: &mut Exchange) -> Result<Opened, Failure> {
    let tried = &mut Tried::default();
    let choice = choose(exchange, tried, []).await?;
    exchange.chosen(&choice);
    let permit = make_room(exchange).map_err(|_| Failure::Overflow)?;
    match connect(exchange, tried, choice, permit, |_, _| None::<Infallible>).await? {
        Found::Idle(never) => match never {},
        Found::New(opened) => Ok(opened),
    }
}

/// A pod that was not met yet, else one that was met and took the connection.
async fn choose(
    exchange: &Exchange,
    tried: &Tried,
    racing: impl IntoIterator<Item = EndpointId>,
) -> Result<Choice, Failure> {
    let mut avoid: SmallVec<[EndpointId; 8]> = SmallVec::from_slice(&tried.refused);
    avoid.extend(racing);
    let must_avoid = avoid.len();
    avoid.extend_from_slice(&tried.failed);
    let upstream = &exchange.site.upstream;
    let result = match upstream.choose_for(&avoid, exchange.hash).await {
        Err(NoEndpoint::AllTried) => upstream.choose_for(&avoid[..must_avoid], exchange.hash).await,
        other => other,
    };
    result.map_err(without_endpoint)
}

fn without_endpoint(none: NoEndpoint) -> Failure {
    match none {
        NoEndpoint::Empty => Failure::NoEndpoint,
        NoEndpoint::DnsFailed => Failure::DnsFailed,
        NoEndpoint::AllTried => Failure::Connect(ConnectFailure::Other),
    }
}

/// What came first: a connection that had become idle meanwhile, or a new one.
enum Found<C> {
    Idle(C),
    New(Opened),
}

/// Connects to `first`, to another pod at its failure or after [`STAGGER`] of silence, and so on.
async fn connect<C>(
    exchange: &mut Exchange,
    tried: &mut Tried,
    first: Choice,
    permit: Option<Permit>,
    idle: impl Fn(&Exchange, &Choice) -> Option<C>,
) -> Result<Found<C>, Failure> {
    let started = Instant::now();
    let limit = exchange.site.config.timeouts.connect;
    let introduction = exchange.introduction();
    let mut racing = FuturesUnordered::new();
    let mut in_flight = InFlight::new();
    let mut next_start = started + STAGGER;
    let mut more = true;
    let mut aside = usize::from(first.aside);
    let mut last = ConnectFailure::Timeout;
    in_flight.push((first.clone(), started));
    racing.push(dial(Arc::clone(&exchange.site), first, permit, limit, introduction.clone()));
    loop {
        let start_another = tokio::select! {
            biased;
            Some(dialled) = racing.next() => {
                in_flight.retain(|(choice, _)| choice.endpoint.id() != dialled.choice.endpoint.id());
                match finish(exchange, dialled) {
                    Ok(opened) => {
                        leave(exchange, racing, &in_flight, "connect_slow");
                        return Ok(Found::New(opened));
                    }
                    Err((endpoint, how)) => {
                        last = how;
                        tried.refused.push(endpoint);
                    }
                }
                true
            }
            () = sleep_until(next_start), if more => {
                // Whoever comes next need not wait for this pod as well.
                for (choice, _) in &in_flight {
                    exchange.site.upstream.connect_failed(&choice.endpoint);
                }
                true
            }
            () = sleep_until(started + ALL_CONNECTS) => {
                leave(exchange, racing, &in_flight, ConnectFailure::Timeout.reason());
                return Err(Failure::Connect(ConnectFailure::Timeout));
            }
        };
        if start_another && more {
            next_start = Instant::now() + STAGGER;
            match choose(exchange, tried, in_flight.iter().map(|(choice, _)| choice.endpoint.id())).await {
                Ok(choice) if choice.aside && aside == MOST_ASIDE => more = false,
                Ok(choice) => {
                    aside += usize::from(choice.aside);
                    if let Some(connection) = idle(exchange, &choice) {
                        exchange.chosen(&choice);
                        leave(exchange, racing, &in_flight, "connect_slow");
                        return Ok(Found::Idle(connection));
                    }
                    // Where no further connection is allowed, those under way must do.
                    if let Ok(permit) = limits::enter(exchange.site.limits.connections.as_ref()) {
                        exchange.chosen(&choice);
                        in_flight.push((choice.clone(), Instant::now()));
                        let (site, introduction) = (Arc::clone(&exchange.site), introduction.clone());
                        racing.push(dial(site, choice, permit, limit, introduction));
                    }
                }
                Err(_) => more = false,
            }
        }
        if racing.is_empty() {
            return Err(Failure::Connect(last));
        }
    }
}

/// The connects that are under way, and since when.
type InFlight = SmallVec<[(Choice, Instant); 2]>;

/// Connects that another one overtook: the line names them, and they go on, so that a silent pod is put aside.
fn leave(
    exchange: &mut Exchange,
    mut racing: FuturesUnordered<impl Future<Output = Dialled> + 'static>,
    in_flight: &InFlight,
    reason: &'static str,
) {
    if in_flight.is_empty() {
        return;
    }
    for (choice, since) in in_flight {
        exchange.connect_failed(choice, reason, *since);
    }
    let site = Arc::clone(&exchange.site);
    spawn(async move {
        while let Some(Dialled { choice, result, .. }) = racing.next().await {
            report(&site, &choice, result.map(drop).map_err(|refusal| refusal.how));
        }
    });
}

/// Tells discovery and the counters how a connect went.
fn report(site: &Site, choice: &Choice, result: Result<(), ConnectFailure>) {
    match result {
        Ok(()) => site.upstream.connected(&choice.endpoint),
        // Running out of descriptors or ports here says nothing about the pod.
        Err(ConnectFailure::Local) => {}
        Err(_) => {
            site.stats.connects_failed.fetch_add(1, Relaxed);
            choice.endpoint.counts().connects_failed.fetch_add(1, Relaxed);
            site.upstream.connect_failed(&choice.endpoint);
        }
    }
}

struct Dialled {
    choice: Choice,
    since: Instant,
    permit: Option<Permit>,
    result: Result<(Transport, Option<SocketAddr>), Refusal>,
}

/// Why a connection could not be made.
struct Refusal {
    how: ConnectFailure,
    /// What there is to say of it beyond that.
    more: Option<String>,
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self { how: ConnectFailure::from(&error), more: None }
    }
}

/// Connects to one pod; what the pod must know of the client goes first, then TLS.
async fn dial(
    site: Arc<Site>,
    choice: Choice,
    permit: Option<Permit>,
    limit: Duration,
    introduction: Option<Bytes>,
) -> Dialled {
    let since = Instant::now();
    site.stats.connects_total.fetch_add(1, Relaxed);
    choice.endpoint.counts().connects_total.fetch_add(1, Relaxed);
    let connecting = async {
        let mut stream = set_options(TcpStream::connect(choice.endpoint.address()).await?)?;
        let local = stream.local_addr().ok();
        if let Some(introduction) = introduction {
            stream.write_all(&introduction).await?;
        }
        let Some(tls) = &site.tls else { return Ok((Transport::Tcp(stream), local)) };
        let secured = tls.connect(stream).await;
        let secured = secured.map_err(|error| Refusal {
            how: ConnectFailure::Tls,
            more: Some(format!("TLS_error: {error}")),
        })?;
        Ok((secured, local))
    };
    let result = match timeout(limit, connecting).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
    };
    Dialled { choice, since, permit, result }
}

fn set_options(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(&stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEP_ALIVE).with_interval(KEEP_ALIVE / 3))?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    Ok(stream)
}

fn finish(exchange: &mut Exchange, dialled: Dialled) -> Result<Opened, (EndpointId, ConnectFailure)> {
    let Dialled { choice, since, permit, result } = dialled;
    match result {
        Ok((stream, local)) => {
            report(&exchange.site, &choice, Ok(()));
            Ok(Opened { stream, peer: Peer::new(&choice, local, permit) })
        }
        Err(Refusal { how, more }) => {
            report(&exchange.site, &choice, Err(how));
            exchange.connect_failed(&choice, how.reason(), since);
            if let Some(more) = more {
                exchange.record.transport_failure = Some(more.into());
            }
            Err((choice.endpoint.id(), how))
        }
    }
}
