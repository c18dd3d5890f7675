//! Ends a server that a killed process left behind.
//!
//! The working directory of a Postgres is its data folder: that, and the name that [`crate::postmaster`] gives its
//! servers, show whether a process is ours. The process id in `postmaster.pid` alone proves nothing, since ids are
//! reused.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use tokio::time::Instant;

use crate::error::Error;
use crate::process::{MARK, pid_of};

/// The signals to try, and how long each may take.
const PATIENCE: [(Signal, Duration); 3] = [
    (Signal::SIGINT, Duration::from_secs(10)),
    (Signal::SIGQUIT, Duration::from_secs(5)),
    (Signal::SIGKILL, Duration::from_secs(5)),
];

/// Ends whatever runs in a data folder and removes what it left there and in the socket's folder. The folder's lock
/// must be held.
pub(crate) fn end(data: &Path, socket: &Path) -> Result<(), Error> {
    let Ok(data) = data.canonicalize() else {
        return Ok(());
    };
    let running = processes_in(&data);
    if let Some(leader) = leader(&data, &running) {
        if !is_ours(leader) {
            return Err(Error::Foreign {
                folder: data,
                pid: leader,
            });
        }
        tracing::warn!(pid = leader, "ending a Postgres that an earlier run left behind");
    }
    if !running.is_empty() {
        end_all(&data, leader(&data, &running))?;
    }
    remove(&data.join("postmaster.pid"))?;
    // Postgres would take a process that has ended but was not waited for, or another one with the same id, for the
    // owner of these files.
    for entry in std::fs::read_dir(socket).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(".s.PGSQL.") {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

fn remove(file: &Path) -> Result<(), Error> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", file)(error)),
        _ => Ok(()),
    }
}

/// Asks the leader, which ends the others; without a leader, they end by themselves or are killed.
fn end_all(data: &Path, leader: Option<u32>) -> Result<(), Error> {
    let mut left = Vec::new();
    for (signal, patience) in PATIENCE {
        let asked = match leader {
            Some(leader) if signal != Signal::SIGKILL => vec![leader],
            _ => processes_in(data),
        };
        for pid in asked {
            // It may be gone by now, which is checked below.
            kill(pid_of(pid), signal).ok();
        }
        left = wait_for_none(data, patience);
        if left.is_empty() {
            return Ok(());
        }
    }
    Err(Error::Stuck {
        pid: left.first().copied().unwrap_or_default(),
    })
}

fn wait_for_none(data: &Path, patience: Duration) -> Vec<u32> {
    let began = Instant::now();
    loop {
        let left = processes_in(data);
        if left.is_empty() || began.elapsed() > patience {
            return left;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn leader(data: &Path, running: &[u32]) -> Option<u32> {
    let text = std::fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let pid = text.lines().next()?.trim().parse().ok()?;
    running.contains(&pid).then_some(pid)
}

/// The processes of Postgres whose working directory is the folder. One that has ended and was not waited for has none.
fn processes_in(data: &Path) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter(|entry| std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == data))
        .filter(|entry| is_postgres(&entry.path()))
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

fn is_postgres(process: &Path) -> bool {
    std::fs::read_link(process.join("exe")).is_ok_and(|exe| {
        exe.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("postgres"))
    })
}

fn is_ours(pid: u32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
        line.split(|byte| *byte == 0)
            .any(|argument| argument == MARK.as_bytes())
    })
}
