//! `alkhub keys`.

use alkhub_protocol::scope;
use clap::{Args, Subcommand};

use super::{ClientArgs, Time};

#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Makes a key and shows it, once
    Create(KeyCreateArgs),
    /// Lists keys without their secrets
    List(KeyListArgs),
    /// Revokes a key: what is connected with it is cut off
    Revoke(KeyRevokeArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  alkhub keys list
  alkhub keys list --output json | jq -r '.[].name'")]
pub(crate) struct KeyListArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  alkhub keys revoke dashboard
  alkhub keys revoke 0193b9e4-7c1e-7a31-9a4f-5d9e0a1b2c3d

A name that several valid keys have is refused, with their ids.")]
pub(crate) struct KeyRevokeArgs {
    /// The key's name or its id, from `alkhub keys list`
    #[arg(value_name = "NAME|ID")]
    pub(crate) key: String,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Debug, Args)]
#[command(after_help = create_help())]
pub(crate) struct KeyCreateArgs {
    /// What it is for
    pub(crate) name: String,
    /// What it may do; may be repeated
    #[arg(long = "scope", value_name = "SCOPE")]
    pub(crate) scopes: Vec<String>,
    /// The spoke that it identifies; adds the scope `spoke`
    #[arg(long, value_name = "NAME")]
    pub(crate) spoke: Option<String>,
    /// When it ends, for example 24h or 30d; never when absent
    #[arg(long, value_name = "TIME")]
    pub(crate) expires_in: Option<Time>,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// The scopes, in two columns, and examples.
fn create_help() -> String {
    let all = || scope::OWN.iter();
    let width = all().flat_map(|own| own.forms).map(|form| form.len()).max();
    let width = width.unwrap_or_default();
    let rows = all().flat_map(|own| {
        let by = if own.forms.contains(&scope::SPOKE) {
            " (by --spoke NAME)"
        } else {
            ""
        };
        own.forms
            .iter()
            .map(move |form| format!("  {form:width$}  {}{by}\n", own.allows))
    });
    format!(
        "\
Scopes:
{}
Examples:
  alkhub keys create dashboard --scope operations:read --scope spokes:read --expires-in 30d
  alkhub keys create builder --spoke builder --scope events:publish:build.done",
        rows.collect::<String>()
    )
}
