//! A running command and everything it has started: one process group.

use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::pipes::Pipe;

/// Time between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(2);

/// How often a group that was asked to end is checked.
const POLL: Duration = Duration::from_millis(20);

/// The group of a command that was started as its leader.
#[derive(Debug)]
pub(super) struct Group {
    child: Child,
    id: Option<Pid>,
    exited: CancellationToken,
}

/// The pipes to and from a command.
#[derive(Debug)]
pub(super) struct Pipes {
    pub(super) stdin: ChildStdin,
    pub(super) stdout: Pipe<ChildStdout>,
    pub(super) stderr: Pipe<ChildStderr>,
}

// === impl Group ===

impl Group {
    /// The group of a leader that was just started with all three pipes.
    pub(super) fn of(child: Child) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        Self {
            child,
            id,
            exited: CancellationToken::new(),
        }
    }

    /// Its pipes; may be taken once.
    pub(super) fn pipes(&mut self) -> Pipes {
        let exited = || self.exited.clone();
        Pipes {
            stdin: self.child.stdin.take().expect("piped"),
            stdout: Pipe::new(self.child.stdout.take().expect("piped"), exited()),
            stderr: Pipe::new(self.child.stderr.take().expect("piped"), exited()),
        }
    }

    /// Cancelled when the command has ended.
    pub(super) fn exited(&self) -> CancellationToken {
        self.exited.clone()
    }

    /// Waits for the command itself. Whatever it left in the background is then asked to end, so that the pipes end
    /// too.
    pub(super) async fn wait(&mut self) -> std::io::Result<ExitStatus> {
        let status = self.child.wait().await;
        self.exited.cancel();
        self.signal(Signal::SIGTERM);
        status
    }

    /// Ends everything in the group that still runs; takes up to two seconds.
    pub(super) async fn end(mut self) {
        // If the group is empty, there is nobody to wait for.
        if !self.signal(Signal::SIGTERM) {
            return;
        }
        let gone = async {
            let _ = self.child.wait().await;
            while self.signal(None) {
                sleep(POLL).await;
            }
        };
        if timeout(GRACE, gone).await.is_err() {
            self.signal(Signal::SIGKILL);
            let _ = self.child.wait().await;
        }
    }

    /// Signals the whole group; false if it is empty.
    fn signal(&self, signal: impl Into<Option<Signal>>) -> bool {
        self.id.is_some_and(|id| killpg(id, signal).is_ok())
    }
}
