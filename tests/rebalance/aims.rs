//! What the project promises for each event, beside what was seen.

use std::time::Duration;

use alkhub_balance::Rule;

use crate::events::{Deed, Event};
use crate::figures::{Blind, Calls, Figures};
use crate::leaders::Terms;

/// A promise, and whether it was kept.
#[derive(Clone, Debug)]
pub(crate) struct Aim {
    pub(crate) what: String,
    pub(crate) seen: String,
    pub(crate) met: bool,
}

fn aim(what: impl Into<String>, seen: impl Into<String>, met: bool) -> Aim {
    Aim {
        what: what.into(),
        seen: seen.into(),
        met,
    }
}

/// The promises for an event, to spokes of the SDK with this many sessions, and to plain ones.
pub(crate) fn of(event: &Event, figures: &Figures, sessions: u8) -> Vec<Aim> {
    let mut aims = match event.deed {
        Deed::Scale(pods) if pods > event.pods => grows(figures),
        Deed::Scale(_) => shrinks(figures, 0),
        Deed::Drain => shrinks(figures, event.pods - 1),
        Deed::RollOut => rolls(figures),
        Deed::Kill => kills(figures, sessions),
        Deed::Freeze => freezes(figures),
        Deed::FreezeRedis => without_redis(figures),
    };
    if event.disturbs_operator() {
        aims.push(one_leader(figures));
    }
    aims.push(aim(
        "no call runs otherwise than its caller is told",
        figures.broken.to_string(),
        figures.broken == 0,
    ));
    aims
}

/// An operator that does not hold the Lease writes nothing.
fn one_leader(figures: &Figures) -> Aim {
    let Terms {
        leaders,
        writes,
        foreign,
    } = figures.operators;
    aim(
        "no second operator writes",
        format!("{foreign} of {writes} writes without the Lease, which {leaders} held in turn"),
        foreign == 0 && leaders > 0,
    )
}

/// What holds whenever pods come and go in an orderly way.
fn unnoticed(figures: &Figures) -> Vec<Aim> {
    let [sdk, any, one] = &figures.calls;
    let [away, _] = &figures.away;
    vec![
        none("SDK: 0 failed calls", sdk),
        aim(
            "SDK: 0 ms without a route",
            format!("{} ms at most, {} times", away.lasted[2].as_millis(), away.count),
            away.count == 0,
        ),
        aim(
            "SDK: p95 at most 10 ms beside the work",
            format!("{:.1} ms", millis(sdk.late[1])),
            sdk.late[1] <= Duration::from_millis(10),
        ),
        none("plain, others offer the operation: 0 failed calls", any),
        aim(
            "plain, alone: what fails was not delivered",
            format!("{} failed, {} of them may have run", one.failures(), one.may_have_run()),
            one.may_have_run() == 0,
        ),
    ]
}

fn none(what: &str, calls: &Calls) -> Aim {
    aim(
        what,
        format!("{} of {}", calls.failures(), calls.count),
        calls.failures() == 0,
    )
}

fn grows(figures: &Figures) -> Vec<Aim> {
    let moves: usize = figures.moves.iter().map(|moves| moves.total).sum();
    let even = figures.even_after;
    let mut aims = vec![
        aim(
            "the fullest pod has 1.15 of the mean within 120 s",
            even.map_or_else(
                || "never".to_owned(),
                |after| format!("{:.0} s; {:.3} at the end", after.as_secs_f64(), figures.ratio),
            ),
            even.is_some_and(|after| after <= Duration::from_secs(120)),
        ),
        aim(
            "moves at most 1.06 of the least",
            format!("{moves} of {:.0}: {:.2}", figures.least, moves as f64 / figures.least),
            moves as f64 <= 1.06 * figures.least,
        ),
    ];
    aims.extend(unnoticed(figures));
    aims
}

/// Promises for when a pod goes: at least this many of the remaining ones have to be ready all the time.
fn shrinks(figures: &Figures, least_ready: usize) -> Vec<Aim> {
    let mut aims = vec![aim(
        "a pod that goes is empty within 60 s of the order",
        format!("{:.0} s", figures.emptied.as_secs_f64()),
        figures.emptied <= Duration::from_secs(60),
    )];
    if least_ready > 0 {
        aims.push(aim(
            format!("at least {least_ready} pods are ready (PodDisruptionBudget)"),
            figures.least_ready.to_string(),
            figures.least_ready >= least_ready,
        ));
    }
    aims.extend(unnoticed(figures));
    aims
}

