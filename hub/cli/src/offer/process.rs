//! One command as a handler: input to its standard input, output from its standard output.
//!
//! Invariants
//! - A command runs in a process group of its own, and no group outlives its call: abort, deadline or a lost connection
//!   end it with SIGTERM, and two seconds later with SIGKILL.
//! - What is kept of its output is bounded: 1 MiB of standard output, the last 2 KiB of standard error.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use alkhub_protocol::{OperationKind, OperationSpec, PAYLOAD_LIMIT_BYTES};
use alkhub_sdk::{Answer, Context, Failure, Operation, RawJson};
use futures::StreamExt as _;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;

use crate::output;

/// Time between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(2);

/// How often a group that was asked to end is looked at.
const POLL: Duration = Duration::from_millis(20);

/// What is kept of standard error.
const ERRORS_BYTES: usize = 2 * 1024;

/// Lines that wait for the connection; the command waits for room.
const LINES: usize = 64;

/// A command and how its output is read.
#[derive(Clone, Debug)]
pub(super) struct Command {
    program: String,
    arguments: Vec<String>,
    folder: Option<PathBuf>,
    text: bool,
}

// === impl Command ===

impl Command {
    /// A command whose output is text exactly when the output schema says `string`.
    pub(super) fn new(command: Vec<String>, folder: Option<PathBuf>, spec: &OperationSpec) -> Result<Self, NoCommand> {
        let mut words = command.into_iter();
        let program = words.next().filter(|program| !program.is_empty()).ok_or(NoCommand)?;
        let schema: serde_json::Value = spec.output_schema.to().unwrap_or_default();
        Ok(Self {
            program,
            arguments: words.collect(),
            folder,
            text: schema["type"] == "string",
        })
    }

    pub(super) fn program(&self) -> &str {
        &self.program
    }

    /// Where it runs, unless in the folder of this process.
    pub(super) fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
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

    /// Runs to the end and answers with the output. The task, not this future, owns the process: it outlives an abort
    /// for as long as it takes to end the process.
    async fn answer(self, input: RawJson, context: Context, tasks: &TaskTracker) -> Result<Answer, Failure> {
        let (sender, answer) = oneshot::channel();
        tasks.spawn(async move {
            // Nobody waits after an abort.
            let _ = sender.send(self.run(input, &context).await);
        });
        answer
            .await
            .unwrap_or_else(|_| Err(Failure::new("EXECUTION_ERROR", "the command's task ended")))
    }

    async fn run(&self, input: RawJson, context: &Context) -> Result<Answer, Failure> {
        let mut group = self.spawn()?;
        let (stdin, stdout, stderr) = group.pipes();
        let work = async {
            let (_, output, errors) = tokio::join!(
                feed(stdin, &input),
                read_all(stdout, PAYLOAD_LIMIT_BYTES),
                read_last(stderr)
            );
            let output = output?;
            let status = group.child.wait().await.map_err(|e| self.failed(&e))?;
            self.check(status, &errors)?;
            self.read(output).map(Answer::Value)
        };
        let result = tokio::select! {
            result = work => result,
            () = context.aborted().cancelled() => Err(Failure::new("ABORTED", "the call was aborted")),
        };
        group.end().await;
        result
    }

    /// Starts and answers with a line at a time.
    fn lines(self, input: RawJson, context: Context, tasks: &TaskTracker) -> Result<Answer, Failure> {
        let mut group = self.spawn()?;
        let (sender, receiver) = mpsc::channel(LINES);
        tasks.spawn(async move {
            let (stdin, stdout, stderr) = group.pipes();
            let work = async {
                let (_, sent, errors) =
                    tokio::join!(feed(stdin, &input), self.send_lines(stdout, &sender), read_last(stderr));
                sent?;
                let status = group.child.wait().await.map_err(|e| self.failed(&e))?;
                self.check(status, &errors)
            };
            let result = tokio::select! {
                result = work => result,
                () = context.aborted().cancelled() => Ok(()),
                () = sender.closed() => Ok(()),
            };
            if let Err(failure) = result {
                // The reader may be gone by now.
                let _ = sender.send(Err(failure)).await;
            }
            drop(sender);
            group.end().await;
        });
        Ok(Answer::Items(ReceiverStream::new(receiver).boxed()))
    }

