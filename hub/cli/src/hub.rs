//! Which hub a command talks to: flags > environment > the running `alkhub dev`.

use std::path::PathBuf;

use alkhub_sdk::{Client, Error};

use crate::args::HubArgs;
use crate::dev::state::{self, Found};
use crate::failure::Failure;

/// A hub's address and the key for it.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) url: String,
    pub(crate) token: Option<String>,
    pub(crate) ca_file: Option<PathBuf>,
}

// === impl HubArgs ===

impl HubArgs {
    /// The hub that the command line, the environment or a running `alkhub dev` names.
    ///
    /// The development hub's key goes to no other hub: with an address given, a key must be given too.
    pub(crate) fn target(&self) -> Result<Target, Failure> {
        let ca_file = self.ca_file.clone();
        if let Some(url) = &self.url {
            return Ok(Target {
                url: url.clone(),
                token: self.token.clone(),
                ca_file,
            });
        }
        let Some(Found { url, key_file }) = state::find(self)? else {
            return Err(Failure::usage(
                "no hub is named and no `alkhub dev` runs: start one with `alkhub dev`, or give --url or ALKHUB_URL",
            ));
        };
        let token = match &self.token {
            Some(token) => token.clone(),
            None => std::fs::read_to_string(&key_file)
                .map_err(|e| Failure::other(format!("cannot read the key in {}: {e}", key_file.display())))?,
        };
        Ok(Target {
            url,
            token: Some(token.trim().to_owned()),
            ca_file,
        })
    }

    /// A client of that hub; nothing is connected yet.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        Ok(self.target()?.client()?)
    }
}

// === impl Target ===

impl Target {
    /// A client; nothing is connected yet.
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
