//! `make bench-rebalance`: a Hub on a real Kubernetes cluster is scaled, rolled out, drained, killed and frozen, while
//! thousands of spokes are connected to it and called all the time.
//!
//! Run it in a cluster (`alkhub-cluster up`). Spokes and callers live in this process and reach the hubs through the
//! Hub's Service; what the hubs hold is read from their metrics each second. It prints what was seen beside what the
//! project promises, and writes that as a page with a picture. It fails if a call got another call's answer, or ran
//! more often than its caller was told. A missed aim is reported, but fails nothing.

mod aims;
mod events;
mod figures;
mod leaders;
mod plot;
mod pods;
mod report;
mod stage;
mod watch;

use std::path::PathBuf;

pub(crate) use alkhub_tests::console::say;
use alkhub_tests::load::Scale;
use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::time::Instant;

use crate::events::EVENTS;
use crate::report::Report;
use crate::stage::Stage;

/// Moves thousands of connections, and counts what their callers notice.
#[derive(Debug, Parser)]
#[command(
    after_help = "Examples, each after `alkhub-cluster up --nodes 3 --image … --image … --`:\n  alkhub-rebalance                               everything but the rarest, 45 minutes\n  alkhub-rebalance --only grow --only operator   the event of this name, or those whose names have this text: all that disturb the operator take an hour\n  alkhub-rebalance --sessions 1 --only kill      spokes of the SDK with one session"
)]
pub(crate) struct Args {
    /// Spokes; half of them use the SDK, half are plain. Each takes up to two connections.
    #[arg(long, default_value_t = 3_000)]
    spokes: usize,
    /// Sessions of each spoke that uses the SDK.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=2))]
    sessions: u8,
    /// Calls a second, all the time.
    #[arg(long, default_value_t = 300.0)]
    rate: f64,
    /// Only the event of this name; where none has it, those whose names have this text.
    #[arg(long)]
    only: Vec<String>,
    /// Writes the page to this file, and the picture beside it, with `.svg` in place of `.md`.
    #[arg(long)]
    out: Option<PathBuf>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let needed = u64::try_from(2 * args.spokes + 500)?;
    ensure!(
        needed <= most,
        "{} spokes need {needed} open files; the limit is {most}",
        args.spokes
    );
    let kubeconfig = std::env::var_os("ALKHUB_TEST_KUBECONFIG");
    let kubeconfig =
        kubeconfig.context("no cluster: ALKHUB_TEST_KUBECONFIG is not set (`make bench-rebalance` boots one)")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(Box::pin(run(&args, kubeconfig.into())))
}

async fn run(args: &Args, kubeconfig: PathBuf) -> Result<()> {
    let scale = Scale {
        spokes: args.spokes,
        sessions: args.sessions,
        rate: args.rate,
        callers: 8,
    };
    let stage = Box::pin(Stage::build(kubeconfig, &scale)).await?;
    let mut report = Report::new(args, stage.load.connections())?;
    for event in EVENTS.iter().filter(|event| event.is_wanted(&args.only)) {
        let began = Instant::now();
        match Box::pin(events::run(&stage, event)).await {
            Ok(figures) => report.event(event, &figures, args.sessions),
            Err(error) => report.lost(event, &error),
        }
        say(&format!(
            "{}: over after {:.0} s",
            event.name,
            began.elapsed().as_secs_f64()
        ));
        if let Some(out) = &args.out {
            report.write(out, &stage.pods)?;
        }
    }
    let broken = report.finish();
    stage.end().await;
    ensure!(broken == 0, "{broken} calls ran otherwise than their callers were told");
    Ok(())
}
