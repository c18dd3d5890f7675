//! The numbers of the rule. All hubs of one Hub must use the same ones.

use std::time::Duration;

/// The numbers of the rule. docs/decisions/0068-each-hub-balances-alone.md gives the reasons for [`Rule::default`].
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// How much of the mean a pod may hold, as a factor. Lower: more moves, for a balance that nobody notices. Higher:
    /// the fullest pod is further above the mean than the aim of 1.15.
    pub factor: f64,
    /// The same for pods of the newest revision while older ones go. Lower: during a roll-out connections go to old
    /// pods and have to move again. Higher: a single new pod takes more than it was made for when many old ones go at
    /// once.
    pub crowded: f64,
    /// How many connections above that are no reason to move any. Lower: small Hubs move connections for nothing.
    /// Higher: they stay unequal.
    pub slack: u32,
    /// How long a pod must have been above its goal. Lower: a burst, or a record that came late, moves connections.
    /// Higher: a new pod waits for work.
    pub settle: Duration,
    /// The time in which the excess would be gone at the initial pace. Lower: the pods overshoot while the others'
    /// figures are on their way. Higher: balancing takes longer than two minutes.
    pub spread: Duration,
    /// The minimum of moves per second and pod, while there is something to move for balance.
    pub slowest: f64,
    /// The maximum of moves per second and pod, for balance.
    pub fastest: f64,
    /// The maximum of moves per second of all pods together, including drains, so that the receiving pods keep up.
    pub budget: f64,
    /// How long a drain takes, if the budget allows it.
    pub drain: Duration,
    /// How many connections a drain gives away without waiting until pods that begin to drain together know of each
    /// other. Lower: somebody waits for a pod with next to nothing. Higher: more connections move twice.
    pub few: u32,
    /// How long a connection that was moved for balance stays where it is.
    pub stay: Duration,
    /// How long a pod that has moved its excess moves nothing more for balance.
    pub rest: Duration,
    /// How old the membership may be for a decision to rely on it.
    pub fresh: Duration,
    /// How far apart in time the figures of different pods in one membership may be.
    pub lag: Duration,
    /// For how long an order to rebalance leaves no slack.
    pub rebalance: Duration,
    /// After how long without a drain or a new pod a roll-out counts as paused, so that pods balance again.
    pub paused: Duration,
    /// How often in a row one pod refuses one peer. Then it is taken: its load balancer may know no other way.
    pub patience: u8,
    /// For how long at most everybody is welcome after the loss of a pod, while its peers are missing. Lower: peers
    /// that learn late that their pod is dead (by a heartbeat, after 25 s) find full pods shut. Higher: if the peers do
    /// not come back, others keep coming to full pods for that long.
    pub lost: Duration,
    /// A refused peer is told to wait between one and this many seconds.
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
            few: 8,
            stay: Duration::from_mins(10),
            rest: Duration::from_secs(20),
            fresh: Duration::from_secs(3),
            lag: Duration::from_secs(3),
            rebalance: Duration::from_mins(10),
            paused: Duration::from_mins(5),
            patience: 10,
            lost: Duration::from_mins(1),
            retry_after: 2,
        }
    }
}
