//! What a run has seen, compared with what users are promised.
//!
//! Promises
//! - A call ends once at its caller, with its answer or with an error that the faults explain, and what the error says
//!   about its delivery is true.
//! - It runs at most once; a query at most twice, because it is sent once more when its spoke is lost.
//! - Items arrive in order and without a hole; a regular end comes after all of them.
//! - Events of one publisher arrive in order; where some are missing there is a gap.
//! - Each registration of an instance has a higher generation than the last.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use alkhub_protocol::Delivered;
use alkhub_tests::promise::{TROUBLE, holds, holds_of_query};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::time::Instant;

/// How many broken promises are reported; more would say nothing new.
const TOLD: usize = 20;

/// The kinds of operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Query,
    Mutation,
    Subscription,
}

/// How a call ended.
#[derive(Clone, Debug)]
pub(crate) enum End {
    /// With this output.
    Output(Value),
    /// A subscription, after this many items.
    Completed(u64),
    /// With a code and what is known about its delivery.
    Failed(String, Delivered),
    /// Its caller is gone, or its connection broke: nobody learns of its end.
    Left,
}

#[derive(Debug)]
struct Call {
    operation: String,
    kind: Kind,
    begun: Instant,
    /// Who ran it, each time that it ran.
    runs: Vec<String>,
    end: Option<End>,
}

/// What one run has seen.
#[derive(Debug)]
pub(crate) struct Ledger {
    begun: Instant,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    calls: HashMap<u64, Call>,
    generations: HashMap<String, u64>,
    counts: BTreeMap<String, u64>,
    broken: Vec<String>,
    history: Vec<String>,
}

// === impl Kind ===

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Query, Self::Mutation, Self::Subscription];

    /// The name of each spoke's operation of this kind.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Query => "get",
            Self::Mutation => "set",
            Self::Subscription => "watch",
        }
    }

    /// The kind as a specification spells it.
    pub(crate) fn spelled(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::Mutation => "mutation",
            Self::Subscription => "subscription",
        }
    }
}

// === impl Ledger ===

impl Ledger {
    pub(crate) fn new() -> Self {
        Self {
            begun: Instant::now(),
            seen: Mutex::default(),
        }
    }

    /// Notes what happened, for whoever reads about a broken promise.
    pub(crate) fn note(&self, what: impl AsRef<str>) {
        let at = self.begun.elapsed().as_millis();
        self.seen.lock().history.push(format!("{at:>6} ms  {}", what.as_ref()));
    }

    pub(crate) fn count(&self, what: impl Into<String>) {
        *self.seen.lock().counts.entry(what.into()).or_default() += 1;
    }

    pub(crate) fn broken(&self, what: impl Into<String>) {
        let what = what.into();
        self.note(format!("BROKEN: {what}"));
        self.seen.lock().broken.push(what);
    }

    /// Begins a call; returns its number.
    pub(crate) fn begins(&self, operation: &str, kind: Kind) -> u64 {
        let mut seen = self.seen.lock();
        let number = u64::try_from(seen.calls.len()).expect("few");
        let call = Call {
            operation: operation.to_owned(),
            kind,
            begun: Instant::now(),
            runs: Vec::new(),
            end: None,
        };
        seen.calls.insert(number, call);
        number
    }

    /// The kind of operation that a call is of.
    pub(crate) fn kind(&self, number: u64) -> Option<Kind> {
        self.seen.lock().calls.get(&number).map(|call| call.kind)
    }

    /// Notes that a spoke runs a call.
    pub(crate) fn runs(&self, number: u64, who: &str) {
        let known = self
            .seen
            .lock()
            .calls
            .get_mut(&number)
            .map(|call| call.runs.push(who.to_owned()));
        if known.is_none() {
            self.broken(format!("{who} got call {number}, which nobody made"));
        }
    }

