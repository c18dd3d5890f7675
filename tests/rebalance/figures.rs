//! What was seen of one event, in figures.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use alkhub_protocol::Delivered;
use alkhub_tests::load::{Aim, Arrival, Away, Ended, Kind, Window};
use nix::sys::resource::{UsageWho, getrusage};
use tokio::time::Instant;

use crate::events::{BALANCED, Deed, Event, Moments};
use crate::leaders::Terms;
use crate::pods::Sample;
use crate::stage::Stage;

/// A process that hangs should be noticed within this time.
const NOTICED: Duration = Duration::from_secs(10);

/// A spoke that is away since then has lost its connection by the event itself, and not by what moved later.
const STRUCK: Duration = Duration::from_secs(2);
/// For at most this long the hubs act on what they read last, and peers still move that were told before.
const KNOWN_FOR: Duration = Duration::from_secs(6);
/// How many failures of one kind are shown in full.
const EXAMPLES: usize = 3;

/// Calls to one kind of spoke.
#[derive(Clone, Debug, Default)]
pub(crate) struct Calls {
    /// How many ended.
    pub(crate) count: usize,
    /// What they took in addition to the spoke's work: the median, and the 95th and 99th percentiles.
    pub(crate) late: [Duration; 3],
    /// Failures by code and `delivered`.
    pub(crate) failed: BTreeMap<(String, &'static str), usize>,
    /// Those that the caller lost with its own connection, so that no hub told it the outcome.
    pub(crate) lost: usize,
    /// Those among the others that were made after the event began ...
    pub(crate) new_failed: usize,
    /// ... and those made more than 10 s after.
    pub(crate) late_failed: usize,
    /// Those among the others that were made before and had reached a spoke.
    pub(crate) running_failed: usize,
    /// How many failed of those made until the hubs knew of a loss; what fails later has to do with what moves then.
    pub(crate) struck: usize,
    /// When the last of these failed, counted from the beginning.
    pub(crate) last_failure: Duration,
    /// The longest time from when the hubs knew until one of these failed.
    pub(crate) told_late: Duration,
    /// Some of the failures, in full.
    pub(crate) examples: Vec<String>,
}

/// Periods without a route.
#[derive(Clone, Debug, Default)]
pub(crate) struct Absences {
    /// How many.
    pub(crate) count: usize,
    /// The median, the 99th percentile, and the longest.
    pub(crate) lasted: [Duration; 3],
}

/// What happened while the hubs could not know what the others hold: from [`KNOWN_FOR`] after the event began until the
/// pods were as wanted again.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Blind {
    /// How many peers the hubs told to go for balance.
    pub(crate) balanced: u64,
    /// How many connections came to other hubs.
    pub(crate) moves: usize,
}

/// Connections that came to other hubs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Moves {
    pub(crate) total: usize,
    /// How many connections there were to move.
    pub(crate) of: usize,
    /// The number for the spoke that moved most.
    pub(crate) most: usize,
    /// Moves onto pods of the previous revision, in a roll-out.
    pub(crate) onto_old: usize,
}

/// One second, for the picture.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Second {
    pub(crate) at: Instant,
    /// Failed calls in this second, to spokes of the SDK and to plain ones.
    pub(crate) failed: [usize; 2],
    /// The 99th percentile of what calls to spokes of the SDK took in addition to the work.
    pub(crate) p99: Duration,
}

/// The figures of one event.
#[derive(Clone, Debug)]
pub(crate) struct Figures {
    /// When its parts happened.
    pub(crate) moments: Moments,
    /// Calls to one spoke of the SDK, to any plain one, and to one plain one.
    pub(crate) calls: [Calls; 3],
    /// Calls that ran in another way than their callers were told.
    pub(crate) broken: usize,
    /// Absences of spokes of the SDK, and of plain ones.
    pub(crate) away: [Absences; 2],
    /// Those among them that began with the event.
    pub(crate) struck: [Absences; 2],
    /// Moves of spokes of the SDK, and of plain ones.
    pub(crate) moves: [Moves; 2],
    /// The fewest moves that lead to a ratio of 1.15.
    pub(crate) least: f64,
    /// While the hubs were blind, in the event that stops Redis.
    pub(crate) blind: Blind,
    /// From when on the fullest pod had at most 1.15 times the mean, and its ratio at the end.
    pub(crate) even_after: Option<Duration>,
    /// See above.
    pub(crate) ratio: f64,
    /// The longest time from the order to go until a pod was empty.
    pub(crate) emptied: Duration,
    /// The operators' terms, while one of them was disturbed.
    pub(crate) operators: Terms,
    /// The fewest pods that were ready.
    pub(crate) least_ready: usize,
    /// The most connections that one hub accepted in a second.
    pub(crate) accepted: usize,
    /// How many CPUs the hubs used, and how many this process did.
    pub(crate) cpus: [f64; 2],
    /// The seconds, for the picture.
    pub(crate) seconds: Vec<Second>,
}

