//! The working folder of one cluster: everything the cluster writes is below it, and it goes away with its owner.

use crate::exit::{self, Failure};
use crate::{cgroup, standing, wait_for};
use anyhow::{Context, Result};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Folders of running clusters are named so, plus something random.
const PREFIX: &str = "whichpod-cluster-";
/// In a folder that is left for somebody to look at: nobody else removes it.
const KEPT_FILE: &str = "kept";
/// In the folder of a cluster on which a test failed: it is kept when the cluster ends.
pub(crate) const FAILED_FILE: &str = "failed";
/// Folders that are not locked yet.
const NEW_PREFIX: &str = ".whichpod-new-";
/// Makes every folder be kept, as a failed test does for its own.
const KEEP_VARIABLE: &str = "WHICHPOD_TEST_KEEP";
/// What a kept folder does without: tens of megabytes that tell nothing.
const NOT_KEPT: [&str; 3] = ["etcd", "containerd", "kubelet"];
/// What a cluster takes below its folder, in MiB: etcd writes its first 128 at once, images are kept twice.
const ROOM: u64 = 512;
/// How long killed processes may go on using a folder; the kernel takes them down one after the other.
const LAST_BREATHS: Duration = Duration::from_secs(20);

/// A folder below the system's temporary folder, held by a lock that even a SIGKILL to this process lets go.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    keep: AtomicBool,
    _lock: File,
}

impl Folder {
    /// Makes a new one, and removes those whose owner ended without a chance to clean up.
    pub(crate) fn create() -> Result<Self> {
        check_room()?;
        Self::create_in(&std::env::temp_dir())
    }

    fn create_in(parent: &Path) -> Result<Self> {
        sweep(parent);
        // Locked under a name that no sweep looks at, and only then renamed: it is never seen without its lock.
        let unlocked = tempfile::Builder::new()
            .prefix(NEW_PREFIX)
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir_in(parent)
            .with_context(|| format!("cannot make a working folder in {}", parent.display()))?;
        let lock = File::open(unlocked.path())?;
        lock.try_lock().context("somebody else locked a new folder")?;
        let path = parent.join(name_of(unlocked.path()).replace(NEW_PREFIX, PREFIX));
        fs::rename(unlocked.path(), &path)?;
        // The temporary name is gone by the rename; there is nothing left for its guard to remove.
        let _ = unlocked.keep();
        fs::create_dir(path.join("logs"))?;
        standing::sign(&path)?;
        Ok(Self { path, keep: AtomicBool::new(false), _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves it for a look when its owner is done, as a failed test does.
    pub(crate) fn keep(&self) {
        self.keep.store(true, Ordering::Relaxed);
    }

    /// Writes a file for the owner's eyes only and gives its path.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        write_private(&self.path.join(name), content.as_ref())
    }
}

/// An error if the system's temporary folder has no room for a cluster: its programs would only tell of it in their logs.
pub(crate) fn check_room() -> Result<()> {
    let folder = std::env::temp_dir();
    let about = rustix::fs::statvfs(&folder).map_err(std::io::Error::from).with_context(|| {
        format!("a cluster cannot run in {}: set TMPDIR to another folder", folder.display())
    })?;
    let free = about.f_bavail.saturating_mul(about.f_frsize) >> 20;
    let read_only = about.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY);
    if !read_only && free >= ROOM {
        return Ok(());
    }
    let what = if read_only {
        "it is read-only".to_owned()
    } else {
        format!("{free} MiB are free, {ROOM} are needed")
    };
    let why = format!("a cluster cannot run in {}: {what}: set TMPDIR to another folder", folder.display());
    Err(Failure::new(exit::CANNOT_CREATE, why).into())
}

fn write_private(path: &Path, content: &[u8]) -> Result<PathBuf> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let write = || {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let options = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
        options?.write_all(content)
    };
    write().with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path.to_owned())
}

impl Drop for Folder {
    fn drop(&mut self) {
        let asked = std::env::var_os(KEEP_VARIABLE).is_some_and(|value| !value.is_empty());
        let failed = std::thread::panicking() || self.path.join(FAILED_FILE).exists();
        if !(asked || failed || self.keep.load(Ordering::Relaxed)) {
            remove(&self.path);
            return;
        }
        remove_group(&self.path);
        for bulk in NOT_KEPT {
            remove_files(&self.path.join(bulk));
        }
        match self.write(KEPT_FILE, "") {
            Ok(_) => say!("the cluster's logs and files are kept in {}", self.path.display()),
            Err(error) => say!("{error:#}"),
        }
    }
}

