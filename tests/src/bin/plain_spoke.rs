//! A spoke with the origin's wire as a separate process, for tests that kill it: no SDK, no session, one connection.
//!
//! It offers `NAME.get` and `NAME.set`. Before anything else, each call appends its input, a word, as a line to `runs`
//! in the folder. A word that begins with `hold` is answered once there is a file `go-WORD`; if the call is aborted
//! first, the word is appended to `stops`. Every other word is answered at once, with itself.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use alkhub_test_support::pause;
use alkhub_tests::wire::{Peer, operation};
use anyhow::{Context as _, Result};
use clap::Parser;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Time between two checks for a file.
const LOOK: Duration = Duration::from_millis(20);

/// Where it connects, and what it is called.
#[derive(Debug, Parser)]
struct Args {
    /// The hub.
    #[arg(long)]
    url: String,
    /// The key.
    #[arg(long)]
    key: String,
    /// The spoke, and the namespace of its operations.
    #[arg(long)]
    name: String,
    /// Where `runs` and `stops` are.
    #[arg(long)]
    folder: PathBuf,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let mut peer = Peer::connect(&args.url, &args.key).await?;
    let operations = json!([
        operation(&args.name, "get", "query"),
        operation(&args.name, "set", "mutation"),
    ]);
    peer.register(&args.name, operations).await?;
    add(&args.folder, "registered", &args.name)?;
    let (mut sender, mut receiver) = peer.split();
    let (answer, mut answers) = mpsc::channel(64);
    let (tasks, mut running) = (TaskTracker::new(), HashMap::new());
    loop {
        let message = tokio::select! {
            message = receiver.next_or_closed() => message?,
            Some(payload) = answers.recv() => {
                sender.send("call.responded", "", &payload).await?;
                continue;
            }
        };
        let Ok(message) = message else { return Ok(()) };
        let payload = message["payload"].clone();
        let id = payload["requestId"].as_str().unwrap_or_default().to_owned();
        match message["type"].as_str() {
            Some("call.requested") => {
                let aborted = CancellationToken::new();
                running.insert(id, aborted.clone());
                tasks.spawn(run(args.folder.clone(), payload, aborted, answer.clone()));
            }
            Some("call.aborted") => {
                running.remove(&id).inspect(CancellationToken::cancel);
            }
            _ => {}
        }
    }
}

async fn run(folder: PathBuf, call: Value, aborted: CancellationToken, answer: mpsc::Sender<Value>) -> Result<()> {
    let word = call["input"].as_str().context("the input is a word")?;
    add(&folder, "runs", word)?;
    let released = folder.join(format!("go-{word}"));
    while word.starts_with("hold") && !released.exists() {
        if aborted.run_until_cancelled(pause(LOOK)).await.is_none() {
            return add(&folder, "stops", word);
        }
    }
    let payload = json!({ "requestId": call["requestId"], "output": word });
    Ok(answer.send(payload).await?)
}

/// Adds a line to a file.
fn add(folder: &Path, file: &str, line: &str) -> Result<()> {
    let mut file = File::options().create(true).append(true).open(folder.join(file))?;
    Ok(file.write_all(format!("{line}\n").as_bytes())?)
}
