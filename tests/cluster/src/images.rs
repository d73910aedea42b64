//! The images of the reference scenario.

use crate::exit::{self, Failure};
use crate::{Image, programs};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};

/// What the apps' image is called: `serve PORT` is the backend, which is also what runs by default, on port 10000, and
/// `relay PORT HOST:PORT` is a service that calls another; `grpc PORT` is a gRPC service. See `tests/app`.
pub const APP: &str = "whichpod.test/app:1";
/// What nginx's image is called.
pub const NGINX: &str = "whichpod.test/nginx:1";
/// What the sidecar's image is called when a chart without values asks for it.
pub const SIDECAR: &str = concat!("docker.io/library/whichpod-sidecar:", env!("CARGO_PKG_VERSION"));
/// What the webhook's image is called when a chart without values asks for it.
pub const WEBHOOK: &str = concat!("docker.io/library/whichpod-webhook:", env!("CARGO_PKG_VERSION"));

/// What a user's hands need inside a pod; each is BusyBox by another name.
const TOOLS: [&str; 6] = ["sh", "cat", "nslookup", "ps", "sleep", "wget"];
/// What runs as a user with a number needs no name, but nobody should be root.
const NOBODY: &str = "65532:65532";

/// Every image that the tests' pods use.
pub fn all() -> Result<[Image; 4]> {
    // What this machine may lack first: the others take minutes to build.
    let nginx = nginx()?;
    Ok([app()?, nginx, sidecar()?, webhook()?])
}

/// Writes every image into a folder, for clusters of one's own; gives the files.
pub fn write_archives(folder: &Path) -> Result<Vec<PathBuf>> {
    let images = all()?;
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let write = |image: &Image| {
        let name = image.name().rsplit('/').next().unwrap_or_default().replace(':', "-");
        let file = folder.join(format!("{name}.tar"));
        fs::write(&file, image.archive()?).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(file)
    };
    images.iter().map(write).collect()
}

/// The apps, with a shell and a few tools.
pub fn app() -> Result<Image> {
    let image = Image::of_program(APP, &programs::ours()?.app)?;
    with_tools(image.entrypoint(&["/app", "serve", "10000"]))
}

/// The sidecar as it ships.
pub fn sidecar() -> Result<Image> {
    Ok(Image::of_program(SIDECAR, &programs::ours()?.sidecar)?.user(NOBODY))
}

/// The webhook as it ships.
pub fn webhook() -> Result<Image> {
    Ok(Image::of_program(WEBHOOK, &programs::ours()?.webhook)?.user(NOBODY))
}

/// Debian's nginx; pods bring `/etc/nginx/nginx.conf`. It runs as any user and logs errors to its output.
pub fn nginx() -> Result<Image> {
    let image = Image::new(NGINX)
        .copy_linked(installed("/usr/sbin/nginx", "nginx-light")?)?
        .file("/etc/passwd", 0o644, "root:x:0:0::/:\nnobody:x:65534:65534::/:\n")
        .file("/etc/group", 0o644, "root:x:0:\nnogroup:x:65534:\n")
        .folder("/var/lib/nginx", 0o1777)
        .entrypoint(&["/usr/sbin/nginx", "-e", "/dev/stderr", "-g", "daemon off; pid /tmp/nginx.pid;"]);
    with_tools(image)
}

/// A program of this machine that images are made of.
fn installed<'a>(program: &'a str, package: &str) -> Result<&'a str> {
    if !Path::new(program).is_file() {
        let why = format!(
            "the images cannot be made, missing: {program}. On Debian: tests/cluster/install-debian.sh, or apt-get install \
             {package}"
        );
        return Err(Failure::new(exit::UNAVAILABLE, why).into());
    }
    Ok(program)
}

fn with_tools(image: Image) -> Result<Image> {
    let busybox = installed("/bin/busybox", "busybox-static")?;
    let image = image.copy(Path::new(busybox), busybox)?;
    ensure!(image.is_static(busybox)?, "{busybox} is not static: apt-get install busybox-static");
    // As every distribution has it: the C library alone would ask DNS first.
    let image = image.file("/etc/nsswitch.conf", 0o644, "hosts: files dns\n");
    Ok(TOOLS.into_iter().fold(image, |image, tool| {
        let script = format!("#!/bin/busybox sh\nexec /bin/busybox {tool} \"$@\"\n");
        image.file(&format!("/bin/{tool}"), 0o755, script)
    }))
}
