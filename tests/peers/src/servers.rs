//! The servers, each with the least that makes it run.

use std::path::{Path, PathBuf};

use whichpod_testkit::tls::Certificate;

use crate::program::{Server, as_nobody, finish, folder, free_port, serve};

/// PostgreSQL; anybody may be its user `postgres`.
pub async fn postgres() -> Server {
    let (folder, port) = (folder(), free_port());
    let programs = newest("/usr/lib/postgresql");
    let data = text(&folder.path().join("data"));
    let arguments = ["--pgdata", &data, "--username=postgres", "--auth=trust", "--no-sync"];
    let made = finish(as_nobody(&programs.join("initdb"), &arguments)).await;
    assert!(made.success, "{}", made.text);
    let (port_text, sockets) = (port.to_string(), text(folder.path()));
    let arguments = ["-D", &data, "-h", "127.0.0.1", "-p", &port_text, "-k", &sockets, "-F"];
    serve(as_nobody(&programs.join("postgres"), &arguments), port, folder).await
}

/// MariaDB, which speaks first; its user `tester` has no password.
pub async fn mariadb() -> Server {
    let (folder, port) = (folder(), free_port());
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
        "--bind-address=127.0.0.1",
        &format!("--port={port}"),
        &format!("--socket={}", path("socket")),
        &format!("--pid-file={}", path("pid")),
        &format!("--init-file={}", text(&init)),
        "--skip-name-resolve",
    ];
    serve(as_nobody(Path::new("/usr/sbin/mariadbd"), &arguments), port, folder).await
}

/// Redis, which keeps nothing.
pub async fn redis() -> Server {
    let (folder, port) = (folder(), free_port());
    let (port_text, data) = (port.to_string(), text(folder.path()));
    let arguments = ["--port", &port_text, "--bind", "127.0.0.1", "--dir", &data, "--save", ""];
    serve(as_nobody(Path::new("/usr/bin/redis-server"), &arguments), port, folder).await
}

/// nginx with TLS: answers `i am behind tls` to everything.
pub async fn nginx_tls(certificate: &Certificate) -> Server {
    let (folder, port) = (folder(), free_port());
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
                     listen 127.0.0.1:{port} ssl http2;
                     ssl_certificate {here}/tls.crt; ssl_certificate_key {here}/tls.key;
                     return 200 'i am behind tls\\n';
                 }}
             }}"
        ),
    );
    let configuration = format!("{here}/nginx.conf");
    let arguments = ["-p", &here, "-e", "stderr", "-c", &configuration];
    serve(as_nobody(Path::new("/usr/sbin/nginx"), &arguments), port, folder).await
}

/// A WebSocket server that sends every message back.
pub async fn websocket() -> Server {
    let (folder, port) = (folder(), free_port());
    let code = format!(
        "import asyncio, websockets\n\
         async def echo(socket, path=None):\n\
         \x20   async for message in socket:\n\
         \x20       await socket.send(message)\n\
         async def main():\n\
         \x20   async with websockets.serve(echo, '127.0.0.1', {port}, max_size=None):\n\
         \x20       await asyncio.Future()\n\
         asyncio.run(main())\n"
    );
    serve(as_nobody(Path::new("/usr/bin/python3"), &["-c", &code]), port, folder).await
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
