//! The process as a container's runtime and a user at a terminal see it: exit codes, signals, descriptors.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::fs::{self, File};
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::{Instant, sleep, timeout};

const BINARY: &str = env!("CARGO_BIN_EXE_whichpod-sidecar");
/// What should be there in milliseconds is missing after this long.
const PATIENCE: Duration = Duration::from_secs(20);

/// A loopback address that no other test has: ports need not be free ones then.
fn own_ip() -> Ipv4Addr {
    Ipv4Addr::new(127, fastrand::u8(50..), fastrand::u8(..), fastrand::u8(1..))
}

/// Runs to the end with this document and these flags.
fn run(document: &Value, flags: &[&str]) -> Output {
    Command::new(BINARY).args(flags).env("WHICHPOD_CONFIG", document.to_string()).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A sidecar's process; it is killed when this is dropped.
struct Process {
    child: Child,
    upstream: SocketAddr,
    health: SocketAddr,
    folder: TempDir,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    /// In front of this target, once it listens; with these settings, and with the command changed by `prepare`.
    async fn start(target: &str, settings: Value, prepare: impl FnOnce(Command) -> Command) -> Self {
        let ip = own_ip();
        let (upstream, health) = (SocketAddr::from((ip, 10000)), SocketAddr::from((ip, 9902)));
        let mut document = json!({
            "upstreams": [{"name": "backend", "listen": upstream.to_string(), "target": target}],
            "dns": {"servers": ["127.0.0.1:9"]},
            "access_log": {"format": "%REQ(:PATH)% %RESPONSE_CODE% %RESPONSE_FLAGS%"},
            "admin": {"address": format!("{ip}:9901")},
            "health": {"address": health.to_string()},
            "workers": 1,
            "shutdown": {"native_sidecar": true},
        });
        for (key, value) in settings.as_object().unwrap() {
            document[key] = value.clone();
        }
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(BINARY);
        command.env("WHICHPOD_CONFIG", document.to_string());
        command.stdout(File::create(folder.path().join("stdout")).unwrap());
        command.stderr(File::create(folder.path().join("stderr")).unwrap());
        let child = prepare(command).spawn().unwrap();
        let process = Self { child, upstream, health, folder };
        until("it listens", async || TcpStream::connect(process.upstream).await.is_ok()).await;
        process
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for the end: the exit code, and how long that took.
    async fn end(&mut self) -> (Option<i32>, Duration) {
        let started = Instant::now();
        while self.is_running() {
            assert!(started.elapsed() < PATIENCE, "it goes on; it says:\n{}", self.read("stderr"));
            sleep(Duration::from_millis(5)).await;
        }
        (self.child.wait().unwrap().code(), started.elapsed())
    }

    async fn client(&self) -> TcpStream {
        TcpStream::connect(self.upstream).await.unwrap()
    }

    /// A line of its `/proc/PID/status`, in KiB (proc(5)).
    fn memory(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// CPU time so far, in seconds: user and system (proc(5)).
    fn cpu(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let after_name = stat.rsplit_once(") ").unwrap().1;
        let fields: Vec<_> = after_name.split(' ').collect();
        (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
    }
}

async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// A pod that answers every request with `ok`.
async fn pod() -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut received = Vec::new();
                while stream.read_buf(&mut received).await.is_ok_and(|count| count > 0) {
                    if received.ends_with(b"\r\n\r\n") {
                        received.clear();
                        // A sidecar that has gone is no failure: each test says how it ends.
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                    }
                }
            });
        }
    });
    address
}

/// Sends `GET path` and reads the whole answer (of at most a few kilobytes) as text; the connection stays open.
async fn get(stream: &mut TcpStream, path: &str, fields: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\n{fields}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut received = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&received).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if length.is_some_and(|length| body.len() >= length.parse().unwrap()) {
                return text;
            }
        }
        let count = timeout(PATIENCE, stream.read_buf(&mut received)).await.unwrap().unwrap();
        assert!(count > 0, "ended after {text:?}");
    }
}

async fn fetch(address: SocketAddr, path: &str) -> String {
    get(&mut TcpStream::connect(address).await.unwrap(), path, "").await
}

