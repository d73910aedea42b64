//! Many clients whose heads never end, and a limit on memory that holds. Alone in its process, whose memory it measures.

#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use whichpod_testkit::scripted::{Script, ScriptedBackend};
use whichpod_tests_sidecar::{ANY, Rig, resident};

/// As in the sidecar's own process: what is free goes back to the kernel.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const MIB: u64 = 1 << 20;
/// Each holds 64 KiB of the sidecar's memory if it is let: 100 MB in all.
const CLIENTS: usize = 1_600;
const ROOM: u64 = 64 * MIB;

#[tokio::test]
async fn heads_that_never_end_are_answered_before_memory_does() {
    whichpod_runtime::limits::raise_open_files().unwrap();
    let pod = ScriptedBackend::start(ANY, Script::Answer).await.unwrap();
    let limit = resident() + ROOM;
    let rig = Rig::new(pod.address(), json!({"memory": {"limit": limit}})).ready().await;
    let mut head = b"GET / HTTP/1.1\r\nhost: a\r\n".to_vec();
    for _ in 0..50 {
        head.extend_from_slice(format!("x: {}\r\n", "v".repeat(1000)).as_bytes());
    }
    let (mut most, mut clients) = (0, Vec::new());
    for _ in 0..CLIENTS {
        let Ok(mut client) = TcpStream::connect(rig.address).await else { continue };
        // Whoever is refused cannot send.
        if client.write_all(&head).await.is_ok() {
            clients.push(client);
        }
        most = most.max(resident());
    }
    assert!(most < limit, "{} MiB past the limit", (most - limit) / MIB);
    let lines = rig.lines_with("it is shed", |line| line.flags() == "OM").await;
    let shed = lines.iter().find(|line| line.flags() == "OM").unwrap();
    assert_eq!((shed.verdict(), shed.text("details")), ((503, "OM", Vec::new()), "overload"));
    let mut answers = 0;
    for client in &mut clients {
        let mut answer = Vec::new();
        let _ = timeout(Duration::from_secs(20), client.read_to_end(&mut answer)).await;
        answers += usize::from(answer.starts_with(b"HTTP/1.1 503 "));
    }
    assert!(answers > 0, "they are told why");
    drop(clients);
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let mut client = rig.client().await;
        if client.get("/").await.is_ok_and(|answer| answer.status == 200) {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "nobody is served any more: {} MiB of {}",
            resident() / MIB,
            limit / MIB
        );
        sleep(Duration::from_millis(50)).await;
    }
}
