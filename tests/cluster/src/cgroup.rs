//! Control groups of a cluster: every node gets one of its own, below that of the cluster.
//!
//! Both layouts are supported: a folder per controller (version 1) and the single tree (version 2).

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::wait::{self, Progress};

const MOUNT: &str = "/sys/fs/cgroup";
/// The trees that kubelet and runc use under version 1; `unified` is where version 2 is mounted next to it.
const CONTROLLERS: [&str; 10] = [
    "cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd", "unified",
];

/// Creates the group `name`, including its parents, in every tree.
pub(crate) fn make(name: &str) -> Result<()> {
    for tree in trees(Path::new(MOUNT)) {
        let mut folder = tree.clone();
        for part in Path::new(name).components() {
            let parent = folder.clone();
            folder.push(part);
            fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
            inherit_cpus(&parent, &folder)?;
        }
    }
    Ok(())
}

/// Removes the group `name` and everything below it; waits a moment for the last processes to leave.
pub(crate) fn remove(name: &str) -> Result<()> {
    let patience = Duration::from_secs(5);
    for tree in trees(Path::new(MOUNT)) {
        let folder = tree.join(name);
        wait::until(
            "removal of the control groups",
            patience,
            Duration::from_millis(50),
            || {
                Ok(match remove_tree(&folder) {
                    Ok(()) => Progress::Done(()),
                    Err(error) => Progress::Pending(format!("{}: {error}", folder.display())),
                })
            },
        )?;
    }
    Ok(())
}

/// A group of version 1 refuses processes until it has been told which processors it may use.
fn inherit_cpus(parent: &Path, folder: &Path) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let (from, to) = (parent.join(file), folder.join(file));
        if folder.starts_with(format!("{MOUNT}/cpuset")) && fs::read_to_string(&to)?.trim().is_empty() {
            fs::write(&to, fs::read_to_string(&from)?).with_context(|| format!("cannot write {}", to.display()))?;
        }
    }
    Ok(())
}

/// The trees that a group must be made in.
fn trees(mount: &Path) -> Vec<PathBuf> {
    if mount.join("cgroup.controllers").exists() {
        return vec![mount.to_owned()];
    }
    CONTROLLERS
        .iter()
        .map(|controller| mount.join(controller))
        .filter(|tree| tree.exists())
        .collect()
}

/// Removes folders from the bottom up; the files in them belong to the kernel and disappear with them.
fn remove_tree(folder: &Path) -> std::io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_2_has_one_tree_and_version_1_one_per_controller() {
        let mount = tempfile::tempdir().expect("a temporary folder");
        for controller in ["cpu", "memory", "other"] {
            fs::create_dir(mount.path().join(controller)).expect("controller");
        }

        assert_eq!(
            trees(mount.path()),
            [mount.path().join("cpu"), mount.path().join("memory")]
        );

        fs::write(mount.path().join("cgroup.controllers"), "cpu memory").expect("version 2");
        assert_eq!(trees(mount.path()), [mount.path()]);
    }
}
