//! TLS that passes through, and WebSocket, with clients and servers that know nothing of each other.

#![cfg(feature = "peers")]
#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

use serde_json::json;
use whichpod_testkit::tls::Authority;
use whichpod_tests_peers::{nginx_tls, run, websocket};
use whichpod_tests_sidecar::Rig;

const NAME: &str = "api.example.org";

#[tokio::test]
async fn curl_speaks_tls_to_nginx_and_the_line_has_the_name() {
    let authority = Authority::new("peers").unwrap();
    let server = nginx_tls(&authority.issue(NAME).unwrap()).await;
    let ca = server.folder.path().join("ca.pem");
    std::fs::write(&ca, authority.pem()).unwrap();
    let rig = Rig::new(server.address, json!({}));
    let port = rig.address.port();
    let (resolve, url) = (format!("{NAME}:{port}:127.0.0.1"), format!("https://{NAME}:{port}/"));
    for version in ["--http1.1", "--http2"] {
        let arguments = [
            "-sS",
            version,
            "--cacert",
            ca.to_str().unwrap(),
            "--resolve",
            &resolve,
            "-w",
            "%{http_version}",
            &url,
        ];
        let answer = run("curl", &arguments).await;
        let spoken = version.trim_start_matches("--http").trim_end_matches(".0");
        assert_eq!(answer.text, format!("i am behind tls\n{spoken}"));
    }
    for line in rig.lines(2).await {
        assert_eq!((line.text("server_name"), line.flags()), (NAME, "-"));
        assert!(line.get("method").is_null() && line.number("bytes_sent") > 500, "{line:?}");
    }
}

#[tokio::test]
async fn curl_gets_what_nginx_serves_over_tls_without_speaking_it() {
    let authority = Authority::new("peers").unwrap();
    let server = nginx_tls(&authority.issue(NAME).unwrap()).await;
    let ca = server.folder.path().join("ca.pem");
    std::fs::write(&ca, authority.pem()).unwrap();
    let upstream = json!({"name": "backend", "listen": "127.0.0.1:0", "target": server.address.to_string(),
                          "tls": {"server_name": NAME, "ca_file": ca}});
    let rig = Rig::new(server.address, json!({"upstreams": [upstream]}));
    let answer = run("curl", &["-sS", &format!("http://{}/", rig.address)]).await;
    assert_eq!(answer.text, "i am behind tls\n");
    assert_eq!(rig.line().await.verdict(), (200, "-", vec!["ok".to_owned()]));
}

#[tokio::test]
async fn websocket_messages_of_any_size_come_back_and_are_counted() {
    let server = websocket().await;
    let rig = Rig::new(server.address, json!({}));
    let code = format!(
        "import asyncio, websockets\n\
         async def main():\n\
         \x20   async with websockets.connect('ws://{}/chat', max_size=None) as socket:\n\
         \x20       for size in [1, 1000, 100000, 3000000]:\n\
         \x20           await socket.send('x' * size)\n\
         \x20           assert await socket.recv() == 'x' * size\n\
         asyncio.run(main())\n",
        rig.address
    );
    let client = run("/usr/bin/python3", &["-c", &code]).await;
    assert!(client.success, "{}", client.text);
    let line = rig.line().await;
    assert_eq!((line.status(), line.flags(), line.text("path")), (101, "-", "/chat"), "{line:?}");
    assert!(line.number("bytes_received") > 1000, "{line:?}");
    assert_eq!(line.text("upstream_host"), server.address.to_string());
}
