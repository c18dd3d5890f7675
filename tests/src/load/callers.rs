//! Calls at a constant rate, to every kind of spoke in turn.

use std::sync::Arc;
use std::time::Duration;

use alkhub_protocol::{Chain, Delivered, SpokeName};
use alkhub_sdk::{CallOptions, Client, Error};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::TaskTracker;

use super::tally::{LOST, UNCONNECTED};
use super::{Aim, Ended, Failed, PLAIN_OPERATION, SDK_OPERATION, Tally};

/// How long a call may take; the longest works for 5 s.
pub(super) const TIMEOUT: Duration = Duration::from_secs(30);
/// How long a spoke works, at least and at most.
const WORK_MS: [f64; 2] = [5.0, 5_000.0];

/// One call that is to be made.
struct Call {
    number: u64,
    aim: Aim,
    target: Option<SpokeName>,
    due: Instant,
    work: Duration,
}

/// Makes calls for ever. A call that is late because the process was busy counts from when it was due.
pub(super) async fn call(
    clients: Vec<Client>,
    names: Vec<SpokeName>,
    rate: f64,
    (tally, tasks): (Arc<Tally>, TaskTracker),
) {
    let mut chance = fastrand::Rng::with_seed(1);
    // Twice as many as can be running until their time is up.
    let room = Arc::new(Semaphore::new((2.0 * rate * TIMEOUT.as_secs_f64()) as usize + 1));
    let start = Instant::now();
    for made in 0_u64.. {
        let at = start + Duration::from_secs_f64(made as f64 / rate);
        // Returns at once for what is overdue.
        sleep_until(at).await;
        let call = one(&tally, &names, &mut chance, at);
        let client = clients[chance.usize(..clients.len())].clone();
        let (tally, permit) = (Arc::clone(&tally), Arc::clone(&room).try_acquire_owned());
        tally.called(call.number);
        tasks.spawn(async move {
            let answer = match permit {
                Ok(_) => {
                    client
                        .call_with(operation(call.aim), &input(&call), options(&call))
                        .await
                }
                Err(_) => Err(Error::Closed),
            };
            tally.ended(judge(&call, answer));
            drop(permit);
        });
    }
}

/// Half of the calls are for spokes with the SDK; short ones are as frequent as ones that take ten times as long.
fn one(tally: &Tally, names: &[SpokeName], chance: &mut fastrand::Rng, due: Instant) -> Call {
    let number = tally.number();
    let aim = match number % 4 {
        0 | 2 => Aim::Sdk,
        1 => Aim::AnyPlain,
        _ => Aim::OnePlain,
    };
    let of = 2 * chance.usize(..names.len() / 2);
    let target = match aim {
        Aim::Sdk => Some(names[of].clone()),
        Aim::OnePlain => Some(names[of + 1].clone()),
        Aim::AnyPlain => None,
    };
    let [least, most] = WORK_MS;
    let work = least * (most / least).powf(chance.f64());
    Call {
        number,
        aim,
        target,
        due,
        work: Duration::from_millis(work as u64),
    }
}

fn operation(aim: Aim) -> &'static str {
    match aim {
        Aim::Sdk => SDK_OPERATION,
        Aim::AnyPlain | Aim::OnePlain => PLAIN_OPERATION,
    }
}

fn input(call: &Call) -> Value {
    json!({ "n": call.number, "ms": u64::try_from(call.work.as_millis()).unwrap_or(0) })
}

fn options(call: &Call) -> CallOptions {
    CallOptions {
        timeout: Some(TIMEOUT),
        target: call.target.clone(),
        ..CallOptions::default()
    }
}

fn judge(call: &Call, answer: Result<Value, Error>) -> Ended {
    let took = call.due.elapsed();
    let (worked, failed) = match answer {
        Ok(output) if output["n"] == call.number => (Duration::from_micros(output["us"].as_u64().unwrap_or(0)), None),
        Ok(output) => {
            let message = format!("call {} got {output}", call.number);
            (
                Duration::ZERO,
                Some((String::from("ANOTHER CALL'S"), Delivered::Maybe, message)),
            )
        }
        Err(error) => (
            Duration::ZERO,
            Some((code(&error), error.delivered(), Chain::of(&error).to_string())),
        ),
    };
    let failed = failed.map(|(code, delivered, message)| {
        Box::new(Failed {
            code,
            delivered,
            message,
        })
    });
    Ended {
        number: call.number,
        aim: call.aim,
        due: call.due,
        at: Instant::now(),
        late: took.saturating_sub(worked),
        failed,
        ran: 0,
    }
}

fn code(error: &Error) -> String {
    match (error.code(), error) {
        (Some(code), _) => code.as_str().to_owned(),
        (None, Error::Lost) => LOST.to_owned(),
        (None, Error::Timeout(_)) => String::from("(no answer)"),
        (None, Error::Unreachable { .. } | Error::Refused { .. }) => UNCONNECTED.to_owned(),
        (None, Error::Closed) => String::from("(too many run)"),
        (None, _) => String::from("(other)"),
    }
}
