//! A Docker engine in namespaces of its own, for tests that use testcontainers.
//!
//! Nothing of it is left when the command ends: images and containers are in memory, and published ports are on the
//! loopback interface of the same namespaces.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::wait::{self, Clock, Progress};
use crate::work::Work;
use crate::{cgroup, life, network, process, say};

/// The engine's own default, so that tools find it without being told; `/run` is private here.
const SOCKET: &str = "/run/docker.sock";
const PATIENCE: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_millis(100);

/// The first process of the engine's namespaces.
pub(crate) fn run(work: &Work, images: &[PathBuf], command: &[String]) -> Result<i32> {
    let group = work.cgroup();
    life::watch(work, || {})?;
    let clock = Clock::start();
    start(work, &group)?;
    for image in images {
        let mut load = Command::new("docker");
        process::output(
            load.args(["load", "--quiet", "--input"])
                .arg(image)
                .env("DOCKER_HOST", host()),
        )
        .with_context(|| format!("cannot load {}", image.display()))?;
    }
    say!("docker ready after {} ({} images)", clock.seconds(), images.len());
    let (program, arguments) = command.split_first().context("no command was given")?;
    life::command(Command::new(program).args(arguments).env("DOCKER_HOST", host()))
}

fn start(work: &Work, group: &str) -> Result<()> {
    process::run("mount", ["--make-rprivate", "/"])?;
    process::run("mount", ["--make-rshared", "/"])?;
    network::fresh_run_folder()?;
    network::memory(&work.path("data"))?;
    network::loopback()?;
    cgroup::make(group)?;
    let mut dockerd = Command::new("dockerd");
    dockerd.args([
        "--host",
        &host(),
        "--pidfile",
        "/run/docker.pid",
        "--exec-root",
        "/run/docker",
    ]);
    dockerd.args([
        "--data-root",
        &work.text("data"),
        "--cgroup-parent",
        &format!("/{group}"),
    ]);
    dockerd.arg("--oom-score-adjust=0");
    let log = work.log("dockerd");
    let mut child = process::beside(&mut dockerd, &log)?;
    wait::until("dockerd", PATIENCE, STEP, || {
        if let Some(status) = child.try_wait()? {
            bail!("dockerd ended ({status}); the end of {}", process::log_end(&log));
        }
        let answer = process::run("curl", ["-sf", "--unix-socket", SOCKET, "http://engine/_ping"]);
        Ok(match answer {
            Ok(_) => Progress::Done(()),
            Err(error) => Progress::Pending(error.to_string()),
        })
    })
}

/// The address of the engine.
fn host() -> String {
    format!("unix://{}", Path::new(SOCKET).display())
}