// === impl Figures ===

impl Figures {
    /// What the stage has seen since the event began.
    pub(crate) fn of(stage: &Stage, event: &Event, (before, cpu): (&Sample, f64), moments: Moments) -> Self {
        let window = stage.load.tally.take();
        let samples = stage.pods.since(before.at);
        let stay: Vec<String> = stage.pods.ready().into_iter().map(|pod| pod.name).collect();
        let old: BTreeSet<String> = before.held.keys().filter_map(|pod| stage.pods.revision(pod)).collect();
        let is_old = |hub: &str| stage.pods.revision(hub).is_some_and(|revision| old.contains(&revision));
        let rolls = event.deed == Deed::RollOut;
        let of_kind = |kind: Kind| {
            let arrivals: Vec<&Arrival> = window.arrivals.iter().filter(|arrival| arrival.kind == kind).collect();
            let onto_old = arrivals.iter().filter(|arrival| rolls && is_old(&arrival.hub)).count();
            moves(&arrivals, onto_old)
        };
        let held: usize = before.held.values().map(|held| held.websockets).sum();
        let (mut sdk, mut plain) = (of_kind(Kind::Sdk), of_kind(Kind::Plain));
        plain.of = stage.load.plain();
        sdk.of = stage.load.connections() - plain.of;
        let length = moments.quiet.duration_since(moments.began);
        let scales = matches!(event.deed, Deed::Scale(_));
        // Pods that a drained node or a roll-out removes go one by one.
        let ordered = |pod: &str| match scales {
            true => moments.began,
            false => stage.pods.told_to_go(pod).unwrap_or(moments.began).max(moments.began),
        };
        Self {
            moments,
            calls: [Aim::Sdk, Aim::AnyPlain, Aim::OnePlain].map(|aim| calls(&window, aim, moments)),
            broken: window.ended.iter().filter(|ended| ended.breaks_a_promise()).count(),
            away: [Kind::Sdk, Kind::Plain].map(|kind| absences(&window.away, kind, moments.quiet)),
            struck: [Kind::Sdk, Kind::Plain].map(|kind| absences(&window.away, kind, moments.began + STRUCK)),
            moves: [sdk, plain],
            least: least(before, held as f64 / event.pods_after() as f64),
            blind: blind(&samples, &window.arrivals, moments),
            even_after: even_after(&samples, &stay, moments.began),
            ratio: samples.last().and_then(|last| last.ratio(&stay)).unwrap_or(f64::NAN),
            emptied: emptied(&samples, before, &stay, ordered),
            operators: stage.leaders.since(moments.began),
            least_ready: stage.pods.least_ready(),
            accepted: accepted(&window.arrivals, moments.began),
            cpus: [grown(&samples, |held| held.cpu), own_cpu() - cpu].map(|used| used / length.as_secs_f64()),
            seconds: seconds(&window.ended, moments.began),
        }
    }
}

// === impl Calls ===

impl Calls {
    /// The number of all failures.
    pub(crate) fn failures(&self) -> usize {
        self.failed.values().sum()
    }

    /// The number of failures that may have reached a spoke.
    pub(crate) fn may_have_run(&self) -> usize {
        let may = self.failed.iter().filter(|((_, delivered), _)| *delivered != "no");
        may.map(|(_, count)| count).sum()
    }
}

/// CPU seconds of this process.
pub(crate) fn own_cpu() -> f64 {
    getrusage(UsageWho::RUSAGE_SELF).map_or(0.0, |usage| {
        let used = usage.user_time() + usage.system_time();
        used.tv_sec() as f64 + used.tv_usec() as f64 / 1e6
    })
}