    /// Notes that a call ended at its caller.
    pub(crate) fn ended(&self, number: u64, end: End) {
        let wrong = {
            let mut seen = self.seen.lock();
            let Some(call) = seen.calls.get_mut(&number) else {
                return;
            };
            let wrong = call.ends(number, &end);
            let counted = match &end {
                End::Output(_) | End::Completed(_) => "calls answered".to_owned(),
                End::Failed(code, delivered) => format!("calls failed {code}, delivered {delivered:?}"),
                End::Left => "calls left by their callers".to_owned(),
            };
            call.end = Some(end);
            *seen.counts.entry(counted).or_default() += 1;
            wrong
        };
        if let Err(what) = wrong {
            self.broken(what);
        }
    }

    /// Notes that an instance is registered. The same registration may be seen twice.
    pub(crate) fn registered(&self, instance: &str, hub: &str, generation: u64) {
        self.note(format!(
            "{instance} is registered at {hub} with generation {generation}"
        ));
        let before = self.seen.lock().generations.insert(instance.to_owned(), generation);
        if before > Some(generation) {
            self.broken(format!("{instance} got generation {generation} after {before:?}"));
        }
    }

    /// Judges the run when all is over: calls without an end, and calls that ran in another way than their callers were
    /// told.
    pub(crate) fn judge(&self) {
        let wrong: Vec<String> = {
            let seen = self.seen.lock();
            seen.calls
                .iter()
                .filter_map(|(number, call)| call.is_wrong(*number))
                .collect()
        };
        wrong.into_iter().for_each(|what| self.broken(what));
    }

    /// The first promises that were broken.
    pub(crate) fn all_broken(&self) -> Vec<String> {
        self.seen.lock().broken.iter().take(TOLD).cloned().collect()
    }

    /// What happened, line by line.
    pub(crate) fn history(&self) -> Vec<String> {
        self.seen.lock().history.clone()
    }

    pub(crate) fn counts(&self) -> BTreeMap<String, u64> {
        self.seen.lock().counts.clone()
    }
}

// === impl Call ===

impl Call {
    /// Whether the call may end like this now.
    fn ends(&self, number: u64, end: &End) -> Result<(), String> {
        let Self { operation, kind, .. } = self;
        let after = || self.begun.elapsed();
        if let Some(before) = &self.end {
            return Err(format!(
                "call {number} of {operation} ended with {before:?} and with {end:?}"
            ));
        }
        let fits = match (end, kind) {
            (End::Output(output), Kind::Query | Kind::Mutation) => output["call"] == number,
            (End::Completed(items), Kind::Subscription) => *items == items_of(number),
            (End::Failed(code, _), _) => TROUBLE.contains(&code.as_str()) || code == LOST || code == AWAY,
            (End::Left, _) => true,
            (End::Output(_) | End::Completed(_), _) => false,
        };
        if fits {
            Ok(())
        } else {
            Err(format!(
                "call {number} of {operation} ended with {end:?} after {:?}",
                after()
            ))
        }
    }

    fn is_wrong(&self, number: u64) -> Option<String> {
        let told = match self.end.as_ref() {
            None => return Some(format!("call {number} of {} has no end", self.operation)),
            Some(End::Output(_) | End::Completed(_)) => Delivered::Yes,
            // The spoke got the call and refused it, or began it.
            Some(End::Failed(code, Delivered::Yes)) if code == ENDING => Delivered::Maybe,
            Some(End::Failed(_, delivered)) => *delivered,
            Some(End::Left) => Delivered::Maybe,
        };
        let Self {
            operation,
            kind,
            runs,
            end,
            ..
        } = self;
        let holds = match kind {
            Kind::Query => holds_of_query(told, runs.len()),
            Kind::Mutation | Kind::Subscription => holds(told, runs.len()),
        };
        (!holds).then(|| format!("call {number} of {operation} ({kind:?}) ran at {runs:?}; it ended with {end:?}"))
    }
}

/// The code with which an ending spoke refuses a call that it has received: `delivered` is `yes` (docs/PROTOCOL.md,
/// what a spoke may say), and no handler ran.
const ENDING: &str = "UNAVAILABLE";
/// The code of a call that ended with its session.
pub(crate) const LOST: &str = "LOST";
/// The code of a call for which no hub could be reached.
pub(crate) const AWAY: &str = "AWAY";