    async fn send_lines(
        &self,
        stdout: impl AsyncRead + Unpin,
        sender: &mpsc::Sender<Result<RawJson, Failure>>,
    ) -> Result<(), Failure> {
        let limit = u64::try_from(PAYLOAD_LIMIT_BYTES).unwrap_or(u64::MAX);
        let mut reader = BufReader::new(stdout);
        loop {
            let mut line = Vec::new();
            let read = (&mut reader).take(limit + 1).read_until(b'\n', &mut line).await;
            if read.map_err(|e| self.failed(&e))? == 0 {
                return Ok(());
            }
            if line.len() > PAYLOAD_LIMIT_BYTES {
                return Err(too_large());
            }
            if !self.text && line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            if sender.send(Ok(self.read(line)?)).await.is_err() {
                return Ok(());
            }
        }
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
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        let child = command.spawn().map_err(|e| self.failed(&e))?;
        let id = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        Ok(Group { child, id })
    }

    /// Text less one newline, or JSON.
    fn read(&self, mut output: Vec<u8>) -> Result<RawJson, Failure> {
        if self.text {
            output.pop_if(|last| *last == b'\n');
            return Ok(serde_json::Value::String(String::from_utf8_lossy(&output).into_owned()).into());
        }
        RawJson::parse(output).map_err(|e| {
            let text = format!(
                "the output of `{}` is not JSON, as its output schema asks: {e}",
                self.program
            );
            Failure::new("EXECUTION_ERROR", text)
        })
    }

    fn check(&self, status: ExitStatus, errors: &[u8]) -> Result<(), Failure> {
        if status.success() {
            return Ok(());
        }
        let errors = String::from_utf8_lossy(errors);
        let errors = errors.trim();
        let said = if errors.is_empty() {
            String::new()
        } else {
            format!(": {errors}")
        };
        Err(Failure::new(
            "EXECUTION_ERROR",
            format!("`{}` ended with {status}{said}", self.program),
        ))
    }

    fn failed(&self, error: &std::io::Error) -> Failure {
        Failure::new("EXECUTION_ERROR", format!("cannot run `{}`: {error}", self.program))
    }
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

/// A running command and all that it started.
#[derive(Debug)]
struct Group {
    child: Child,
    id: Option<Pid>,
}

// === impl Group ===

impl Group {
    fn pipes(
        &mut self,
    ) -> (
        ChildStdin,
        impl AsyncRead + Unpin + use<>,
        impl AsyncRead + Unpin + use<>,
    ) {
        let stdin = self.child.stdin.take().expect("piped");
        (
            stdin,
            self.child.stdout.take().expect("piped"),
            self.child.stderr.take().expect("piped"),
        )
    }

    /// Ends whatever of the group still runs.
    async fn end(mut self) {
        let Some(id) = self.id else { return };
        // An error says that the group is empty.
        if killpg(id, Signal::SIGTERM).is_err() {
            return;
        }
        let gone = async {
            let _ = self.child.wait().await;
            while killpg(id, None).is_ok() {
                sleep(POLL).await;
            }
        };
        if timeout(GRACE, gone).await.is_err() {
            let _ = killpg(id, Signal::SIGKILL);
            let _ = self.child.wait().await;
        }
    }
}

/// A JSON string goes in as it is, anything else as compact JSON. A command that does not read is no error.
async fn feed(mut stdin: ChildStdin, input: &RawJson) {
    let text = input.to::<String>().unwrap_or_else(|_| output::compact_raw(input));
    let _ = stdin.write_all(text.as_bytes()).await;
}

async fn read_all(stdout: impl AsyncRead + Unpin, limit: usize) -> Result<Vec<u8>, Failure> {
    let mut output = Vec::new();
    let most = u64::try_from(limit).unwrap_or(u64::MAX) + 1;
    let read = stdout.take(most).read_to_end(&mut output).await;
    read.map_err(|e| Failure::new("EXECUTION_ERROR", format!("cannot read the output: {e}")))?;
    if output.len() > limit {
        Err(too_large())
    } else {
        Ok(output)
    }
}

fn too_large() -> Failure {
    Failure::new(
        "PAYLOAD_TOO_LARGE",
        format!("the output is larger than {PAYLOAD_LIMIT_BYTES} bytes"),
    )
}

/// The last lines that fit.
async fn read_last(mut stderr: impl AsyncRead + Unpin) -> Vec<u8> {
    let (mut last, mut buffer) = (Vec::new(), [0_u8; 1024]);
    while let Ok(read @ 1..) = stderr.read(&mut buffer).await {
        last.extend_from_slice(&buffer[..read]);
        let surplus = last.len().saturating_sub(ERRORS_BYTES);
        last.drain(..surplus);
    }
    last
}
