//! The command line of `kubectl alkhub`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::args::{Output, Time};

/// Shows and steers the Hubs of a cluster.
#[derive(Debug, Parser)]
#[command(
    name = "kubectl alkhub",
    bin_name = "kubectl alkhub",
    version,
    propagate_version = true
)]
pub(crate) struct KubectlCli {
    #[command(subcommand)]
    pub(crate) command: KubectlCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KubectlCommand {
    /// Says how Hubs are: their pods, their balance, their conditions
    Status(ShowArgs),
    /// Empties a pod: its connections move to the Hub's other pods, and it takes no new ones
    Drain(DrainArgs),
    /// Lets a drained pod take connections again
    Undrain(PodArgs),
    /// Evens out the connections of a Hub's pods, also where the difference is too small to matter
    Rebalance(RebalanceArgs),
    /// Lists the pods of Hubs by what they hold, the fullest first
    Top(ShowArgs),
    /// Prints what the pods of a Hub log, each line with its pod
    Logs(LogsArgs),
}

/// Where `kubectl` looks; its own options.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Options of kubectl")]
pub(crate) struct ClusterArgs {
    /// The namespace; that of the context when absent
    #[arg(long, short, value_name = "NAMESPACE", global = true)]
    pub(crate) namespace: Option<String>,
    /// The context of the kubeconfig
    #[arg(long, value_name = "CONTEXT", global = true)]
    pub(crate) context: Option<String>,
    /// The kubeconfig
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) kubeconfig: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kubectl alkhub status
  kubectl alkhub status demo --namespace tools
  kubectl alkhub top --all-namespaces
  kubectl alkhub status demo --output json | jq .status.balance

What pods hold is as the operator last saw it: as a rule less than half a minute ago, and older when it does not run.")]
pub(crate) struct ShowArgs {
    /// The Hub; all of the namespace when absent
    pub(crate) hub: Option<String>,
    /// The Hubs of all namespaces
    #[arg(long, short = 'A', conflicts_with_all = ["hub", "namespace"])]
    pub(crate) all_namespaces: bool,
    /// How to print it
    #[arg(long, short, value_enum, default_value_t)]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kubectl alkhub drain demo-7f6c9d-x2k4p
  kubectl alkhub drain demo-7f6c9d-x2k4p --timeout 10m
  kubectl alkhub drain demo-7f6c9d-x2k4p --no-wait

It returns when the pod holds nothing more. The pod stays as it is until `kubectl alkhub undrain`, or until it is deleted.
Needs the right to patch pods.")]
pub(crate) struct DrainArgs {
    #[command(flatten)]
    pub(crate) pod: PodArgs,
    /// How long to wait for the pod to be empty
    #[arg(long, value_name = "TIME", default_value = "5m")]
    pub(crate) timeout: Time,
    /// Asks for it and returns
    #[arg(long, conflicts_with = "timeout")]
    pub(crate) no_wait: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PodArgs {
    /// The pod
    pub(crate) pod: String,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  kubectl alkhub rebalance demo

Hubs do this by themselves where it pays. Needs the right to patch Hubs.")]
pub(crate) struct RebalanceArgs {
    /// The Hub
    pub(crate) hub: String,
    /// How long to wait for the connections to be even
    #[arg(long, value_name = "TIME", default_value = "5m")]
    pub(crate) timeout: Time,
    /// Asks for it and returns
    #[arg(long, conflicts_with = "timeout")]
    pub(crate) no_wait: bool,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kubectl alkhub logs demo
  kubectl alkhub logs demo --follow --tail 0
  kubectl alkhub logs demo --since 10m | grep WARN")]
pub(crate) struct LogsArgs {
    /// The Hub
    pub(crate) hub: String,
    /// Goes on with the pods that are there now; one that comes later is not followed
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// The last lines of each pod
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) tail: u32,
    /// Only what is not older, for example 10m
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
}
