//! Tests of the queue: each promise by itself, then random steps compared with a list.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;

use proptest::prelude::{Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};

use super::*;

const TWO: Limits = Limits { items: 2, bytes: 100 };

/// An item with a name, or a sign, which does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Thing {
    name: u32,
    bytes: usize,
    counts: bool,
}

impl Weigh for Thing {
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn counts(&self) -> bool {
        self.counts
    }
}

/// A reader that counts how often it is woken.
#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn thing(name: u32, bytes: usize) -> Thing {
    let counts = true;
    Thing { name, bytes, counts }
}

fn sign(name: u32) -> Thing {
    let (bytes, counts) = (0, false);
    Thing { name, bytes, counts }
}

/// A queue with the things of these names, of one byte each.
fn queue(names: std::ops::RangeInclusive<u32>) -> Queue<Thing> {
    let mut queue = Queue::new();
    for name in names {
        queue.add(thing(name, 1)).wake();
    }
    queue
}

fn names(queue: &mut Queue<Thing>) -> Vec<u32> {
    std::iter::from_fn(|| queue.pop()).map(|thing| thing.name).collect()
}

fn idle() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

#[test]
fn what_does_not_fit_in_items_or_bytes_is_refused() {
    let mut queue = Queue::new();

    let pushed = [thing(1, 60), thing(2, 60), thing(3, 40), thing(4, 0)]
        .map(|thing| queue.push(thing, TWO).map(Waiter::wake).err());

    assert_eq!(pushed, [None, Some(Full::Queue), None, Some(Full::Queue)]);
    assert_eq!(names(&mut queue), [1, 3]);
}

#[test]
fn one_item_over_the_limits_passes_alone() {
    let mut queue = Queue::new();

    let pushed = [thing(1, 1_000), thing(2, 1)].map(|thing| queue.push(thing, TWO).map(Waiter::wake).err());

    assert_eq!(pushed, [None, Some(Full::Queue)]);
}

#[test]
fn the_oldest_make_room_and_are_handed_out() {
    let mut queue = queue(1..=4);

    let displaced: Vec<u32> = std::iter::from_fn(|| queue.displace(99, TWO))
        .map(|thing| thing.name)
        .collect();

    assert_eq!(displaced, [1, 2, 3]);
    assert_eq!(queue.room(99, TWO), Ok(()));
}

#[test]
fn a_sign_takes_no_room_from_what_counts() {
    let mut queue = queue(1..=1);
    for name in 2..10 {
        queue.add(sign(name)).wake();
    }

    assert_eq!(queue.room(1, TWO), Ok(()));
    assert_eq!((queue.len(), queue.counted(), queue.bytes()), (9, 1, 1));
}

#[test]
fn the_end_comes_after_everything_that_waits_and_nothing_is_pushed_after_it() {
    let mut queue = queue(1..=1);

    queue.end_with(thing(2, 1_000)).wake();
    let pushed = queue.push(thing(3, 1), TWO).map(Waiter::wake);

    assert_eq!(pushed, Err(Full::Ended));
    assert_eq!(queue.poll(&idle()), Poll::Ready(Some(thing(1, 1))));
    assert_eq!(queue.poll(&idle()), Poll::Ready(Some(thing(2, 1_000))));
    assert_eq!(queue.poll(&idle()), Poll::Ready(None));
}

#[test]
fn a_reader_that_waits_is_woken_once() {
    let count = Arc::new(Count::default());
    let waker = Waker::from(Arc::clone(&count));
    let context = Context::from_waker(&waker);
    let woken = || count.0.load(Ordering::Relaxed);
    let mut queue = Queue::new();
    assert_eq!(queue.poll(&context), Poll::Pending);

    for name in 1..=3 {
        queue.add(thing(name, 1)).wake();
    }
    assert_eq!(woken(), 1);
    assert_eq!(names(&mut queue), [1, 2, 3]);
    queue.add(thing(4, 1)).wake();
    assert_eq!(woken(), 1, "it does not wait");
    assert_eq!(names(&mut queue), [4]);
    assert_eq!(queue.poll(&context), Poll::Pending);
    queue.end().wake();

    assert_eq!(woken(), 2);
}

#[test]
fn an_item_that_changes_weighs_what_it_weighs_then() {
    let mut queue = queue(1..=3);

    queue.change(1, |thing| thing.bytes = 50);
    queue.change(3, |_| panic!("there is no fourth"));

    assert_eq!(queue.bytes(), 52);
    queue.retain(|thing| thing.name != 2);
    assert_eq!((queue.bytes(), queue.counted()), (2, 2));
}

