//! The table.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::compare::Comparison;
use crate::killed::{self, Killed};
use crate::pace::Latency;
use crate::storm::Storm;
use crate::{Aim, Args, Figures};

/// The text below the table.
const MEANING: &str = include_str!("meaning.md");

/// What a profile of the calls shows, from a run of its own.
const PROFILE: &str = include_str!("profile.md");

/// The head of the second table.
const LATENCIES: &str = "
Latency in microseconds: each system is offered half of what it carries, but for small calls, which come at a rate of their own.

| case | percentile | alkhub | nats | ratio of medians |
|---|---|---|---|---|
";

/// The head of the third.
const SPOKES: &str = "
Memory of two hubs together for an idle spoke, in KiB:

| sessions | least / median / most |
|---|---|
";

/// The head of the fourth.
const STORMS: &str = "
5,000 spokes with ten operations each that register anew at one of two hubs, 100 at once:

| registered | bytes each | us CPU each | seconds for all |
|---|---|---|---|
";

/// The head of the fifth.
const KILLED: &str = "
One of two hubs is killed with 5,000 spokes on it, each with a session, a key and ten operations of its own; all come to the
other one, by hash and with the pauses of the SDK. Limits are the default ones:

| | least / median / most | aim | met |
|---|---|---|---|
";

