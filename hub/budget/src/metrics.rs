//! Every metric of this crate.

use alkhub_config::BudgetConfig;
use prometheus::{Error, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use crate::kept::{Exhausted, Kept};

/// What is kept and what was refused, by kind.
#[derive(Debug)]
pub(crate) struct Metrics {
    kept: [IntGauge; Kept::ALL.len()],
    refused: [[IntCounter; Kept::ALL.len()]; 2],
}

// === impl Metrics ===

impl Metrics {
    pub(crate) fn register(registry: &Registry, config: &BudgetConfig) -> Result<Self, Error> {
        let kept = IntGaugeVec::new(
            Opts::new("alkhub_budget_bytes", "Bytes kept for peers, by what they are."),
            &["kept"],
        )?;
        let limit = IntGauge::new(
            "alkhub_budget_limit_bytes",
            "Bytes that may be kept for all peers together (`budget.hub-bytes`).",
        )?;
        let refused = IntCounterVec::new(
            Opts::new(
                "alkhub_budget_refused_total",
                "Things that were not kept, by what they are and whose budget was full: `key` or `hub`.",
            ),
            &["kept", "budget"],
        )?;
        registry.register(Box::new(kept.clone()))?;
        registry.register(Box::new(limit.clone()))?;
        registry.register(Box::new(refused.clone()))?;
        limit.set(signed(config.hub_bytes));
        let refusals = |budget: &str| Kept::ALL.map(|what| refused.with_label_values(&[what.label(), budget]));
        Ok(Self {
            kept: Kept::ALL.map(|what| kept.with_label_values(&[what.label()])),
            refused: [refusals("key"), refusals("hub")],
        })
    }

    pub(crate) fn kept(&self, what: Kept) -> &IntGauge {
        &self.kept[what as usize]
    }

    pub(crate) fn refused(&self, what: Kept, exhausted: Exhausted) {
        let budget = match exhausted {
            Exhausted::Key => &self.refused[0],
            Exhausted::Hub => &self.refused[1],
        };
        budget[what as usize].inc();
    }
}

/// Bytes as a gauge counts them.
pub(crate) fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
