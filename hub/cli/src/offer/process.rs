//! One command as a handler: the input goes to its standard input, the output comes from its standard output.
//!
//! Invariants
//! - A call is answered once its command has ended, whoever still holds the command's outputs open.
//! - A command runs in a process group of its own, and no group outlives its call by more than two seconds: an answer,
//!   an abort, a deadline or a lost connection end it with SIGTERM, and two seconds later with SIGKILL.
//! - What is kept of its output is bounded: 1 MiB of standard output, the last 2 KiB of standard error.
//! - No key is in a command's environment unless the offer asks for it.

mod environment;
mod group;
mod pipes;

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use alkhub_protocol::{OperationKind, OperationSpec, PAYLOAD_LIMIT_BYTES};
use alkhub_sdk::{Answer, Code, Context, Failure, Operation, RawJson};
use futures::StreamExt as _;
use serde::Deserialize;
use tokio::io::AsyncRead;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;

use self::environment::Environment;
use self::group::{Group, Pipes};
use self::pipes::{Lines, feed};
use crate::hub::HubAccess;
use crate::output;

/// How many lines may wait for the connection; beyond that the command waits.
const LINES: usize = 64;

/// A command and how its output is read.
#[derive(Clone, Debug)]
pub(super) struct Command {
    program: String,
    arguments: Vec<String>,
    folder: Option<PathBuf>,
    text: bool,
    /// Whether it may have the key.
    key: bool,
    /// Whether its calls are not shown.
    quiet: bool,
    environment: Environment,
}

/// Where a subscription's lines go.
type Items = mpsc::Sender<Result<RawJson, Failure>>;

// === impl Command ===

impl Command {
    /// A command whose output is text exactly when the output schema says `string`.
    pub(super) fn new(command: Vec<String>, folder: Option<PathBuf>, spec: &OperationSpec) -> Result<Self, NoCommand> {
        let mut words = command.into_iter();
        let program = words.next().filter(|program| !program.is_empty()).ok_or(NoCommand)?;
        let schema: Typed = spec.output_schema.to().unwrap_or_default();
        Ok(Self {
            program,
            arguments: words.collect(),
            folder,
            text: schema.of.is_some_and(|of| of.as_str() == "\"string\""),
            key: false,
            quiet: false,
            environment: Environment::default(),
        })
    }

    pub(super) fn program(&self) -> &str {
        &self.program
    }

    /// Where it runs, unless in the folder of this process.
    pub(super) fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// The same, with the key of its offer in its environment.
    pub(super) fn with_key(self) -> Self {
        Self { key: true, ..self }
    }

    /// The same, for the hub at which it is offered.
    pub(super) fn at(self, access: &HubAccess, quiet: bool) -> Self {
        let environment = match self.key {
            true => Environment::with_key(access),
            false => Environment::default(),
        };
        Self {
            environment,
            quiet,
            ..self
        }
    }

    /// The operation that runs it.
    pub(super) fn operation(self, spec: OperationSpec, tasks: TaskTracker) -> Operation {
        let subscription = spec.kind == OperationKind::Subscription;
        Operation::raw(spec, move |input, context| {
            let (command, tasks) = (self.clone(), tasks.clone());
            async move {
                if subscription {
                    command.lines(input, context, &tasks)
                } else {
                    command.answer(input, context, &tasks).await
                }
            }
        })
    }

    /// Runs to the end and answers with the output. The task, not this future, owns the process: it outlives the
    /// answer, or an abort, by the time that it takes to end the process group.
    async fn answer(self, input: RawJson, context: Context, tasks: &TaskTracker) -> Result<Answer, Failure> {
        let mut group = self.spawn()?;
        let (sender, answer) = oneshot::channel();
        tasks.spawn(async move {
            let began = Instant::now();
            let result = self.run(&mut group, &input, &context).await;
            self.note(&context, began, result.as_ref().err());
            // Nobody waits after an abort.
            let _ = sender.send(result);
            group.end().await;
        });
        answer
            .await
            .unwrap_or_else(|_| Err(Failure::new("EXECUTION_ERROR", "the command's task ended")))
    }

    async fn run(&self, group: &mut Group, input: &RawJson, context: &Context) -> Result<Answer, Failure> {
        let (pipes, exited) = (group.pipes(), group.exited());
        let Pipes { stdin, stdout, stderr } = pipes;
        let work = async {
            let (status, (), output, errors) = tokio::try_join!(
                async { group.wait().await.map_err(|e| self.failed(&e)) },
                async {
                    feed(stdin, input, exited).await;
                    Ok(())
                },
                stdout.read_all(PAYLOAD_LIMIT_BYTES),
                async { Ok(stderr.read_last().await) },
            )?;
            self.check(status, &errors)?;
            self.read(output).map(Answer::Value)
        };
        tokio::select! {
            result = work => result,
            () = context.aborted().cancelled() => Err(aborted()),
        }
    }

