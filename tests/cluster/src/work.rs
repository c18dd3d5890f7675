//! The work folder of one cluster, and the lock on which the cluster's life depends.
//!
//! Invariants
//! - Whoever holds `lock` owns the folder. The outer process holds it while it lives; the cluster's first process waits
//!   for it, and so learns of the outer process's death however that came about.
//! - Large files are in a tmpfs that only the cluster's namespaces see (`etcd`, `n1`, `volumes`) and that disappears
//!   with them. On disk there are only `log/`, which stays for whoever wants to know what went wrong, and small files,
//!   which are removed.

use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use crate::plan::Node;

/// The paths of one cluster.
#[derive(Clone, Debug)]
pub(crate) struct Work {
    root: PathBuf,
}

// === impl Work ===

impl Work {
    /// The work folder at `root`, made if it is not there.
    pub(crate) fn at(root: &Path) -> Result<Self> {
        fs::create_dir_all(root).with_context(|| format!("cannot make the work folder {}", root.display()))?;
        let root = fs::canonicalize(root).with_context(|| format!("cannot find {}", root.display()))?;
        Ok(Self { root })
    }

    /// A path below the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// A path below the folder as text, for command lines and configuration files.
    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// The folder itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of one node.
    pub(crate) fn node(&self, node: Node) -> PathBuf {
        self.path(&node.to_string())
    }

    /// The kubeconfig of the administrator.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.path("admin.kubeconfig")
    }

    /// Where the programs write what they say.
    pub(crate) fn log(&self, program: &str) -> PathBuf {
        self.path("log").join(format!("{program}.log"))
    }

    /// The name of this cluster's control groups, derived from the folder so that two clusters never share one.
    pub(crate) fn cgroup(&self) -> String {
        let hash = Sha256::digest(self.root.as_os_str().as_encoded_bytes());
        format!("alkhub-{}", hex(&hash[..4]))
    }

    /// Takes the lock, or says who has it.
    pub(crate) fn lock(&self) -> Result<File> {
        let file = self.lock_file()?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => bail!(
                "a cluster runs in {root} already: enter it with `alkhub-cluster exec --work {root}`, or choose another --work",
                root = self.root.display()
            ),
            Err(TryLockError::Error(error)) => Err(error).context("cannot lock the work folder"),
        }
    }

    /// Whether someone holds the lock. Without it, a process id in the folder means nothing, since ids are reused.
    pub(crate) fn in_use(&self) -> Result<bool> {
        Ok(matches!(self.lock_file()?.try_lock(), Err(TryLockError::WouldBlock)))
    }

    /// Opens the lock file without taking the lock.
    pub(crate) fn lock_file(&self) -> Result<File> {
        let options = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.path("lock"));
        options.with_context(|| format!("cannot open {}", self.text("lock")))
    }

    /// Removes everything but the lock and, if asked to keep them, the logs.
    pub(crate) fn clear(&self, keep_logs: bool) -> Result<()> {
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == "lock" || (keep_logs && name == "log") {
                continue;
            }
            let path = entry.path();
            let done = if path.is_dir() && !path.is_symlink() {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            match done {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("cannot remove {}", path.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Writes a small file below the folder.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let path = self.path(name);
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Reads a process id that was written into the folder.
    pub(crate) fn pid(&self, name: &str) -> Result<i32> {
        let text = fs::read_to_string(self.path(name))
            .ok()
            .and_then(|text| text.trim().parse().ok());
        text.with_context(|| self.no_cluster())
    }

    /// What to tell someone who wants to join a cluster that is not running.
    pub(crate) fn no_cluster(&self) -> String {
        let root = self.root.display();
        format!("no cluster runs in {root}: start one with `alkhub-cluster up --work {root}`")
    }
}

/// Lower-case hexadecimal of some bytes.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes every write");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_folders_have_two_control_groups() {
        let folders = tempfile::tempdir().expect("a temporary folder");
        let one = Work::at(&folders.path().join("one")).expect("one");
        let two = Work::at(&folders.path().join("two")).expect("two");

        assert_ne!(one.cgroup(), two.cgroup());
        assert_eq!(
            one.cgroup(),
            Work::at(&folders.path().join("one")).expect("again").cgroup()
        );
    }

    #[test]
    fn a_folder_in_use_is_refused_and_named() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let work = Work::at(folder.path()).expect("work");
        let _held = work.lock().expect("free");

        let refusal = work.lock().expect_err("held").to_string();

        assert!(work.in_use().expect("the lock is there"));
        assert!(refusal.contains("runs in"), "{refusal}");
    }

    #[test]
    fn clearing_keeps_the_lock_and_the_logs() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let work = Work::at(folder.path()).expect("work");
        let _held = work.lock().expect("free");
        fs::create_dir_all(work.path("log")).expect("log");
        fs::create_dir_all(work.path("pki/deep")).expect("pki");

        work.clear(true).expect("cleared");

        assert!(work.path("log").exists() && work.path("lock").exists() && !work.path("pki").exists());
    }
}
