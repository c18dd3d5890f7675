//! `kubectl alkhub`: this program under the name `kubectl-alkhub`, for people who run Hubs in a cluster.
//!
//! Everything goes through `kubectl`, which exists wherever its plugins run: with its contexts, its ways to log in, and
//! the rights of its user. A request is an annotation, which the operator carries out; so it continues after this
//! program has ended.
//!
//! Promises
//! - Nothing but annotations of the pod or the Hub that was named is written.
//! - What `kubectl` says when it fails is passed on, and so is that it is missing.

mod args;
mod drain;
mod objects;
mod process;
mod progress;
mod rebalance;
mod show;

use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;

use crate::failure::Failure;

pub(crate) use self::args::{KubectlCli, KubectlCommand};

/// The name under which `kubectl` finds it.
pub(crate) const NAME: &str = "kubectl-alkhub";

/// Whether the program was started under this name.
pub(crate) fn is_meant(program: &OsStr) -> bool {
    Path::new(program).file_stem().is_some_and(|stem| stem == NAME)
}

/// Runs one of its commands.
pub(crate) async fn run(command: KubectlCommand) -> Result<ExitCode, Failure> {
    match command {
        KubectlCommand::Status(args) => show::status(args).await,
        KubectlCommand::Top(args) => show::top(args).await,
        KubectlCommand::Drain(args) => drain::drain(args).await,
        KubectlCommand::Undrain(args) => drain::undrain(args).await,
        KubectlCommand::Rebalance(args) => rebalance::rebalance(args).await,
        KubectlCommand::Logs(args) => show::logs(args).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_decides_and_not_the_folder() {
        for (program, meant) in [
            ("kubectl-alkhub", true),
            ("/usr/local/bin/kubectl-alkhub", true),
            ("alkhub", false),
            ("/opt/kubectl-alkhub/alkhub", false),
        ] {
            assert_eq!(is_meant(OsStr::new(program)), meant, "{program}");
        }
    }
}