#[test]
fn a_queue_that_grew_far_gives_its_memory_back() {
    let mut queue = queue(1..=10_000);

    while queue.pop().is_some() {}

    assert_eq!(queue.items.capacity(), 0);
}

#[test]
fn an_empty_queue_of_few_places_keeps_none() {
    let mut few = queue(1..=3);
    let mut some = queue(1..=30);

    while few.pop().is_some() {}
    while some.pop().is_some() {}

    assert_eq!(few.items.capacity(), 0);
    assert!(
        some.items.capacity() >= 30,
        "a queue that is in use is not made anew all the time"
    );
}

// === the model ===

#[derive(Clone, Copy, Debug)]
enum Step {
    Push(usize),
    PushOver(usize),
    Sign,
    Poll,
    Retain(u32),
    TakeAll,
    End,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0..40_usize).prop_map(Step::Push),
        4 => (0..40_usize).prop_map(Step::PushOver),
        2 => any::<()>().prop_map(|()| Step::Sign),
        8 => any::<()>().prop_map(|()| Step::Poll),
        1 => (2..4_u32).prop_map(Step::Retain),
        1 => any::<()>().prop_map(|()| Step::TakeAll),
        1 => any::<()>().prop_map(|()| Step::End),
    ];
    prop::collection::vec(step, 0..200)
}

/// A queue modelled by a list.
#[derive(Default)]
struct Model {
    waiting: Vec<Thing>,
    has_ended: bool,
    /// The reader waits.
    waits: bool,
    woken: usize,
}

impl Model {
    fn bytes(&self) -> usize {
        self.waiting.iter().map(|thing| thing.bytes).sum()
    }

    fn counted(&self) -> usize {
        self.waiting.iter().filter(|thing| thing.counts).count()
    }

    fn fits(&self, bytes: usize, limits: Limits) -> bool {
        self.counted() == 0 || (self.counted() < limits.items && self.bytes() + bytes <= limits.bytes)
    }

    fn add(&mut self, thing: Thing) {
        self.waiting.push(thing);
        self.wake();
    }

    fn wake(&mut self) {
        self.woken += usize::from(std::mem::take(&mut self.waits));
    }

    /// What a reader finds.
    fn read(&mut self) -> Poll<Option<Thing>> {
        if !self.waiting.is_empty() {
            return Poll::Ready(Some(self.waiting.remove(0)));
        }
        if self.has_ended {
            return Poll::Ready(None);
        }
        self.waits = true;
        Poll::Pending
    }
}

proptest! {
    #[test]
    fn a_queue_is_a_list_with_bounds_and_one_reader(steps in steps(), items in 1..6_usize, bytes in 1..100_usize) {
        let limits = Limits { items, bytes };
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let context = Context::from_waker(&waker);
        let (mut queue, mut model) = (Queue::new(), Model::default());
        for (name, step) in (0..).zip(steps) {
            match step {
                Step::Push(bytes) => {
                    let expected = match (model.has_ended, model.fits(bytes, limits)) {
                        (true, _) => Err(Full::Ended),
                        (false, false) => Err(Full::Queue),
                        (false, true) => Ok(()),
                    };
                    prop_assert_eq!(queue.room(bytes, limits), expected);
                    prop_assert_eq!(queue.push(thing(name, bytes), limits).map(Waiter::wake), expected);
                    if expected.is_ok() {
                        model.add(thing(name, bytes));
                    }
                }
                Step::PushOver(bytes) => {
                    while let Some(displaced) = queue.displace(bytes, limits) {
                        prop_assert!(!model.fits(bytes, limits), "{displaced:?} was in nobody's way");
                        prop_assert_eq!(displaced, model.waiting.remove(0));
                    }
                    prop_assert!(model.fits(bytes, limits));
                    queue.add(thing(name, bytes)).wake();
                    model.add(thing(name, bytes));
                }
                Step::Sign => {
                    queue.add(sign(name)).wake();
                    model.add(sign(name));
                }
                Step::Poll => prop_assert_eq!(queue.poll(&context), model.read()),
                Step::Retain(every) => {
                    queue.retain(|thing| thing.name % every != 0);
                    model.waiting.retain(|thing| thing.name % every != 0);
                }
                Step::TakeAll => prop_assert_eq!(Vec::from(queue.take_all()), std::mem::take(&mut model.waiting)),
                Step::End => {
                    queue.end().wake();
                    model.has_ended = true;
                    model.wake();
                }
            }
            prop_assert_eq!(queue.len(), model.waiting.len());
            prop_assert_eq!((queue.counted(), queue.bytes()), (model.counted(), model.bytes()));
            prop_assert_eq!(count.0.load(Ordering::Relaxed), model.woken);
        }
    }
}
