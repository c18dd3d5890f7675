//! The processes of pods: the nodes of the test cluster are namespaces of this machine, where their processes can be
//! seen.

use std::fs;

use alkhub_test_support::until;
use anyhow::{Context as _, Result};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

/// The name of the process in a hub pod.
pub const HUB: &str = "alkhub";

/// Sends a signal to the process `name` of a pod.
///
/// # Errors
/// The pod has no such process here.
pub fn signal(uid: &str, name: &str, signal: Signal) -> Result<()> {
    Ok(signal::kill(of_pod(uid, name)?, signal)?)
}

/// Kills the process `name` of a pod (SIGKILL), and waits until it is gone: from then on nobody can reach it.
///
/// # Errors
/// The pod has no such process here.
///
/// # Panics
/// When the process does not end.
pub async fn kill(uid: &str, name: &str) -> Result<()> {
    let pid = of_pod(uid, name)?;
    signal::kill(pid, Signal::SIGKILL)?;
    until("the killed process is gone", || async {
        match fs::read_to_string(format!("/proc/{pid}/status")) {
            // A zombie has ended; its parent has not waited for it yet.
            Ok(status) if !status.contains("State:\tZ") => Err(status),
            _ => Ok(()),
        }
    })
    .await;
    Ok(())
}

/// The process `name` in the control groups of a pod.
fn of_pod(uid: &str, name: &str) -> Result<Pid> {
    let processes = fs::read_dir("/proc")?.flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let pid = pids.find(|pid| {
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        read("comm").trim() == name && read("cgroup").replace('_', "-").contains(uid)
    });
    let pid = pid.with_context(|| format!("no process `{name}` of the pod {uid} is seen here"))?;
    Ok(Pid::from_raw(pid))
}
