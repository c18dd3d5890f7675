//! Runs `kubectl`.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::process::{ExitCode, ExitStatus, Stdio};

use serde::de::DeserializeOwned;
use tokio::process::Command;

use super::args::ClusterArgs;
use crate::failure::Failure;

const PROGRAM: &str = "kubectl";

/// `kubectl` with the options that say which cluster to use.
#[derive(Debug)]
pub(crate) struct Kubectl {
    options: Vec<OsString>,
}

// === impl Kubectl ===

impl Kubectl {
    pub(crate) fn new(cluster: &ClusterArgs) -> Self {
        let mut options = Vec::new();
        let mut add = |name: &str, value: Option<OsString>| {
            if let Some(value) = value {
                options.extend([name.into(), value]);
            }
        };
        add("--namespace", cluster.namespace.clone().map(Into::into));
        add("--context", cluster.context.clone().map(Into::into));
        add("--kubeconfig", cluster.kubeconfig.clone().map(Into::into));
        Self { options }
    }

    /// Reads an object, or a list.
    ///
    /// # Errors
    /// `kubectl` is missing or fails, or its output does not have this form.
    pub(crate) async fn get<T: DeserializeOwned>(&self, words: &[&str]) -> Result<T, Failure> {
        let text = self.output(&[&["get", "--output", "json"], words].concat()).await?;
        serde_json::from_slice(&text).map_err(|error| {
            Failure::other(format!(
                "`kubectl get {}` prints something else than was expected: {error}; is this program as new as the operator?",
                words.join(" ")
            ))
        })
    }

    /// Sets an annotation, or removes it.
    pub(crate) async fn annotate(
        &self,
        kind: &str,
        name: &str,
        annotation: &str,
        value: Option<&str>,
    ) -> Result<(), Failure> {
        let change = match value {
            Some(value) => format!("{annotation}={value}"),
            None => format!("{annotation}-"),
        };
        self.output(&["annotate", kind, name, &change, "--overwrite"]).await?;
        Ok(())
    }

    /// Runs it with the standard streams of this program, and exits with its exit code.
    pub(crate) async fn hand_over(&self, words: &[&str]) -> Result<ExitCode, Failure> {
        let mut command = self.command(words);
        // Ctrl-C reaches it too: first it ends, and then this program does.
        let _signals = crate::signals::Signals::listen()?;
        let mut process = command.spawn().map_err(|error| unusable(&error))?;
        let status = process.wait().await?;
        Ok(exit_code(status))
    }

    async fn output(&self, words: &[&str]) -> Result<Vec<u8>, Failure> {
        let mut command = self.command(words);
        let done = command.stdin(Stdio::null()).kill_on_drop(true).output().await;
        let done = done.map_err(|error| unusable(&error))?;
        if done.status.success() {
            return Ok(done.stdout);
        }
        let said = String::from_utf8_lossy(&done.stderr);
        let said = said.trim().trim_start_matches("error: ");
        Err(Failure::other(format!("kubectl {}: {said}{}", words[0], cure(said))))
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(words).args(&self.options);
        command
    }
}

fn unusable(error: &std::io::Error) -> Failure {
    match error.kind() {
        ErrorKind::NotFound => Failure::other("there is no `kubectl` on the PATH; this command needs it"),
        _ => Failure::other(format!("cannot run `kubectl`: {error}")),
    }
}

/// What to do about an error of `kubectl`, if that is not obvious.
fn cure(said: &str) -> &'static str {
    match said {
        said if said.contains("doesn't have a resource type \"hubs\"") => {
            "; alkhub's CRDs are not installed in this cluster, or --context names another one"
        }
        _ => "",
    }
}

fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    ExitCode::from(code.unwrap_or(crate::failure::INTERRUPTED))
}
