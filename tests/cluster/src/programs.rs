//! The programs a cluster is made of, each built once and kept in a cache outside the repository.

use anyhow::{Context, Result, anyhow, bail};
use std::env::consts::ARCH;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Where this crate's sources are.
const SOURCES: &str = env!("CARGO_MANIFEST_DIR");
const HELM_VERSION: &str = "v3.22.0";
/// Not empty: this workspace's binaries are those that `cargo build` makes anyway, not the static ones that ship.
const QUICK_VARIABLE: &str = "WHICHPOD_TEST_QUICK";
const NEEDS_GO: &str =
    "building it needs Go 1.26 or newer (https://go.dev/dl) and, the first time, a module proxy";

/// Builds whatever of it all is not in the cache yet.
pub fn all() -> Result<Vec<PathBuf>> {
    let ours = ours()?.clone();
    Ok(vec![kubenode()?, pinned_helm()?, pause()?, ours.sidecar, ours.webhook, ours.command, ours.app])
}

/// etcd, CoreDNS and every program of Kubernetes in one binary, built from `kubenode/` when that has changed.
pub fn kubenode() -> Result<PathBuf> {
    let source = Path::new(SOURCES).join("kubenode");
    let mut hash = ring::digest::Context::new(&ring::digest::SHA256);
    for file in ["go.mod", "go.sum", "main.go"] {
        hash.update(&read(&source.join(file))?);
    }
    let hash = hex(&hash.finish().as_ref()[..8]);
    let version = kubernetes_version(&String::from_utf8_lossy(&read(&source.join("go.mod"))?))?;
    cached(&format!("kubenode-{hash}"), |output| {
        say!("building kubenode (Kubernetes {version}) once; this takes some minutes");
        run(go().current_dir(&source).args(["build", "-buildvcs=false", "-trimpath", "-ldflags"]).args([
            OsStr::new(&version_flags(&version)),
            OsStr::new("-o"),
            output.as_os_str(),
            OsStr::new("."),
        ]))
        .context(NEEDS_GO)
    })
}

/// The pinned `helm`; if it is not built yet, the one in PATH.
pub fn helm() -> Result<PathBuf> {
    if !cache()?.join(format!("helm-{HELM_VERSION}")).exists()
        && let Some(installed) = in_path("helm")
    {
        return Ok(installed);
    }
    pinned_helm()
}

fn pinned_helm() -> Result<PathBuf> {
    cached(&format!("helm-{HELM_VERSION}"), |output| {
        say!("building helm {HELM_VERSION} once; this takes a minute or more");
        let place = tempfile::tempdir()?;
        let version = format!("-s -w -X helm.sh/helm/v3/internal/version.version={HELM_VERSION}");
        run(go()
            .env("GOBIN", place.path())
            .args(["install", "-trimpath", "-ldflags", &version])
            .arg(format!("helm.sh/helm/v3/cmd/helm@{HELM_VERSION}")))
        .context(NEEDS_GO)?;
        // Not a rename: the temporary folder may be another file system.
        fs::copy(place.path().join("helm"), output).map(drop).context("cannot copy helm into the cache")
    })
}

/// A static program that holds a pod's namespaces open.
pub(crate) fn pause() -> Result<PathBuf> {
    let source = Path::new(SOURCES).join("programs/pause.c");
    cached(&format!("pause-{}", file_hash(&source)?), |output| {
        run(Command::new("cc").args(["-static", "-O2", "-Wall", "-Werror", "-o"]).arg(output).arg(&source))
    })
}

/// What this workspace builds for clusters.
#[derive(Debug, Clone)]
pub struct Ours {
    /// `whichpod-sidecar`.
    pub sidecar: PathBuf,
    /// `whichpod-webhook`.
    pub webhook: PathBuf,
    /// The command `whichpod`.
    pub command: PathBuf,
    /// The apps of the reference scenario (`tests/app`).
    pub app: PathBuf,
}

/// Builds this workspace's binaries as Cargo finds necessary, once for each process.
pub fn ours() -> Result<&'static Ours> {
    static BUILT: OnceLock<Result<Ours, String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| build_ours().map_err(|error| format!("{error:#}")));
    built.as_ref().map_err(|error| anyhow!(error.clone()))
}

fn build_ours() -> Result<Ours> {
    let target_folder = std::env::var_os("CARGO_TARGET_DIR").map_or(cache()?.join("target"), PathBuf::from);
    let mut cargo = Command::new("cargo");
    cargo.current_dir(SOURCES).args(["build", "--quiet", "--locked", "--target-dir"]).arg(&target_folder);
    let output = if std::env::var_os(QUICK_VARIABLE).is_some_and(|value| !value.is_empty()) {
        target_folder.join("debug")
    } else {
        // The target must be said, else the flag would also reach build scripts and procedural macros.
        let target = format!("{ARCH}-unknown-linux-gnu");
        cargo.env("RUSTFLAGS", "-Ctarget-feature=+crt-static").args(["--release", "--target", &target]);
        target_folder.join(target).join("release")
    };
    // One command for all of them, so that what they share is built once.
    let binaries = [
        ("whichpod-sidecar", "whichpod-sidecar"),
        ("whichpod-webhook", "whichpod-webhook"),
        ("whichpod", "whichpod"),
        ("whichpod-test-app", "app"),
    ];
    for (package, binary) in binaries {
        cargo.args(["--package", package, "--bin", binary]);
    }
    run(&mut cargo)?;
    let [sidecar, webhook, command, app] = binaries.map(|(_, binary)| output.join(binary));
    Ok(Ours { sidecar, webhook, command, app })
}

