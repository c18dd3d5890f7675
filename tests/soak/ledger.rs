//! What a run has seen, and which of it breaks a promise.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};

use alkhub_protocol::Delivered;
use alkhub_tests::http::Answer;
use alkhub_tests::promise::{TROUBLE, delivered, holds};
use parking_lot::Mutex;
use serde_json::Value;

use crate::say;

/// How many broken promises are printed; the rest are only counted.
const SHOWN: usize = 20;

/// Counts of one run.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    counts: Mutex<BTreeMap<String, u64>>,
    mutations: Mutex<HashMap<u64, (Option<Delivered>, usize)>>,
    broken: Mutex<Vec<String>>,
    next: AtomicU64,
}

// === impl Ledger ===

impl Ledger {
    pub(crate) fn count(&self, what: impl Into<String>) {
        *self.counts.lock().entry(what.into()).or_default() += 1;
    }

    pub(crate) fn broken(&self, what: String) {
        say(&format!("BROKEN: {what}"));
        self.broken.lock().push(what);
    }

    /// Returns the number of a new mutation.
    pub(crate) fn mutation(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Notes that a spoke runs the mutation.
    pub(crate) fn ran(&self, number: u64) {
        self.mutations.lock().entry(number).or_default().1 += 1;
    }

    /// Notes what the mutation's caller was told.
    pub(crate) fn told(&self, number: u64, told: Delivered) {
        self.mutations.lock().entry(number).or_default().0 = Some(told);
    }

    /// Judges an answer to a call of `input`, and returns what its caller now knows.
    pub(crate) fn judge(&self, operation: &str, input: &Value, answer: &Answer) -> Delivered {
        if answer.status == 200 {
            self.count("calls answered");
            if answer.body["data"] != *input {
                self.broken(format!("{operation} of {input} was answered with {}", answer.body));
            }
            return Delivered::Yes;
        }
        let code = answer.body["code"].as_str().unwrap_or("none");
        self.count(format!("calls failed {code}"));
        if !TROUBLE.contains(&code) {
            self.broken(format!("{operation} failed with {} {}", answer.status, answer.body));
        }
        delivered(answer.body["delivered"].as_str())
    }

    /// Prints everything; returns whether a promise was broken.
    pub(crate) fn report(&self, seed: u64, resident: &[u64]) -> bool {
        for (number, (told, runs)) in &*self.mutations.lock() {
            if !holds(told.unwrap_or(Delivered::Maybe), *runs) {
                let what = format!("mutation {number} ran {runs} times and its caller was told {told:?}");
                self.broken.lock().push(what);
            }
        }
        for (what, count) in &*self.counts.lock() {
            say(&format!("{count:>9}  {what}"));
        }
        say(&format!("resident MiB of the hubs: {resident:?}"));
        let broken = self.broken.lock();
        for what in broken.iter().take(SHOWN) {
            say(&format!("BROKEN: {what}"));
        }
        say(&format!("{} promises broken, seed {seed}", broken.len()));
        !broken.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer(status: u16, body: Value) -> Answer {
        Answer { status, body }
    }

    #[test]
    fn a_mutation_that_ran_as_its_caller_was_told_breaks_nothing() {
        let ledger = Ledger::default();
        for (number, told, runs) in [
            (1, Delivered::Yes, 1),
            (2, Delivered::No, 0),
            (3, Delivered::Maybe, 0),
            (4, Delivered::Maybe, 1),
        ] {
            (0..runs).for_each(|_| ledger.ran(number));
            ledger.told(number, told);
        }

        assert!(!ledger.report(1, &[]));
    }

    #[test]
    fn a_mutation_that_ran_twice_or_against_what_its_caller_was_told_breaks_a_promise() {
        for (told, runs) in [
            (Delivered::Yes, 0),
            (Delivered::Yes, 2),
            (Delivered::No, 1),
            (Delivered::Maybe, 2),
        ] {
            let ledger = Ledger::default();
            (0..runs).for_each(|_| ledger.ran(1));
            ledger.told(1, told);

            assert!(ledger.report(1, &[]), "{told:?} and {runs} runs");
        }
    }

    #[test]
    fn a_wrong_answer_and_an_error_that_no_trouble_explains_break_a_promise() {
        let ledger = Ledger::default();
        let told = [
            ledger.judge("soak.echo", &json!(1), &answer(200, json!({ "data": 1 }))),
            ledger.judge(
                "soak.echo",
                &json!(1),
                &answer(503, json!({ "code": "UNAVAILABLE", "delivered": "no" })),
            ),
        ];
        assert_eq!(told, [Delivered::Yes, Delivered::No]);
        assert!(!ledger.report(1, &[]));

        ledger.judge("soak.echo", &json!(1), &answer(200, json!({ "data": 2 })));
        ledger.judge("soak.echo", &json!(1), &answer(500, json!({ "code": "INTERNAL" })));

        assert_eq!(ledger.broken.lock().len(), 2);
    }
}
