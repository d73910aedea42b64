//! The control group that a node keeps its pods below.
//!
//! Every kubelet removes what it does not know below its own group, so two nodes must not have the same.

use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = "/sys/fs/cgroup";

/// Makes the group in every hierarchy there is.
pub(crate) fn create(name: &str) -> std::io::Result<()> {
    for hierarchy in hierarchies(Path::new(ROOT)) {
        if let Ok(controllers) = fs::read_to_string(hierarchy.join("cgroup.controllers")) {
            // Version 2 hands a controller down only when told. One that the system keeps for itself is not needed.
            for controller in controllers.split_whitespace() {
                let _ = fs::write(hierarchy.join("cgroup.subtree_control"), format!("+{controller}"));
            }
        }
        fs::create_dir(hierarchy.join(name))?;
    }
    Ok(())
}

/// Removes the group, if it is there, with the empty groups below it.
pub(crate) fn remove(name: &str) -> std::io::Result<()> {
    hierarchies(Path::new(ROOT)).iter().try_for_each(|hierarchy| remove_tree(&hierarchy.join(name)))
}

/// Version 2 is one hierarchy; version 1 has one for each controller, some under two names.
fn hierarchies(root: &Path) -> Vec<PathBuf> {
    if root.join("cgroup.controllers").exists() {
        return vec![root.to_owned()];
    }
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.map(|entry| entry.path()).filter(|path| path.join("cgroup.procs").exists()).collect()
}

/// A group's files cannot be removed and need not be: only its folders go, innermost first.
fn remove_tree(group: &Path) -> std::io::Result<()> {
    match fs::read_dir(group) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(entries) => {
            for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
                remove_tree(&entry.path())?;
            }
        }
    }
    fs::remove_dir(group)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_hierarchy_of_version_1_is_found_once_and_version_2_is_one() {
        let root = tempfile::tempdir().unwrap();
        for name in ["cpu", "memory", "no-group"] {
            fs::create_dir(root.path().join(name)).unwrap();
        }
        for name in ["cpu", "memory"] {
            fs::write(root.path().join(name).join("cgroup.procs"), "").unwrap();
        }
        std::os::unix::fs::symlink("cpu", root.path().join("cpuacct")).unwrap();
        let mut found = hierarchies(root.path());
        found.sort();
        assert_eq!(found, [root.path().join("cpu"), root.path().join("memory")]);

        fs::write(root.path().join("cgroup.controllers"), "cpu").unwrap();
        assert_eq!(hierarchies(root.path()), [root.path()]);
    }

    #[test]
    fn inner_groups_go_before_outer_ones() {
        let root = tempfile::tempdir().unwrap();
        let group = root.path().join("group");
        fs::create_dir_all(group.join("kubepods/pod")).unwrap();
        remove_tree(&group).unwrap();
        assert!(!group.exists());
        remove_tree(&group).unwrap();
    }
}
