//! How other commands find the running development hub: a state file, and the data folder's lock that vouches for it.
//!
//! Invariants
//! - A state file is trusted only while the process that it names holds the lock of the folder that it names and is the
//!   one that listens at its address: otherwise the file of a killed hub could send a key to whoever took its port.
//! - Nobody but its owner can read or write it.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use alkhub_devdb::FolderLock;
use serde::{Deserialize, Serialize};

use crate::args::Folders;
use crate::failure::Failure;

use super::listener;

/// Readable and writable by the owner only.
const PRIVATE: u32 = 0o600;

/// A running development hub.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) url: String,
    pub(crate) key_file: PathBuf,
}

/// The state file of a running hub; dropping it removes it.
#[derive(Debug)]
pub(super) struct Published(PathBuf);

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct State {
    url: String,
    data: PathBuf,
    pid: u32,
}

/// The hub that a trusted state file names.
///
/// # Errors
/// Another program listens at its address: no key is sent there.
pub(crate) fn find(args: &Folders) -> Result<Option<Found>, Failure> {
    let Some(state) = path(args).and_then(|path| read(&path)) else {
        return Ok(None);
    };
    // The lock is the kernel's, and nobody else can hold it; its text is the holder's.
    if FolderLock::holder(&state.data) != Some(Some(state.pid)) {
        return Ok(None);
    }
    let address = state.url.split_once("://").and_then(|(_, rest)| rest.parse().ok());
    if !address.is_some_and(|address| listener::is_of(state.pid, address)) {
        return Err(Failure::other(format!(
            "not `alkhub dev` (process {}) listens at {}: no key is sent there; start `alkhub dev` again, or give --url \
             and --token",
            state.pid, state.url
        )));
    }
    Ok(Some(Found {
        url: state.url,
        key_file: state.data.join(super::folder::ADMIN_KEY),
    }))
}

/// A state file that nobody but us can read or write.
fn read(path: &Path) -> Option<State> {
    let mut file = File::open(path).ok()?;
    let metadata = file.metadata().ok()?;
    let ours = metadata.uid() == nix::unistd::geteuid().as_raw() && metadata.permissions().mode() & 0o077 == 0;
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok().filter(|_| ours)
}

/// `$XDG_STATE_HOME/alkhub/dev.json`.
fn path(args: &Folders) -> Option<PathBuf> {
    let state = args.state_home.clone().filter(|path| path.is_absolute());
    let state = state.or_else(|| args.home.as_ref().map(|home| home.join(".local/state")))?;
    Some(state.join("alkhub/dev.json"))
}

// === impl Published ===

impl Published {
    /// Writes the state file in one step.
    pub(super) fn write(args: &Folders, url: &str, data: &Path) -> Result<Option<Self>, Failure> {
        let Some(path) = path(args) else { return Ok(None) };
        let failed = |e: std::io::Error| Failure::other(format!("cannot write {}: {e}", path.display()));
        let folder = path.parent().expect("it ends in alkhub/dev.json");
        std::fs::create_dir_all(folder).map_err(failed)?;
        let state = State {
            url: url.to_owned(),
            data: data.to_owned(),
            pid: std::process::id(),
        };
        let new = folder.join(format!("dev.json.{}", std::process::id()));
        write_private(&new, &serde_json::to_string(&state).expect("three plain fields")).map_err(failed)?;
        std::fs::rename(&new, &path).map_err(failed)?;
        Ok(Some(Self(path)))
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        let text = std::fs::read_to_string(&self.0).unwrap_or_default();
        let ours = serde_json::from_str::<State>(&text).is_ok_and(|state| state.pid == std::process::id());
        if ours {
            // If the file remains, it is not trusted: its lock is free.
            let _ = std::fs::remove_file(&self.0);
        }
    }
}

/// Writes a file that only its owner can read; an existing one is replaced.
pub(super) fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(PRIVATE)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use tempfile::TempDir;

    use super::*;

    fn args(state_home: &Path) -> Folders {
        Folders {
            state_home: Some(state_home.to_owned()),
            data_home: None,
            home: None,
        }
    }

    /// The state of a hub whose part this process plays.
    struct Played {
        state: TempDir,
        data: TempDir,
        listener: TcpListener,
    }

    impl Played {
        fn new() -> Self {
            let folder = || tempfile::tempdir().expect("a folder");
            let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
            Self {
                state: folder(),
                data: folder(),
                listener,
            }
        }

        fn url(&self) -> String {
            format!("http://{}", self.listener.local_addr().expect("bound"))
        }

        fn publish(&self) -> Published {
            let published = Published::write(&args(self.state.path()), &self.url(), self.data.path());
            published.expect("written").expect("there is a place for it")
        }

        fn lock(&self) -> FolderLock {
            FolderLock::take(self.data.path()).expect("free")
        }

        fn found(&self) -> Option<Found> {
            find(&args(self.state.path())).expect("nobody else listens")
        }
    }

    #[test]
    fn a_state_file_is_trusted_while_the_lock_is_held_and_not_after() {
        let played = Played::new();
        let lock = played.lock();
        let published = played.publish();

        assert_eq!(played.found().expect("trusted").url, played.url());
        drop(lock);
        assert!(played.found().is_none(), "nobody vouches for it");

        drop(published);
        assert!(!played.state.path().join("alkhub/dev.json").exists());
    }

    #[test]
    fn a_state_file_that_others_can_read_is_not_trusted() {
        let played = Played::new();
        let _lock = played.lock();
        let _published = played.publish();

        let open = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(played.state.path().join("alkhub/dev.json"), open).expect("ours");

        assert!(played.found().is_none());
    }

    #[test]
    fn a_state_file_of_another_process_than_the_locks_holder_is_not_trusted() {
        let played = Played::new();
        let _lock = played.lock();
        let _published = played.publish();
        let path = played.state.path().join("alkhub/dev.json");
        let text = std::fs::read_to_string(&path).expect("written");

        let killed = text.replace(&std::process::id().to_string(), "4194304");
        write_private(&path, &killed).expect("ours");

        assert!(played.found().is_none());
    }

    #[test]
    fn a_hub_whose_address_another_listens_at_is_refused_by_name() {
        let played = Played::new();
        let _lock = played.lock();
        let _published = played.publish();
        let url = played.url();

        let Played { state, listener, .. } = played;
        drop(listener);

        let refused = find(&args(state.path())).expect_err("the listener is not the holder's");
        assert!(refused.line().contains(&url), "{}", refused.line());
    }
}
