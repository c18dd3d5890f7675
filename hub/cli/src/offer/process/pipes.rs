//! The three pipes of a command: what goes in, and what comes out until the command is gone.
//!
//! Invariant
//! - A pipe ends with its command. Anything else that holds it open (a background process) is read until it has been
//!   silent for [`SILENCE`], and no longer.

use std::pin::pin;
use std::time::Duration;

use alkhub_sdk::{Failure, RawJson};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::ChildStdin;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::json;

/// A pipe that is silent for this long after its command ended holds nothing more from the command.
const SILENCE: Duration = Duration::from_millis(100);

/// How much of standard error is kept.
const ERRORS_BYTES: usize = 2 * 1024;

/// One output of a command.
#[derive(Debug)]
pub(super) struct Pipe<R> {
    inner: R,
    exited: CancellationToken,
}

// === impl Pipe ===

impl<R: AsyncRead + Unpin> Pipe<R> {
    /// `exited` is cancelled when the command has ended.
    pub(super) fn new(inner: R, exited: CancellationToken) -> Self {
        Self { inner, exited }
    }

    /// The next bytes; none at the end.
    async fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let over = async {
            self.exited.cancelled().await;
            sleep(SILENCE).await;
        };
        tokio::select! {
            biased;
            read = self.inner.read(buffer) => read,
            () = over => Ok(0),
        }
    }

    /// Everything that is written, unless it is more than `limit` bytes.
    pub(super) async fn read_all(mut self, limit: usize) -> Result<Vec<u8>, Failure> {
        let (mut output, mut buffer) = (Vec::new(), vec![0; 16 * 1024]);
        loop {
            match self.read(&mut buffer).await.map_err(|e| unreadable(&e))? {
                0 => return Ok(output),
                read => output.extend_from_slice(&buffer[..read]),
            }
            if output.len() > limit {
                return Err(too_large(limit));
            }
        }
    }

    /// The last bytes of what is written.
    pub(super) async fn read_last(mut self) -> Vec<u8> {
        let (mut last, mut buffer) = (Vec::new(), [0; 1024]);
        while let Ok(read @ 1..) = self.read(&mut buffer).await {
            last.extend_from_slice(&buffer[..read]);
            let surplus = last.len().saturating_sub(ERRORS_BYTES);
            last.drain(..surplus);
        }
        last
    }

    /// The same, line by line.
    pub(super) fn lines(self, limit: usize) -> Lines<R> {
        Lines {
            pipe: self,
            limit,
            waiting: Vec::new(),
            given: 0,
        }
    }
}

/// The lines of an output.
#[derive(Debug)]
pub(super) struct Lines<R> {
    pipe: Pipe<R>,
    limit: usize,
    /// What was read, and how much of it was returned already.
    waiting: Vec<u8>,
    given: usize,
}

// === impl Lines ===

impl<R: AsyncRead + Unpin> Lines<R> {
    /// The next line including its line break; the last one may have none.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        let mut buffer = [0; 8 * 1024];
        let mut searched = self.given;
        loop {
            let end = self.waiting[searched..].iter().position(|byte| *byte == b'\n');
            let end = end.map(|end| searched + end + 1);
            if end.unwrap_or(self.waiting.len()) - self.given > self.limit {
                return Err(too_large(self.limit));
            }
            if let Some(end) = end {
                let line = self.waiting[self.given..end].to_vec();
                self.given = end;
                return Ok(Some(line));
            }
            self.waiting.drain(..self.given);
            (self.given, searched) = (0, self.waiting.len());
            match self.pipe.read(&mut buffer).await.map_err(|e| unreadable(&e))? {
                0 if self.waiting.is_empty() => return Ok(None),
                0 => return Ok(Some(std::mem::take(&mut self.waiting))),
                read => self.waiting.extend_from_slice(&buffer[..read]),
            }
        }
    }
}

/// A JSON string is written as its text (with U+FFFD for half of a surrogate pair), anything else as compact JSON. It
/// is no error if a command does not read it, or ends first.
pub(super) async fn feed(mut stdin: ChildStdin, input: &RawJson, exited: CancellationToken) {
    let text = json::text(input).unwrap_or_else(|| json::compact(input));
    let written = pin!(async {
        let _ = stdin.write_all(text.as_bytes()).await;
    });
    tokio::select! {
        () = written => {}
        () = exited.cancelled() => {}
    }
}

fn unreadable(error: &std::io::Error) -> Failure {
    Failure::new("EXECUTION_ERROR", format!("cannot read the output: {error}"))
}

fn too_large(limit: usize) -> Failure {
    Failure::new("EXECUTION_ERROR", format!("the output is larger than {limit} bytes"))
}
