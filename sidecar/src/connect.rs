//! A connection to a pod: an idle one, or a new one, with fail-over to other pods until one takes it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use smallvec::SmallVec;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use whichpod_upstream::{Choice, EndpointId, NoEndpoint};

use crate::error::{ConnectFailure, Failure};
use crate::exchange::Exchange;
use crate::limits::{self, Permit};
use crate::pending::{Room, room};
use crate::site::Site;
use crate::upstream_connection::UpstreamConnection;
use crate::worker::spawn;

/// All connects of one attempt together.
const ALL_CONNECTS: Duration = Duration::from_secs(5);
/// A second pod is tried when the first has not answered for this long.
const STAGGER: Duration = Duration::from_millis(250);
/// Keep-alive probes start after this silence, on all sockets.
pub const KEEP_ALIVE: Duration = Duration::from_secs(30);
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
    /// The pod took the request and failed.
    pub fn failed(&mut self, endpoint: EndpointId) {
        self.failed.push(endpoint);
    }
}

/// A connection that the request can be sent on now, not idle for longer than `max_idle`.
///
/// # Errors
/// [`Failure::NoEndpoint`], [`Failure::DnsFailed`], or how the last connect failed.
pub async fn acquire(
    exchange: &mut Exchange,
    tried: &mut Tried,
    max_idle: Duration,
) -> Result<Box<UpstreamConnection>, Failure> {
    let choice = choose(exchange, tried, []).await?;
    exchange.chosen(&choice);
    if let Some(connection) = idle(exchange, &choice, max_idle) {
        return Ok(connection);
    }
    match room(exchange, &choice, max_idle).await? {
        Room::Idle(connection) => Ok(connection),
        Room::New(permit) => connect(exchange, tried, choice, permit, max_idle).await,
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
    result.map_err(|none| match none {
        NoEndpoint::Empty => Failure::NoEndpoint,
        NoEndpoint::DnsFailed => Failure::DnsFailed,
        NoEndpoint::AllTried => Failure::Connect(ConnectFailure::Other),
    })
}

fn idle(exchange: &Exchange, choice: &Choice, max_idle: Duration) -> Option<Box<UpstreamConnection>> {
    exchange.worker.pool.borrow_mut().take(choice.endpoint.id(), max_idle)
}

/// Connects to `first`, to another pod at its failure or after [`STAGGER`] of silence, and so on.
async fn connect(
    exchange: &mut Exchange,
    tried: &mut Tried,
    first: Choice,
    permit: Option<Permit>,
    max_idle: Duration,
) -> Result<Box<UpstreamConnection>, Failure> {
    let started = Instant::now();
    let limit = exchange.site.config.timeouts.connect;
    let mut racing = FuturesUnordered::new();
    let mut in_flight = InFlight::new();
    let mut next_start = started + STAGGER;
    let mut more = true;
    let mut last = ConnectFailure::Timeout;
    in_flight.push((first.clone(), started));
    racing.push(dial(Arc::clone(&exchange.site), first, permit, limit));
    loop {
        let start_another = tokio::select! {
            biased;
            Some(dialled) = racing.next() => {
                in_flight.retain(|(choice, _)| choice.endpoint.id() != dialled.choice.endpoint.id());
                match finish(exchange, dialled).await {
                    Ok(connection) => {
                        leave(exchange, racing, &in_flight, "connect_slow");
                        return Ok(connection);
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
                Ok(choice) => {
                    if let Some(connection) = idle(exchange, &choice, max_idle) {
                        exchange.chosen(&choice);
                        leave(exchange, racing, &in_flight, "connect_slow");
                        return Ok(connection);
                    }
                    // Where no further connection is allowed, those under way must do.
                    if let Ok(permit) = limits::enter(exchange.site.limits.connections.as_ref()) {
                        exchange.chosen(&choice);
                        in_flight.push((choice.clone(), Instant::now()));
                        racing.push(dial(Arc::clone(&exchange.site), choice, permit, limit));
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
            report(&site, &choice, result.map(drop).map_err(|error| ConnectFailure::from(&error)));
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
    result: io::Result<TcpStream>,
}

async fn dial(site: Arc<Site>, choice: Choice, permit: Option<Permit>, limit: Duration) -> Dialled {
    let since = Instant::now();
    site.stats.connects_total.fetch_add(1, Relaxed);
    choice.endpoint.counts().connects_total.fetch_add(1, Relaxed);
    let result = match timeout(limit, TcpStream::connect(choice.endpoint.address())).await {
        Ok(result) => result.and_then(set_options),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
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

async fn finish(
    exchange: &mut Exchange,
    dialled: Dialled,
) -> Result<Box<UpstreamConnection>, (EndpointId, ConnectFailure)> {
    let Dialled { choice, since, permit, result } = dialled;
    let how = match result {
        Ok(stream) => {
            report(&exchange.site, &choice, Ok(()));
            let config = &exchange.site.config;
            match UpstreamConnection::open(stream, &choice, config.limits, config.timeouts.upstream_idle)
                .await
            {
                Ok(mut connection) => {
                    connection.permit = permit;
                    return Ok(Box::new(connection));
                }
                Err(_) => ConnectFailure::Other,
            }
        }
        Err(error) => ConnectFailure::from(&error),
    };
    report(&exchange.site, &choice, Err(how));
    exchange.connect_failed(&choice, how.reason(), since);
    Err((choice.endpoint.id(), how))
}
