//! What lasts long, with the clock in the test's hand: one worker in this runtime, on real sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed step is a failed test")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::oneshot;
use tokio::time::advance;
use whichpod_access_log::{Destination, Filter, Log, Writer};
use whichpod_config::{Outcome, load};
use whichpod_proxy::connection;
use whichpod_proxy::downstream::Downstream;
use whichpod_proxy::site::Site;
use whichpod_proxy::translate::settings;
use whichpod_proxy::worker::{Shared, Worker, spawn};
use whichpod_sidecar::log_format;
use whichpod_upstream::{Discovery, Options, hickory};

const ANY: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);

/// A test that takes longer, by the clock on the wall, hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a test whose clock moves only when the test moves it. tokio would move it to the next timer whenever a task waits
/// for a socket, how often depends on the kernel, but leaves it alone while a blocking task runs.
fn paused<F: Future>(test: impl FnOnce() -> F) -> F::Output {
    let mut builder = Builder::new_current_thread();
    let runtime = builder.enable_all().start_paused(true).build_local(LocalOptions::default()).unwrap();
    let (end, ended) = mpsc::channel::<()>();
    runtime.block_on(async move {
        let _end = end;
        let hangs = tokio::task::spawn_blocking(move || ended.recv_timeout(PATIENCE));
        tokio::select! {
            output = test() => output,
            _ = hangs => panic!("not within {PATIENCE:?}"),
        }
    })
}

/// Has everybody do what can be done now.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

/// Lets so much time pass, in steps in which everybody does what is due.
async fn pass_time(time: Duration) {
    const STEP: Duration = Duration::from_millis(250);
    let mut left = time;
    while !left.is_zero() {
        let step = left.min(STEP);
        advance(step).await;
        settle().await;
        left -= step;
    }
}

/// A worker that serves one connection, both ends of it, and the log.
struct Served {
    client: TcpStream,
    pods: TcpListener,
    worker: Rc<Worker>,
    log: RefCell<Option<Writer>>,
    path: PathBuf,
    _folder: TempDir,
}