#[test]
fn a_wrong_configuration_is_told_whole_in_one_start() {
    let document = json!({
        "upstreams": [
            {"listen": "x", "target": "a:80"},
            {"listen": "127.0.0.1:80", "target": "a:80"},
            {"listen": "127.0.0.1:80", "target": "b:80"},
        ],
        "timeouts": {"connect": "5"},
        "access_log": {"format": "%NONSENSE%"},
        "nonsense": 1,
    });
    let output = run(&document, &["--frobnicate", "--workers", "1000"]);
    assert_eq!(output.status.code(), Some(64));
    let text = stderr(&output);
    for told in [
        "--frobnicate: unknown flag",
        "--workers: \"1000\"",
        "upstreams[0].listen: \"x\"",
        "upstreams[2].listen: \"127.0.0.1:80\": the same as",
        "timeouts.connect: \"5\": no unit",
        "access_log.format: \"%NONSENSE%\"",
        "nonsense: unknown key",
    ] {
        assert!(text.contains(told), "{told} is not in:\n{text}");
    }
    assert!(output.stdout.is_empty(), "stdout is the access log's");
}

#[test]
fn a_check_tells_what_would_run_and_starts_nothing() {
    let output = run(&json!({"upstreams": [{"target": "backend:10000"}]}), &["--check"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("upstream backend\n") && text.contains("127.0.0.1:10000"), "{text}");
    assert_eq!(run(&json!({"upstreams": []}), &["--check"]).status.code(), Some(64));
    for flag in ["--help", "--version"] {
        let output = run(&json!({}), &[flag]);
        assert!(output.status.code() == Some(0) && !output.stdout.is_empty(), "{flag}");
    }
}

#[test]
fn every_address_that_is_taken_is_named_with_its_use() {
    let ip = own_ip();
    let taken: Vec<_> = (0..3).map(|_| std::net::TcpListener::bind((ip, 0)).unwrap()).collect();
    let addresses: Vec<_> = taken.iter().map(|listener| listener.local_addr().unwrap().to_string()).collect();
    let document = json!({
        "upstreams": [{"name": "backend", "listen": addresses[0], "target": "127.0.0.1:1"}],
        "admin": {"address": addresses[1]},
        "health": {"address": addresses[2]},
    });
    let output = run(&document, &[]);
    assert_eq!(output.status.code(), Some(69));
    let text = stderr(&output);
    for (address, user) in
        addresses.iter().zip(["upstream backend", "the admin server", "/ready and /metrics"])
    {
        assert!(
            text.contains(&format!("cannot listen on {address} for {user}: Address already in use")),
            "{text}"
        );
    }
    assert!(text.contains("choose another address"), "{text}");
}

#[test]
fn a_log_that_cannot_be_written_is_told_at_the_start() {
    let ip = own_ip();
    let document = json!({
        "upstreams": [{"listen": format!("{ip}:10000"), "target": "127.0.0.1:1"}],
        "admin": {"address": format!("{ip}:9901")}, "health": {"address": format!("{ip}:9902")},
        "access_log": {"path": "/nonexistent/folder/access.log"},
    });
    let output = run(&document, &[]);
    assert_eq!(output.status.code(), Some(74));
    assert!(stderr(&output).contains("/nonexistent/folder/access.log"), "{}", stderr(&output));
}

#[tokio::test]
async fn a_signal_ends_the_process_with_success_and_all_lines_written() {
    let pod = pod().await;
    for signal in [Signal::TERM, Signal::INT] {
        let mut process = Process::start(&pod, json!({}), |command| command).await;
        assert!(fetch(process.upstream, "/last").await.ends_with("ok"));
        process.signal(signal);
        let (code, took) = process.end().await;
        assert_eq!(code, Some(0), "{}", process.read("stderr"));
        assert!(took < Duration::from_secs(10), "{took:?}");
        assert_eq!(process.read("stdout"), "/last 200 -\n");
    }
}

#[tokio::test]
async fn a_second_signal_ends_the_process_at_once() {
    let settings = json!({"shutdown": {"native_sidecar": false}});
    let mut process = Process::start(&pod().await, settings, |command| command).await;
    let mut kept = process.client().await;
    get(&mut kept, "/before", "").await;
    process.signal(Signal::TERM);
    until("it is not ready", async || fetch(process.health, "/ready").await.starts_with("HTTP/1.1 503 "))
        .await;
    assert!(get(&mut kept, "/between", "").await.contains("connection: close"), "it still serves");
    assert!(process.is_running());
    process.signal(Signal::TERM);
    let (code, took) = process.end().await;
    assert_eq!(code, Some(0));
    assert!(took < Duration::from_secs(4), "{took:?}");
    assert_eq!(process.read("stdout"), "/before 200 -\n/between 200 -\n");
}

#[tokio::test]
async fn a_rotated_log_goes_on_in_a_new_file() {
    let folder = tempfile::tempdir().unwrap();
    let (log, moved) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
    let settings = json!({"access_log": {"path": log, "format": "%REQ(:PATH)%"}});
    let process = Process::start(&pod().await, settings, |command| command).await;
    let read = |path: &PathBuf| fs::read_to_string(path).unwrap_or_default();
    fetch(process.upstream, "/before").await;
    until("the first line is there", async || read(&log) == "/before\n").await;
    fs::rename(&log, &moved).unwrap();
    process.signal(Signal::HUP);
    until("the new file is there", async || log.exists()).await;
    fetch(process.upstream, "/after").await;
    until("the second line is there", async || read(&log) == "/after\n").await;
    assert_eq!(read(&moved), "/before\n");
}

#[tokio::test]
async fn a_reader_that_stopped_delays_no_traffic_and_the_lost_lines_are_counted() {
    // Lines of about 14 KiB, so that a few hundred fill the pipe and the queue.
    let fields: Vec<_> = (0..7).map(|number| format!("%REQ(X-{number})%")).collect();
    let settings = json!({"access_log": {"format": fields.concat()}});
    let mut process = Process::start(&pod().await, settings, |mut command| {
        command.stdout(Stdio::piped());
        command
    })
    .await;
    let large: String = (0..7).map(|number| format!("x-{number}: {}\r\n", "y".repeat(2000))).collect();
    let mut client = process.client().await;
    let mut slowest = Duration::ZERO;
    for _ in 0..500 {
        let started = Instant::now();
        assert!(get(&mut client, "/", &large).await.ends_with("ok"));
        slowest = slowest.max(started.elapsed());
    }
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    let mut dropped = 0;
    until("lost lines are counted", async || {
        let metrics = fetch(process.health, "/metrics").await;
        let line = metrics.lines().find_map(|line| line.strip_prefix("whichpod_access_log_dropped_total "));
        dropped = line.and_then(|count| count.parse().ok()).unwrap_or(0);
        dropped > 0
    })
    .await;
    process.signal(Signal::TERM);
    let (code, took) = process.end().await;
    assert_eq!(code, Some(0));
    assert!(took < Duration::from_secs(10), "{took:?}: a reader that stopped does not keep the process");
    let mut written = String::new();
    process.child.stdout.take().unwrap().read_to_string(&mut written).unwrap();
    let whole = written.lines().filter(|line| line.len() == 14_000).count();
    assert!(
        whole > 0 && whole + usize::from(!written.ends_with('\n')) == written.lines().count(),
        "whole lines only"
    );
    assert!(whole + dropped <= 500, "{whole} written, {dropped} dropped");
}

#[tokio::test]
async fn a_name_that_nobody_answers_keeps_the_app_from_starting_for_ten_seconds_at_most() {
    // A DNS server that takes questions and says nothing.
    let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let settings = json!({"dns": {"servers": [silent.local_addr().unwrap().to_string()]}});
    let started = Instant::now();
    let process = Process::start("nowhere.default.svc.cluster.local:80", settings, |command| command).await;
    let answer = fetch(process.health, "/ready").await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("upstream backend"), "{answer}");
    until("it is ready", async || fetch(process.health, "/ready").await.starts_with("HTTP/1.1 200 ")).await;
    let took = started.elapsed();
    assert!(took < Duration::from_secs(15), "{took:?}");
    assert!(process.read("stderr").contains("nowhere"), "{}", process.read("stderr"));
}

