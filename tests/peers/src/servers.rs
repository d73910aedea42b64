//! The servers, each with the least that makes it run.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use whichpod_testkit::tls::Certificate;

use crate::program::{PATIENCE, Server, as_nobody, finish, folder, own_address, run, serve};

/// PostgreSQL; anybody may be its user `postgres`.
pub async fn postgres() -> Server {
    let (folder, address) = (folder(), own_address(5432));
    let programs = newest("/usr/lib/postgresql");
    let data = text(&folder.path().join("data"));
    let arguments = ["--pgdata", &data, "--username=postgres", "--auth=trust", "--no-sync"];
    let made = finish(as_nobody(&programs.join("initdb"), &arguments)).await;
    assert!(made.success, "{}", made.text);
    let (ip, sockets) = (address.ip().to_string(), text(folder.path()));
    let arguments = ["-D", &data, "-h", &ip, "-p", "5432", "-k", &sockets, "-F"];
    let server = serve(as_nobody(&programs.join("postgres"), &arguments), address, folder).await;
    // It listens before it answers.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let ready = run("pg_isready", &["-h", &ip, "-p", "5432"]).await;
        if ready.success {
            return server;
        }
        assert!(Instant::now() < deadline, "{}", ready.text);
        sleep(Duration::from_millis(50)).await;
    }
}

/// MariaDB, which speaks first; its user `tester` has no password.
pub async fn mariadb() -> Server {
    let (folder, address) = (folder(), own_address(3306));
    let path = |name: &str| text(&folder.path().join(name));
    let data = format!("--datadir={}", path("data"));
    let arguments = ["--no-defaults", &data, "--auth-root-authentication-method=normal", "--skip-test-db"];
    let made = finish(as_nobody(Path::new("/usr/bin/mariadb-install-db"), &arguments)).await;
    assert!(made.success, "{}", made.text);
    let init = folder.path().join("init.sql");
    // One statement a line.
    std::fs::write(&init, "CREATE USER 'tester'@'%';\nGRANT ALL ON *.* TO 'tester'@'%';\n").expect("a file");
    let arguments = [
        "--no-defaults",
        &data,
        &format!("--bind-address={}", address.ip()),
        &format!("--port={}", address.port()),
        &format!("--socket={}", path("socket")),
        &format!("--pid-file={}", path("pid")),
        &format!("--init-file={}", text(&init)),
        "--skip-name-resolve",
    ];
    serve(as_nobody(Path::new("/usr/sbin/mariadbd"), &arguments), address, folder).await
}

/// Redis, which keeps nothing.
pub async fn redis() -> Server {
    let (folder, address) = (folder(), own_address(6379));
    let (ip, data) = (address.ip().to_string(), text(folder.path()));
    let arguments = ["--port", "6379", "--bind", &ip, "--protected-mode", "no", "--dir", &data, "--save", ""];
    serve(as_nobody(Path::new("/usr/bin/redis-server"), &arguments), address, folder).await
}

/// nginx with TLS: answers `i am behind tls` to everything.
pub async fn nginx_tls(certificate: &Certificate) -> Server {
    let (folder, address) = (folder(), own_address(8443));
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("a file");
    write("tls.crt", &certificate.certificate);
    write("tls.key", &certificate.key);
    let here = text(folder.path());
    write(
        "nginx.conf",
        &format!(
            "daemon off; pid {here}/pid; error_log stderr; events {{}}
             http {{
                 access_log off;
                 client_body_temp_path {here}/b; proxy_temp_path {here}/p; fastcgi_temp_path {here}/f;
                 uwsgi_temp_path {here}/u; scgi_temp_path {here}/s;
                 server {{
                     listen {address} ssl http2;
                     ssl_certificate {here}/tls.crt; ssl_certificate_key {here}/tls.key;
                     return 200 'i am behind tls\\n';
                 }}
             }}"
        ),
    );
    let configuration = format!("{here}/nginx.conf");
    let arguments = ["-p", &here, "-e", "stderr", "-c", &configuration];
    serve(as_nobody(Path::new("/usr/sbin/nginx"), &arguments), address, folder).await
}

/// A WebSocket server that sends every message back.
pub async fn websocket() -> Server {
    let (folder, address) = (folder(), own_address(8080));
    let (ip, port) = (address.ip(), address.port());
    let code = format!(
        "import asyncio, websockets\n\
         async def echo(socket, path=None):\n\
         \x20   async for message in socket:\n\
         \x20       await socket.send(message)\n\
         async def main():\n\
         \x20   async with websockets.serve(echo, '{ip}', {port}, max_size=None):\n\
         \x20       await asyncio.Future()\n\
         asyncio.run(main())\n"
    );
    serve(as_nobody(Path::new("/usr/bin/python3"), &["-c", &code]), address, folder).await
}

/// The programs of the newest version that is installed.
fn newest(place: &str) -> PathBuf {
    let versions = std::fs::read_dir(place).expect("it is installed: see install-debian.sh");
    let version = versions.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok()).max();
    Path::new(place).join(version.expect("a version").to_string()).join("bin")
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
