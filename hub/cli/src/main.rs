//! The binary `alkhub`: runs a hub (`serve`, `dev`, `migrate`) and talks to one (everything else).
//!
//! Promises
//! - Results go to standard output, everything else to standard error; a reader that leaves (`| head`) is no error.
//! - A failure is one line that says what went wrong and what to do, and an exit code that scripts can tell apart.
//! - A secret on the command line is out of the sight of `ps` at once.
//!
//! Never
//! - It does nothing of a hub's work: `serve` and `dev` start a hub, and what talks to one knows it by its API alone.
//! - It prints no key but in the answer that makes one.
//!
//! Uses `config`, `devdb` (for `dev`), `protocol`, `retry`, `schema` (for `offer`), `sdk`, `server` and `store` (for
//! `migrate` and `recover`).

mod args;
mod call;
mod dev;
mod events;
mod failure;
mod files;
mod follow;
mod hidden;
mod hub;
mod json;
mod keys;
mod kubectl;
mod lists;
mod offer;
mod output;
mod patience;
mod recover;
mod selftest;
mod serve;
mod signals;
mod spokes;
mod status;
mod wait;

use std::process::ExitCode;

use clap::Parser as _;

use args::{Cli, Command};
use failure::Failure;
use kubectl::KubectlCli;

/// The metrics of a hub and an operator; a test compares the text with what they expose.
const METRICS: &str = include_str!("../../../docs/generated/metrics.md");

/// glibc's allocator takes a seventh of a call's time (docs/BENCHMARKS.md); what this one saves is in decision 0001.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Before anything makes a TLS connection. It cannot fail, since no other provider can be installed yet.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let is_plugin = std::env::args_os()
        .next()
        .is_some_and(|program| kubectl::is_meant(&program));
    // A flag that does not belong to its command is reported before it could be removed.
    let command = match is_plugin {
        true => Command::Kubectl(KubectlCli::parse().command),
        false => Cli::parse().command,
    };
    hidden::hide_secrets();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(Box::pin(run(command))),
        Err(error) => Err(Failure::other(format!("cannot start: {error}"))),
    };
    match result {
        Ok(code) => code,
        Err(failure) => output::failed(&failure),
    }
}

async fn run(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Serve(args) => serve::serve(args).await,
        Command::Migrate(args) => serve::migrate(args).await,
        Command::Recover(args) => recover::recover(args).await,
        Command::Dev(args) => dev::dev(args).await,
        Command::Selftest(args) => selftest::selftest(args).await,
        Command::Openapi => output::text(&output::pretty(&alkhub_server::openapi())?),
        Command::Config => output::text(alkhub_config::reference().trim_end()),
        Command::Metrics => output::text(METRICS.trim_end()),
        Command::Version => status::version(),
        Command::Completions(args) => status::completions(&args),
        Command::Status(args) => status::status(args).await,
        Command::Offer(args) => offer::offer(args).await,
        Command::Call(args) => call::call(args).await,
        Command::Operations(args) => lists::operations(args).await,
        Command::Spokes(args) => spokes::spokes(args).await,
        Command::Calls(args) => lists::calls(args).await,
        Command::Publish(args) => events::publish(args).await,
        Command::Subscribe(args) => events::subscribe(args).await,
        Command::Keys(command) => keys::keys(command).await,
        Command::Kubectl(command) => kubectl::run(command).await,
    }
}
