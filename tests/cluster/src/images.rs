//! The images of the reference scenario.

use crate::{Image, programs};
use anyhow::Result;
use std::path::Path;

/// What the backend's image is called.
pub const BACKEND: &str = "whichpod.test/backend:1";
/// What nginx's image is called.
pub const NGINX: &str = "whichpod.test/nginx:1";

/// What a user's hands need inside a pod; each is BusyBox by another name.
const TOOLS: [&str; 6] = ["sh", "cat", "nslookup", "ps", "sleep", "wget"];

/// Answers on port 10000 with the name of its pod (see `src/bin/echo.rs`), and has a shell and a few tools.
///
/// It does not end by itself when told to: it serves for all of its pod's `terminationGracePeriodSeconds`.
pub fn backend() -> Result<Image> {
    let image = Image::new(BACKEND).copy(&programs::echo()?, "/backend")?.entrypoint(&["/backend"]);
    with_tools(image)
}

/// Debian's nginx; pods bring `/etc/nginx/nginx.conf`. It runs as any user and logs errors to its output.
pub fn nginx() -> Result<Image> {
    let image = Image::new(NGINX)
        .copy_linked("/usr/sbin/nginx")?
        .file("/etc/passwd", 0o644, "root:x:0:0::/:\nnobody:x:65534:65534::/:\n")
        .file("/etc/group", 0o644, "root:x:0:\nnogroup:x:65534:\n")
        .folder("/var/lib/nginx", 0o1777)
        .entrypoint(&["/usr/sbin/nginx", "-e", "/dev/stderr", "-g", "daemon off; pid /tmp/nginx.pid;"]);
    with_tools(image)
}

fn with_tools(image: Image) -> Result<Image> {
    let image = image.copy(Path::new("/bin/busybox"), "/bin/busybox")?;
    Ok(TOOLS.into_iter().fold(image, |image, tool| {
        let script = format!("#!/bin/busybox sh\nexec /bin/busybox {tool} \"$@\"\n");
        image.file(&format!("/bin/{tool}"), 0o755, script)
    }))
}
