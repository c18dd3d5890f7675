//! The command line: every command, its options and examples of its use.

mod hub;
mod keys;
mod lists;
mod values;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use alkhub_protocol::{OperationKind, PAGE_LIMIT};
use clap::{Args, Parser, Subcommand};

use crate::kubectl::KubectlCommand;

pub(crate) use hub::{ClientArgs, Folders, HubArgs};
pub(crate) use keys::{KeyCreateArgs, KeysCommand};
pub(crate) use lists::{
    DeclareArgs, DescribeArgs, OperationsArgs, OperationsCommand, SpokesArgs, SpokesCommand, StatusArgs,
};
pub(crate) use values::{Kind, Output, StatusFilter, Time};

/// Connects programs: operations, events and calls over one hub.
#[derive(Debug, Parser)]
#[command(name = "alkhub", version, propagate_version = true, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
    0  done
    1  something else failed; the hub refuses the change as things are
    2  the command line, or a file that it names, is wrong
    3  no hub answers at the address, or its certificate is not trusted
    4  the key is missing, not valid, or lacks a scope
    5  no such operation, or no spoke offers it now
    6  the input is not valid
    7  the operation failed
    8  no answer in time
    9  the spoke, the hub or the connection was lost: the call may have been made
   10  the hub is overloaded or misses something, and nothing was done: try again
  130  interrupted";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs a hub for development, with a private database in one folder
    Dev(DevArgs),
    /// Runs a hub with the settings of a file and of the environment
    Serve(ServeArgs),
    /// Brings the database's schema up to date and ends
    Migrate(ServeArgs),
    /// Makes a new admin key in the database, for who owns the machine and lost every other
    Recover(ServeArgs),
    /// Offers commands as operations
    Offer(OfferArgs),
    /// Calls an operation
    Call(CallArgs),
    /// Lists the operations that can be called, or describes one
    Operations(OperationsArgs),
    /// Lists spokes; declares, suspends and deletes them
    Spokes(SpokesArgs),
    /// Lists ended calls, the latest first
    Calls(CallsArgs),
    /// Publishes an event
    Publish(PublishArgs),
    /// Prints events as they come
    Subscribe(SubscribeArgs),
    /// Makes, lists and revokes keys
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Offers an operation and calls it through the hub, to prove that calls are routed
    Selftest(SelftestArgs),
    /// Says how the hub is: its pods, its links, its spokes
    Status(StatusArgs),
    /// Shows and steers the Hubs of a cluster; `kubectl alkhub`, where this program is linked as `kubectl-alkhub`
    #[command(subcommand)]
    Kubectl(KubectlCommand),
    /// Prints the version
    Version,
    /// Prints a script that completes commands and options in a shell
    Completions(CompletionsArgs),
    /// Prints the OpenAPI document of the HTTP API
    Openapi,
    /// Prints the reference of all settings
    Config,
    /// Prints the reference of all metrics
    Metrics,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  alkhub dev
  alkhub dev --data ./data --listen 127.0.0.1:8000
  alkhub dev --redis-url redis://127.0.0.1:6379 --database-url postgres://me@127.0.0.1/alkhub

