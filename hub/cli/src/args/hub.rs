//! Which hub a command talks to, and how it writes what it got: on the commands that talk to one, and on no other.

use std::path::PathBuf;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser as _};

use super::Output;

/// What every command has that asks a hub and prints the answer.
#[derive(Debug, Args)]
pub(crate) struct ClientArgs {
    #[command(flatten)]
    pub(crate) hub: HubArgs,
    /// How results are written
    #[arg(long, value_enum, default_value_t, value_name = "FORM", help_heading = "Output")]
    pub(crate) output: Output,
}

/// Which hub, and with which key. Flags win over the environment, the environment over a running `alkhub dev`.
#[derive(Debug, Args)]
pub(crate) struct HubArgs {
    /// Address of the hub; that of the running `alkhub dev` when absent
    #[arg(long, env = "ALKHUB_URL", help_heading = "Hub")]
    pub(crate) url: Option<String>,
    /// Key; that of the running `alkhub dev` when absent. Hidden from `ps`; better in the environment or in a file
    #[arg(
        long,
        env = "ALKHUB_TOKEN",
        hide_env_values = true,
        value_name = "KEY",
        help_heading = "Hub"
    )]
    pub(crate) token: Option<String>,
    /// File with the key, or - for standard input; wins over --token
    #[arg(long, value_name = "FILE", help_heading = "Hub")]
    pub(crate) token_file: Option<PathBuf>,
    /// PEM file with authorities to trust besides the system's
    #[arg(
        long,
        env = "ALKHUB_CA_FILE",
        value_name = "FILE",
        // An empty value is reported with the variable's name.
        value_parser = OsStringValueParser::new().map(PathBuf::from),
        help_heading = "Hub"
    )]
    pub(crate) ca_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) folders: Folders,
}

/// Where a user's files are.
#[derive(Debug, Args)]
pub(crate) struct Folders {
    #[arg(long, hide = true, env = "XDG_STATE_HOME")]
    pub(crate) state_home: Option<PathBuf>,
    #[arg(long, hide = true, env = "XDG_DATA_HOME")]
    pub(crate) data_home: Option<PathBuf>,
    #[arg(long, hide = true, env = "HOME")]
    pub(crate) home: Option<PathBuf>,
}
