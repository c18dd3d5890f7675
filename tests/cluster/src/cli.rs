//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, value_parser};

use crate::plan::MAX_NODES;

/// A real Kubernetes in Linux namespaces: booted in seconds, gone without a trace.
#[derive(Debug, Parser)]
#[command(name = "alkhub-cluster", version, after_help = EXAMPLES)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) task: Task,
}

const EXAMPLES: &str = "Examples:
  alkhub-cluster up                                  a shell in a cluster of two nodes
  alkhub-cluster up --nodes 3 -- kubectl get nodes   one command, then all is gone
  alkhub-cluster exec -- kubectl get pods -A         from another terminal
  alkhub-cluster load target/images/hub.tar          a new image into a running cluster
  alkhub-cluster node kill 2                         a power cut
  alkhub-cluster docker -- cargo test                a Docker engine for testcontainers";

/// What the program does.
#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    /// Build Kubernetes, etcd, helm, CoreDNS and the Prometheus operator, unless they are up to date.
    Build {
        #[command(flatten)]
        binaries: BinaryFolder,
    },
    /// Make the test images from this machine's packages, unless they are up to date.
    Images {
        #[command(flatten)]
        images: ImageFolder,
    },
    /// Make an image archive from files, reproducibly and without a base.
    #[command(after_help = "Example:
  alkhub-cluster image --out hub.tar --name alkhub/hub:dev --entrypoint /alkhub --file target/release/alkhub:/alkhub:755")]
    Image(Box<ImageArgs>),
    /// Boot a cluster, run a command in it (default: a shell), and end it with the command.
    Up(Up),
    /// Run a command in a running cluster.
    Exec {
        #[command(flatten)]
        work: WorkFolder,
        /// The command; a shell when there is none.
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Import image archives into all nodes of a running cluster.
    Load {
        #[command(flatten)]
        work: WorkFolder,
        /// The archives.
        #[arg(required = true)]
        archives: Vec<PathBuf>,
    },
    /// Kill, cut off or heal a node of a running cluster.
    Node {
        #[command(flatten)]
        work: WorkFolder,
        /// What to do to it.
        deed: Deed,
        /// Its number, from 1.
        #[arg(value_parser = value_parser!(u8).range(1..=i64::from(MAX_NODES)))]
        number: u8,
    },
    /// Write what is known about a running cluster (objects, events, logs) into a folder.
    Dump {
        #[command(flatten)]
        work: WorkFolder,
        /// The folder.
        folder: PathBuf,
    },
    /// Start a Docker engine, run a command with `DOCKER_HOST` set (default: a shell), and end it with the command.
    Docker {
        /// Where its log and lock are; two at once need two.
        #[arg(long, default_value = "target/cluster/docker")]
        work: PathBuf,
        /// Image archives to load.
        #[arg(long = "image", value_name = "TAR")]
        images: Vec<PathBuf>,
        /// The command; a shell when there is none.
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Print the Debian packages that all this needs.
    Deps,
    /// The first process of a cluster.
    #[command(hide = true)]
    InsideCluster {
        #[arg(long)]
        work: PathBuf,
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// The first process of a node.
    #[command(hide = true)]
    InsideNode {
        #[arg(long)]
        work: PathBuf,
        number: u8,
    },
    /// The provider of volumes.
    #[command(hide = true)]
    InsideVolumes {
        #[arg(long)]
        work: PathBuf,
    },
    /// The first process of a Docker engine's namespaces.
    #[command(hide = true)]
    InsideDocker {
        #[arg(long)]
        work: PathBuf,
        #[arg(long = "image")]
        images: Vec<PathBuf>,
        #[arg(last = true)]
        command: Vec<String>,
    },
}

/// Where the Kubernetes binaries are.
#[derive(Debug, Args)]
pub(crate) struct BinaryFolder {
    /// Folder of the Kubernetes binaries.
    #[arg(long, default_value = "target/cluster/bin")]
    pub(crate) bin: PathBuf,
}

/// Where the test images are.
#[derive(Debug, Args)]
pub(crate) struct ImageFolder {
    /// Folder of the test images.
    #[arg(long, default_value = "target/cluster/images")]
    pub(crate) images: PathBuf,
}

/// Which cluster.
#[derive(Debug, Args)]
pub(crate) struct WorkFolder {
    /// Work folder of the cluster; two clusters at once need two.
    #[arg(long, env = "ALKHUB_CLUSTER_WORK", default_value = "target/cluster/work")]
    pub(crate) work: PathBuf,
}

/// A cluster to boot.
#[derive(Debug, Args)]
#[command(
    after_help = "Inside: KUBECONFIG and ALKHUB_TEST_KUBECONFIG, kubectl and helm in PATH, Service names resolve
(redis.namespace), addresses of Services and pods answer. Images: postgres:15, redis:7, alkhub/tool:1 and each --image,
with imagePullPolicy Never or IfNotPresent. The exit code is the command's."
)]
pub(crate) struct Up {
    #[command(flatten)]
    pub(crate) work: WorkFolder,
    #[command(flatten)]
    pub(crate) binaries: BinaryFolder,
    #[command(flatten)]
    pub(crate) images: ImageFolder,
    /// Worker nodes.
    #[arg(long, default_value_t = 2, value_parser = value_parser!(u8).range(1..=i64::from(MAX_NODES)))]
    pub(crate) nodes: u8,
    /// Image archives for all nodes, besides the test images.
    #[arg(long = "image", value_name = "TAR")]
    pub(crate) image: Vec<PathBuf>,
    /// Write the kubeconfig's path here when the cluster is ready; removed at the end.
    #[arg(long, value_name = "PATH")]
    pub(crate) ready_file: Option<PathBuf>,
    /// If the command fails, dump the cluster into this folder before it ends.
    #[arg(long, value_name = "DIR")]
    pub(crate) dump: Option<PathBuf>,
    /// The command; a shell when there is none.
    #[arg(last = true)]
    pub(crate) command: Vec<String>,
}

/// An image to make.
#[derive(Debug, Args)]
pub(crate) struct ImageArgs {
    /// The archive to write.
    #[arg(long)]
    pub(crate) out: PathBuf,
    /// Name and tag, without a registry.
    #[arg(long)]
    pub(crate) name: String,
    /// User that it runs as.
    #[arg(long, default_value = "65532:65532")]
    pub(crate) user: String,
    /// Program that it runs; repeat for its first arguments.
    #[arg(long, required = true, allow_hyphen_values = true)]
    pub(crate) entrypoint: Vec<String>,
    /// Default argument; repeat for more.
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) cmd: Vec<String>,
    /// File to put in: SRC:DST, or SRC:DST:MODE with an octal mode (default 644).
    #[arg(long, value_name = "SRC:DST[:MODE]")]
    pub(crate) file: Vec<String>,
    /// Empty folder to put in: PATH, or PATH:MODE with an octal mode (default 755).
    #[arg(long, value_name = "PATH[:MODE]")]
    pub(crate) dir: Vec<String>,
    /// Environment variable.
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) env: Vec<String>,
    /// Working directory.
    #[arg(long, default_value = "/")]
    pub(crate) workdir: String,
}

/// What can be done to a node.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Deed {
    /// End all its processes at once.
    Kill,
    /// Take its network link down.
    Cut,
    /// Take the network link up again, or start the node again.
    Heal,
}

// === impl Deed ===

impl Deed {
    /// As the command line spells it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Cut => "cut",
            Self::Heal => "heal",
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
