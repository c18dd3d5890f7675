//! The cost of a change of alkhub: an earlier build and this one, in pairs of rounds that ran one after the other.

use std::fmt::Write as _;

use crate::report::spread;

/// The head of the table.
const HEAD: &str = "
Against an earlier build, in pairs of rounds of this run; the interval holds the ratio's geometric mean with 95 %.

| case | unit | before | now | ratio | interval | worse than 3 % |
|---|---|---|---|---|---|---|
";

/// A case is worse if its whole interval is above this.
const WORSE: f64 = 1.03;

/// How many samples the interval is computed from.
const RESAMPLES: usize = 10_000;

/// Determines the samples: the same in each run.
const SEED: u64 = 1;

/// Rows gathered so far.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    rows: String,
}

/// The mean of ratios, with its bounds at 95 % confidence.
#[derive(Clone, Copy, Debug)]
struct Ratio {
    mean: f64,
    least: f64,
    most: f64,
}

// === impl Comparison ===

impl Comparison {
    /// Adds one case: `before` and `now` in the order of their rounds.
    pub(crate) fn row(&mut self, case: &str, unit: &str, before: &[f64], now: &[f64]) {
        let logs: Vec<f64> = before
            .iter()
            .zip(now)
            .map(|(before, now)| (now / before).ln())
            .collect();
        let ratio = Ratio::of(&logs);
        let worse = if ratio.least > WORSE { "yes" } else { "no" };
        let (before, now) = (spread(before), spread(now));
        let Ratio { mean, least, most } = ratio;
        let row = writeln!(
            self.rows,
            "| {case} | {unit} | {before} | {now} | {mean:.3} | {least:.3} to {most:.3} | {worse} |"
        );
        row.expect("writing to a string cannot fail");
    }

    /// The table; empty if no earlier build was measured.
    pub(crate) fn table(&self) -> String {
        match self.rows.as_str() {
            "" => String::new(),
            rows => format!("{HEAD}{rows}"),
        }
    }
}

// === impl Ratio ===

impl Ratio {
    /// The geometric mean of the ratios with these logarithms; the bounds come from the percentile bootstrap.
    fn of(logs: &[f64]) -> Self {
        let mean = |sum: f64| (sum / logs.len() as f64).exp();
        let mut random = fastrand::Rng::with_seed(SEED);
        let mut means: Vec<f64> = (0..RESAMPLES)
            .map(|_| mean(logs.iter().map(|_| logs[random.usize(..logs.len())]).sum()))
            .collect();
        means.sort_by(f64::total_cmp);
        Self {
            mean: mean(logs.iter().sum()),
            least: means[RESAMPLES / 40],
            most: means[RESAMPLES - RESAMPLES / 40],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ratio(pairs: &[(f64, f64)]) -> Ratio {
        Ratio::of(
            &pairs
                .iter()
                .map(|(before, now)| (now / before).ln())
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn a_machine_whose_mood_changes_between_pairs_leaves_the_ratio_alone() {
        let Ratio { mean, least, most } = ratio(&[(10.0, 11.0), (20.0, 22.0), (5.0, 5.5)]);
        for bound in [mean, least, most] {
            assert!((bound - 1.1).abs() < 1e-9, "{bound}");
        }
    }

    #[test]
    fn pairs_that_disagree_widen_the_interval() {
        let Ratio { mean, least, most } = ratio(&[(10.0, 8.0), (8.0, 10.0), (10.0, 9.0), (9.0, 10.0)]);
        assert!((mean - 1.0).abs() < 1e-9, "{mean}");
        assert!(least < 0.95 && most > 1.05, "{least} to {most}");
    }
}
