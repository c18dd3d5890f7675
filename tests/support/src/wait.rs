//! Waiting on a condition with a deadline; the last status is in the message when it never comes.
//!
//! The one place where a test sleeps (`tests/it/tidy.rs`).

use std::fmt::{Debug, Display};
use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// Longer than anything takes, even on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The first pause between two looks. Each one is twice as long, so that a short wait is short and a long one costs little.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// Waits until `look` gives `Ok`, no longer than [`PATIENCE`], and returns its value.
///
/// # Panics
/// When the time is up: with `what` and the last `Err`.
pub async fn until<T, S, F, Fut>(what: &str, look: F) -> T
where
    S: Display,
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, S>>,
{
    until_within(what, PATIENCE, look).await
}

/// [`until`] with a limit of its own. A look that does not end within the limit is given up.
///
/// # Panics
/// As [`until`].
pub async fn until_within<T, S, F, Fut>(what: &str, limit: Duration, look: F) -> T
where
    S: Display,
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, S>>,
{
    match try_until_within(what, limit, look).await {
        Ok(value) => value,
        Err(late) => panic!("{late}"),
    }
}

/// [`until_within`] for who goes on when the time is up.
///
/// # Errors
/// The time is up: `what` and the last `Err`.
pub async fn try_until_within<T, S, F, Fut>(what: &str, limit: Duration, mut look: F) -> Result<T, String>
where
    S: Display,
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, S>>,
{
    let end = Instant::now() + limit;
    let (mut last, mut pause) = ("nothing, the first look did not end".to_owned(), FIRST_PAUSE);
    loop {
        match timeout_at(end, look()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(status)) => last = status.to_string(),
            Err(_) => {}
        }
        if Instant::now() >= end {
            return Err(format!("not within {limit:?}: {what}; last seen: {last}"));
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Does nothing for a while: what a network or a handler takes, never what a test waits for.
pub async fn pause(time: Duration) {
    sleep(time).await;
}

/// Waits for a future, no longer than [`PATIENCE`].
///
/// # Panics
/// When the time is up: with `what`.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("not within {PATIENCE:?}: {what}"),
    }
}

/// Waits until what is watched is as wanted, no longer than [`PATIENCE`].
///
/// # Panics
/// When the time is up, or nobody changes it any more: with `what` and the last state.
pub async fn comes_to<T: Debug>(what: &str, watched: &watch::Receiver<T>, wanted: impl Fn(&T) -> bool) {
    let mut changes = watched.clone();
    let came = timeout(PATIENCE, changes.wait_for(|state| wanted(state))).await;
    let ended = match came {
        Ok(Ok(_)) => return,
        Ok(Err(_)) => "it has ended",
        Err(_) => "the time is up",
    };
    panic!("{what}: {ended}; last seen: {:?}", *watched.borrow());
}

/// Sends until nothing more is taken: until a first try is refused as `full`, for what was taken may be on its way out.
///
/// # Panics
/// When something else is refused, or the time is up.
pub async fn until_full<E: Debug + PartialEq>(full: E, mut send: impl FnMut(usize) -> Result<(), E>) {
    let mut fill = || {
        for sent in 0.. {
            match send(sent) {
                Ok(()) => {}
                Err(error) if error != full => panic!("{error:?}"),
                Err(_) if sent == 0 => return Ok(()),
                Err(_) => break,
            }
        }
        Err("it was full a moment ago")
    };
    until("nothing more is taken", || std::future::ready(fill())).await;
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn looking_goes_on_until_the_condition_holds() {
        let mut looks = 0;

        let found = until("the third look", || {
            looks += 1;
            ready(if looks == 3 { Ok(looks) } else { Err("too early") })
        })
        .await;

        assert_eq!(found, 3);
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "not within 30s: the moon; last seen: clouds")]
    async fn a_wait_that_fails_says_what_was_seen_last() {
        until("the moon", || ready(Err::<(), _>("clouds"))).await;
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "not within 2s: the moon; last seen: clouds")]
    async fn a_look_that_never_ends_does_not_hide_the_one_before() {
        let mut looks = 0;
        let look = || {
            looks += 1;
            let first = looks == 1;
            async move {
                if first {
                    return Err::<(), _>("clouds");
                }
                pending().await
            }
        };

        until_within("the moon", Duration::from_secs(2), look).await;
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "not within 30s: the end of time")]
    async fn a_future_that_never_ends_is_named() {
        within("the end of time", pending::<()>()).await;
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "the link is up: the time is up; last seen: \"down\"")]
    async fn a_state_that_never_comes_is_told_with_the_last_one() {
        let (_changes, link) = watch::channel("down");

        comes_to("the link is up", &link, |state| *state == "up").await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_is_full_when_a_first_try_is_refused() {
        let mut room = 0..5;

        until_full("full", |_| room.next().map(drop).ok_or("full")).await;

        assert_eq!(room, 5..5);
    }
}