impl Served {
    async fn new(protocol: &str) -> Self {
        let pods = TcpListener::bind(ANY).await.unwrap();
        let address = pods.local_addr().unwrap();
        let upstream = json!({"name": "backend", "listen": "127.0.0.1:0", "target": address.to_string(), "protocol": protocol});
        let document = json!({"upstreams": [upstream]}).to_string();
        let environment = BTreeMap::from([("WHICHPOD_CONFIG".to_owned(), document)]);
        let loaded = load(std::iter::empty::<OsString>(), &environment, &log_format::checks());
        let Ok(Outcome::Run { config, .. }) = loaded else { panic!("{loaded:?}") };
        let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
        let resolver = hickory(Some(vec![nobody]), "/dev/null".into()).unwrap();
        let discovery = Discovery::new(resolver, Options::default());
        let settings = settings(&config.upstreams[0]);
        let site = Arc::new(Site::new(config.upstreams[0].clone(), discovery.add(settings), None));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let (log, writer) = Log::open(Destination::File(path.clone())).unwrap();
        let format = log_format::compile("json").unwrap().format;
        let shared =
            Arc::new(Shared::new(vec![Arc::clone(&site)], format, Filter::default(), Default::default()));
        let worker = Rc::new(Worker::new(shared, log.worker()));

        let listener = TcpListener::bind(ANY).await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, remote) = listener.accept().await.unwrap();
        let downstream = Rc::new(Downstream::new(1, remote, stream.local_addr().unwrap()));
        let serving = Rc::clone(&worker);
        let watched = worker.watch(Rc::clone(&downstream), Arc::clone(&site));
        spawn(async move {
            connection::serve(serving, site, stream, downstream).await;
            drop(watched);
        });
        Self { client, pods, worker, log: RefCell::new(Some(writer)), path, _folder: folder }
    }

    /// Has the worker look after its connections, as it does twice a second.
    fn sweep(&self) {
        let worker = Rc::clone(&self.worker);
        spawn(async move { worker.sweep().await });
    }

    async fn pod(&self) -> TcpStream {
        self.pods.accept().await.unwrap().0
    }

    /// All lines so far; the log is closed by that.
    fn lines(&self) -> Vec<Value> {
        assert!(!self.worker.flush_log());
        self.log.take().unwrap().shutdown(Duration::from_secs(10));
        let text = std::fs::read_to_string(&self.path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

async fn pass(from: &mut TcpStream, to: &mut TcpStream, bytes: &[u8]) {
    from.write_all(bytes).await.unwrap();
    let mut passed = vec![0; bytes.len()];
    to.read_exact(&mut passed).await.unwrap();
    assert_eq!(passed, bytes);
}

async fn is_over(mut stream: TcpStream) {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
}

#[test]
fn a_databases_pod_is_known_while_it_is_used() {
    paused(|| async {
        let mut served = Served::new("tcp").await;
        let mut pod = served.pod().await;
        pass(&mut served.client, &mut pod, b"hello").await;
        advance(Duration::from_millis(9_900)).await;
        pass(&mut pod, &mut served.client, b"hi").await;
        for _ in 0..3 {
            advance(Duration::from_secs(10)).await;
            pass(&mut served.client, &mut pod, b"x").await;
        }
        let address = pod.local_addr().unwrap().to_string();
        served.client.shutdown().await.unwrap();
        is_over(pod).await;
        let mut rest = Vec::new();
        served.client.read_to_end(&mut rest).await.unwrap();
        tokio::task::yield_now().await;
        let lines = served.lines();
        let [open, end] = &lines[..] else {
            panic!("one line while it is open, and one at its end: {lines:#?}")
        };
        assert_eq!((&open["open"], &end["open"]), (&json!(true), &json!(false)));
        for line in &lines {
            assert_eq!(line["upstream_host"], address);
            assert_eq!(line["connection_id"], 1);
        }
        assert_eq!(
            (&open["attempts"][0]["reason"], &end["attempts"][0]["reason"]),
            (&json!("open"), &json!("ok"))
        );
        assert!((10_000..20_000).contains(&open["duration_ms"].as_u64().unwrap()), "{open}");
        assert!(end["duration_ms"].as_u64().unwrap() >= 39_900, "{end}");
        assert_eq!((&end["bytes_received"], &end["bytes_sent"]), (&json!(8), &json!(2)));
    });
}

#[test]
fn a_short_connection_has_one_line() {
    paused(|| async {
        let mut served = Served::new("tcp").await;
        let mut pod = served.pod().await;
        pass(&mut served.client, &mut pod, b"hello").await;
        advance(Duration::from_secs(9)).await;
        served.client.shutdown().await.unwrap();
        is_over(pod).await;
        let mut rest = Vec::new();
        served.client.read_to_end(&mut rest).await.unwrap();
        tokio::task::yield_now().await;
        assert_eq!(served.lines().len(), 1);
    });
}

#[test]
fn a_tunnel_that_lasts_has_a_line_while_it_is_open() {
    paused(|| async {
        let mut served = Served::new("auto").await;
        let ask = b"GET /chat HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";
        served.client.write_all(ask).await.unwrap();
        let mut pod = served.pod().await;
        let mut received = Vec::new();
        while !received.ends_with(b"\r\n\r\n") {
            pod.read_buf(&mut received).await.unwrap();
        }
        let switch = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n";
        pod.write_all(switch).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            served.client.read_buf(&mut answer).await.unwrap();
        }
        advance(Duration::from_secs(11)).await;
        pass(&mut pod, &mut served.client, b"hi").await;
        served.client.shutdown().await.unwrap();
        is_over(pod).await;
        let mut rest = Vec::new();
        served.client.read_to_end(&mut rest).await.unwrap();
        tokio::task::yield_now().await;
        let lines = served.lines();
        let seen: Vec<_> = lines.iter().map(|line| (&line["open"], &line["status"], &line["path"])).collect();
        let (status, path) = (json!(101), json!("/chat"));
        assert_eq!(seen, [(&json!(true), &status, &path), (&json!(false), &status, &path)]);
    });
}

#[test]
fn a_client_that_says_nothing_has_a_server_asked_after_a_quarter_of_a_second_and_not_before() {
    paused(|| async {
        let served = Served::new("auto").await;
        settle().await;
        advance(Duration::from_millis(245)).await;
        tokio::select! {
            _ = served.pod() => panic!("a server is asked too early"),
            () = settle() => {}
        }
        advance(Duration::from_millis(15)).await;
        drop(served.pod().await);
    });
}

/// Reads until it has this.
async fn read_until(stream: &mut TcpStream, end: &[u8]) {
    let mut received = Vec::new();
    while !received.ends_with(end) {
        assert!(stream.read_buf(&mut received).await.unwrap() > 0, "{}", String::from_utf8_lossy(&received));
    }
}

#[test]
fn the_pod_of_a_request_that_lasts_is_known_before_its_end() {
    paused(|| async {
        let mut served = Served::new("http1").await;
        served.sweep();
        served.client.write_all(b"GET /long HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let mut pod = served.pod().await;
        let address = pod.local_addr().unwrap().to_string();
        read_until(&mut pod, b"\r\n\r\n").await;
        pass_time(Duration::from_secs(11)).await;
        pod.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab").await.unwrap();
        read_until(&mut served.client, b"ab").await;
        pass_time(Duration::from_secs(30)).await;
        pod.write_all(b"cd").await.unwrap();
        read_until(&mut served.client, b"cd").await;
        served.client.write_all(b"GET /short HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        read_until(&mut pod, b"\r\n\r\n").await;
        pod.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        read_until(&mut served.client, b"\r\n\r\n").await;
        let lines = served.lines();
        let [open, end, short] = &lines[..] else { panic!("{lines:#?}") };
        assert_eq!(
            [open, end, short].map(|line| (&line["open"], &line["path"])),
            [
                (&json!(true), &json!("/long")),
                (&json!(false), &json!("/long")),
                (&json!(false), &json!("/short"))
            ]
        );
        assert_eq!(
            (&open["upstream_host"], &open["attempts"][0]["reason"]),
            (&json!(address), &json!("open"))
        );
        assert!((10_000..11_000).contains(&open["attempts"][0]["ms"].as_u64().unwrap()), "{open}");
        assert_eq!((&end["status"], &end["bytes_sent"]), (&json!(200), &json!(4)));
    });
}

/// A pod over HTTP/2 that answers at once, but `/long` with a body that comes only when it is told to.
async fn serve_streams(stream: TcpStream, mut told: oneshot::Receiver<()>) -> Infallible {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    let mut held = None;
    loop {
        tokio::select! {
            accepted = connection.accept() => {
                let (request, mut answer) = accepted.expect("the sidecar goes on").unwrap();
                let is_long = request.uri().path() == "/long";
                let body = answer.send_response(http::Response::new(()), !is_long).unwrap();
                held = if is_long { Some(body) } else { held };
            }
            Ok(()) = &mut told, if held.is_some() => {
                held.take().unwrap().send_data(Bytes::from_static(b"abc"), true).unwrap();
            }
        }
    }
}

#[test]
fn of_many_streams_on_one_connection_those_that_last_have_a_line_while_they_are_open() {
    paused(|| async {
        let mut served = Served::new("h2c").await;
        served.sweep();
        let nobody = TcpListener::bind(ANY).await.unwrap();
        let spare = TcpStream::connect(nobody.local_addr().unwrap()).await.unwrap();
        let client = std::mem::replace(&mut served.client, spare);
        let (mut client, driver) = h2::client::handshake(client).await.unwrap();
        spawn(async move { drop(driver.await) });
        let mut ask = |path: &str| {
            let request = http::Request::get(format!("http://a{path}")).body(()).unwrap();
            client.send_request(request, true).unwrap().0
        };
        let long = ask("/long");
        let (tell, told) = oneshot::channel();
        let pod = serve_streams(served.pod().await, told);
        let talk = async {
            let mut body = long.await.unwrap().into_body();
            for _ in 0..24 {
                pass_time(Duration::from_secs(1)).await;
                assert_eq!(ask("/short").await.unwrap().status(), 200);
            }
            tell.send(()).unwrap();
            assert_eq!(body.data().await.unwrap().unwrap(), "abc");
            assert!(body.data().await.is_none());
        };
        // In one task, so that a pod that panics is why the test fails.
        tokio::select! {
            never = pod => match never {},
            () = talk => {}
        }
        let lines = served.lines();
        let of = |path: &str| lines.iter().filter(|line| line["path"] == path).collect::<Vec<_>>();
        assert_eq!(of("/short").len(), 24);
        let [open, end] = of("/long")[..] else { panic!("{lines:#?}") };
        assert_eq!(
            (&open["open"], &open["status"], &open["bytes_sent"]),
            (&json!(true), &json!(200), &json!(0))
        );
        assert_eq!(
            (&end["open"], &end["status"], &end["bytes_sent"]),
            (&json!(false), &json!(200), &json!(3))
        );
    });
}
