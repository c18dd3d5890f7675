//! Server processes: starting, measuring and ending them.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use alkhub_test_support::process;
use anyhow::{Context as _, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

/// A server process that ends when this value is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    process: Child,
    pid: u32,
}

// === impl Server ===

impl Server {
    /// Starts a program; it inherits this process's CPUs.
    pub(crate) fn start(program: &Path, args: &[&str], environment: &[(&str, String)], log: &Path) -> Result<Self> {
        let log = std::fs::File::create(log)?;
        let process = Command::new(program)
            .args(args)
            .envs(environment.iter().map(|(name, value)| (*name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        let pid = process.id().context("a started process has an id")?;
        Ok(Self { process, pid })
    }

    /// CPU time used so far, of user and system, as the kernel accounts it.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        process::cpu(self.pid)
    }

    pub(crate) fn resident_bytes(&self) -> Result<u64> {
        process::resident_bytes(self.pid)
    }

    /// Kills it without a word.
    pub(crate) fn kill(&self) -> Result<()> {
        Ok(kill(Pid::from_raw(self.pid.try_into()?), Signal::SIGKILL)?)
    }

    pub(crate) fn ended(&mut self) -> bool {
        self.process.try_wait().is_ok_and(|status| status.is_some())
    }
}

/// Pins this process, and everything that it starts from now on, to the last CPU or to all.
pub(crate) fn pin(one: bool) -> Result<()> {
    let count = std::fs::read_to_string("/proc/cpuinfo")?
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    let mut cpus = CpuSet::new();
    for cpu in 0..count {
        if !one || cpu + 1 == count {
            cpus.set(cpu)?;
        }
    }
    Ok(sched_setaffinity(Pid::this(), &cpus)?)
}
