//! Failures of each kind by the thousand leave nothing behind: no connection, no task, no memory.
//!
//! `WHICHPOD_LEAK_REQUESTS` makes it longer.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use whichpod_testkit::load::Load;
use whichpod_tests_sidecar::{ANY, Rig, resident};

/// Of each kind.
const REQUESTS: u64 = 2_000;
/// What the allocator may keep, and other tests' noise.
const SLACK: u64 = 12 << 20;

/// What a pod does with each request; it keeps nothing of it.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Pod {
    Answers(&'static str),
    ResetsAtOnce,
    ClosesAfterRequest,
    ResetsAfterRequest,
    SaysAndCloses(&'static str),
    Hangs,
    Refuses,
}

/// A pod that behaves so, and where.
async fn start(pod: Pod) -> (std::net::SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind(ANY).await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    if pod != Pod::Refuses {
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                while connections.try_join_next().is_some() {}
                if let Ok((stream, _)) = listener.accept().await {
                    connections.spawn(async move { drop(behave(stream, pod).await) });
                }
            }
        });
    }
    (address, tasks)
}

async fn behave(mut stream: TcpStream, pod: Pod) -> std::io::Result<()> {
    if pod == Pod::ResetsAtOnce {
        return stream.set_zero_linger();
    }
    let mut head = [0; 2048];
    let mut read = 0;
    loop {
        while !head[..read].ends_with(b"\r\n\r\n") {
            match stream.read(&mut head[read..]).await? {
                0 => return Ok(()),
                count => read += count,
            }
        }
        read = 0;
        match pod {
            Pod::Answers(answer) => stream.write_all(answer.as_bytes()).await?,
            Pod::ResetsAfterRequest => return stream.set_zero_linger(),
            Pod::SaysAndCloses(answer) => return stream.write_all(answer.as_bytes()).await,
            Pod::Hangs => {
                // Until the client has left.
                return stream.read(&mut head).await.map(drop);
            }
            Pod::ClosesAfterRequest | Pod::ResetsAtOnce | Pod::Refuses => return Ok(()),
        }
    }
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// The values of these statistics of the upstream.
async fn stats(rig: &Rig, names: &[&str]) -> Vec<u64> {
    let text = rig.admin_page("/stats").await;
    let value = |name: &&str| {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("cluster.backend.{name}: ")));
        line.and_then(|value| value.parse().ok()).unwrap()
    };
    names.iter().map(value).collect()
}

async fn load(rig: &Rig, requests: u64) {
    let load = Load::new(rig.address).connections(8).remember(false).timeout(Duration::from_secs(20));
    let any = Arc::new(|_: &http::Response<bytes::Bytes>| Ok("any".to_owned()));
    load.check(any).requests(requests).run().await;
}

/// Clients that go away before their answer.
async fn impatient(rig: &Rig, requests: u64) {
    let mut clients = JoinSet::new();
    for share in 0..8 {
        let address = rig.address;
        clients.spawn(async move {
            for _ in 0..(requests + share) / 8 {
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
                sleep(Duration::from_micros(500)).await;
            }
        });
    }
    while clients.join_next().await.is_some() {}
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const NO: &str = "HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n";
const HALF: &str = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_thousands_of_failures_of_each_kind_nothing_is_left() {
    #[expect(clippy::disallowed_methods, reason = "how long a run by hand is")]
    let asked = std::env::var("WHICHPOD_LEAK_REQUESTS").ok().and_then(|text| text.parse().ok());
    let requests = asked.unwrap_or(REQUESTS);
    let kinds: [(&str, Pod, Value); 13] = [
        ("answers", Pod::Answers(OK), json!({})),
        ("refused", Pod::Refuses, json!({})),
        ("reset at once", Pod::ResetsAtOnce, json!({})),
        ("closed", Pod::ClosesAfterRequest, json!({"retry": {"back_off": {"base": "1ms", "max": "1ms"}}})),
        ("reset", Pod::ResetsAfterRequest, json!({"retry": {"attempts": 0}})),
        ("garbage", Pod::SaysAndCloses("SSH-2.0-x\r\n"), json!({})),
        ("half an answer", Pod::SaysAndCloses(HALF), json!({})),
        ("timeout", Pod::Hangs, json!({"timeouts": {"request": "2ms"}})),
        (
            "per-try timeout",
            Pod::Hangs,
            json!({"retry": {
                "per_try_timeout": "2ms", "on": ["5xx"], "attempts": 1, "back_off": {"base": "1ms", "max": "1ms"},
            }}),
        ),
        (
            "5xx",
            Pod::Answers(NO),
            json!({
                "retry": {"on": ["5xx"], "attempts": 1, "back_off": {"base": "1ms", "max": "1ms"}},
                "outlier_detection": {"base_ejection_time": "10ms", "interval": "10ms"},
            }),
        ),
        ("overflow", Pod::Answers(OK), json!({"circuit_breakers": {"max_requests": 1}})),
        (
            "waiting",
            Pod::Answers(OK),
            json!({"circuit_breakers": {"max_connections": 1, "max_pending_requests": 3}}),
        ),
        ("client gone", Pod::Hangs, json!({})),
    ];
    for (name, pod, settings) in kinds {
        let (target, _pod) = start(pod).await;
        let mut document = json!({"access_log": {"path": "off"}});
        document.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        let rig = Rig::new(target, document);
        let run = async |requests| match name {
            "client gone" => impatient(&rig, requests).await,
            _ => load(&rig, requests).await,
        };
        run(requests / 4).await;
        sleep(Duration::from_millis(50)).await;
        let (memory, open) = (resident(), descriptors());
        let started = Instant::now();
        run(requests).await;
        let elapsed = started.elapsed();
        let names =
            ["upstream_rq_active", "upstream_rq_pending_active", "upstream_cx_active", "body_bytes_received"];
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let values = stats(&rig, &names).await;
            // Idle connections to a good pod are kept for some seconds.
            let most_idle = if matches!(pod, Pod::Answers(_)) { 8 } else { 0 };
            if values[0] == 0 && values[1] == 0 && values[2] <= most_idle && descriptors() <= open + 24 {
                break;
            }
            assert!(
                Instant::now() < deadline,
                "{name}: {values:?} left of {names:?}, {} descriptors of {open}",
                descriptors()
            );
            sleep(Duration::from_millis(20)).await;
        }
        let grown = resident().saturating_sub(memory);
        assert!(grown < SLACK, "{name}: {grown} bytes more after {requests} requests");
        println!(
            "{name}: {requests} in {elapsed:?}, {} KiB more, {} descriptors of {open}",
            grown / 1024,
            descriptors()
        );
    }
}
