//! Tests of flows: each step against a model over lists, when its upstream is dropped, and where it may be cancelled.

use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Waker;
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use proptest::prelude::*;
use tokio::time::advance;

use super::*;

mod groups;

/// What an upstream does when it is polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Move {
    Item(u32),
    Error(u8),
    Pending,
}

type Item = Result<u32, u8>;

/// An upstream that follows a script and counts its ends.
#[derive(Debug)]
struct Source {
    moves: std::collections::VecDeque<Move>,
    dropped: Arc<AtomicUsize>,
    asked: Arc<AtomicUsize>,
    has_ended: bool,
}

impl Source {
    fn new(moves: &[Move]) -> (Self, Arc<AtomicUsize>) {
        let dropped = Arc::new(AtomicUsize::new(0));
        let source = Self {
            moves: moves.iter().copied().collect(),
            dropped: Arc::clone(&dropped),
            asked: Arc::default(),
            has_ended: false,
        };
        (source, dropped)
    }
}

impl Stream for Source {
    type Item = Item;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Item>> {
        assert!(!self.has_ended, "it was polled after its end");
        self.asked.fetch_add(1, Ordering::Relaxed);
        match self.moves.pop_front() {
            Some(Move::Item(item)) => Poll::Ready(Some(Ok(item))),
            Some(Move::Error(error)) => Poll::Ready(Some(Err(error))),
            Some(Move::Pending) => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
            None => {
                self.has_ended = true;
                Poll::Ready(None)
            }
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        5 => (0_u32..9).prop_map(Move::Item),
        1 => (0_u8..3).prop_map(Move::Error),
        3 => Just(Move::Pending),
    ];
    prop::collection::vec(one, 0..30)
}

fn items(moves: &[Move]) -> Vec<Item> {
    let items = moves.iter().filter_map(|one| match one {
        Move::Item(item) => Some(Ok(*item)),
        Move::Error(error) => Some(Err(*error)),
        Move::Pending => None,
    });
    items.collect()
}

/// A future that is pending once.
async fn later<T>(value: T) -> T {
    tokio::task::yield_now().await;
    value
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true).build().expect("a runtime")
}

/// Runs a flow to its end and compares; then again, and drops it after each number of polls.
fn check<St, U>(moves: &[Move], make: impl Fn(Source) -> St, expected: &[U]) -> Result<(), TestCaseError>
where
    St: Stream<Item = U>,
    U: std::fmt::Debug + PartialEq,
{
    let runtime = runtime();
    let _guard = runtime.enter();
    let mut context = Context::from_waker(Waker::noop());
    let (source, dropped) = Source::new(moves);
    let mut flow = Box::pin(make(source));
    let (mut found, mut polls) = (Vec::new(), 0);
    loop {
        polls += 1;
        prop_assert!(polls < 10_000, "it does not end");
        // What a task that yields to others is woken by runs here.
        runtime.block_on(tokio::task::yield_now());
        match flow.as_mut().poll_next(&mut context) {
            Poll::Ready(Some(item)) => found.push(item),
            Poll::Ready(None) => break,
            Poll::Pending => {}
        }
    }
    prop_assert_eq!(&found[..], expected);
    prop_assert_eq!(dropped.load(Ordering::Relaxed), 1, "dropped at the end");
    prop_assert!(
        matches!(flow.as_mut().poll_next(&mut context), Poll::Ready(None)),
        "the end stays"
    );
    drop(flow);
    prop_assert_eq!(dropped.load(Ordering::Relaxed), 1, "dropped once");
    for count in 0..polls {
        let (source, dropped) = Source::new(moves);
        let mut flow = Box::pin(make(source));
        for _ in 0..count {
            _ = flow.as_mut().poll_next(&mut context);
        }
        drop(flow);
        prop_assert_eq!(dropped.load(Ordering::Relaxed), 1, "cancelled after {} polls", count);
    }
    Ok(())
}

