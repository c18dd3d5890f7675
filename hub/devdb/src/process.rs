//! How processes of a private server are identified.

use nix::unistd::Pid;

/// Identifies our servers on their command line.
pub(crate) const MARK: &str = "cluster_name=alkhub-private";

/// A process id in the form of the kernel's calls.
pub(crate) fn pid_of(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).expect("the kernel's process ids fit"))
}
