//! HTTP/1 through the whole sidecar: a pod never sees two requests where there was one, and never a doubtful one.
//!
//! Client, sidecar and pod share one thread; between them are real sockets, because the sidecar serves nothing else.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::task::JoinSet;
use tokio::time::timeout;
use whichpod_access_log::{Destination, Log};
use whichpod_config::{Config, Outcome, load};
use whichpod_proxy::downstream::Downstream;
use whichpod_proxy::memory::Gauge;
use whichpod_proxy::site::Site;
use whichpod_proxy::worker::{Shared, Worker};
use whichpod_proxy::{connection, translate};
use whichpod_sidecar::log_format;
use whichpod_tests_sidecar::after_request;
use whichpod_upstream::{Discovery, hickory};

/// Whatever is sent, a connection is over in this time once the client has said all it has to say.
const PATIENCE: Duration = Duration::from_secs(20);

/// Every connection to the pod ends with its answer, so that each has one request, or the beginning of one.
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";

thread_local! {
    static RIG: Rig = Rig::new().expect("a sidecar");
}

/// Any bytes of a client.
pub fn http1(bytes: &[u8]) {
    RIG.with(|rig| rig.runtime.block_on(async { timeout(PATIENCE, rig.attack(bytes)).await }))
        .expect("it ends")
        .expect("sockets");
}

struct Rig {
    runtime: LocalRuntime,
    listener: TcpListener,
    pod: TcpListener,
    worker: Rc<Worker>,
}

impl Rig {
    fn new() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
        let (listener, pod) = runtime.block_on(async {
            let any = (Ipv4Addr::LOCALHOST, 0);
            io::Result::Ok((TcpListener::bind(any).await?, TcpListener::bind(any).await?))
        })?;
        let mut config = configuration(pod.local_addr()?);
        let mut format = log_format::compile(&config.access_log.format).expect("a format").format;
        let filter = log_format::filter(&config.access_log.filter, &mut format).expect("a filter");
        let resolver =
            hickory(Some(vec![(Ipv4Addr::LOCALHOST, 53).into()]), "/dev/null".into()).expect("a resolver");
        let discovery = Discovery::new(resolver, whichpod_upstream::Options::default());
        let settings = config.upstreams.remove(0);
        let upstream = discovery.add(translate::settings(&settings));
        let shared = Shared::new(
            vec![Arc::new(Site::new(settings, upstream, None))],
            format,
            filter,
            Gauge::default(),
        );
        let (log, _) = Log::open(Destination::Off).expect("no log");
        let worker = Rc::new(Worker::new(Arc::new(shared), log.worker()));
        Ok(Rig { runtime, listener, pod, worker })
    }

    /// One connection of a client that sends these bytes and then listens.
    async fn attack(&self, bytes: &[u8]) -> io::Result<()> {
        let mut client = TcpStream::connect(self.listener.local_addr()?).await?;
        let (stream, remote) = self.listener.accept().await?;
        let site = Arc::clone(&self.worker.shared.sites[0]);
        let downstream = Rc::new(Downstream::new(1, remote, stream.local_addr()?));
        let serving = connection::serve(Rc::clone(&self.worker), site, stream, downstream);
        let serving = tokio::task::spawn_local(serving);
        let mut pods = JoinSet::new();
        let heard = {
            let talking = talk(&mut client, bytes);
            tokio::pin!(talking);
            loop {
                tokio::select! {
                    heard = &mut talking => break heard,
                    accepted = self.pod.accept() => { pods.spawn_local(serve(accepted?.0)); }
                }
            }
        };
        // No port waits for stray packets: a run needs thousands a second.
        SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
        drop(client);
        serving.await.expect("the sidecar does not panic");
        while let Ok(accepted) = timeout(Duration::ZERO, self.pod.accept()).await {
            pods.spawn_local(serve(accepted?.0));
        }
        let mut complete = 0;
        while let Some(received) = pods.join_next().await {
            let received = received.expect("the pod does not panic");
            let text = || String::from_utf8_lossy(&received).into_owned();
            match after_request(&received) {
                // From the pod's answer on it is a tunnel.
                _ if received.starts_with(b"CONNECT ") => complete += 1,
                Ok(None) => {}
                Ok(Some([])) => complete += 1,
                Ok(Some(rest)) => panic!("{} bytes follow a request: {:?}", rest.len(), text()),
                Err(why) => panic!("{why}: {:?}", text()),
            }
        }
        let answers = heard.windows(7).filter(|window| *window == b" 200 OK").count();
        assert!(answers <= complete, "{answers} answers to {complete} requests");
        Ok(())
    }
}

/// Sends all and hears all; a reset ends both.
async fn talk(client: &mut TcpStream, bytes: &[u8]) -> Vec<u8> {
    let (mut from, mut to) = client.split();
    let mut heard = Vec::new();
    let send = async {
        let _ = to.write_all(bytes).await;
        let _ = to.shutdown().await;
    };
    let _ = tokio::join!(send, from.read_to_end(&mut heard));
    heard
}

/// A pod's connection: one answer after one request; all that was received.
async fn serve(mut stream: TcpStream) -> Vec<u8> {
    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    let mut received = Vec::new();
    let mut answered = false;
    while stream.read_buf(&mut received).await.is_ok_and(|count| count > 0) {
        if !answered && !matches!(after_request(&received), Ok(None)) {
            answered = true;
            if stream.write_all(ANSWER).await.is_err() {
                break;
            }
        }
    }
    received
}

fn configuration(pod: SocketAddr) -> Config {
    let document = json!({
        "upstreams": [{"name": "backend", "listen": "127.0.0.1:0", "target": pod.to_string(), "protocol": "http1"}],
        "access_log": {"path": "off"},
    });
    let environment = BTreeMap::from([("WHICHPOD_CONFIG".to_owned(), document.to_string())]);
    match load(["whichpod-sidecar".into()], &environment, &log_format::checks()) {
        Ok(Outcome::Run { config, .. }) => config,
        other => panic!("{other:?}"),
    }
}