/// Rows gathered so far.
#[derive(Debug)]
pub(crate) struct Report {
    text: String,
    latencies: String,
    spokes: String,
    storms: String,
    killed: String,
    comparison: Comparison,
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
             - {}\n- {}\n- {}\n- {} x {}, Linux {}; {} rounds of {} s, systems interleaved; least / median / most\n\n\
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
        Ok(Self {
            text,
            latencies: String::new(),
            spokes: String::new(),
            storms: String::new(),
            killed: String::new(),
            comparison: Comparison::default(),
        })
    }

    /// Adds one case.
    pub(crate) fn row(&mut self, case: &str, (unit, aim): (&str, Aim), figures: &Figures<f64>) {
        let Figures { alkhub, nats, before } = figures;
        let (most, aim) = match aim {
            Aim::AtMost(most) => (most, format!("<= {most}")),
            Aim::Other => (median(nats), "ratio <= 1".to_owned()),
        };
        let met = met(median(alkhub) <= most);
        let ratio = median(alkhub) / median(nats);
        let row = writeln!(
            self.text,
            "| {case} | {unit} | {} | {} | {ratio:.2} | {aim} | {met} |",
            spread(alkhub),
            spread(nats)
        );
        row.expect("writing to a string cannot fail");
        if !before.is_empty() {
            self.comparison.row(case, unit, before, alkhub);
        }
    }

    /// Adds the latencies of one case.
    pub(crate) fn latencies(&mut self, case: &str, figures: &Figures<Latency>) {
        let Figures { alkhub, nats, before } = figures;
        let of = |rounds: &[Latency], rate: fn(&Latency) -> f64| median(&rounds.iter().map(rate).collect::<Vec<_>>());
        let load = |rounds: &[Latency]| of(rounds, |round| round.per_second);
        let beside = |rounds: &[Latency]| of(rounds, |round| round.beside);
        let mut loaded = format!("{case}, {:.0} and {:.0} a second", load(alkhub), load(nats));
        if beside(alkhub) > 0.0 {
            let written = write!(loaded, " beside {:.0} and {:.0}", beside(alkhub), beside(nats));
            written.expect("writing to a string cannot fail");
        }
        for name in ["p50", "p99"] {
            let latency = |round: &Latency| if name == "p50" { round.p50 } else { round.p99 };
            let micros = |rounds: &[Latency]| -> Vec<f64> {
                let each = rounds.iter().map(|round| latency(round).as_secs_f64() * 1e6);
                each.collect()
            };
            let (alkhub, nats, before) = (micros(alkhub), micros(nats), micros(before));
            if !before.is_empty() {
                self.comparison.row(&format!("{case}, {name}"), "us", &before, &alkhub);
            }
            let ratio = median(&alkhub) / median(&nats);
            let (alkhub, nats) = (spread(&alkhub), spread(&nats));
            let row = writeln!(self.latencies, "| {loaded} | {name} | {alkhub} | {nats} | {ratio:.2} |");
            row.expect("writing to a string cannot fail");
        }
    }

    /// Adds the memory of an idle spoke with this many sessions.
    pub(crate) fn spokes(&mut self, sessions: usize, figures: &[f64]) {
        let row = writeln!(self.spokes, "| {sessions} | {} |", spread(figures));
        row.expect("writing to a string cannot fail");
    }

    /// Adds the cost of many spokes registering again, in this form.
    pub(crate) fn storms(&mut self, form: &str, figures: &[Storm]) {
        let of = |part: fn(&Storm) -> f64| spread(&figures.iter().map(part).collect::<Vec<_>>());
        let (micros, seconds) = (of(|storm| storm.micros), of(|storm| storm.seconds));
        let bytes = figures.first().map_or(0.0, |storm| storm.bytes);
        let row = writeln!(self.storms, "| {form} | {bytes} | {micros} | {seconds} |");
        row.expect("writing to a string cannot fail");
    }

    /// Adds how the spokes of a killed hub came back, and what a hub keeps for them.
    pub(crate) fn killed(&mut self, figures: &[Killed]) {
        const MIB: f64 = 1024.0 * 1024.0;
        let of = |part: &dyn Fn(&Killed) -> f64| figures.iter().map(part).collect::<Vec<_>>();
        let mut row = |what: &str, figures: &[f64], aim: Option<(f64, &str)>| {
            let (aim, met) = aim.map_or(("", ""), |(most, aim)| (aim, met(median(figures) <= most)));
            let row = writeln!(self.killed, "| {what} | {} | {aim} | {met} |", spread(figures));
            row.expect("writing to a string cannot fail");
        };
        row(
            "seconds until half are registered again",
            &of(&|killed| killed.back[0]),
            None,
        );
        row("seconds until 99 of 100 are", &of(&|killed| killed.back[1]), None);
        let all = format!("<= {}", killed::AIM);
        row(
            "seconds until all are",
            &of(&|killed| killed.back[2]),
            Some((killed::AIM, &all)),
        );
        for is_after in [false, true] {
            let hub = if is_after {
                "the other hub, after"
            } else {
                "the hub that is killed, before"
            };
            let kept = |killed: &Killed| if is_after { killed.after } else { killed.before };
            let limit = figures.iter().map(|killed| kept(killed).limit).min().unwrap_or(0) as f64 / MIB;
            let aim = format!("<= {limit} (`budget.hub-bytes`)");
            let resident = of(&|killed| kept(killed).resident as f64 / MIB);
            let budget = of(&|killed| kept(killed).budget as f64 / MIB);
            let refused = of(&|killed| kept(killed).refused as f64);
            row(&format!("resident MiB: {hub}"), &resident, None);
            row(
                &format!("`alkhub_budget_bytes` in MiB: {hub}"),
                &budget,
                Some((limit, &aim)),
            );
            row(
                &format!("`alkhub_budget_refused_total`: {hub}"),
                &refused,
                Some((0.0, "0")),
            );
        }
    }

    /// Prints the tables and what the figures mean, and writes them to a file if one is named.
    pub(crate) fn finish(mut self, out: Option<&Path>) -> Result<()> {
        use std::io::Write as _;
        if !self.latencies.is_empty() {
            self.text.push_str(LATENCIES);
            self.text.push_str(&self.latencies);
        }
        if !self.spokes.is_empty() {
            self.text.push_str(SPOKES);
            self.text.push_str(&self.spokes);
        }
        if !self.storms.is_empty() {
            self.text.push_str(STORMS);
            self.text.push_str(&self.storms);
        }
        if !self.killed.is_empty() {
            self.text.push_str(KILLED);
            self.text.push_str(&self.killed);
        }
        self.text.push_str(&self.comparison.table());
        self.text.push_str(MEANING);
        self.text.push_str(PROFILE);
        std::io::stdout().write_all(self.text.as_bytes())?;
        match out {
            Some(out) => Ok(std::fs::write(out, self.text)?),
            None => Ok(()),
        }
    }
}

/// The least, the median and the most.
pub(crate) fn spread(figures: &[f64]) -> String {
    let least = figures.iter().copied().fold(f64::INFINITY, f64::min);
    let most = figures.iter().copied().fold(0.0, f64::max);
    format!("{least:.2} / {:.2} / {most:.2}", median(figures))
}

fn met(is_met: bool) -> &'static str {
    if is_met { "yes" } else { "no" }
}

fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
