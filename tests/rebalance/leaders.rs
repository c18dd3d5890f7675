//! The operators: which of them holds the Lease, and which of them writes.
//!
//! What each has written to the API server is read from its metrics once a second; who holds the Lease is known from a
//! watch. A write counts as a second leader's if its process did not hold the Lease at any time between the look before
//! it and one second after the look that showed it. A process that stood still between two looks has to hold the Lease
//! when it continues: what it wrote before appears in the look taken right before it was stopped.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use alkhub_tests::kube::Kube;
use alkhub_tests::load::pause;
use anyhow::{Context as _, Result};
use parking_lot::Mutex;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::stage::{OPERATOR, SYSTEM};
use crate::watch::watch;

/// The metrics port in an operator's pod.
const MANAGEMENT_PORT: u16 = 7430;
/// A pod that does not answer within this time is not asked again in that second.
const PATIENCE: Duration = Duration::from_millis(900);
/// How late the watch of the Lease may be.
const LATE: Duration = Duration::from_secs(1);
/// A process that has not answered for longer than this has stood still.
const STILL: Duration = Duration::from_secs(5);

const LEASE: &str = r#"jsonpath={.type}{"|"}{.object.spec.holderIdentity}{"\n"}"#;
const POD: &str =
    r#"jsonpath={.type}{"|"}{.object.metadata.name}{"|"}{.object.metadata.uid}{"|"}{.object.status.podIP}{"\n"}"#;

/// The operators, watched until this is dropped.
#[derive(Clone, Debug, Default)]
pub(crate) struct Leaders(Arc<Mutex<Seen>>);

/// What was seen of the operators during an event.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Terms {
    /// How many processes held the Lease.
    pub(crate) leaders: usize,
    /// How many writes to the API server there were.
    pub(crate) writes: u64,
    /// How many of those came from processes that did not hold the Lease.
    pub(crate) foreign: u64,
}

#[derive(Debug, Default)]
struct Seen {
    /// The uid and address of each operator's pod, by the pod's name.
    pods: BTreeMap<String, (String, String)>,
    /// Who has held the Lease from when on; an empty identity means nobody.
    holders: Vec<(Instant, String)>,
    /// The last look at each process.
    last: BTreeMap<Process, (Instant, u64)>,
    /// What processes wrote between two looks.
    stretches: Vec<Stretch>,
}

/// A process of a pod, identified by when it started.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Process {
    pod: String,
    started: u64,
}

/// What one process wrote from one look to the next.
#[derive(Clone, Debug)]
struct Stretch {
    process: Process,
    from: Instant,
    to: Instant,
    writes: u64,
}

// === impl Leaders ===

impl Leaders {
    /// Follows the pods for ever.
    pub(crate) async fn watch_pods(self, kube: Kube) {
        let what = ["pods", "-n", SYSTEM, "-l", OPERATOR];
        loop {
            let (begin, each) = (|| self.0.lock().pods.clear(), |line: &str| self.pod(line));
            drop(watch(&kube, &what, POD, begin, each).await);
            pause(Duration::from_millis(500)).await;
        }
    }

    /// Follows the Lease for ever.
    pub(crate) async fn watch_lease(self, kube: Kube) {
        let what = ["leases", "-n", SYSTEM, "--field-selector=metadata.name=alkhub-operator"];
        loop {
            drop(watch(&kube, &what, LEASE, || {}, |line| self.lease(line, Instant::now())).await);
            pause(Duration::from_millis(500)).await;
        }
    }

    /// Reads what each process has written once a second, for ever.
    pub(crate) async fn sample(self) {
        let mut second = interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            second.tick().await;
            self.look().await;
        }
    }

    /// Reads what each process has written.
    pub(crate) async fn look(&self) {
        let pods = self.0.lock().pods.clone();
        let asked = pods.into_iter().filter(|(_, (_, address))| !address.is_empty());
        let asked = asked.map(|(pod, (_, address))| async move {
            let client = reqwest::Client::builder().timeout(PATIENCE).build().ok()?;
            let url = format!("http://{address}:{MANAGEMENT_PORT}/metrics");
            let text = client.get(url).send().await.ok()?.text().await.ok()?;
            Some((pod, text, Instant::now()))
        });
        for (pod, text, at) in futures::future::join_all(asked).await.into_iter().flatten() {
            self.0.lock().wrote(pod, &text, at);
        }
    }

    fn pod(&self, line: &str) {
        let fields: Vec<&str> = line.split('|').collect();
        let [change, name, uid, address] = fields[..] else {
            return;
        };
        let mut seen = self.0.lock();
        if change == "DELETED" {
            seen.pods.remove(name);
        } else {
            seen.pods.insert(name.to_owned(), (uid.to_owned(), address.to_owned()));
        }
    }

    fn lease(&self, line: &str, at: Instant) {
        let Some((_, holder)) = line.split_once('|') else {
            return;
        };
        let mut seen = self.0.lock();
        if seen.holders.last().is_none_or(|(_, last)| last != holder) {
            seen.holders.push((at, holder.to_owned()));
        }
    }

    /// The uid of the pod of the operator that leads.
    pub(crate) fn leader(&self) -> Result<String> {
        let seen = self.0.lock();
        let (_, holder) = seen.holders.last().context("the Lease was not seen")?;
        let mut pods = seen.pods.iter();
        let pod = pods.find(|(pod, _)| is_of(holder, pod));
        let (_, (uid, _)) = pod.with_context(|| format!("no pod of `{holder}`, which holds the Lease"))?;
        Ok(uid.clone())
    }

    /// What was seen since a moment.
    pub(crate) fn since(&self, began: Instant) -> Terms {
        self.0.lock().since(began)
    }
}