/// A program of this machine.
pub(crate) fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

fn cache() -> Result<PathBuf> {
    let chosen = std::env::var_os("WHICHPOD_CACHE").filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || std::env::home_dir().map(|home| home.join(".cache/whichpod"));
    let folder =
        chosen.or_else(home).context("no home folder for the cache: set WHICHPOD_CACHE to a folder")?;
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

/// The cached file of this name; if there is none, `build` makes it, while others who want it wait.
fn cached(name: &str, build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    cached_in(&cache()?, name, build)
}

fn cached_in(folder: &Path, name: &str, build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let file = folder.join(name);
    if file.exists() {
        return Ok(file);
    }
    let lock = File::create(folder.join(format!(".{name}.lock")))?;
    lock.lock()?;
    if !file.exists() {
        // Half a file must never have the name.
        let unfinished = folder.join(format!(".{name}.new"));
        build(&unfinished)?;
        fs::rename(&unfinished, &file).with_context(|| format!("cannot make {}", file.display()))?;
    }
    Ok(file)
}

/// The compiler at the lowest priority: it takes minutes on every core.
fn go() -> Command {
    let mut command = Command::new("nice");
    command.args(["-n", "19", "go"]).env("CGO_ENABLED", "0");
    command
}

fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status =
        command.status().with_context(|| format!("cannot run {program}: is it installed and in PATH?"))?;
    if !status.success() {
        bail!("{program} failed ({status}); its messages are above. The command was: {command:?}");
    }
    Ok(())
}

/// The version of `k8s.io/kubernetes` that a go.mod requires.
fn kubernetes_version(go_mod: &str) -> Result<String> {
    go_mod
        .lines()
        .find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes "))
        .and_then(|rest| rest.split_whitespace().next())
        .map(str::to_owned)
        .context("kubenode/go.mod requires no k8s.io/kubernetes")
}

/// What the Kubernetes programs answer when asked for their version; they refuse peers that differ too much.
fn version_flags(version: &str) -> String {
    let mut numbers = version.trim_start_matches('v').split('.');
    let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    let name = "k8s.io/component-base/version";
    format!("-s -w -X {name}.gitVersion={version} -X {name}.gitMajor={major} -X {name}.gitMinor={minor}")
}

fn file_hash(path: &Path) -> Result<String> {
    Ok(hex(&ring::digest::digest(&ring::digest::SHA256, &read(path)?).as_ref()[..8]))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn the_version_the_programs_tell_is_the_one_they_are_built_from() {
        let go_mod =
            "replace (\n\tk8s.io/api => k8s.io/api v0.35.4\n)\nrequire (\n\tk8s.io/kubernetes v1.35.4\n)";
        let version = kubernetes_version(go_mod).unwrap();
        assert_eq!(version, "v1.35.4");
        let flags = version_flags(&version);
        assert!(flags.contains("version.gitVersion=v1.35.4 "), "{flags}");
        assert!(flags.contains("version.gitMajor=1 ") && flags.ends_with("version.gitMinor=35"), "{flags}");
        assert!(kubernetes_version("module x").is_err());
    }

    #[test]
    fn two_who_want_a_program_at_the_same_time_build_it_once() {
        let folder = tempfile::tempdir().unwrap();
        let builds = AtomicU32::new(0);
        let build = || {
            cached_in(folder.path(), "program", |output| {
                builds.fetch_add(1, Ordering::Relaxed);
                Ok(fs::write(output, "built")?)
            })
        };
        std::thread::scope(|scope| {
            let both = [scope.spawn(build), scope.spawn(build)];
            for path in both.map(|thread| thread.join().unwrap().unwrap()) {
                assert_eq!(fs::read_to_string(path).unwrap(), "built");
            }
        });
        assert_eq!(builds.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_failed_build_leaves_nothing_that_looks_built() {
        let folder = tempfile::tempdir().unwrap();
        let failed = cached_in(folder.path(), "program", |output| {
            fs::write(output, "half")?;
            bail!("no space left")
        });
        assert_eq!(failed.unwrap_err().to_string(), "no space left");
        assert!(!folder.path().join("program").exists());
    }

    #[test]
    fn a_missing_compiler_is_named() {
        let error = run(&mut Command::new("no-such-compiler")).unwrap_err().to_string();
        assert_eq!(error, "cannot run no-such-compiler: is it installed and in PATH?");
        let error = run(Command::new("sh").args(["-c", "exit 7"])).unwrap_err().to_string();
        assert!(error.starts_with("sh failed (exit status: 7)"), "{error}");
    }
}