Ctrl-C stops everything, the private database too; a second Ctrl-C does not wait for running calls.")]
pub(crate) struct DevArgs {
    /// Folder for the database, the keys and the lock
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Where clients and spokes connect; port 0 takes a free one [default: 127.0.0.1:7420]
    #[arg(long, value_name = "ADDRESS", value_parser = values::address)]
    pub(crate) listen: Option<SocketAddr>,
    /// Where metrics and probes are [default: 127.0.0.1:7421, and a free port with --listen]
    #[arg(long, value_name = "ADDRESS", value_parser = values::address)]
    pub(crate) management_listen: Option<SocketAddr>,
    /// A Postgres to use instead of a private one
    #[arg(long, value_name = "URL")]
    pub(crate) database_url: Option<String>,
    /// A Redis to use; without it events stay in this process
    #[arg(long, value_name = "URL")]
    pub(crate) redis_url: Option<String>,
    /// How long to wait for Postgres and Redis
    #[arg(long, value_name = "TIME", default_value = "30s")]
    pub(crate) wait: Time,
    /// What is logged, in the form of tracing's filters
    #[arg(long, value_name = "FILTER", default_value = "warn")]
    pub(crate) log: String,
    /// Prints no line for each call
    #[arg(long, short)]
    pub(crate) quiet: bool,
    #[arg(long, hide = true, env = "PATH")]
    pub(crate) path: Option<OsString>,
    #[command(flatten)]
    pub(crate) folders: Folders,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  alkhub serve --config hub.toml
  ALKHUB_SERVER__LISTEN=0.0.0.0:7420 alkhub serve --config hub.toml
  alkhub migrate --config hub.toml
  alkhub recover --config hub.toml      where the hub runs: reads its settings and its files")]
pub(crate) struct ServeArgs {
    /// Settings, TOML; the environment (ALKHUB_<SECTION>__<KEY>) wins over it
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
A JSON string goes to the command's standard input as it is, any other input as compact JSON. Its standard output is
the answer: read as JSON when the output schema is anything but a string, else text less one newline. An exit code
other than 0 fails the call with the last lines of standard error. A subscription answers with one item for each line.
An aborted call ends the command and all that it started.

Examples:
  alkhub offer text.upper -- tr a-z A-Z
  alkhub offer files.watch --kind subscription -- inotifywait -m -r .
  alkhub offer --file spoke.yaml")]
pub(crate) struct OfferArgs {
    /// Operation, `namespace.operation`
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    pub(crate) name: Option<String>,
    /// Several operations, YAML (docs/CLI.md has the form)
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// The spoke's name; that of the key, or the operation's namespace
    #[arg(long, value_name = "NAME")]
    pub(crate) spoke: Option<String>,
    /// Whether it reads, changes or streams
    #[arg(long, value_enum, default_value_t = Kind(OperationKind::Mutation), conflicts_with = "file")]
    pub(crate) kind: Kind,
    /// What it does, in a sentence
    #[arg(long, default_value = "", hide_default_value = true, conflicts_with = "file")]
    pub(crate) description: String,
    /// JSON Schema of the input; anything when absent
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    pub(crate) input_schema: Option<PathBuf>,
    /// JSON Schema of the output; text when absent
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    pub(crate) output_schema: Option<PathBuf>,
    /// Commands running at once, at most [default: 16, or what the file says]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) concurrency: Option<u32>,
    /// Sessions, each on another hub where there are several: 1 or 2
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=2))]
    pub(crate) sessions: u8,
    /// Gives the command ALKHUB_URL and ALKHUB_TOKEN; without it no key is in its environment
    #[arg(long, conflicts_with = "file")]
    pub(crate) pass_key: bool,
    /// The command and its arguments
    #[arg(
        last = true,
        required_unless_present = "file",
        conflicts_with = "file",
        value_name = "CMD"
    )]
    pub(crate) command: Vec<String>,
    /// Prints no line for each call
    #[arg(long, short)]
    pub(crate) quiet: bool,
    #[arg(long, hide = true, env = "PATH")]
    pub(crate) path: Option<OsString>,
    #[command(flatten)]
    pub(crate) hub: HubArgs,
}

