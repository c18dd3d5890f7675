//! The user as whom Postgres runs: ourselves, or somebody unprivileged if we are root.

use std::fs::{Metadata, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use nix::unistd::{Uid, User};

use crate::error::Error;

/// Tried in this order.
const NAMES: [&str; 2] = ["postgres", "nobody"];

/// The user, if it is not ourselves.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    other: Option<User>,
}

// === impl Account ===

impl Account {
    /// Ourselves; for root, the owner of existing data, or else the first of [`NAMES`] that exists.
    pub(crate) fn choose(data: &Path) -> Result<Self, Error> {
        if !Uid::effective().is_root() {
            return Ok(Self { other: None });
        }
        let owner = std::fs::metadata(data)
            .ok()
            .map(|data| data.uid())
            .filter(|uid| *uid != 0)
            .and_then(|uid| User::from_uid(Uid::from_raw(uid)).ok().flatten());
        let named = || NAMES.iter().find_map(|name| User::from_name(name).ok().flatten());
        let other = owner.or_else(named).ok_or(Error::NoAccount)?;
        Ok(Self { other: Some(other) })
    }

    /// Its uid.
    pub(crate) fn uid(&self) -> u32 {
        self.other
            .as_ref()
            .map_or_else(|| Uid::effective().as_raw(), |user| user.uid.as_raw())
    }

    /// Makes the command run as the account, with none of our groups.
    pub(crate) fn apply(&self, command: &mut Command) {
        if let Some(user) = &self.other {
            command.gid(user.gid.as_raw()).uid(user.uid.as_raw());
        }
    }

    /// Gives it ownership of a file or a folder.
    pub(crate) fn give(&self, path: &Path) -> Result<(), Error> {
        let Some(user) = &self.other else { return Ok(()) };
        chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).map_err(Error::io("give away", path))
    }

    /// Lets it, and nobody else, enter a closed folder of ours. A folder that it can enter already stays as it is.
    pub(crate) fn admit(&self, folder: &Path) -> Result<(), Error> {
        let Some(user) = &self.other else { return Ok(()) };
        let metadata = std::fs::metadata(folder).map_err(Error::io("look at", folder))?;
        if enters(user, &metadata) {
            return Ok(());
        }
        chown(folder, None, Some(user.gid.as_raw())).map_err(Error::io("open", folder))?;
        let entered = Permissions::from_mode(metadata.mode() & 0o7700 | 0o010);
        std::fs::set_permissions(folder, entered).map_err(Error::io("open", folder))
    }

    /// Checks that it can enter a folder, all the way from `/`.
    pub(crate) fn reaches(&self, folder: &Path) -> Result<(), Error> {
        let Some(user) = &self.other else { return Ok(()) };
        let folder = folder.canonicalize().map_err(Error::io("find", folder))?;
        let mut way: Vec<&Path> = folder.ancestors().collect();
        way.reverse();
        for step in way {
            let metadata = std::fs::metadata(step).map_err(Error::io("look at", step))?;
            if !enters(user, &metadata) {
                return Err(Error::Unreachable {
                    user: user.name.clone(),
                    blocked: step.to_owned(),
                });
            }
        }
        Ok(())
    }
}

fn enters(user: &User, folder: &Metadata) -> bool {
    let (owner, group, others) = (0o100, 0o010, 0o001);
    let bit = if folder.uid() == user.uid.as_raw() {
        owner
    } else if folder.gid() == user.gid.as_raw() {
        group
    } else {
        others
    };
    folder.mode() & bit != 0
}