/// How many items a subscription has.
pub(crate) fn items_of(number: u64) -> u64 {
    1 + number % 12
}

/// How long a call runs, or an item takes; most are short.
pub(crate) fn time_of(number: u64) -> Duration {
    Duration::from_millis(match number % 10 {
        0..6 => number % 7,
        6..9 => 40 + number % 200,
        _ => 700,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ended(kind: Kind, runs: usize, end: End) -> Vec<String> {
        let ledger = Ledger::new();
        let number = ledger.begins("a.b", kind);
        (0..runs).for_each(|_| ledger.runs(number, "i0"));
        ledger.ended(number, end);
        ledger.judge();
        ledger.all_broken()
    }

    #[test]
    fn calls_that_ran_as_their_callers_were_told_break_nothing() {
        for (kind, runs, end) in [
            (Kind::Query, 1, End::Output(json!({ "call": 0 }))),
            (Kind::Query, 2, End::Output(json!({ "call": 0 }))),
            (Kind::Query, 2, End::Failed("SPOKE_LOST".to_owned(), Delivered::Maybe)),
            (Kind::Subscription, 1, End::Completed(1)),
            (Kind::Mutation, 0, End::Failed("UNAVAILABLE".to_owned(), Delivered::No)),
            (Kind::Mutation, 0, End::Failed(ENDING.to_owned(), Delivered::Yes)),
            (Kind::Mutation, 1, End::Failed(LOST.to_owned(), Delivered::Maybe)),
            (Kind::Mutation, 0, End::Left),
        ] {
            assert_eq!(ended(kind, runs, end.clone()), Vec::<String>::new(), "{end:?}");
        }
    }

    #[test]
    fn calls_that_ran_twice_or_against_what_was_told_or_ended_with_something_else_break_a_promise() {
        for (kind, runs, end) in [
            (Kind::Query, 3, End::Output(json!({ "call": 0 }))),
            (Kind::Mutation, 2, End::Output(json!({ "call": 0 }))),
            (Kind::Query, 2, End::Failed("UNAVAILABLE".to_owned(), Delivered::No)),
            (Kind::Query, 1, End::Output(json!({ "call": 1 }))),
            (Kind::Subscription, 1, End::Completed(0)),
            (Kind::Mutation, 1, End::Failed("UNAVAILABLE".to_owned(), Delivered::No)),
            (Kind::Mutation, 2, End::Failed(ENDING.to_owned(), Delivered::Yes)),
            (Kind::Mutation, 0, End::Failed("TIMEOUT".to_owned(), Delivered::Yes)),
            (Kind::Mutation, 2, End::Failed(LOST.to_owned(), Delivered::Maybe)),
            (Kind::Mutation, 0, End::Failed("INTERNAL".to_owned(), Delivered::Maybe)),
            (Kind::Mutation, 2, End::Left),
        ] {
            assert_eq!(ended(kind, runs, end.clone()).len(), 1, "{end:?}");
        }
    }

    #[test]
    fn a_call_that_ends_twice_or_never_breaks_a_promise() {
        let ledger = Ledger::new();
        let (twice, _never) = (ledger.begins("a.b", Kind::Query), ledger.begins("a.b", Kind::Query));
        ledger.ended(twice, End::Left);
        ledger.ended(twice, End::Left);
        ledger.judge();

        assert_eq!(ledger.all_broken().len(), 2, "{:?}", ledger.all_broken());
    }

    #[test]
    fn a_generation_that_falls_breaks_a_promise() {
        let ledger = Ledger::new();
        for generation in [1, 1, 3] {
            ledger.registered("i0", "hub-0", generation);
        }
        assert_eq!(ledger.all_broken().len(), 0);

        ledger.registered("i0", "hub-1", 2);

        assert_eq!(ledger.all_broken().len(), 1);
    }
}