#[tokio::test]
async fn when_descriptors_run_out_the_process_neither_spins_nor_stays_deaf() {
    let process = Process::start(&pod().await, json!({}), |command| {
        let mut limited = Command::new("sh");
        limited.args(["-c", "ulimit -n 48 && exec \"$0\"", BINARY]);
        limited.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        limited.stdout(Stdio::null()).stderr(Stdio::null());
        limited
    })
    .await;
    let mut clients = Vec::new();
    loop {
        assert!(clients.len() < 60, "the limit was not met");
        let mut client = process.client().await;
        let answer = timeout(Duration::from_millis(500), get(&mut client, "/", "")).await;
        clients.push(client);
        if answer.is_err() {
            break;
        }
    }
    let before = process.cpu();
    sleep(Duration::from_secs(1)).await;
    let used = process.cpu() - before;
    assert!(used < 0.3, "{used} s of CPU time within a second");
    assert!(get(&mut clients[0], "/", "").await.contains("200 OK"), "who is connected is served");
    drop(clients);
    let freed = Instant::now();
    assert!(fetch(process.upstream, "/").await.ends_with("ok"));
    let took = freed.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
}

/// A pod that reads a head, agrees to switch, and then takes so many bytes and sends so many.
async fn pod_of_streams(each_way: usize) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut asked = Vec::new();
                while !asked.ends_with(b"\r\n\r\n") {
                    asked.push(stream.read_u8().await.unwrap());
                }
                let switch = "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n";
                stream.write_all(switch.as_bytes()).await.unwrap();
                take_then_send(&mut stream, each_way).await;
            });
        }
    });
    address
}

