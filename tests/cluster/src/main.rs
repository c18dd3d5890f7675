//! A real Kubernetes for alkhub's tests, in Linux namespaces of this machine.
//!
//! `up` boots a control plane and worker nodes, runs one command in them and then ends everything; the README says how
//! tests use it. Each cluster is one tree of processes in namespaces of its own: [`life`] ties it to the process that
//! started it, [`control`] boots it, [`node`] is a worker, [`plan`] its addresses.
//!
//! Promises
//! - A cluster ends with the command that it was made for, and with the process that started it, however that ends.
//! - Two of them in folders of their own share nothing.
//!
//! Never
//! - It pulls no image and knows nothing of alkhub: images are given to it.
//!
//! Uses no other crate of alkhub.

mod api;
mod binaries;
mod cgroup;
mod cli;
mod control;
mod deps;
mod docker;
mod dump;
mod enter;
mod image;
mod life;
mod monitors;
mod network;
mod node;
mod objects;
mod pki;
mod plan;
mod process;
mod programs;
mod spec;
mod up;
mod volumes;
mod wait;
mod work;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser as _;

use crate::cli::{Cli, Task};
use crate::plan::Node;
use crate::work::Work;

/// Prints a line about progress, where it does not mix with a command's output.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), "alkhub-cluster: {}", format_args!($($text)*));
    }};
}
pub(crate) use say;

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(code) => u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from),
        Err(error) => {
            say!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<i32> {
    match task {
        Task::Build { binaries } => {
            let folder = binaries::ensure(&binaries.bin)?;
            monitors::ensure(&folder).map(|()| 0)
        }
        Task::Images { images } => up::images(&images.images).map(|_| 0),
        Task::Image(arguments) => up::image(&arguments).map(|()| 0),
        Task::Up(arguments) => up::cluster(arguments),
        Task::Exec { work, command } => enter::exec(&open(&work.work)?, &up::or_shell(command)),
        Task::Load { work, archives } => enter::load(&open(&work.work)?, &archives),
        Task::Node { work, deed, number } => enter::fault(&open(&work.work)?, deed.name(), node(number)?),
        Task::Dump { work, folder } => up::dump(&open(&work.work)?, &folder),
        Task::Docker { work, images, command } => up::docker(&work, &images, command),
        Task::Deps => deps::print().map(|()| 0),
        Task::InsideCluster { work, command } => control::run(&Work::at(&work)?, &command),
        Task::InsideNode { work, number } => node::run(&Work::at(&work)?, node(number)?),
        Task::InsideVolumes { work } => volumes::run(&Work::at(&work)?),
        Task::InsideDocker { work, images, command } => docker::run(&Work::at(&work)?, &images, &command),
    }
}

/// A work folder in which a cluster should run.
fn open(folder: &Path) -> Result<Work> {
    deps::require_root()?;
    if !folder.exists() {
        let folder = folder.display();
        anyhow::bail!("no cluster runs in {folder}: start one with `alkhub-cluster up --work {folder}`");
    }
    Work::at(folder)
}

fn node(number: u8) -> Result<Node> {
    Node::new(number).with_context(|| format!("there is no node {number}: nodes are numbered 1 to {}", plan::MAX_NODES))
}
