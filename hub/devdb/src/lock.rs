//! Makes sure that only one process at a time uses a folder.
//!
//! The lock is the kernel's, on the open file, so it ends with the process, however that ends. The file stays; its
//! text, the holder's process id, means something only while the lock is held.
//!
//! Invariants
//! - Nobody but the folder's owner can open the file, so nobody else can hold the lock, not even after a crash. A file
//!   from an older alkhub that others could open is replaced, since they may still have it open.
//! - A file or a folder of another user is never used.

use std::fs::{DirBuilder, File, Metadata, OpenOptions, Permissions, TryLockError};
use std::io::{ErrorKind, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::unistd::Uid;

use crate::error::Error;

/// The file in the folder.
const NAME: &str = "lock";

/// Replaces a file that others could open.
const NEW_NAME: &str = "lock.new";

const PRIVATE_FILE: u32 = 0o600;
const PRIVATE_FOLDER: u32 = 0o700;

/// The permissions of group and others.
const OTHERS: u32 = 0o077;

/// Held for as long as it lives.
#[derive(Debug)]
pub struct FolderLock {
    folder: PathBuf,
    file: File,
}

// === impl FolderLock ===

impl FolderLock {
    /// Creates the folder if it is missing, and takes its lock. A folder that was missing, is empty, or already has a
    /// lock is closed to all but its owner; one with other contents stays as open as it is.
    ///
    /// # Errors
    /// [`Error::Locked`] names the holder; [`Error::NotOurs`] if folder or lock belong to another user; [`Error::Io`]
    /// if the folder cannot be created or written to.
    pub fn take(folder: &Path) -> Result<Self, Error> {
        make(folder)?;
        let path = folder.join(NAME);
        loop {
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
            // There may be another file by now, with a lock of its own.
            if !is_at(&file, &path) {
                continue;
            }
            if metadata(&file, &path)?.mode() & OTHERS != 0 {
                file = replaced(&path)?;
            }
            write_pid(&mut file).map_err(Error::io("write", &path))?;
            return Ok(Self {
                folder: folder.to_owned(),
                file,
            });
        }
    }

    /// The process that holds a folder's lock: `None` if nobody does, or if somebody else could; `Some(None)` if the
    /// holder did not write its id.
    pub fn holder(folder: &Path) -> Option<Option<u32>> {
        let mut file = File::open(folder.join(NAME)).ok()?;
        let metadata = file.metadata().ok()?;
        if !is_ours(&metadata) || metadata.mode() & OTHERS != 0 {
            return None;
        }
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

impl Drop for FolderLock {
    /// A process that another thread has just started holds the file too, until it executes its program: to close our
    /// side would not free the lock.
    fn drop(&mut self) {
        drop(self.file.unlock());
    }
}

/// Creates the folder, or closes an existing one if it contains nothing that others may need.
fn make(folder: &Path) -> Result<(), Error> {
    if let Some(parent) = folder.parent() {
        std::fs::create_dir_all(parent).map_err(Error::io("make", parent))?;
    }
    match DirBuilder::new().mode(PRIVATE_FOLDER).create(folder) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(Error::io("make", folder)(error)),
    }
    let found = std::fs::metadata(folder).map_err(Error::io("look at", folder))?;
    if !is_ours(&found) {
        return Err(Error::NotOurs {
            path: folder.to_owned(),
        });
    }
    let mut entries = std::fs::read_dir(folder).map_err(Error::io("look into", folder))?;
    let is_free = folder.join(NAME).exists() || entries.next().is_none();
    if is_free && found.mode() & 0o007 != 0 {
        let private = Permissions::from_mode(PRIVATE_FOLDER);
        std::fs::set_permissions(folder, private).map_err(Error::io("close", folder))?;
    }
    Ok(())
}

fn open(path: &Path) -> Result<File, Error> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(PRIVATE_FILE)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(path)
        .map_err(Error::io("open", path))?;
    if is_ours(&metadata(&file, path)?) {
        Ok(file)
    } else {
        Err(Error::NotOurs { path: path.to_owned() })
    }
}

/// A new file in place of one whose lock is held: locked before anybody can find it.
fn replaced(path: &Path) -> Result<File, Error> {
    let new = path.with_file_name(NEW_NAME);
    let _ = std::fs::remove_file(&new);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(PRIVATE_FILE)
        .open(&new)
        .map_err(Error::io("make", &new))?;
    file.lock().map_err(Error::io("lock", &new))?;
    std::fs::rename(&new, path).map_err(Error::io("rename", &new))?;
    Ok(file)
}

fn metadata(file: &File, path: &Path) -> Result<Metadata, Error> {
    file.metadata().map_err(Error::io("look at", path))
}

fn is_ours(metadata: &Metadata) -> bool {
    metadata.uid() == Uid::effective().as_raw()
}

/// Whether an open file is the one at a path.
fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(open), Ok(named)) = (file.metadata(), std::fs::symlink_metadata(path)) else {
        return false;
    };
    (open.dev(), open.ino()) == (named.dev(), named.ino())
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

    #[test]
    fn folder_and_lock_are_closed_to_others() {
        let parent = tempfile::tempdir().expect("a folder");
        let folder = parent.path().join("data");
        let mode = |path: &Path| std::fs::metadata(path).expect("there").mode() & 0o777;

        let lock = FolderLock::take(&folder).expect("free");

        assert_eq!((mode(&folder), mode(&folder.join(NAME))), (0o700, 0o600));
        drop(lock);
        std::fs::set_permissions(&folder, Permissions::from_mode(0o755)).expect("ours");
        let _again = FolderLock::take(&folder).expect("free");
        assert_eq!(mode(&folder), 0o700, "that of an older alkhub is closed");
    }

    #[test]
    fn a_folder_with_other_things_in_it_stays_as_it_is() {
        let parent = tempfile::tempdir().expect("a folder");
        std::fs::set_permissions(parent.path(), Permissions::from_mode(0o755)).expect("ours");
        std::fs::write(parent.path().join("of-others"), "").expect("ours");

        let _lock = FolderLock::take(parent.path()).expect("free");

        let mode = std::fs::metadata(parent.path()).expect("there").mode();
        assert_eq!(mode & 0o777, 0o755);
    }

    #[test]
    fn a_lock_that_others_could_open_is_replaced_and_trusted_only_then() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(NAME);
        let open_to_all = File::create(&path).expect("ours");
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("ours");
        open_to_all.lock().expect("free");
        assert_eq!(FolderLock::holder(folder.path()), None, "anybody could hold it");
        open_to_all.unlock().expect("held");

        let _lock = FolderLock::take(folder.path()).expect("free");

        open_to_all.try_lock().expect("it is another file by now");
        assert_eq!(FolderLock::holder(folder.path()), Some(Some(std::process::id())));
    }
}