/// Every cluster's folder below the system's temporary folder that this user may look into and nobody keeps, and
/// whether somebody holds it: a lock that cannot be taken has an owner that lives.
pub(crate) fn all() -> Vec<(PathBuf, bool)> {
    all_in(&std::env::temp_dir())
}

fn all_in(parent: &Path) -> Vec<(PathBuf, bool)> {
    let paths = fs::read_dir(parent).into_iter().flatten().flatten().map(|entry| entry.path());
    let ours = paths.filter(|path| name_of(path).starts_with(PREFIX) && !path.join(KEPT_FILE).exists());
    ours.filter_map(|path| File::open(&path).ok().map(|folder| (path, folder.try_lock().is_err()))).collect()
}

/// Whether this was in a cluster's folder that is there no more.
pub(crate) fn is_gone(path: &Path) -> bool {
    let mut folders = path.ancestors().filter(|folder| name_of(folder).starts_with(PREFIX));
    folders.next().is_some_and(|folder| !folder.exists())
}

/// Removes what clusters whose owner was killed have left, as every start does.
pub fn clear() {
    sweep(&std::env::temp_dir());
}

/// Removes the folders that nobody holds.
fn sweep(parent: &Path) {
    for (path, _) in all_in(parent).iter().filter(|(_, held)| !held) {
        remove(path);
    }
}

/// Removes a folder that nobody holds, with what bears its name elsewhere.
pub(crate) fn remove(path: &Path) {
    remove_group(path);
    remove_files(path);
}

fn remove_group(path: &Path) {
    until_gone(path, || cgroup::remove(&name_of(path)));
}

fn remove_files(path: &Path) {
    until_gone(path, || fs::remove_dir_all(path));
}

fn until_gone(path: &Path, mut attempt: impl FnMut() -> std::io::Result<()>) {
    let mut last = None;
    let gone = wait_for("its last users to end", LAST_BREATHS, || match attempt() {
        Ok(()) => Ok(Some(())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Some(())),
        Err(error) => {
            last = Some(error);
            Ok(None)
        }
    });
    if let (Err(error), Some(last)) = (gone, last) {
        say!("cannot remove {}: {error}: {last}", path.display());
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_ends_with_its_owner() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::create_in(parent.path()).unwrap();
        folder.write("deep/er/file", "content").unwrap();
        assert!(folder.path().join("deep/er/file").exists());
        drop(folder);
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_folder_of_a_killed_owner_goes_at_the_next_start_and_a_living_ones_stays() {
        let parent = tempfile::tempdir().unwrap();
        let orphan = parent.path().join(format!("{PREFIX}orphan"));
        fs::create_dir_all(orphan.join("etcd")).unwrap();
        let kept = parent.path().join(format!("{PREFIX}kept"));
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join(KEPT_FILE), "").unwrap();

        let first = Folder::create_in(parent.path()).unwrap();
        let second = Folder::create_in(parent.path()).unwrap();

        assert!(!orphan.exists());
        assert!(kept.exists());
        assert!(first.path().exists());
        assert_ne!(first.path(), second.path());
    }

    #[test]
    fn the_folder_of_a_failed_test_stays_for_a_look_without_the_bulk() {
        let parent = tempfile::tempdir().unwrap();
        let place = parent.path().to_owned();
        let failed = std::thread::spawn(move || {
            let folder = Folder::create_in(&place).unwrap();
            folder.write("logs/etcd.log", "why").unwrap();
            folder.write("etcd/wal", "bulk").unwrap();
            panic!("a failing test");
        });
        assert!(failed.join().is_err());

        let left: Vec<_> = fs::read_dir(parent.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(left.len(), 1);
        assert!(left[0].join("logs/etcd.log").exists());
        assert!(!left[0].join("etcd").exists());
        // Nor does the next start remove it.
        drop(Folder::create_in(parent.path()).unwrap());
        assert!(left[0].exists());
    }

    #[test]
    fn keys_and_tokens_are_for_the_owner_only() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::create_in(parent.path()).unwrap();
        let file = folder.write("token", "secret").unwrap();
        assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(folder.path()).unwrap().permissions().mode() & 0o777, 0o700);
    }
}
