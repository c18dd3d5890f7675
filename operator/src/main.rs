//! The binary `alkhub-operator`: flags, log, signals; everything else is in the library.

use alkhub_config::LogFormat;
use alkhub_operator::args::Args;
use anyhow::Context as _;
use clap::Parser as _;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .ok()
        .context("a TLS provider is there already")?;
    log(&args)?;
    // Two threads are enough to read changes; each further one would hold memory of its own.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let stop = CancellationToken::new();
        let run = alkhub_operator::run(args, stop.clone());
        tokio::pin!(run);
        tokio::select! {
            result = &mut run => return result.context("the operator ended"),
            signal = terminated() => signal?,
        }
        tracing::info!("asked to end");
        stop.cancel();
        tokio::select! {
            result = &mut run => result.context("the operator ended"),
            // A second signal ends the process without waiting for what is under way.
            signal = terminated() => signal,
        }
    })
}

fn log(args: &Args) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&args.log_filter).context("--log-filter is not valid")?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match args.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}

/// Waits for SIGTERM or SIGINT.
async fn terminated() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    Ok(())
}