fn lists(items: &[Item], size: usize) -> Vec<Result<Vec<u32>, u8>> {
    let (mut out, mut list) = (Vec::new(), Vec::new());
    for item in items {
        match item {
            Ok(item) => list.push(*item),
            Err(error) => out.push(Err(*error)),
        }
        if list.len() == size {
            out.push(Ok(std::mem::take(&mut list)));
        }
    }
    out.extend((!list.is_empty()).then_some(Ok(list)));
    out
}

fn flattened(items: &[Item]) -> Vec<Item> {
    let each = items.iter().flat_map(|item| match item {
        Ok(item) => (0..item % 3).map(Ok).collect::<Vec<Item>>(),
        Err(error) => vec![Err(*error)],
    });
    each.collect()
}

fn inner(item: u32) -> impl Stream<Item = Item> {
    futures::stream::iter((0..item % 3).map(Ok))
}

fn sorted<T: Ord>(items: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut items: Vec<T> = items.into_iter().collect();
    items.sort();
    items
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn filter_keeps_what_fits_and_every_error(moves in moves()) {
        let expected: Vec<Item> = items(&moves).into_iter().filter(|item| item.is_err() || item.is_ok_and(|n| n > 3)).collect();
        check(&moves, |source| source.steps().filter(|n| *n > 3), &expected)?;
    }

    #[test]
    fn map_changes_each_in_order(moves in moves()) {
        let change = |n: u32| if n == 8 { Err(9) } else { Ok(n * 2) };
        let expected: Vec<Item> = items(&moves).into_iter().map(|item| item.and_then(change)).collect();
        check(&moves, |source| source.steps().map(move |n| later(change(n))), &expected)?;
        for at_once in [1, 3] {
            let make = |source: Source| source.steps().map_concurrent(at_once, Emission::InOrder, move |n| later(change(n)));
            check(&moves, make, &expected)?;
        }
    }

    #[test]
    fn concurrent_work_loses_nothing_and_stays_within_its_bound(moves in moves(), at_once in 1_usize..4) {
        let running = Arc::new(AtomicUsize::new(0));
        let (source, dropped) = Source::new(&moves);
        let flow = source.steps().map_concurrent(at_once, Emission::AsDone, |n| {
            let running = Arc::clone(&running);
            async move {
                assert!(running.fetch_add(1, Ordering::Relaxed) < at_once);
                for _ in 0..n {
                    tokio::task::yield_now().await;
                }
                running.fetch_sub(1, Ordering::Relaxed);
                Ok(n)
            }
        });

        let found: Vec<Item> = runtime().block_on(flow.collect());

        prop_assert_eq!(sorted(found), sorted(items(&moves)));
        prop_assert_eq!(dropped.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn take_ends_with_its_last_item(moves in moves(), count in 0_usize..6) {
        let mut left = count;
        let expected: Vec<Item> = items(&moves).into_iter().take_while(|item| {
            let open = left > 0;
            left -= usize::from(item.is_ok() && open);
            open
        }).collect();
        check(&moves, |source| source.steps().take(count), &expected)?;

        let (source, dropped) = Source::new(&moves);
        let mut flow = Box::pin(source.steps().take(count));
        let got = expected.iter().filter(|item| item.is_ok()).count();
        runtime().block_on(async {
            for _ in 0..expected.len() {
                flow.next().await;
            }
        });
        prop_assert_eq!(dropped.load(Ordering::Relaxed), usize::from(got == count), "with the item, not after it");
    }

    #[test]
    fn to_array_and_reduce_resolve_at_the_end_or_at_an_error(moves in moves(), most in 0_usize..20) {
        let items = items(&moves);
        let mut expected = Ok(Vec::new());
        for item in items {
            if let Ok(list) = &mut expected {
                match item {
                    Ok(_) if list.len() == most => expected = Err(Unresolved::TooMany(most)),
                    Ok(n) => list.push(n),
                    Err(error) => expected = Err(Unresolved::Item(error)),
                }
            }
        }
        let (source, dropped) = Source::new(&moves);
        let list = runtime().block_on(source.steps().to_array(most));
        prop_assert_eq!(dropped.load(Ordering::Relaxed), 1);
        let (source, _) = Source::new(&moves);
        let sum = runtime().block_on(source.steps().reduce(most, 0, |sum, n| Ok(sum + n)));
        prop_assert_eq!(sum, list.as_ref().map(|list| list.iter().sum()).map_err(|error| *error));
        prop_assert_eq!(list, expected);

        // Cancelled at each await point.
        for count in 0..moves.len() {
            let (source, dropped) = Source::new(&moves);
            let mut future = Box::pin(source.steps().to_array(most));
            let mut context = Context::from_waker(Waker::noop());
            let done = (0..count).any(|_| future.poll_unpin(&mut context).is_ready());
            drop(future);
            prop_assert_eq!(dropped.load(Ordering::Relaxed), 1);
            if done { break }
        }
    }

    #[test]
    fn batches_and_windows_of_a_count_hold_every_item(moves in moves(), size in 1_usize..5) {
        let expected = lists(&items(&moves), size);
        check(&moves, |source| source.steps().batch(BatchBy { size, every: None }), &expected)?;
        check(&moves, |source| source.steps().window(WindowBy::Count(size)), &expected)?;
        let every = Some(Duration::from_secs(3600));
        check(&moves, |source| source.steps().batch(BatchBy { size, every }), &expected)?;
    }

    #[test]
    fn dedupe_lets_pass_what_is_not_among_the_last(moves in moves(), count in 1_usize..5) {
        let mut seen = Vec::new();
        let expected: Vec<Item> = items(&moves).into_iter().filter(|item| {
            let Ok(n) = item else { return true };
            let key = n % 4;
            let new = !seen.contains(&key);
            if new {
                seen.push(key);
                seen.drain(..seen.len().saturating_sub(count));
            }
            new
        }).collect();
        let remember = Remember { count, time: Duration::from_secs(3600) };
        check(&moves, |source| source.steps().dedupe(remember, |n| n % 4), &expected)?;
    }

    #[test]
    fn flat_gives_one_stream_after_the_other(moves in moves()) {
        let expected = flattened(&items(&moves));
        check(&moves, |source| source.steps().map(|n| ready(Ok(inner(n)))).flat(), &expected)?;
        check(&moves, |source| source.steps().map(|n| ready(Ok(inner(n)))).flat_concurrent(1), &expected)?;
        let (source, _) = Source::new(&moves);
        let together: Vec<Item> = runtime().block_on(source.steps().map(|n| ready(Ok(inner(n)))).flat_concurrent(3).collect());
        prop_assert_eq!(sorted(together), sorted(expected));
    }

    #[test]
    fn a_chain_asks_its_second_stream_after_the_end_of_the_first(moves in moves(), then in moves()) {
        let expected: Vec<Item> = [items(&moves), items(&then)].concat();
        check(&moves, |source| source.steps().chain(Source::new(&then).0), &expected)?;

        let (second, dropped) = Source::new(&then);
        let asked = Arc::clone(&second.asked);
        let mut flow = Box::pin(Source::new(&moves).0.steps().chain(second));
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..moves.len() {
            _ = flow.poll_next_unpin(&mut context);
            prop_assert_eq!(asked.load(Ordering::Relaxed), 0);
        }
        drop(flow);
        prop_assert_eq!(dropped.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_join_gives_everything_in_the_order_of_each_by_turns(scripts in prop::collection::vec(moves(), 0..5)) {
        let made: Vec<_> = scripts.iter().map(|moves| Source::new(moves)).collect();
        let (sources, dropped): (Vec<_>, Vec<_>) = made.into_iter().unzip();
        let tagged = sources.into_iter().enumerate().map(|(at, source)| source.steps().map(move |n| ready(Ok((at, n)))));
        let found: Vec<Result<(usize, u32), u8>> = runtime().block_on(join(tagged).collect());

        for (at, moves) in scripts.iter().enumerate() {
            let own: Vec<u32> = found.iter().flatten().filter(|(from, _)| *from == at).map(|(_, n)| *n).collect();
            let sent: Vec<u32> = items(moves).into_iter().flatten().collect();
            prop_assert_eq!(own, sent);
            prop_assert_eq!(dropped[at].load(Ordering::Relaxed), 1);
        }
        let errors: usize = scripts.iter().map(|moves| items(moves).iter().filter(|item| item.is_err()).count()).sum();
        prop_assert_eq!(found.iter().filter(|item| item.is_err()).count(), errors);
    }

    #[test]
    fn steps_compose(moves in moves()) {
        let mut expected = lists(&items(&moves).into_iter().filter(|item| item.map_or(true, |n| n != 2)).collect::<Vec<_>>(), 2);
        let third = expected.iter().enumerate().filter(|(_, list)| list.is_ok()).nth(2).map(|(at, _)| at);
        expected.truncate(third.map_or(expected.len(), |at| at + 1));
        check(
            &moves,
            |source| source.steps().filter(|n| *n != 2).pipe(|flow| flow.batch(BatchBy { size: 2, every: None })).take(3),
            &expected,
        )?;
    }
}

#[test]
fn a_join_takes_turns() {
    let many = |n: u32| Source::new(&[Move::Item(n); 3]).0;

    let found: Vec<Item> = runtime().block_on(join([many(1), many(2), many(3)]).collect());
    let two: Vec<Item> = runtime().block_on(many(1).steps().join(many(2)).collect());

    assert_eq!(found, [1, 2, 3, 1, 2, 3, 1, 2, 3].map(Ok));
    assert_eq!(two, [1, 2, 1, 2, 1, 2].map(Ok));
}

#[tokio::test(start_paused = true)]
async fn a_batch_and_a_window_are_emitted_when_their_time_has_come() {
    for is_window in [false, true] {
        let (to, from) = futures::channel::mpsc::channel::<Item>(8);
        let mut to = to;
        let every = Duration::from_secs(10);
        let stream = from.steps();
        let mut flow = if is_window {
            stream.window(WindowBy::Time { every, most: 100 })
        } else {
            stream.batch(BatchBy {
                size: 100,
                every: Some(every),
            })
        };

        to.try_send(Ok(1)).expect("room");
        assert_eq!(flow.next().now_or_never(), None);
        advance(Duration::from_millis(9_999)).await;
        assert_eq!(flow.next().now_or_never(), None);
        advance(Duration::from_millis(1)).await;
        assert_eq!(flow.next().now_or_never(), Some(Some(Ok(vec![1]))));

        // Nothing waits without an item.
        advance(Duration::from_secs(4)).await;
        to.try_send(Ok(2)).expect("room");
        assert_eq!(flow.next().now_or_never(), None);
        advance(Duration::from_secs(6)).await;
        let at_the_next_window = flow.next().now_or_never();
        assert_eq!(at_the_next_window.is_some(), is_window);
        to.try_send(Ok(3)).expect("room");
        assert_eq!(flow.next().now_or_never(), None);
        drop(to);
        let tail = if is_window { vec![3] } else { vec![2, 3] };
        assert_eq!(flow.next().await, Some(Ok(tail)));
        assert_eq!(flow.next().await, None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_busy_upstream_does_not_keep_a_batch_from_its_time() {
    let numbers = futures::stream::unfold(0_u32, |n| async move {
        if n % 100 == 99 {
            advance(Duration::from_millis(100)).await;
        }
        Some((Ok::<u32, u8>(n), n + 1))
    });
    let every = Some(Duration::from_secs(1));
    let mut flow = Box::pin(numbers.steps().batch(BatchBy {
        size: usize::MAX,
        every,
    }));

    let list = flow.next().await.expect("a batch").expect("no error");

    assert!((900..1_200).contains(&list.len()), "{}", list.len());
}

#[tokio::test(start_paused = true)]
async fn dedupe_forgets_after_its_time() {
    let (mut to, from) = futures::channel::mpsc::channel::<Item>(8);
    let remember = Remember {
        count: 100,
        time: Duration::from_secs(10),
    };
    let mut flow = from.steps().dedupe(remember, |n| *n);

    let mut passed = Vec::new();
    for seconds in [0, 9, 1, 1] {
        advance(Duration::from_secs(seconds)).await;
        to.try_send(Ok(7)).expect("room");
        passed.push(flow.next().now_or_never().is_some());
    }

    assert_eq!(passed, [true, false, true, false]);
}
