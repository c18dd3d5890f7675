//! The page: what was promised and what was seen, a table of the calls, and a picture over time.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::aims::{self, millis};
use crate::events::Event;
use crate::figures::{Calls, Figures};
use crate::plot::{self, Span};
use crate::pods::Pods;
use crate::{Args, say};

/// The text at the end of the page.
const MEANING: &str = include_str!("meaning.md");

/// What is known so far.
#[derive(Debug)]
pub(crate) struct Report {
    head: String,
    aims: String,
    calls: String,
    moves: String,
    spans: Vec<Span>,
    broken: usize,
    missed: usize,
}

// === impl Report ===

impl Report {
    /// The head: date, machine, load.
    pub(crate) fn new(args: &Args, connections: usize) -> Result<Self> {
        let cpu = std::fs::read_to_string("/proc/cpuinfo")?;
        let models: Vec<&str> = cpu
            .lines()
            .filter_map(|line| line.strip_prefix("model name\t: "))
            .collect();
        let head = format!(
            "# Rebalancing, measured\n\nWritten by `make bench-rebalance` on {}, alkhub {}.\n\n\
             - {} x {}, Linux {}: three nodes of Kubernetes, the hubs, the spokes and the callers share them\n\
             - {} spokes, half of them with the SDK ({} sessions), half plain: {connections} connections; {} calls a second, \
             half of them to spokes of the SDK, each of which works from 5 ms to 5 s\n",
            jiff::Zoned::now().date(),
            env!("CARGO_PKG_VERSION"),
            models.len(),
            models.first().unwrap_or(&"CPU"),
            std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim(),
            args.spokes,
            args.sessions,
            args.rate,
        );
        Ok(Self {
            head,
            aims: String::new(),
            calls: String::new(),
            moves: String::new(),
            spans: Vec::new(),
            broken: 0,
            missed: 0,
        })
    }

    /// Adds what was seen of an event.
    pub(crate) fn event(&mut self, event: &Event, figures: &Figures, sessions: u8) {
        let mut name = event.name;
        for aim in aims::of(event, figures, sessions) {
            let met = if aim.met { "yes" } else { "**no**" };
            self.missed += usize::from(!aim.met);
            let row = format!("| {name} | {} | {} | {met} |", aim.what, aim.seen);
            say(&row);
            self.aims += &(row + "\n");
            name = "";
        }
        let mut name = event.name;
        let to = ["one with the SDK", "any plain", "one plain"];
        for (to, calls) in to.into_iter().zip(&figures.calls) {
            let row = format!("| {name} | {to} | {} |", told(calls));
            say(&row);
            self.calls += &(row + "\n");
            name = "";
            for example in &calls.examples {
                say(&format!("    {example}"));
            }
        }
        let row = format!("| {} | {} |", event.name, went(figures));
        say(&row);
        self.moves += &(row + "\n");
        self.broken += figures.broken;
        self.spans.push(Span {
            name: event.name,
            moments: figures.moments,
            seconds: figures.seconds.clone(),
        });
    }

    /// Adds an event that did not finish.
    pub(crate) fn lost(&mut self, event: &Event, error: &anyhow::Error) {
        self.missed += 1;
        let row = format!("| {} | it comes to its end | {error:#} | **no** |", event.name);
        say(&row);
        self.aims += &(row + "\n");
    }

    /// Writes the page, and the picture beside it.
    pub(crate) fn write(&self, out: &Path, pods: &Pods) -> Result<()> {
        let picture = picture(out);
        let picture_name = picture.file_name().and_then(|name| name.to_str()).context("a name")?;
        if let Some(first) = self.spans.first() {
            std::fs::write(&picture, plot::draw(&self.spans, &pods.since(first.moments.began)))?;
        }
        let mut page = self.head.clone();
        write!(
            page,
            "\n![connections of each pod, failed calls and latency over time]({picture_name})\n"
        )?;
        page += "\n## What is promised\n\n| event | aim | seen | met |\n|---|---|---|---|\n";
        page += &self.aims;
        page += "\n## Calls\n\n| event | to | calls | failed | p50 | p95 | p99 |\n|---|---|---|---|---|---|---|\n";
        page += &self.calls;
        page += "\n## Connections\n\n| event | pods as wanted after | still after | moves, SDK | moves, plain | away, SDK | away, plain | \
                 most accepted by one hub in a second | CPUs: hubs, load |\n|---|---|---|---|---|---|---|---|---|\n";
        page += &self.moves;
        page += MEANING;
        Ok(std::fs::write(out, page)?)
    }

    /// How many calls ran in another way than their callers were told.
    pub(crate) fn finish(&self) -> usize {
        say(&format!(
            "{} aims missed; {} calls against their promise",
            self.missed, self.broken
        ));
        self.broken
    }
}

/// The file of the picture: beside the page, under the page's name. Among the docs it has a name of its own, because
/// `rebalancing.svg` is the simulation's.
fn picture(out: &Path) -> PathBuf {
    let folder = out.parent().and_then(Path::file_name);
    match folder.is_some_and(|folder| folder == "docs") {
        true => out.with_file_name("rebalancing-measured.svg"),
        false => out.with_extension("svg"),
    }
}

fn told(calls: &Calls) -> String {
    let failed = calls.failed.iter();
    let failed: Vec<String> = failed
        .map(|((code, delivered), count)| format!("{count} {code} ({delivered})"))
        .collect();
    let failed = if failed.is_empty() {
        "0".to_owned()
    } else {
        failed.join(", ")
    };
    let [p50, p95, p99] = calls.late.map(|late| format!("{:.1} ms", millis(late)));
    format!("{} | {failed} | {p50} | {p95} | {p99}", calls.count)
}

fn went(figures: &Figures) -> String {
    let since = |moment: tokio::time::Instant| moment.duration_since(figures.moments.began).as_secs();
    let moves = figures
        .moves
        .each_ref()
        .map(|moves| format!("{} of {}", moves.total, moves.of));
    let away = figures.away.each_ref().map(|away| match away.count {
        0 => "none".to_owned(),
        count => {
            let [p50, p99, most] = away.lasted.map(|lasted| format!("{:.1}", lasted.as_secs_f64()));
            format!("{count}: {p50} / {p99} / {most} s")
        }
    });
    format!(
        "{} s | {} s | {} | {} | {} | {} | {} | {:.2}, {:.2}",
        since(figures.moments.there),
        since(figures.moments.quiet),
        moves[0],
        moves[1],
        away[0],
        away[1],
        figures.accepted,
        figures.cpus[0],
        figures.cpus[1],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_picture_lies_beside_the_page_and_never_over_that_of_the_simulation() {
        for (out, expected) in [
            ("target/rebalance.md", "target/rebalance.svg"),
            ("docs/rebalancing.md", "docs/rebalancing-measured.svg"),
            ("docs/BENCHMARKS-REBALANCING.md", "docs/rebalancing-measured.svg"),
        ] {
            assert_eq!(picture(Path::new(out)), Path::new(expected));
        }
    }
}
