//! `make soak`: hubs run as processes under calls, events and registrations, while hubs, spokes and Redis are ended.
//!
//! What must hold, whatever happens:
//! - An answer is the answer to its call.
//! - A mutation that was answered ran once; one whose error says `delivered: no` never ran; none ran twice.
//! - An event that a hub accepted reaches each subscriber, in order, or a gap or the end of the stream takes its place.
//! - An error is one that the faults explain; none is the hub's own fault or concerns a valid key.
//! - After each fault every hub answers calls again within a minute.
//!
//! The seed decides the faults and their order; how everything interleaves is up to the machine. The run prints what it
//! saw, and fails if it saw anything else.

mod faults;
mod ledger;
mod load;
mod visible;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use alkhub_tests::console::say;
use alkhub_tests::hubs::{Hubs, Plan};
use anyhow::Result;
use clap::Parser;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::ledger::Ledger;

/// Puts hubs under load and faults, and says what broke a promise.
#[derive(Debug, Parser)]
#[command(after_help = "Example:\n  alkhub-soak --alkhub target/debug/alkhub --seconds 3600 --seed 7")]
pub(crate) struct Args {
    /// The binary `alkhub`.
    #[arg(long, default_value = "target/debug/alkhub")]
    alkhub: PathBuf,
    /// How long.
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// Decides the faults and their order; by chance when it is not given, and printed.
    #[arg(long)]
    seed: Option<u64>,
    /// Hubs on one Redis and one Postgres.
    #[arg(long, default_value_t = 3)]
    hubs: usize,
    /// Spokes, all of them a pool.
    #[arg(long, default_value_t = 8)]
    spokes: u64,
    /// Callers, each with one call at a time.
    #[arg(long, default_value_t = 6)]
    callers: u64,
    /// Topics, each with a publisher and a subscriber.
    #[arg(long, default_value_t = 4)]
    topics: u64,
    /// In place of all that: so many registrations, each called through other hubs at once.
    #[arg(long)]
    visible: Option<usize>,
    /// With `--visible`: hubs are killed and drained and Redis is killed meanwhile, in turn.
    #[arg(long, requires = "visible")]
    faults: bool,
    /// With `--visible`: calls right after each registration.
    #[arg(long, default_value_t = 2)]
    calls: usize,
    /// With `--visible`: registrations side by side.
    #[arg(long, default_value_t = 1)]
    lanes: usize,
}

/// What the tasks of a run share.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) hubs: Arc<Hubs>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) stop: CancellationToken,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let args = Args::parse();
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(1..1_000_000));
    say(&format!(
        "seed {seed}, {} s, {} hubs, {} spokes, {} callers, {} topics",
        args.seconds, args.hubs, args.spokes, args.callers, args.topics
    ));
    let plan = Plan {
        program: &args.alkhub,
        count: args.hubs,
        linked: args.visible.is_some(),
        own_postgres: true,
        settings: &[],
    };
    let run = Run {
        hubs: Arc::new(Hubs::start(plan).await?),
        ledger: Arc::new(Ledger::default()),
        stop: CancellationToken::new(),
    };
    if let Some(registrations) = args.visible {
        let plan = visible::Plan {
            registrations,
            calls: args.calls,
            lanes: args.lanes,
            faults: args.faults,
        };
        visible::visible(&run, plan, seed).await?;
        return Ok(verdict(&run, seed));
    }
    let tasks = TaskTracker::new();
    for number in 0..args.spokes {
        tasks.spawn(load::spoke(run.clone(), seed + number));
    }
    faults::all_answer(&run).await;
    for number in 0..args.callers {
        tasks.spawn(load::caller(run.clone(), seed + 1_000 + number));
    }
    for number in 0..args.topics {
        tasks.spawn(load::topic(run.clone(), seed + 2_000 + number, number));
    }
    let end = Instant::now() + Duration::from_secs(args.seconds);
    faults::inject(&run, &mut fastrand::Rng::with_seed(seed), end).await;
    run.stop.cancel();
    tasks.close();
    tasks.wait().await;
    Ok(verdict(&run, seed))
}

/// Prints what was seen, and whether all is well.
fn verdict(run: &Run, seed: u64) -> ExitCode {
    let broken = run.ledger.report(seed, &run.hubs.resident());
    if broken { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
