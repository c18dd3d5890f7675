//! The table.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::Args;

/// What stands under the table.
const MEANING: &str = include_str!("meaning.md");

/// What a profile of the calls says, from a run of its own.
const PROFILE: &str = include_str!("profile.md");

/// Rows gathered so far.
#[derive(Debug)]
pub(crate) struct Report {
    text: String,
}

// === impl Report ===

impl Report {
    /// The head: date, versions, machine.
    pub(crate) fn new(args: &Args) -> Result<Self> {
        let version = |program: &Path| -> Result<String> {
            let output = Command::new(program)
                .arg("--version")
                .output()
                .with_context(|| program.display().to_string())?;
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let cpu = std::fs::read_to_string("/proc/cpuinfo")?;
        let models: Vec<&str> = cpu
            .lines()
            .filter_map(|line| line.strip_prefix("model name\t: "))
            .collect();
        let text = format!(
            "# Benchmarks\n\nWritten by `make bench` on {}; compare figures only within one run.\n\n\
             - {}\n- {}\n- {}\n- {} x {}, Linux {}; {} rounds of {} s, peers interleaved; least / median / most\n\n\
             | case | unit | alkhub | nats | ratio of medians | aim | met |\n|---|---|---|---|---|---|---|\n",
            jiff::Zoned::now().date(),
            version(&args.alkhub)?,
            version(&args.nats)?,
            version(Path::new("redis-server"))?,
            models.len(),
            models.first().unwrap_or(&"CPU"),
            std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim(),
            args.rounds,
            args.seconds,
        );
        Ok(Self { text })
    }

    /// One case.
    pub(crate) fn row(&mut self, case: &str, (unit, aim): (&str, f64), alkhub: &[f64], nats: &[f64]) {
        let met = if median(alkhub) <= aim { "yes" } else { "no" };
        let ratio = median(alkhub) / median(nats);
        let row = writeln!(
            self.text,
            "| {case} | {unit} | {} | {} | {ratio:.2} | <= {aim} | {met} |",
            spread(alkhub),
            spread(nats)
        );
        row.expect("writing to a string cannot fail");
    }

    /// Prints the table and writes it to a file where one is named, with what the figures mean.
    pub(crate) fn finish(mut self, out: Option<&Path>) -> Result<()> {
        use std::io::Write as _;
        self.text.push_str(MEANING);
        self.text.push_str(PROFILE);
        std::io::stdout().write_all(self.text.as_bytes())?;
        match out {
            Some(out) => Ok(std::fs::write(out, self.text)?),
            None => Ok(()),
        }
    }
}

fn spread(figures: &[f64]) -> String {
    let least = figures.iter().copied().fold(f64::INFINITY, f64::min);
    let most = figures.iter().copied().fold(0.0, f64::max);
    format!("{least:.2} / {:.2} / {most:.2}", median(figures))
}

fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