// === impl Seen ===

impl Seen {
    fn wrote(&mut self, pod: String, metrics: &str, at: Instant) {
        let values = |name: &str| -> Vec<f64> {
            let lines = metrics.lines().filter_map(|line| line.strip_prefix(name));
            let samples = lines.filter(|rest| rest.starts_with([' ', '{']));
            samples
                .filter_map(|rest| rest.rsplit_once(' ')?.1.parse().ok())
                .collect()
        };
        let started = values("process_start_time_seconds").first().copied().unwrap_or(0.0) as u64;
        let writes = values("alkhub_operator_api_writes_total").iter().sum::<f64>() as u64;
        let process = Process { pod, started };
        let (from, before) = self.last.insert(process.clone(), (at, writes)).unwrap_or((at, 0));
        if writes > before {
            self.stretches.push(Stretch {
                process,
                from,
                to: at,
                writes: writes - before,
            });
        }
    }

    fn since(&self, began: Instant) -> Terms {
        let mut terms = Terms::default();
        for stretch in self.stretches.iter().filter(|stretch| stretch.to >= began) {
            terms.writes += stretch.writes;
            if !self.held(stretch) {
                terms.foreign += stretch.writes;
            }
        }
        let mut holders: Vec<&str> = self.held_from(began, None).collect();
        holders.sort_unstable();
        holders.dedup();
        terms.leaders = holders.len();
        terms
    }

    /// Whether the process may have held the Lease when it wrote.
    fn held(&self, stretch: &Stretch) -> bool {
        let is_still = stretch.to.duration_since(stretch.from) > STILL;
        let from = if is_still { stretch.to } else { stretch.from };
        let from = from.checked_sub(LATE).unwrap_or(from);
        self.held_from(from, Some(stretch.to + LATE))
            .any(|holder| is_of(holder, &stretch.process.pod))
    }

    /// Who held the Lease at some time in that period.
    fn held_from(&self, from: Instant, to: Option<Instant>) -> impl Iterator<Item = &str> {
        let ends = self.holders.iter().skip(1).map(|(at, _)| Some(*at)).chain([None]);
        let terms = self.holders.iter().zip(ends);
        let meet = terms.filter(move |((begins, holder), ends)| {
            !holder.is_empty() && to.is_none_or(|to| *begins <= to) && ends.is_none_or(|ends| ends >= from)
        });
        meet.map(|((_, holder), _)| holder.as_str())
    }
}

/// Whether an identity belongs to a pod: it consists of the pod's name and a random part for each process.
fn is_of(holder: &str, pod: &str) -> bool {
    holder
        .strip_prefix(pod)
        .and_then(|rest| rest.strip_prefix('-'))
        .is_some_and(|random| !random.contains('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(writes: u64) -> String {
        format!(
            "process_start_time_seconds 7\nalkhub_operator_api_writes_total{{kind=\"Hub\",verb=\"patch\"}} {writes}\n\
             alkhub_operator_api_writes_total{{kind=\"Pod\",verb=\"patch\"}} 1\n"
        )
    }

    /// A second operator leads from second 20 on; looks at both, at these seconds, with these writes.
    fn seen(looks: &[(&str, u64, u64)]) -> Terms {
        let (leaders, began) = (Leaders::default(), Instant::now());
        let at = |second: u64| began + Duration::from_secs(second);
        leaders.lease("ADDED|one-x1-aa", at(0));
        leaders.lease("MODIFIED|two-x2-bb", at(20));
        for (pod, second, writes) in looks {
            leaders
                .0
                .lock()
                .wrote((*pod).to_owned(), &metrics(*writes), at(*second));
        }
        leaders.since(began)
    }

    #[test]
    fn who_writes_while_it_leads_is_the_leader() {
        let terms = seen(&[("one-x1", 1, 3), ("one-x1", 2, 5), ("two-x2", 20, 0), ("two-x2", 21, 4)]);

        assert_eq!((terms.leaders, terms.writes, terms.foreign), (2, 11, 0));
    }

    #[test]
    fn who_stood_still_and_writes_while_another_one_leads_is_a_second_leader() {
        let before = [("one-x1", 1, 3), ("one-x1", 2, 5)];
        let silent = seen(&[&before[..], &[("one-x1", 42, 5)]].concat());
        let writing = seen(&[&before[..], &[("one-x1", 42, 7)]].concat());

        assert_eq!((silent.foreign, writing.foreign), (0, 2));
    }

    #[test]
    fn who_never_led_and_writes_is_a_second_leader() {
        assert_eq!(seen(&[("two-x2", 3, 0), ("two-x2", 4, 2)]).foreign, 3);
    }
}
