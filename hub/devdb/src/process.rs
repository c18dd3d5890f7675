//! What names a process of a private server.

use nix::unistd::Pid;

/// Names our servers on their command line.
pub(crate) const MARK: &str = "cluster_name=alkhub-private";

/// A process id as the kernel's calls take it.
pub(crate) fn pid_of(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).expect("the kernel's process ids fit"))
}
