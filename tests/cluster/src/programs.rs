//! The programs a cluster is made of, each built once and kept in a cache outside the repository.

use anyhow::{Context, Result, bail};
use std::env::consts::ARCH;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where this crate's sources are.
const SOURCES: &str = env!("CARGO_MANIFEST_DIR");
const HELM_VERSION: &str = "v3.22.0";
const NEEDS_GO: &str =
    "building it needs Go 1.26 or newer (https://go.dev/dl) and, the first time, a module proxy";

/// Builds whatever of it all is not in the cache yet.
pub fn all() -> Result<[PathBuf; 4]> {
    Ok([kubenode()?, helm()?, pause()?, echo()?])
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

/// The pinned `helm`.
pub fn helm() -> Result<PathBuf> {
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

/// A static program that answers HTTP requests with the name of its pod; see `src/bin/echo.rs`.
pub fn echo() -> Result<PathBuf> {
    let source = Path::new(SOURCES).join("src/bin/echo.rs");
    cached(&format!("echo-{}", file_hash(&source)?), |output| {
        let flags =
            ["--edition=2024", "-O", "-Cpanic=abort", "-Cstrip=symbols", "-Ctarget-feature=+crt-static"];
        run(Command::new("rustc").args(flags).arg("-o").arg(output).arg(&source))
    })
}

/// Builds a binary of this workspace so that it runs in an empty image, and gives its path.
///
/// Cargo decides whether there is anything to do; `profile` is one of its profiles (`dev`, `release`, `dist`).
pub fn workspace_binary(package: &str, binary: &str, profile: &str) -> Result<PathBuf> {
    // The target must be said, else the flag would also reach build scripts and procedural macros.
    let target = format!("{ARCH}-unknown-linux-gnu");
    let output = cache()?.join("target");
    run(Command::new("cargo")
        .current_dir(SOURCES)
        .env("RUSTFLAGS", "-Ctarget-feature=+crt-static")
        .args(["build", "--locked", "--package", package, "--bin", binary])
        .args(["--profile", profile, "--target", &target, "--target-dir"])
        .arg(&output))?;
    let folder = if profile == "dev" { "debug" } else { profile };
    Ok(output.join(target).join(folder).join(binary))
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
