//! The metrics of the store; all their names are here.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};
use sqlx::postgres::PgPool;

/// From a tenth of a millisecond to ten seconds.
const BUCKETS: [f64; 14] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0,
];

macro_rules! statements {
    ($($name:ident = $text:literal),* $(,)?) => {
        /// The statements, by what they are for; each is a value of label `statement`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Statement { $($name),* }

        impl Statement {
            const ALL: &[Self] = &[$(Self::$name),*];

            pub(crate) fn name(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }
        }
    };
}

statements! {
    CallInsert = "call_insert",
    CallList = "call_list",
    CallMark = "call_mark",
    CallPrune = "call_prune",
    KeyCreate = "key_create",
    KeyDead = "key_dead",
    KeyEndOthers = "key_end_others",
    KeyEnter = "key_enter",
    KeyFind = "key_find",
    KeyFindMany = "key_find_many",
    KeyFirst = "key_first",
    KeyList = "key_list",
    KeyPrune = "key_prune",
    KeyRevoke = "key_revoke",
    KeyTouch = "key_touch",
    OperationGet = "operation_get",
    OperationKnown = "operation_known",
    OperationCharge = "operation_charge",
    OperationLacks = "operation_lacks",
    OperationPrune = "operation_prune",
    OperationPut = "operation_put",
    OperationTrim = "operation_trim",
    OperationTouch = "operation_touch",
    SpokeConnect = "spoke_connect",
    SpokeDelete = "spoke_delete",
    SpokeGet = "spoke_get",
    SpokeKeys = "spoke_keys",
    SpokeList = "spoke_list",
    SpokePrune = "spoke_prune",
    SpokePut = "spoke_put",
    SpokeSweep = "spoke_sweep",
    SpokeTouch = "spoke_touch",
}

/// Tables whose rows are deleted once nobody needs them; each is a value of label `table`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pruned {
    Keys,
    Operations,
    Spokes,
}

/// What the store counts.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    pub(crate) up: IntGauge,
    pub(crate) acquire_seconds: Histogram,
    query_seconds: HistogramVec,
    query_errors: IntCounterVec,
    pruned: IntCounterVec,
}

/// Reads the pool when it is scraped.
#[derive(Debug)]
struct PoolCollector {
    pool: PgPool,
    connections: IntGaugeVec,
    limit: IntGauge,
}

// === impl Metrics ===

impl Metrics {
    pub(crate) fn register(registry: &Registry, pool: &PgPool) -> prometheus::Result<Self> {
        let metrics = Self {
            up: IntGauge::new("alkhub_postgres_up", "Whether Postgres answers this hub: 1 or 0.")?,
            acquire_seconds: Histogram::with_opts(
                HistogramOpts::new(
                    "alkhub_postgres_acquire_seconds",
                    "Wait of a statement for a connection of the pool, in seconds.",
                )
                .buckets(BUCKETS.to_vec()),
            )?,
            query_seconds: HistogramVec::new(
                HistogramOpts::new(
                    "alkhub_postgres_query_seconds",
                    "Time of a statement in Postgres and on the way, in seconds, by statement.",
                )
                .buckets(BUCKETS.to_vec()),
                &["statement"],
            )?,
            query_errors: IntCounterVec::new(
                Opts::new(
                    "alkhub_postgres_query_errors_total",
                    "Statements that failed or got no connection, by statement.",
                ),
                &["statement"],
            )?,
            pruned: IntCounterVec::new(
                Opts::new(
                    "alkhub_postgres_rows_pruned_total",
                    "Rows that this hub deleted because nobody had needed them for their retention, by table.",
                ),
                &["table"],
            )?,
        };
        for table in [Pruned::Keys, Pruned::Operations, Pruned::Spokes] {
            metrics.pruned.with_label_values(&[table.label()]);
        }
        registry.register(Box::new(metrics.pruned.clone()))?;
        for statement in Statement::ALL {
            metrics.query_seconds.with_label_values(&[statement.name()]);
            metrics.query_errors.with_label_values(&[statement.name()]);
        }
        registry.register(Box::new(metrics.up.clone()))?;
        registry.register(Box::new(metrics.acquire_seconds.clone()))?;
        registry.register(Box::new(metrics.query_seconds.clone()))?;
        registry.register(Box::new(metrics.query_errors.clone()))?;
        registry.register(Box::new(PoolCollector::new(pool.clone())?))?;
        Ok(metrics)
    }

    pub(crate) fn pruned(&self, table: Pruned, rows: u64) {
        self.pruned.with_label_values(&[table.label()]).inc_by(rows);
    }

    pub(crate) fn observe(&self, statement: Statement, seconds: f64) {
        self.query_seconds
            .with_label_values(&[statement.name()])
            .observe(seconds);
    }

    pub(crate) fn failed(&self, statement: Statement) {
        self.query_errors.with_label_values(&[statement.name()]).inc();
    }
}

// === impl PoolCollector ===

impl PoolCollector {
    fn new(pool: PgPool) -> prometheus::Result<Self> {
        let limit = IntGauge::new(
            "alkhub_postgres_connections_max",
            "Connections that the pool opens at most.",
        )?;
        limit.set(i64::from(pool.options().get_max_connections()));
        let connections = IntGaugeVec::new(
            Opts::new(
                "alkhub_postgres_connections",
                "Open connections of the pool, by state: in_use or idle.",
            ),
            &["state"],
        )?;
        Ok(Self {
            pool,
            connections,
            limit,
        })
    }
}

impl Collector for PoolCollector {
    fn desc(&self) -> Vec<&Desc> {
        let mut desc = self.connections.desc();
        desc.extend(self.limit.desc());
        desc
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // The pool counts both without a common lock, so idle may be ahead for a moment.
        let idle = i64::try_from(self.pool.num_idle()).unwrap_or(i64::MAX);
        let in_use = (i64::from(self.pool.size()) - idle).max(0);
        self.connections.with_label_values(&["idle"]).set(idle);
        self.connections.with_label_values(&["in_use"]).set(in_use);
        let mut families = self.connections.collect();
        families.extend(self.limit.collect());
        families
    }
}
// === impl Pruned ===

impl Pruned {
    fn label(self) -> &'static str {
        match self {
            Self::Keys => "keys",
            Self::Operations => "operations",
            Self::Spokes => "spokes",
        }
    }
}
