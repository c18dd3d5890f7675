//! `alkhub operations`, `alkhub spokes` and `alkhub status`.

use clap::{Args, Subcommand};

use super::ClientArgs;

#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  alkhub operations
  alkhub operations --search upper
  alkhub operations describe text.upper
  alkhub operations --output json | jq -r '.[].operation'"
)]
pub(crate) struct OperationsArgs {
    /// Words to find in name, title, description and tags
    #[arg(long, value_name = "TEXT")]
    pub(crate) search: Option<String>,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    #[command(subcommand)]
    pub(crate) command: Option<OperationsCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum OperationsCommand {
    /// Tells all of one operation: its schemas, its errors, who offers it, which scopes it asks for
    Describe(DescribeArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  alkhub operations describe text.upper
  alkhub operations describe text.upper --output json | jq .inputSchema")]
pub(crate) struct DescribeArgs {
    /// Operation, `namespace.operation`
    pub(crate) operation: String,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  alkhub spokes
  alkhub spokes --label team=a --label zone
  alkhub spokes declare builder --operation 'build.*' --label team=a
  alkhub spokes suspend builder
  alkhub spokes delete builder"
)]
pub(crate) struct SpokesArgs {
    /// With this label (KEY), or with this value of it (KEY=VALUE); may be repeated
    #[arg(long = "label", value_name = "KEY[=VALUE]")]
    pub(crate) labels: Vec<String>,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    #[command(subcommand)]
    pub(crate) command: Option<SpokesCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SpokesCommand {
    /// Declares a spoke: what it may offer and do. A new one gets a key, which is shown once
    Declare(DeclareArgs),
    /// Refuses a spoke at the door; its key and its declaration stay
    Suspend(SpokeArgs),
    /// Lets a suspended spoke in again
    Resume(SpokeArgs),
    /// Deletes a spoke: its keys and its connections end
    Delete(SpokeArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  alkhub spokes declare builder
  alkhub spokes declare builder --operation 'build.*' --operation test.run
  alkhub spokes declare builder --scope events:publish:build.done
  alkhub spokes declare builder --concurrency 4 --label team=a --new-key

What is not said is as for a new spoke: declaring again replaces the declaration. The key stays, unless --new-key asks
for another; then the old one ends. Keys that `alkhub keys create --spoke NAME` made before the first declaration end with
it, and the programs that use them: that is refused without --end-keys. A Spoke of Kubernetes is changed in Kubernetes.")]
pub(crate) struct DeclareArgs {
    /// The spoke's name
    pub(crate) name: String,
    /// What it may offer: `ns.op` or `ns.*`; may be repeated [default: NAME.*]
    #[arg(long = "operation", value_name = "PATTERN")]
    pub(crate) operations: Vec<String>,
    /// What its key may do besides offering; may be repeated
    #[arg(long = "scope", value_name = "SCOPE")]
    pub(crate) scopes: Vec<String>,
    /// A label; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub(crate) labels: Vec<String>,
    /// Calls that one instance takes at once, at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) concurrency: Option<u32>,
    /// Makes another key for a spoke that has one
    #[arg(long)]
    pub(crate) new_key: bool,
    /// Ends the keys that were made for the name before its first declaration, and what is connected by them
    #[arg(long)]
    pub(crate) end_keys: bool,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  alkhub spokes suspend builder
  alkhub spokes resume builder
  alkhub spokes delete builder")]
pub(crate) struct SpokeArgs {
    /// The spoke's name
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  alkhub status
  alkhub status --output json | jq .redis

Its key needs the scope admin.")]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}
