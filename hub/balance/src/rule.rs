//! The numbers of the rule. All hubs of one Hub must have the same ones.

use std::time::Duration;

/// The numbers of the rule. [`Rule::default`] is what docs/decisions/0068-each-hub-balances-alone.md gives reasons for.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// What a pod may hold of the mean, as a factor. Lower: more moves for a balance that nobody notices. Higher: the
    /// fullest pod is further above the mean than the aim of 1.15.
    pub factor: f64,
    /// The same for pods of the newest revision while older ones go. Lower: in a roll-out connections go to old pods and
    /// move again. Higher: one new pod takes more than it was made for where many old ones go at once.
    pub crowded: f64,
    /// Connections above that which are no reason to move any. Lower: small Hubs move connections for nothing. Higher:
    /// they stay unequal.
    pub slack: u32,
    /// How long a pod must have been above its goal. Lower: a burst, or a record that came late, moves connections.
    /// Higher: a new pod waits for work.
    pub settle: Duration,
    /// In what time the excess would be gone at the pace of its beginning. Lower: the pods overshoot while the figures
    /// of the others are on their way. Higher: balance takes longer than two minutes.
    pub spread: Duration,
    /// Moves per second and pod at least, while there is something to move for balance.
    pub slowest: f64,
    /// Moves per second and pod at most, for balance.
    pub fastest: f64,
    /// Moves per second of all pods together, drains included, so that the pods which take them keep up.
    pub budget: f64,
    /// How long a drain takes, when the budget allows it.
    pub drain: Duration,
    /// How long a connection that was moved for balance stays where it is.
    pub stay: Duration,
    /// How long a pod that has moved its excess moves nothing more for balance.
    pub rest: Duration,
    /// How old the membership may be to decide by it.
    pub fresh: Duration,
    /// How far the figures of different pods in one membership may lie apart in time.
    pub lag: Duration,
    /// How long an order to rebalance leaves no slack.
    pub rebalance: Duration,
    /// After how long without a drain or a new pod a roll-out counts as paused, so that pods balance again.
    pub paused: Duration,
    /// How often one peer is refused in a row, by one pod. Then it is taken: its load balancer may know no other way.
    pub patience: u8,
    /// A refused peer is told to wait from one to so many seconds.
    pub retry_after: u64,
}

// === impl Rule ===

impl Default for Rule {
    fn default() -> Self {
        Self {
            factor: 1.10,
            crowded: 1.30,
            slack: 8,
            settle: Duration::from_secs(10),
            spread: Duration::from_secs(20),
            slowest: 1.0,
            fastest: 50.0,
            budget: 200.0,
            drain: Duration::from_secs(30),
            stay: Duration::from_mins(10),
            rest: Duration::from_secs(20),
            fresh: Duration::from_secs(3),
            lag: Duration::from_secs(3),
            rebalance: Duration::from_mins(10),
            paused: Duration::from_mins(5),
            patience: 10,
            retry_after: 2,
        }
    }
}