    /// Starts, and answers with one line at a time.
    fn lines(self, input: RawJson, context: Context, tasks: &TaskTracker) -> Result<Answer, Failure> {
        let mut group = self.spawn()?;
        let (sender, receiver) = mpsc::channel(LINES);
        tasks.spawn(async move {
            let began = Instant::now();
            let result = tokio::select! {
                result = self.stream(&mut group, &input, &sender) => result,
                () = context.aborted().cancelled() => Err(aborted()),
                () = sender.closed() => Err(aborted()),
            };
            self.note(&context, began, result.as_ref().err());
            if let Err(failure) = result {
                // The reader may be gone by now.
                let _ = sender.send(Err(failure)).await;
            }
            drop(sender);
            group.end().await;
        });
        Ok(Answer::Items(ReceiverStream::new(receiver).boxed()))
    }

    async fn stream(&self, group: &mut Group, input: &RawJson, sender: &Items) -> Result<(), Failure> {
        let (pipes, exited) = (group.pipes(), group.exited());
        let Pipes { stdin, stdout, stderr } = pipes;
        let (status, (), (), errors) = tokio::try_join!(
            async { group.wait().await.map_err(|e| self.failed(&e)) },
            async {
                feed(stdin, input, exited).await;
                Ok(())
            },
            self.send_lines(stdout.lines(PAYLOAD_LIMIT_BYTES), sender),
            async { Ok(stderr.read_last().await) },
        )?;
        self.check(status, &errors)
    }

    async fn send_lines<R>(&self, mut lines: Lines<R>, sender: &Items) -> Result<(), Failure>
    where
        R: AsyncRead + Unpin,
    {
        while let Some(line) = lines.next().await? {
            if !self.text && line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            if sender.send(Ok(self.read(line)?)).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    fn spawn(&self) -> Result<Group, Failure> {
        let mut command = tokio::process::Command::new(&self.program);
        command
            .args(&self.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        self.environment.apply(&mut command);
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        command.spawn().map(Group::of).map_err(|e| self.failed(&e))
    }

    /// Text without its final newline, or JSON. Bytes that are neither are refused rather than silently replaced.
    fn read(&self, output: Vec<u8>) -> Result<RawJson, Failure> {
        let mut output = String::from_utf8(output).map_err(|e| self.binary(e.utf8_error().valid_up_to()))?;
        if self.text {
            if output.ends_with('\n') {
                output.pop();
            }
            return RawJson::from_value(&output)
                .map_err(|e| Failure::new("EXECUTION_ERROR", format!("the output cannot be written as JSON: {e}")));
        }
        RawJson::parse(output).map_err(|e| {
            let text = format!(
                "the output of `{}` is not JSON, as its output schema asks: {e}",
                self.program
            );
            Failure::new("EXECUTION_ERROR", text)
        })
    }

    fn binary(&self, at: usize) -> Failure {
        let text = format!(
            "the output of `{}` is not UTF-8 text from byte {at} on: let it write base64, for example with `| base64 -w0`",
            self.program
        );
        Failure::new("EXECUTION_ERROR", text)
    }

    /// Shows how a call ended, unless this is to be quiet.
    fn note(&self, context: &Context, began: Instant, failure: Option<&Failure>) {
        if self.quiet {
            return;
        }
        let (operation, elapsed) = (context.operation(), began.elapsed());
        let error = failure.map(|failure| failure.clone().into_call_error());
        let ended = match error {
            None => "answered".to_owned(),
            Some(error) if error.code == Code::Aborted => "aborted".to_owned(),
            Some(error) => format!("failed: {error}"),
        };
        output::note(&format!("{operation}  {} ms  {ended}", elapsed.as_millis()));
    }

    fn check(&self, status: ExitStatus, errors: &[u8]) -> Result<(), Failure> {
        if status.success() {
            return Ok(());
        }
        let errors = String::from_utf8_lossy(errors);
        let errors = errors.trim();
        let detail = if errors.is_empty() {
            String::new()
        } else {
            format!(": {errors}")
        };
        Err(Failure::new(
            "EXECUTION_ERROR",
            format!("`{}` ended with {status}{detail}", self.program),
        ))
    }

    fn failed(&self, error: &std::io::Error) -> Failure {
        Failure::new("EXECUTION_ERROR", format!("cannot run `{}`: {error}", self.program))
    }
}

/// The part of a schema that decides whether an output is text.
#[derive(Default, Deserialize)]
struct Typed {
    #[serde(rename = "type")]
    of: Option<RawJson>,
}

fn aborted() -> Failure {
    Failure::new(Code::Aborted.as_str(), "the call was aborted")
}

/// There is no command to run.
#[derive(Debug, thiserror::Error)]
#[error("`command` is empty: name a program")]
pub(super) struct NoCommand;

impl From<NoCommand> for crate::failure::Failure {
    fn from(error: NoCommand) -> Self {
        Self::usage(error.to_string())
    }
}
