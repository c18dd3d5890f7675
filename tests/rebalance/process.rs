//! The processes of pods: the nodes of the test cluster are namespaces of this machine, and their processes are seen here.

use std::fs;

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Sends a signal to the process `name` of a pod.
///
/// # Errors
/// The pod has no such process here.
pub(crate) fn signal(uid: &str, name: &str, signal: Signal) -> Result<()> {
    let pid = of_pod(uid, name).with_context(|| format!("no process `{name}` of the pod {uid} is seen here"))?;
    Ok(kill(pid, signal)?)
}

/// The process `name` in the control groups of a pod.
fn of_pod(uid: &str, name: &str) -> Option<Pid> {
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let pid = pids.find(|pid| {
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        read("comm").trim() == name && read("cgroup").replace('_', "-").contains(uid)
    });
    pid.map(Pid::from_raw)
}
