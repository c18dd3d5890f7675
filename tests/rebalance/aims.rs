//! What the project promises of each event, beside what was seen.

use std::time::Duration;

use crate::events::{Deed, Event};
use crate::figures::{Calls, Figures};

/// A promise and what became of it.
#[derive(Clone, Debug)]
pub(crate) struct Aim {
    /// What is promised.
    pub(crate) what: String,
    /// What was seen.
    pub(crate) seen: String,
    /// Whether it is kept.
    pub(crate) met: bool,
}

fn aim(what: impl Into<String>, seen: impl Into<String>, met: bool) -> Aim {
    Aim {
        what: what.into(),
        seen: seen.into(),
        met,
    }
}

/// The promises of an event, to spokes of the SDK with so many sessions, and to plain ones.
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
    aims.push(aim(
        "no call runs otherwise than its caller is told",
        figures.broken.to_string(),
        figures.broken == 0,
    ));
    aims
}

/// What holds wherever pods come and go by order.
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

/// Where a pod goes; of those that are left at least so many have to be ready all the time.
fn shrinks(figures: &Figures, least_ready: usize) -> Vec<Aim> {
    let mut aims = vec![aim(
        "a pod that goes is empty within 60 s",
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
    let [away, plain_away] = &figures.away;
    let mut aims = Vec::new();
    if sessions > 1 {
        let zero = sdk.new_failed == 0;
        aims.push(aim("SDK, two sessions: 0 failed new calls", new(sdk), zero));
        let running = sdk.failures() - sdk.lost - sdk.new_failed;
        aims.push(aim(
            "SDK, two sessions: running calls resume",
            format!("{running} failed"),
            running == 0,
        ));
    } else {
        aims.push(back("SDK, one session", away.count, away.lasted[1]));
        aims.push(typed("SDK, one session", sdk));
    }
    aims.push(back("plain", plain_away.count, plain_away.lasted[1]));
    aims.push(aim(
        "plain, others offer the operation: 0 failed new calls",
        new(any),
        any.new_failed == 0,
    ));
    aims.push(typed("plain", one));
    aims
}

fn back(who: &str, count: usize, p99: Duration) -> Aim {
    aim(
        format!("{who}: 99 % are back within 5 s"),
        format!("{:.1} s, of {count}", p99.as_secs_f64()),
        p99 <= Duration::from_secs(5),
    )
}

/// What a caller loses that was on the killed pod itself is apart.
fn new(calls: &Calls) -> String {
    format!(
        "{}; {} were lost with their callers' own connections",
        calls.new_failed, calls.lost
    )
}

fn typed(who: &str, calls: &Calls) -> Aim {
    let (told, last) = (calls.failures() - calls.lost, calls.last_failure.as_secs_f64());
    aim(
        format!("{who}: its calls fail within 10 s"),
        format!("{told} failed, the last of all after {last:.1} s"),
        calls.last_failure <= Duration::from_secs(10),
    )
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
    let moves: usize = figures.moves.iter().map(|moves| moves.total).sum();
    vec![
        aim("nothing is shed", figures.balanced.to_string(), figures.balanced == 0),
        aim("no connection is lost", moves.to_string(), moves == 0),
        none("SDK: 0 failed calls", sdk),
        none("plain, others offer the operation: 0 failed calls", any),
        none("plain, alone: 0 failed calls", one),
    ]
}

/// Milliseconds of a time.
pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}
