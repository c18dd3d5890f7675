//! Tests of `group_by`.

use super::*;

type KeyOf = fn(&u32) -> u32;
type Groups = Flow<Grouped<Source, KeyOf, u32, u32, u8>>;
type One = Pin<Box<KeyedGroup<Source, KeyOf, u32, u32, u8>>>;

fn bounds(groups: usize, buffer: usize, unread: Unread) -> GroupBounds {
    GroupBounds {
        groups,
        idle: Duration::from_secs(60),
        buffer,
        unread,
    }
}

fn key(n: &u32) -> u32 {
    n % 4
}

fn grouped(moves: &[Move], bounds: GroupBounds) -> (Groups, Arc<AtomicUsize>) {
    let (source, dropped) = Source::new(moves);
    (source.steps().group_by(bounds, key as KeyOf), dropped)
}

/// What was read: the items of each group, in the order in which the groups began; how many were missed; and the errors.
#[derive(Debug, Default)]
struct Read {
    items: Vec<(u32, Vec<u32>)>,
    missed: u64,
    errors: usize,
}

/// Reads the flow and its groups, in an order that `choices` say, until all have ended.
fn read(flow: Groups, choices: &[usize]) -> Read {
    let mut context = Context::from_waker(Waker::noop());
    let mut outer = Some(Box::pin(flow));
    let mut groups: Vec<(usize, One)> = Vec::new();
    let mut read = Read::default();
    let mut choices = choices.iter().cycle();
    for _ in 0..20_000 {
        if outer.is_none() && groups.is_empty() {
            return read;
        }
        let choice = choices.next().copied().unwrap_or(0) % (groups.len() + 1);
        if choice == groups.len() {
            match outer.as_mut().map(|outer| outer.poll_next_unpin(&mut context)) {
                Some(Poll::Ready(Some(Ok(group)))) => {
                    read.items.push((*group.key(), Vec::new()));
                    groups.push((read.items.len() - 1, Box::pin(group)));
                }
                Some(Poll::Ready(Some(Err(_)))) => read.errors += 1,
                Some(Poll::Ready(None)) => outer = None,
                Some(Poll::Pending) | None => {}
            }
        } else {
            let (number, group) = &mut groups[choice];
            match group.poll_next_unpin(&mut context) {
                Poll::Ready(Some(item)) => {
                    let item = item.expect("errors come out of the flow of groups");
                    assert_eq!(key(&item), *group.key());
                    read.items[*number].1.push(item);
                }
                Poll::Ready(None) => {
                    read.missed += group.missed();
                    drop(groups.remove(choice));
                }
                Poll::Pending => {}
            }
        }
    }
    panic!("it stalls: {read:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn every_item_comes_out_of_a_group_of_its_key_in_order(
        moves in moves(),
        choices in prop::collection::vec(0_usize..16, 1..20).prop_map(|mut choices| { choices.extend(0..8); choices }),
        groups in 1_usize..5,
        buffer in 1_usize..4,
    ) {
        let runtime = runtime();
        let _guard = runtime.enter();
        let (flow, dropped) = grouped(&moves, bounds(groups, buffer, Unread::Wait));

        let read = read(flow, &choices);

        for own in 0..4 {
            let sent: Vec<u32> = items(&moves).into_iter().flatten().filter(|n| key(n) == own).collect();
            let got: Vec<u32> = read.items.iter().filter(|(key, _)| *key == own).flat_map(|(_, items)| items.clone()).collect();
            prop_assert_eq!(got, sent);
        }
        prop_assert_eq!(read.missed, 0);
        prop_assert_eq!(read.errors, items(&moves).iter().filter(|item| item.is_err()).count());
        prop_assert_eq!(dropped.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn what_an_unread_group_drops_is_counted_and_stalls_nobody(moves in moves(), groups in 1_usize..5, buffer in 1_usize..4) {
        let runtime = runtime();
        let _guard = runtime.enter();
        let (flow, _) = grouped(&moves, bounds(groups, buffer, Unread::DropOldest));
        let mut context = Context::from_waker(Waker::noop());
        let mut flow = Box::pin(flow);
        let mut unread = Vec::new();
        let mut errors = 0;
        for _ in 0..1_000 {
            match flow.poll_next_unpin(&mut context) {
                Poll::Ready(Some(Ok(group))) => unread.push(Box::pin(group)),
                Poll::Ready(Some(Err(_))) => errors += 1,
                Poll::Ready(None) => break,
                Poll::Pending => {}
            }
        }

        let (mut count, mut missed) = (0, 0);
        for mut group in unread {
            while let Poll::Ready(Some(_)) = group.poll_next_unpin(&mut context) {
                count += 1;
            }
            missed += group.missed();
        }
        let sent = items(&moves).len() - errors;
        prop_assert_eq!(count + missed, sent as u64);
        prop_assert!(count <= (2 * groups * buffer) as u64, "{} wait", count);
    }

    #[test]
    fn whoever_is_dropped_when_the_upstream_is_dropped_once(moves in moves(), cuts in prop::collection::vec(0_usize..40, 4)) {
        let runtime = runtime();
        let _guard = runtime.enter();
        let mut context = Context::from_waker(Waker::noop());
        let (flow, dropped) = grouped(&moves, bounds(2, 2, Unread::Wait));
        let mut outer = Some(Box::pin(flow));
        let mut groups = Vec::new();
        for turn in 0..40 {
            if turn == cuts[0] {
                outer = None;
                prop_assert_eq!(dropped.load(Ordering::Relaxed), 1, "at once, with the flow");
            }
            if cuts[1..].contains(&turn) {
                groups.pop();
            }
            if let Some(Poll::Ready(Some(Ok(group)))) = outer.as_mut().map(|outer| outer.poll_next_unpin(&mut context)) {
                groups.push(Box::pin(group));
            }
            for group in &mut groups {
                _ = group.poll_next_unpin(&mut context);
            }
        }
        drop(outer);
        for group in &mut groups {
            let ended = (0..10).any(|_| matches!(group.poll_next_unpin(&mut context), Poll::Ready(None)));
            prop_assert!(ended, "a group ends when the flow is gone");
        }
        drop(groups);
        prop_assert_eq!(dropped.load(Ordering::Relaxed), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_group_can_be_read_before_the_next_one_is_asked_for() {
    let script = [0, 4, 8, 1, 5].map(Move::Item);
    let (flow, _) = grouped(&script, bounds(2, 4, Unread::Wait));
    let mut flow = Box::pin(flow);

    let mut first = Box::pin(flow.next().await.expect("a group").expect("no error"));
    let zeros: Vec<Item> = first.by_ref().take_while(|item| ready(*item != Ok(8))).collect().await;
    let mut second = flow.next().await.expect("a group").expect("no error");
    let ones = [second.next().await, second.next().await];

    assert_eq!(zeros, [Ok(0), Ok(4)]);
    assert_eq!(ones, [Some(Ok(1)), Some(Ok(5))]);
}

#[tokio::test(start_paused = true)]
async fn a_group_ends_when_it_is_idle_and_its_key_begins_anew() {
    let (mut to, from) = futures::channel::mpsc::channel::<Item>(8);
    let mut flow = from.steps().group_by(bounds(8, 8, Unread::Wait), |n| n % 4);

    to.try_send(Ok(1)).expect("room");
    let mut first = flow.next().await.expect("a group").expect("no error");
    assert_eq!(first.next().await, Some(Ok(1)));
    let waited = tokio::time::Instant::now();
    assert_eq!(first.next().await, None);
    assert_eq!(waited.elapsed().as_secs(), 60);
    to.try_send(Ok(5)).expect("room");
    let mut again = flow.next().await.expect("a group").expect("no error");

    assert_eq!(again.next().await, Some(Ok(5)));
}

#[tokio::test(start_paused = true)]
async fn readers_in_tasks_of_their_own_wake_each_other() {
    let script: Vec<Move> = (0..400).flat_map(|n| [Move::Item(n), Move::Pending]).collect();
    let (flow, dropped) = grouped(&script, bounds(4, 1, Unread::Wait));
    let tasks = tokio_tasks(flow).await;

    assert_eq!(sorted(tasks), (0..400).collect::<Vec<u32>>());
    assert_eq!(dropped.load(Ordering::Relaxed), 1);
}

/// Reads each group in a task of a set.
async fn tokio_tasks(flow: Groups) -> Vec<u32> {
    let mut tasks = tokio::task::JoinSet::new();
    let mut flow = Box::pin(flow);
    while let Some(group) = flow.next().await {
        let group = group.expect("no error");
        tasks.spawn(group.filter_map(|item| ready(item.ok())).collect::<Vec<u32>>());
    }
    tasks.join_all().await.concat()
}
