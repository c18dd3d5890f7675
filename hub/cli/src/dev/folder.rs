//! The data folder: found, created if it is missing, and removed again if nothing came of the start.

use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use alkhub_devdb::FolderLock;

use crate::args::Folders;
use crate::failure::Failure;

/// The file of the first key, in the data folder.
pub(super) const ADMIN_KEY: &str = "admin.key";

/// The file of the secret that keys are hashed with.
pub(super) const HASH_KEY: &str = "hash.key";

/// Where root's data go: Postgres runs as another user, which cannot enter root's home.
const DATA_OF_ROOT: &str = "/var/lib/alkhub/dev";

/// For the owner only.
const PRIVATE: u32 = 0o700;

/// The file that [`FolderLock`] makes.
const LOCK: &str = "lock";

/// Everything else that a start creates in it.
const MADE: [&str; 5] = ["data", "run", "postgres.log", ADMIN_KEY, HASH_KEY];

/// A folder that exists.
#[derive(Debug)]
pub(super) struct DataFolder {
    path: PathBuf,
    /// The folders that did not exist before, the innermost first.
    made: Vec<PathBuf>,
    had_lock: bool,
    /// Which of [`MADE`] this start creates; empty until it has the folder to itself.
    filled: Vec<&'static str>,
}

// === impl DataFolder ===

impl DataFolder {
    /// The folder that the user names, or the default one; created if it is missing.
    pub(super) fn make(named: Option<&Path>, folders: &Folders) -> Result<Self, Failure> {
        let folder = match named {
            Some(folder) => folder.to_owned(),
            None => default(folders)?,
        };
        let failed =
            |e: std::io::Error| Failure::other(format!("cannot use the data folder {}: {e}", folder.display()));
        let made = folder.ancestors().filter(|folder| !folder.as_os_str().is_empty());
        let made = made.take_while(|folder| !folder.exists()).map(Path::to_owned).collect();
        if let Some(parent) = folder.parent() {
            std::fs::create_dir_all(parent).map_err(failed)?;
        }
        // Closed from the first moment on: if others could take its lock, they would be sent the key after a crash.
        let made_it = DirBuilder::new().mode(PRIVATE).create(&folder);
        made_it.or_else(|error| match error.kind() {
            ErrorKind::AlreadyExists => Ok(()),
            _ => Err(failed(error)),
        })?;
        let path = folder.canonicalize().map_err(failed)?;
        Ok(Self {
            had_lock: path.join(LOCK).exists(),
            path,
            made,
            filled: Vec::new(),
        })
    }

    /// What does not exist yet. To be asked by the holder of the folder's lock, so that nobody else creates it
    /// meanwhile.
    pub(super) fn missing(&self) -> Vec<&'static str> {
        MADE.into_iter().filter(|name| !self.path.join(name).exists()).collect()
    }

    /// Notes that this start creates these from here on.
    pub(super) fn fills(&mut self, missing: Vec<&'static str>) {
        self.filled = missing;
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes what this start has created, including the lock's file and the folders, unless they contain something
    /// else or another hub has come.
    pub(super) fn tidy(&self) {
        // Held while its file is removed, so that nobody else can hold it.
        if let Ok(_lock) = FolderLock::take(&self.path) {
            for path in self.filled.iter().map(|name| self.path.join(name)) {
                // Whatever cannot be removed keeps the folder, which shows that something is left.
                let _ = if path.is_dir() {
                    std::fs::remove_dir_all(&path)
                } else {
                    std::fs::remove_file(&path)
                };
            }
            let mut entries = std::fs::read_dir(&self.path).into_iter().flatten().flatten();
            if !self.had_lock && entries.all(|entry| entry.file_name() == LOCK) {
                let _ = std::fs::remove_file(self.path.join(LOCK));
            }
        }
        for folder in &self.made {
            if std::fs::remove_dir(folder).is_err() {
                return;
            }
        }
    }
}

fn default(folders: &Folders) -> Result<PathBuf, Failure> {
    if nix::unistd::geteuid().is_root() {
        return Ok(DATA_OF_ROOT.into());
    }
    let home = folders.data_home.clone().filter(|path| path.is_absolute());
    let home = home.or_else(|| folders.home.as_ref().map(|home| home.join(".local/share")));
    home.map(|home| home.join("alkhub/dev"))
        .ok_or_else(|| Failure::usage("no home folder is known: name a folder with --data"))
}