/// Takes so many bytes, and then sends so many.
async fn take_then_send(stream: &mut TcpStream, each_way: usize) {
    let mut buffer = vec![0; 256 << 10];
    let mut taken = 0;
    while taken < each_way {
        let count = stream.read(&mut buffer).await.unwrap();
        assert!(count > 0, "cut after {taken} of {each_way} bytes");
        taken += count;
    }
    for _ in 0..each_way / buffer.len() {
        stream.write_all(&buffer).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_passes_through_does_not_stay_in_memory() {
    // A gigabyte goes the same way; this is enough to see it grow.
    const EACH_WAY: usize = 128 << 20;
    let pod = pod_of_streams(EACH_WAY).await;
    for protocol in ["tcp", "auto"] {
        let process = Process::start(&pod, json!({"protocol": protocol}), |command| command).await;
        let before = process.memory("VmRSS");
        let mut client = process.client().await;
        let ask = "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";
        client.write_all(ask.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(timeout(PATIENCE, client.read_u8()).await.unwrap().unwrap());
        }
        let buffer = vec![0; 256 << 10];
        for _ in 0..EACH_WAY / buffer.len() {
            client.write_all(&buffer).await.unwrap();
        }
        // As the pod does: what it sends is taken, and nothing more is sent.
        let mut taken = 0;
        let mut buffer = buffer;
        while taken < EACH_WAY {
            let count = client.read(&mut buffer).await.unwrap();
            assert!(count > 0, "{protocol}: cut after {taken} bytes");
            taken += count;
        }
        let grown = process.memory("VmHWM").saturating_sub(before);
        assert!(grown <= 16 << 10, "{protocol}: grown by {grown} KiB");
    }
}

#[tokio::test]
async fn a_connection_that_is_idle_costs_little_and_serves_again() {
    const CLIENTS: usize = 400;
    let process = Process::start(&pod().await, json!({}), |command| command).await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(process.client().await);
    }
    let before = process.memory("VmRSS");
    // All at once, so that each has a connection to the pod.
    for client in &mut clients {
        client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    }
    for client in &mut clients {
        read_ok(client).await;
    }
    until("it gives memory back", async || {
        // A client's connection and a pod's.
        process.memory("VmRSS").saturating_sub(before) < CLIENTS as u64 * 8
    })
    .await;
    // A request in two pieces, the first of them with the request before.
    for client in &mut clients {
        client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\nGET / HTT").await.unwrap();
        read_ok(client).await;
    }
    sleep(Duration::from_millis(2500)).await;
    for client in &mut clients {
        client.write_all(b"P/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        read_ok(client).await;
    }
}

/// Reads one answer of [`pod`].
async fn read_ok(client: &mut TcpStream) {
    let mut received = Vec::new();
    while !received.ends_with(b"\r\n\r\nok") {
        let count = timeout(PATIENCE, client.read_buf(&mut received)).await.unwrap().unwrap();
        assert!(count > 0, "ended after {:?}", String::from_utf8_lossy(&received));
    }
}