#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES, after_long_help = format!("{CALL_HELP}\n\n{EXIT_CODES}"))]
pub(crate) struct CallArgs {
    /// Operation, `namespace.operation`
    pub(crate) operation: String,
    /// Input: JSON, @FILE, or - for standard input; none when absent
    pub(crate) input: Option<String>,
    /// Time until the call fails and is aborted, for example 500ms, 5s or 2m; a number alone is seconds
    #[arg(long, value_name = "TIME", value_parser = values::time_above_zero)]
    pub(crate) timeout: Option<Time>,
    /// Only this spoke may answer
    #[arg(long, value_name = "SPOKE")]
    pub(crate) target: Option<String>,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

const CALL_HELP: &str = "\
A text is printed as it is, anything else as JSON; with --output json always as compact JSON. The items of a
subscription are printed one on a line. Ctrl-C aborts the call at the spoke.

Examples:
  alkhub call text.upper '\"hello\"'
  alkhub call text.upper @input.json --timeout 5s
  echo '\"hello\"' | alkhub call text.upper -";

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  alkhub calls
  alkhub calls --operation text.upper --status failed --limit 5
  alkhub calls --follow                 calls as they end, until Ctrl-C

With --follow the last calls come first, the oldest of them at the top, and then each call when it has ended.")]
pub(crate) struct CallsArgs {
    /// Of one operation
    #[arg(long, value_name = "NAME")]
    pub(crate) operation: Option<String>,
    /// That ended so
    #[arg(long, value_enum)]
    pub(crate) status: Option<StatusFilter>,
    /// How many at most
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=i64::from(PAGE_LIMIT)))]
    pub(crate) limit: u32,
    /// Goes on: prints each call when it has ended
    #[arg(long, short)]
    pub(crate) follow: bool,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  alkhub publish job.done 42 '{\"ok\": true}'
  alkhub publish job.done 42 @event.json
  alkhub publish job.done 42            without a payload
  alkhub publish tick                   to the topic without an id, without a payload")]
pub(crate) struct PublishArgs {
    /// Event type, without a colon
    #[arg(value_name = "TYPE")]
    pub(crate) event_type: String,
    /// Topic id; empty when absent
    #[arg(default_value = "", hide_default_value = true)]
    pub(crate) id: String,
    /// Payload: JSON, @FILE, or - for standard input; none when absent
    #[arg(value_name = "JSON")]
    pub(crate) payload: Option<String>,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  alkhub subscribe job.done:42
  alkhub subscribe job.done             all ids of the type
  alkhub subscribe job.done:            the events without an id
  alkhub subscribe job.done --count 1   ends after one event

A line on standard error says when the hub has confirmed; a loss (`gap`) is told there too, or in its place with
--output json.")]
pub(crate) struct SubscribeArgs {
    /// TYPE:ID, or TYPE for all its ids
    #[arg(value_name = "TYPE[:ID]")]
    pub(crate) topic: String,
    /// Ends after so many events
    #[arg(long, value_name = "N")]
    pub(crate) count: Option<u64>,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  ALKHUB_TOKEN=\"$KEY\" alkhub selftest --url http://demo.default.svc:7420 --calls 8

The key is one of the spoke `selftest` with the scope call:selftest.echo, or of an admin. `helm test` runs this in the cluster.")]
pub(crate) struct SelftestArgs {
    /// Calls that are made, each over a new connection
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) calls: u32,
    /// How long to try while the hub is not there yet
    #[arg(long, value_name = "TIME", default_value = "120s")]
    pub(crate) wait: Time,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  alkhub completions bash > ~/.local/share/bash-completion/completions/alkhub
  alkhub completions zsh > ~/.zfunc/_alkhub
  alkhub completions fish > ~/.config/fish/completions/alkhub.fish")]
pub(crate) struct CompletionsArgs {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_holds_together() {
        Cli::command().debug_assert();
    }

    /// What is wrapped cannot be pasted: help is 100 columns wide where no terminal says its width.
    #[test]
    fn no_example_of_help_is_wrapped() {
        fn look(command: &clap::Command) {
            for help in [command.get_after_help(), command.get_after_long_help()]
                .into_iter()
                .flatten()
            {
                let text = help.to_string();
                let long = text
                    .lines()
                    .find(|line| line.starts_with("  ") && line.chars().count() > 98);
                assert_eq!(long, None, "{}", command.get_name());
            }
            command.get_subcommands().for_each(look);
        }
        look(&Cli::command());
    }

    #[test]
    fn offer_takes_a_name_and_a_command_or_a_file() {
        for (line, valid) in [
            ("alkhub offer text.upper -- tr a-z A-Z", true),
            ("alkhub offer --file spoke.yaml", true),
            ("alkhub offer", false),
            ("alkhub offer text.upper", false),
            ("alkhub offer --file spoke.yaml -- tr", false),
        ] {
            assert_eq!(Cli::try_parse_from(line.split(' ')).is_ok(), valid, "{line}");
        }
    }
}