/// A quantile of sorted values.
fn at(sorted: &[Duration], share: f64) -> Duration {
    let index = (sorted.len() as f64 * share) as usize;
    sorted
        .get(index.min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or_default()
}

fn calls(window: &Window, aim: Aim, moments: Moments) -> Calls {
    let (began, known) = (moments.began, moments.known.unwrap_or(moments.began));
    let of: Vec<&Ended> = window.ended.iter().filter(|ended| ended.aim == aim).collect();
    let mut late: Vec<Duration> = of
        .iter()
        .filter(|ended| ended.failed.is_none())
        .map(|ended| ended.late)
        .collect();
    late.sort_unstable();
    let mut calls = Calls {
        count: of.len(),
        late: [0.5, 0.95, 0.99].map(|share| at(&late, share)),
        ..Calls::default()
    };
    for (ended, failed) in window.failed(aim) {
        let delivered = match failed.delivered {
            Delivered::Yes => "yes",
            Delivered::Maybe => "maybe",
            Delivered::No => "no",
        };
        *calls.failed.entry((failed.code.clone(), delivered)).or_default() += 1;
        let told = failed.is_told();
        calls.lost += usize::from(!told);
        calls.new_failed += usize::from(told && ended.due >= began);
        calls.late_failed += usize::from(ended.due >= began + NOTICED);
        calls.running_failed += usize::from(told && ended.due < began && ended.ran > 0);
        let after = ended.at.saturating_duration_since(began);
        if told && ended.due <= known {
            calls.struck += 1;
            calls.last_failure = calls.last_failure.max(after);
            let late = ended.at.saturating_duration_since(known);
            calls.told_late = calls.told_late.max(late);
        }
        if calls.failed[&(failed.code.clone(), delivered)] <= EXAMPLES {
            let due = ended.due.saturating_duration_since(began).as_secs_f64();
            calls.examples.push(format!(
                "made at {due:.1} s, failed at {:.1} s: {} {delivered}: {}",
                after.as_secs_f64(),
                failed.code,
                failed.message
            ));
        }
    }
    calls
}

/// The absences that began until a moment.
fn absences(away: &[Away], kind: Kind, until: Instant) -> Absences {
    let mut lasted: Vec<Duration> = away
        .iter()
        .filter(|away| away.kind == kind && away.at <= until)
        .map(|away| away.lasted)
        .collect();
    lasted.sort_unstable();
    Absences {
        count: lasted.len(),
        lasted: [0.5, 0.99, 1.0].map(|share| at(&lasted, share)),
    }
}

fn moves(arrivals: &[&Arrival], onto_old: usize) -> Moves {
    let mut of_each: HashMap<usize, usize> = HashMap::new();
    for arrival in arrivals {
        *of_each.entry(arrival.spoke).or_default() += 1;
    }
    Moves {
        total: arrivals.len(),
        of: 0,
        most: of_each.values().copied().max().unwrap_or(0),
        onto_old,
    }
}

/// How many connections are above 1.15 times the mean that will be.
fn least(before: &Sample, mean: f64) -> f64 {
    let held = before.held.values().map(|held| held.websockets as f64);
    held.map(|held| (held - BALANCED * mean).max(0.0)).sum()
}

/// By how much a counter of all pods has grown; a counter that restarts begins at 0.
fn grown(samples: &[Sample], counter: impl Fn(&crate::pods::Held) -> f64) -> f64 {
    let mut last: BTreeMap<&str, f64> = BTreeMap::new();
    let mut grown = 0.0;
    for (n, sample) in samples.iter().enumerate() {
        for (pod, held) in &sample.held {
            let now = counter(held);
            let before = last.insert(pod, now).unwrap_or(if n == 0 { now } else { 0.0 });
            grown += if now >= before { now - before } else { now };
        }
    }
    grown
}

fn blind(samples: &[Sample], arrivals: &[Arrival], moments: Moments) -> Blind {
    let is_within = |at: Instant| (moments.began + KNOWN_FOR..=moments.there).contains(&at);
    let within: Vec<Sample> = samples.iter().filter(|sample| is_within(sample.at)).cloned().collect();
    Blind {
        balanced: grown(&within, |held| held.balanced as f64) as u64,
        moves: arrivals.iter().filter(|arrival| is_within(arrival.at)).count(),
    }
}

/// From when on no remaining pod had more than 1.15 times the mean.
fn even_after(samples: &[Sample], stay: &[String], began: Instant) -> Option<Duration> {
    let even = |sample: &&Sample| sample.ratio(stay).is_some_and(|ratio| ratio <= BALANCED);
    let first = samples.iter().rev().take_while(even).last()?;
    Some(first.at.saturating_duration_since(began))
}

/// The longest time that a departing pod took from the order to its last connection.
fn emptied(samples: &[Sample], before: &Sample, stay: &[String], ordered: impl Fn(&str) -> Instant) -> Duration {
    let went = before.held.keys().filter(|pod| !stay.contains(pod));
    let took = went.map(|pod| {
        let holds_some = |sample: &&Sample| sample.held.get(pod).is_some_and(|held| held.websockets > 0);
        let last = samples.iter().rev().find(holds_some);
        last.map_or(Duration::ZERO, |last| {
            last.at.saturating_duration_since(ordered(pod)) + Duration::from_secs(1)
        })
    });
    took.max().unwrap_or_default()
}

fn accepted(arrivals: &[Arrival], began: Instant) -> usize {
    let mut each: HashMap<(&str, u64), usize> = HashMap::new();
    for arrival in arrivals {
        let second = arrival.at.saturating_duration_since(began).as_secs();
        *each.entry((&arrival.hub, second)).or_default() += 1;
    }
    each.values().copied().max().unwrap_or(0)
}

fn seconds(ended: &[Ended], began: Instant) -> Vec<Second> {
    let mut each: BTreeMap<u64, Vec<&Ended>> = BTreeMap::new();
    for ended in ended {
        let second = ended.at.saturating_duration_since(began).as_secs();
        each.entry(second).or_default().push(ended);
    }
    let second = |(second, ended): (&u64, &Vec<&Ended>)| {
        let is_sdk = |ended: &&&Ended| ended.aim == Aim::Sdk;
        let failed = |sdk: bool| {
            ended
                .iter()
                .filter(|ended| ended.failed.is_some() && is_sdk(ended) == sdk)
                .count()
        };
        let mut late: Vec<Duration> = ended.iter().filter(is_sdk).map(|ended| ended.late).collect();
        late.sort_unstable();
        Second {
            at: began + Duration::from_secs(*second),
            failed: [failed(true), failed(false)],
            p99: at(&late, 0.99),
        }
    };
    each.iter().map(second).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::Held;

    fn sample(began: Instant, second: u64, pods: &[(&str, usize)]) -> Sample {
        let held = pods.iter().map(|(pod, websockets)| {
            let held = Held {
                websockets: *websockets,
                balanced: 10 * second,
                cpu: 0.0,
            };
            ((*pod).to_owned(), held)
        });
        Sample {
            at: began + Duration::from_secs(second),
            held: held.collect(),
        }
    }

    fn names(pods: &[&str]) -> Vec<String> {
        pods.iter().map(|pod| (*pod).to_owned()).collect()
    }

    #[test]
    fn pods_are_even_from_the_last_time_on_that_they_were_not() {
        let began = Instant::now();
        let looks = [(100, 0), (60, 50), (80, 20), (55, 45), (51, 49)];
        let looks = looks.iter().zip(0..);
        let samples: Vec<Sample> = looks
            .map(|((a, b), n)| sample(began, n, &[("a", *a), ("b", *b)]))
            .collect();

        assert_eq!(
            even_after(&samples, &names(&["a", "b"]), began),
            Some(Duration::from_secs(3))
        );
        assert_eq!(even_after(&samples, &names(&["a", "c"]), began), None);
        assert_eq!(even_after(&samples[..3], &names(&["a", "b"]), began), None);
    }

    #[test]
    fn a_pod_is_emptied_from_the_order_to_its_last_connection() {
        let began = Instant::now();
        let looks = [100, 100, 99, 60, 10, 0, 0];
        let looks = looks.iter().zip(0..);
        let samples: Vec<Sample> = looks.map(|(a, n)| sample(began, n, &[("a", *a), ("b", 100)])).collect();
        let took = |second| {
            emptied(&samples, &samples[0], &names(&["b"]), |_| {
                began + Duration::from_secs(second)
            })
        };

        // The pod is empty at second 5.
        assert_eq!(took(0), Duration::from_secs(5));
        assert_eq!(took(2), Duration::from_secs(3));
    }

    #[test]
    fn the_fewest_moves_are_those_of_what_is_above_the_aim() {
        let before = sample(Instant::now(), 0, &[("a", 1_100), ("b", 900)]);

        assert!((least(&before, 500.0) - (525.0 + 325.0)).abs() < 1e-9);
    }

    #[test]
    fn a_counter_that_begins_anew_counts_from_0() {
        let began = Instant::now();
        let samples = [3, 4, 1].map(|n| sample(began, n, &[("a", 1)]));

        // From 30 to 40, and then to 10 in a process that was restarted.
        assert!((grown(&samples, |held| held.balanced as f64) - 20.0).abs() < 1e-9);
    }
}
