//! Databases and caches with their own clients: nothing about them is different, and the line says which pod it was.

#![cfg(feature = "peers")]
#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;
use whichpod_tests_peers::{Output, Server, mariadb, postgres, redis, run};
use whichpod_tests_sidecar::{Line, Rig};

/// Through a sidecar that was told `tcp`, and through one that finds out.
const PROTOCOLS: [&str; 2] = ["tcp", "auto"];

fn rig(server: &Server, protocol: &str) -> Rig {
    Rig::new(server.address, json!({"protocol": protocol}))
}

/// The line of the only connection, which nothing was wrong with.
async fn good_line(rig: &Rig, server: &Server) -> Line {
    let line = rig.line().await;
    assert_eq!((line.flags(), line.get("status").is_null()), ("-", true), "{line:?}");
    assert_eq!(line.text("upstream_host"), server.address.to_string());
    assert!(line.number("bytes_received") > 0 && line.number("bytes_sent") > 0, "{line:?}");
    line
}

async fn psql(rig: &Rig, sql: &str) -> Output {
    let port = rig.address.port().to_string();
    let options =
        ["--no-psqlrc", "--tuples-only", "--no-align", "-h", "127.0.0.1", "-p", &port, "-U", "postgres"];
    run("psql", &[&options[..], &["-c", sql]].concat()).await
}

#[tokio::test]
async fn postgresql_answers_as_without_a_sidecar() {
    let server = postgres().await;
    for protocol in PROTOCOLS {
        let rig = rig(&server, protocol);
        let answer = psql(&rig, "SELECT 6 * 7").await;
        assert_eq!((answer.success, answer.text.as_str()), (true, "42\n"), "{protocol}");
        good_line(&rig, &server).await;
        let much = psql(&rig, "SELECT repeat('x', 3000000)").await;
        assert_eq!(much.text.trim_end().len(), 3_000_000, "{protocol}");
    }
}

#[tokio::test]
async fn mariadb_greets_its_client_although_nobody_said_that_it_speaks_first() {
    let server = mariadb().await;
    for protocol in PROTOCOLS {
        let rig = rig(&server, protocol);
        let port = rig.address.port().to_string();
        let begun = Instant::now();
        let options =
            ["--no-defaults", "--protocol=tcp", "--host=127.0.0.1", "--port", &port, "--user=tester"];
        let answer = run("mariadb", &[&options[..], &["-N", "-e", "SELECT 6 * 7"]].concat()).await;
        assert_eq!((answer.success, answer.text.trim()), (true, "42"), "{protocol}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{protocol}");
        let line = good_line(&rig, &server).await;
        let waited = line.number("duration_ms") >= 250;
        assert_eq!(waited && protocol == "auto", protocol == "auto", "{line:?}");
    }
}

#[tokio::test]
async fn redis_answers_its_client_also_when_many_ask_at_once() {
    let server = redis().await;
    for protocol in PROTOCOLS {
        let rig = rig(&server, protocol);
        let port = rig.address.port().to_string();
        let set = run("redis-cli", &["-p", &port, "SET", "a", "forty-two"]).await;
        assert_eq!(set.text, "OK\n", "{protocol}");
        good_line(&rig, &server).await;
        let get = run("redis-cli", &["-p", &port, "GET", "a"]).await;
        assert_eq!(get.text, "forty-two\n", "{protocol}");
        let options = ["-p", &port, "-c", "50", "-n", "20000", "-P", "4", "-t", "set,get", "-q"];
        let load = run("redis-benchmark", &options).await;
        assert!(load.success && load.text.contains("requests per second"), "{}", load.text);
        let failed = rig.lines_with("all", |_| true).await.into_iter().find(|line| line.flags() != "-");
        // The benchmark closes its connections without waiting for what it still gets.
        assert!(failed.is_none_or(|line| line.flags() == "DC"), "{protocol}");
    }
}
