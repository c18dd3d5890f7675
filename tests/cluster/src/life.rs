//! The life of a cluster: it begins and ends with one process, however that process ends.
//!
//! [`live`] runs in the caller's namespaces. It holds the work folder's lock and starts this program again as the first
//! process of new namespaces, where [`watch`] waits for that lock. When the caller exits, is interrupted or is killed,
//! the lock becomes free, the first process ends, and the kernel ends everything else in its namespaces with it.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{self, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::cgroup;
use crate::process::exit_code;
use crate::wait::{self, Progress};
use crate::work::Work;

/// The arguments of `unshare`: networks, mounts and processes of its own, none of which outlives it.
pub(crate) const UNSHARE: [&str; 6] = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];
/// How long a command may take to end once its cluster was told to.
const GRACE: Duration = Duration::from_secs(5);
/// Exit code of an interrupted cluster, as shells count it.
const INTERRUPTED: i32 = 130;

/// The command that runs inside, for [`watch`] to end first.
pub(crate) static COMMAND: AtomicI32 = AtomicI32::new(0);

/// Runs this program with `arguments` in new namespaces; returns the exit code.
///
/// The caller must have prepared the work folder with [`prepare`], and hands over its lock.
pub(crate) fn live(work: &Work, lock: fs::File, arguments: Vec<OsString>) -> Result<i32> {
    let lock = Arc::new(lock);
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    signals.thread_block()?;
    let this = std::env::current_exe().context("cannot find this program")?;
    let mut child = Command::new("unshare").args(UNSHARE).arg(this).args(arguments).spawn();
    let child = child
        .as_mut()
        .map_err(|error| anyhow::anyhow!("cannot start `unshare`: {error}"))?;
    let pid = Pid::from_raw(child.id().cast_signed());
    record_first(work, pid)?;
    let held = Arc::clone(&lock);
    thread::spawn(move || {
        // The first signal lets the cluster end; the second one kills it.
        let _ = signals.wait();
        let _ = held.unlock();
        let _ = signals.wait();
        let _ = kill(pid, Signal::SIGKILL);
    });
    let status = child.wait()?;
    lock.lock()?;
    cgroup::remove(&work.cgroup())?;
    work.clear(true)?;
    Ok(exit_code(status))
}

/// Takes the work folder and removes whatever a killed cluster has left in it.
pub(crate) fn prepare(work: &Work) -> Result<fs::File> {
    let lock = work.lock()?;
    cgroup::remove(&work.cgroup())?;
    work.clear(false)?;
    fs::create_dir_all(work.path("log"))?;
    Ok(lock)
}

/// Ends this process, and with it its namespaces, when the outer process is gone or asks for it.
///
/// Must be called in the first process of the namespaces, before it starts others; it also enables signals again.
pub(crate) fn watch(work: &Work, end: impl Fn() + Send + 'static) -> Result<()> {
    SigSet::all().thread_unblock()?;
    let lock = work.lock_file()?;
    thread::spawn(move || {
        let _ = lock.lock();
        end_command();
        end();
        process::exit(INTERRUPTED);
    });
    Ok(())
}

/// Runs the caller's command and waits for it, and for all orphans that end meanwhile.
pub(crate) fn command(command: &mut Command) -> Result<i32> {
    let name = command.get_program().display().to_string();
    let child = command.spawn().with_context(|| format!("cannot start `{name}`"))?;
    let pid = child.id().cast_signed();
    COMMAND.store(pid, Ordering::SeqCst);
    let code = reap_until(Pid::from_raw(pid))?;
    COMMAND.store(0, Ordering::SeqCst);
    Ok(code)
}

/// Collects processes that end, our own and orphans, until `last` does; returns its exit code.
///
/// A first process that did not do this would accumulate zombies for as long as the cluster lives.
pub(crate) fn reap_until(last: Pid) -> Result<i32> {
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, code)) if pid == last => return Ok(code),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == last => return Ok(128 + signal as i32),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("cannot wait for the command"),
        }
    }
}

/// The one child of `unshare`: the first process of its namespaces.
pub(crate) fn first_process(unshare: Pid) -> Option<i32> {
    let children = fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

fn record_first(work: &Work, unshare: Pid) -> Result<()> {
    let first = wait::until("the new namespaces", GRACE, Duration::from_millis(2), || {
        let gone = !Path::new(&format!("/proc/{unshare}")).exists();
        Ok(match first_process(unshare) {
            Some(pid) => Progress::Done(Some(pid)),
            None if gone => Progress::Done(None),
            None => Progress::Pending("unshare has no child yet".to_owned()),
        })
    })?;
    first.map_or(Ok(()), |pid| work.write("first.pid", pid.to_string()))
}

/// Asks the caller's command to end, and gives it time; once it has ended, the main thread ends the process.
fn end_command() {
    let pid = COMMAND.load(Ordering::SeqCst);
    if pid > 0 && kill(Pid::from_raw(pid), Signal::SIGTERM).is_ok() {
        thread::sleep(GRACE);
    }
}