fn rolls(figures: &Figures) -> Vec<Aim> {
    let [sdk, plain] = &figures.moves;
    let took = figures.moments.there.duration_since(figures.moments.began);
    let each = |total: usize, of: usize| total as f64 / of as f64;
    let mut aims = vec![
        aim(
            "it takes 5 minutes at most",
            format!("{:.0} s", took.as_secs_f64()),
            took <= Duration::from_secs(300),
        ),
        aim(
            "SDK: each connection moves once",
            format!(
                "{:.3}: {} of {}; {} of one spoke at most",
                each(sdk.total, sdk.of),
                sdk.total,
                sdk.of,
                sdk.most
            ),
            each(sdk.total, sdk.of) <= 1.005,
        ),
        aim(
            "SDK: never onto an old revision",
            sdk.onto_old.to_string(),
            sdk.onto_old == 0,
        ),
        aim(
            "plain: each connection moves once, but for 1 in 20",
            format!(
                "{:.3}; {} onto the old revision",
                each(plain.total, plain.of),
                plain.onto_old
            ),
            each(plain.total, plain.of) <= 1.05,
        ),
    ];
    aims.extend(unnoticed(figures));
    aims
}

fn kills(figures: &Figures, sessions: u8) -> Vec<Aim> {
    let [sdk, any, one] = &figures.calls;
    let [away, plain_away] = &figures.struck;
    let mut aims = Vec::new();
    if sessions > 1 {
        let zero = sdk.new_failed == 0;
        aims.push(aim("SDK, two sessions: 0 failed new calls", new(sdk), zero));
        let (made, running) = (sdk.failures() - sdk.lost - sdk.new_failed, sdk.running_failed);
        aims.push(aim(
            "SDK, two sessions: running calls resume",
            format!("{made} made before failed, {running} of them had reached their spoke"),
            running == 0,
        ));
    } else {
        aims.push(back("SDK, one session", away.count, away.lasted[1]));
        aims.extend(typed("SDK, one session", sdk, figures));
    }
    aims.push(back("plain", plain_away.count, plain_away.lasted[1]));
    aims.push(aim(
        "plain, others offer the operation: 0 failed new calls",
        new(any),
        any.new_failed == 0,
    ));
    aims.extend(typed("plain", one, figures));
    aims.push(accepted(figures));
    aims
}

/// Nothing limits what one hub accepts. When all is well, it has to keep up with what all hubs together move in a
/// second, which may all come to one hub: the aim is twice that.
fn accepted(figures: &Figures) -> Aim {
    let most = 2.0 * Rule::default().budget;
    aim(
        format!("a hub accepts at most {most} in a second, twice what all move in one"),
        figures.accepted.to_string(),
        figures.accepted as f64 <= most,
    )
}

fn back(who: &str, count: usize, p99: Duration) -> Aim {
    aim(
        format!("{who}: 99 % are back within 5 s"),
        format!("{:.1} s, of {count}", p99.as_secs_f64()),
        count > 0 && p99 <= Duration::from_secs(5),
    )
}

/// Calls that a caller loses because it was on the killed pod itself are counted separately.
fn new(calls: &Calls) -> String {
    format!(
        "{}; {} were lost with their callers' own connections",
        calls.new_failed, calls.lost
    )
}

/// The second counts from when the hubs knew of the loss, according to their logs. It takes as long as a hub's lease
/// lasts (`events.lease-ttl`, 10 s) until they know, because the end of a link alone is not the end of a hub. Calls end
/// earlier if their spoke registers again earlier.
fn typed(who: &str, calls: &Calls, figures: &Figures) -> [Aim; 2] {
    let (told, last) = (calls.struck, calls.last_failure.as_secs_f64());
    let known = figures
        .moments
        .known
        .map(|known| known.duration_since(figures.moments.began));
    [
        aim(
            format!("{who}: its calls fail within 1 s of when the hubs knew"),
            match known {
                Some(known) => format!(
                    "{told} failed, {:.2} s after at most; known after {:.1} s",
                    calls.told_late.as_secs_f64(),
                    known.as_secs_f64()
                ),
                None => "no hub said that it knew".to_owned(),
            },
            known.is_some() && calls.told_late <= Duration::from_secs(1),
        ),
        aim(
            format!("{who}: its calls fail within 10 s"),
            format!("{told} failed, the last of all after {last:.1} s"),
            calls.last_failure <= Duration::from_secs(10),
        ),
    ]
}

fn freezes(figures: &Figures) -> Vec<Aim> {
    let [sdk, any, _] = &figures.calls;
    let late = |calls: &Calls| calls.late_failed;
    vec![
        aim(
            "SDK: calls made after 10 s do not fail",
            format!("{} of {} failures", late(sdk), sdk.failures()),
            late(sdk) == 0,
        ),
        aim(
            "plain, others offer the operation: calls made after 10 s do not fail",
            format!("{} of {} failures", late(any), any.failures()),
            late(any) == 0,
        ),
    ]
}

fn without_redis(figures: &Figures) -> Vec<Aim> {
    let [sdk, any, one] = &figures.calls;
    let Blind { balanced, moves } = figures.blind;
    vec![
        aim("nothing is shed meanwhile", balanced.to_string(), balanced == 0),
        aim("no connection is lost meanwhile", moves.to_string(), moves == 0),
        none("SDK: 0 failed calls", sdk),
        none("plain, others offer the operation: 0 failed calls", any),
        none("plain, alone: 0 failed calls", one),
    ]
}

/// A time in milliseconds.
pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}
