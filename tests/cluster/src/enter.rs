//! Entering a running cluster: commands, images and faults from another terminal.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, anyhow, bail};

use crate::plan::Node;
use crate::spec::Spec;
use crate::work::Work;
use crate::{node, process, say};

/// Where a command runs: already in the namespaces of the cluster, or outside of them.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Inside,
    Outside {
        /// The cluster's first process, as numbered outside.
        first: i32,
    },
}

/// Replaces this process by a command in the cluster's namespaces; returns only if that fails.
pub(crate) fn exec(work: &Work, command: &[String]) -> Result<i32> {
    let spec = Spec::load(work)?;
    let (program, arguments) = command.split_first().context("no command was given")?;
    let mut entering = enter(work, program)?;
    entering.args(arguments);
    environment(&mut entering, work, &spec.bin);
    Err(entering.exec()).with_context(|| format!("cannot start `{program}`"))
}

/// Imports image archives into every node that runs.
pub(crate) fn load(work: &Work, archives: &[PathBuf]) -> Result<i32> {
    let spec = Spec::load(work)?;
    if place(work)? != Place::Inside {
        return again_inside(work, ["load".to_owned()].into_iter().chain(texts(archives)?));
    }
    for node in spec.all_nodes() {
        let Ok(first) = node::first_process(work, node) else {
            say!("{node} does not run and gets no images");
            continue;
        };
        for archive in archives {
            let mut command = join(first, "ctr");
            command
                .args(["-a", node::CONTAINERD, "-n", "k8s.io", "images", "import"])
                .arg(archive);
            process::output(&mut command).with_context(|| format!("{node}: cannot import {}", archive.display()))?;
            say!("{node}: imported {}", archive.display());
        }
    }
    Ok(0)
}

/// Does something to a node.
pub(crate) fn fault(work: &Work, deed: &str, node: Node) -> Result<i32> {
    if place(work)? != Place::Inside {
        return again_inside(work, ["node".to_owned(), deed.to_owned(), node.number().to_string()]);
    }
    match deed {
        "kill" => node::kill(work, node)?,
        "cut" => node::cut(node)?,
        _ => node::heal(work, node)?,
    }
    Ok(0)
}

/// Runs this program again inside of the cluster, unless it is there already; `None` means it is.
pub(crate) fn relocate(work: &Work, arguments: impl IntoIterator<Item = String>) -> Result<Option<i32>> {
    match place(work)? {
        Place::Inside => Ok(None),
        Place::Outside { .. } => again_inside(work, arguments).map(Some),
    }
}

/// The environment of commands in a cluster.
///
/// Caches are the cluster's own: kubectl keeps what it learned about an API by address, and all clusters use the same
/// addresses.
pub(crate) fn environment(command: &mut Command, work: &Work, bin: &Path) {
    let ours = std::env::current_exe()
        .ok()
        .and_then(|path| path.parent().map(Path::to_owned));
    let before = std::env::var_os("PATH").unwrap_or_default();
    let folders = [Some(bin.to_owned()), ours]
        .into_iter()
        .flatten()
        .chain(std::env::split_paths(&before));
    let path = std::env::join_paths(folders).unwrap_or_else(|_| before.clone());
    command
        .env("PATH", path)
        .env("KUBECONFIG", work.kubeconfig())
        .env("ALKHUB_TEST_KUBECONFIG", work.kubeconfig())
        .env("ALKHUB_CLUSTER_WORK", work.root())
        .env("KUBECACHEDIR", work.path("cache/kube"))
        .env("HELM_CACHE_HOME", work.path("cache/helm"))
        .env("HELM_CONFIG_HOME", work.path("cache/helm-config"))
        .env("HELM_DATA_HOME", work.path("cache/helm-data"));
}

fn place(work: &Work) -> Result<Place> {
    if !work.in_use()? {
        bail!(work.no_cluster());
    }
    let first = work.pid("first.pid")?;
    let ours = std::fs::read_link("/proc/self/ns/net")?;
    let recorded = std::fs::read_to_string(work.path("inside.ns")).unwrap_or_default();
    let inside = recorded == ours.display().to_string();
    Ok(if inside {
        Place::Inside
    } else {
        Place::Outside { first }
    })
}

/// Records the namespaces of the cluster; called by its first process.
pub(crate) fn mark(work: &Work) -> Result<()> {
    work.write(
        "inside.ns",
        std::fs::read_link("/proc/self/ns/net")?.display().to_string(),
    )
}

fn enter(work: &Work, program: &str) -> Result<Command> {
    Ok(match place(work)? {
        Place::Inside => Command::new(program),
        Place::Outside { first } => join(first, program),
    })
}

/// A command in the namespaces of a process, in the working directory of this one.
fn join(process: i32, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.args(["--target", &process.to_string(), "--net", "--mount", "--pid"]);
    if let Ok(folder) = std::env::current_dir() {
        command.arg(format!("--wdns={}", folder.display()));
    }
    command.args(["--", program]);
    command
}

fn again_inside(work: &Work, arguments: impl IntoIterator<Item = String>) -> Result<i32> {
    let this = std::env::current_exe()?;
    let this = this
        .to_str()
        .ok_or_else(|| anyhow!("the path of this program is not text"))?;
    let mut command = enter(work, this)?;
    command.args(arguments).env("ALKHUB_CLUSTER_WORK", work.root());
    Ok(process::exit_code(command.status().context("cannot start `nsenter`")?))
}

fn texts(paths: &[PathBuf]) -> Result<Vec<String>> {
    let text = |path: &PathBuf| {
        let path = std::path::absolute(path)?;
        path.to_str()
            .map(str::to_owned)
            .ok_or_else(|| anyhow!("{} is not text", path.display()))
    };
    paths.iter().map(text).collect()
}
