//! Which hub a command talks to: flags > environment > the running `alkhub dev`.

use std::path::{Path, PathBuf};

use alkhub_sdk::{Client, Error, Spoke, spoke};

use crate::args::HubArgs;
use crate::dev::state::{self, Found};
use crate::failure::Failure;

/// A hub's address and the key for it.
#[derive(Debug)]
pub(crate) struct HubAccess {
    pub(crate) url: String,
    pub(crate) token: Option<String>,
    pub(crate) ca_file: Option<PathBuf>,
}

// === impl HubArgs ===

impl HubArgs {
    /// The hub that the command line, the environment or a running `alkhub dev` names.
    ///
    /// The development hub's key is sent to no other hub: whoever names another address must name a key too.
    pub(crate) fn access(&self) -> Result<HubAccess, Failure> {
        self.check()?;
        let ca_file = self.ca_file.clone();
        let named = match &self.token_file {
            Some(file) => Some(read_key(file)?),
            None => self.token.clone(),
        };
        let found = match (&self.url, &named) {
            // The key file is not needed.
            (Some(_), Some(_)) => None,
            (Some(url), None) => state::find(self.folders())?.filter(|found| is_at(found, url)),
            (None, _) => Some(self.development()?),
        };
        let token = match (named, &found) {
            (None, Some(found)) => Some(found.key()?),
            (named, _) => named,
        };
        let url = self.url.clone().or_else(|| found.map(|found| found.url));
        Ok(HubAccess {
            url: url.expect("one is named, or found"),
            token: token.map(|token| token.trim().to_owned()),
            ca_file,
        })
    }

    /// Refuses an argument that needs standard input if the key needs it too.
    pub(crate) fn leaves_standard_input_to(&self, argument: Option<&str>, name: &str) -> Result<(), Failure> {
        let from_there = self.token_file.as_deref() == Some(Path::new("-"));
        match from_there && argument == Some("-") {
            true => Err(Failure::usage(format!(
                "--token-file - and {name} `-` both read standard input: give one of them as a file (--token-file FILE, \
                 {name} @FILE)"
            ))),
            false => Ok(()),
        }
    }

    /// An empty value means that somebody's variable is not set: nothing else is used in its place.
    fn check(&self) -> Result<(), Failure> {
        let is_empty = |path: &PathBuf| path.as_os_str().is_empty();
        for (empty, flag, variable) in [
            (self.url.as_deref() == Some(""), "--url", "ALKHUB_URL"),
            (self.token.as_deref() == Some(""), "--token", "ALKHUB_TOKEN"),
            (
                self.ca_file.as_ref().is_some_and(is_empty),
                "--ca-file",
                "ALKHUB_CA_FILE",
            ),
        ] {
            if empty {
                return Err(Failure::usage(format!(
                    "{variable} (or {flag}) is empty: give it a value, or unset it"
                )));
            }
        }
        Ok(())
    }

    fn development(&self) -> Result<Found, Failure> {
        state::find(self.folders())?.ok_or_else(|| {
            Failure::usage(
                "no hub is named and no `alkhub dev` runs: start one with `alkhub dev`, or give --url or ALKHUB_URL",
            )
        })
    }

    fn folders(&self) -> &crate::args::Folders {
        &self.folders
    }

    /// A client of that hub; it does not connect yet.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        Ok(self.access()?.client()?)
    }
}

fn is_at(found: &Found, url: &str) -> bool {
    found.url == url.trim_end_matches('/')
}

/// The first line of a file, or of standard input for `-`.
fn read_key(file: &Path) -> Result<String, Failure> {
    let text = match file == Path::new("-") {
        true => std::io::read_to_string(std::io::stdin()),
        false => std::fs::read_to_string(file),
    };
    let text = text.map_err(|e| Failure::usage(format!("cannot read the key in {}: {e}", file.display())))?;
    let key = text.lines().next().unwrap_or_default().trim();
    if key.is_empty() {
        return Err(Failure::usage(format!("there is no key in {}", file.display())));
    }
    Ok(key.to_owned())
}

// === impl Found ===

impl Found {
    fn key(&self) -> Result<String, Failure> {
        let path = &self.key_file;
        std::fs::read_to_string(path)
            .map_err(|e| Failure::other(format!("cannot read the key in {}: {e}", path.display())))
    }
}

// === impl HubAccess ===

impl HubAccess {
    /// A spoke of this hub, still to be described.
    pub(crate) fn spoke(&self) -> spoke::Builder {
        let mut builder = Spoke::builder(&self.url);
        if let Some(token) = &self.token {
            builder = builder.token(token);
        }
        if let Some(path) = &self.ca_file {
            builder = builder.ca_file(path);
        }
        builder
    }

    /// A client; it does not connect yet.
    pub(crate) fn client(&self) -> Result<Client, Error> {
        let mut builder = Client::builder(&self.url);
        if let Some(token) = &self.token {
            builder = builder.token(token);
        }
        if let Some(path) = &self.ca_file {
            builder = builder.ca_file(path);
        }
        builder.build()
    }
}
