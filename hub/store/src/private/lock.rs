//! One process at a time uses a folder.
//!
//! The lock is the kernel's, on the open file: it ends with the process, however that ends. The file stays, and its
//! text, the holder's process id, means something only while the lock is held.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use super::Error;

/// The file in the folder.
const NAME: &str = "lock";

/// Held for as long as it lives.
#[derive(Debug)]
pub struct FolderLock {
    folder: PathBuf,
    _file: File,
}

// === impl FolderLock ===

impl FolderLock {
    /// Makes the folder when it is missing, and takes its lock.
    ///
    /// # Errors
    /// [`Error::Locked`] names the holder; [`Error::Io`] when the folder cannot be made or written to.
    pub fn take(folder: &Path) -> Result<Self, Error> {
        std::fs::create_dir_all(folder).map_err(Error::io("make", folder))?;
        let path = folder.join(NAME);
        let mut file = open(&path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::Locked {
                    folder: folder.to_owned(),
                    pid: read_pid(&mut file),
                });
            }
            Err(TryLockError::Error(error)) => return Err(Error::io("lock", &path)(error)),
        }
        write_pid(&mut file).map_err(Error::io("write", &path))?;
        Ok(Self {
            folder: folder.to_owned(),
            _file: file,
        })
    }

    /// The process that holds a folder's lock: `None` when nobody does, `Some(None)` when it did not say.
    pub fn holder(folder: &Path) -> Option<Option<u32>> {
        let mut file = File::open(folder.join(NAME)).ok()?;
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => Some(read_pid(&mut file)),
            Ok(()) | Err(TryLockError::Error(_)) => None,
        }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

fn open(path: &Path) -> Result<File, Error> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(Error::io("open", path))
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn write_pid(file: &mut File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_to_come_is_told_who_was_first() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = FolderLock::take(folder.path()).expect("free");

        let second = FolderLock::take(folder.path()).expect_err("taken");

        assert!(
            matches!(second, Error::Locked { pid: Some(pid), .. } if pid == std::process::id()),
            "{second}"
        );
        assert_eq!(FolderLock::holder(folder.path()), Some(Some(std::process::id())));
        drop(first);
        assert_eq!(FolderLock::holder(folder.path()), None);
        assert!(FolderLock::take(folder.path()).is_ok());
    }
}
