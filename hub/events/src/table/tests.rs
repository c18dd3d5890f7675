//! Tests of the table: who gets an event, and when an entry may go.

use super::*;
use crate::Limits;
use crate::mailbox::{Deliveries, Item, Mailbox, Reason, mailbox};

fn reader() -> (Mailbox, Deliveries) {
    mailbox(Limits {
        items: 10,
        bytes: 1 << 20,
    })
}

fn filter(text: &str) -> TopicFilter {
    text.parse().expect("a filter")
}

fn publish(table: &Table, text: &str) -> Spread {
    let topic: Topic = text.parse().expect("a topic");
    let readers = table.readers(topic.as_str(), topic.event_type());
    readers.push(&Arc::new(Publication::new(topic, None)))
}

#[test]
fn each_reader_gets_an_event_once() {
    let table = Table::new(1 << 30);
    let readers: Vec<_> = (0..10).map(|_| reader()).collect();
    for (index, (mailbox, _)) in readers.iter().enumerate() {
        table.join(&filter("t:1"), mailbox.queue());
        table.join(&filter("t:1"), mailbox.queue());
        if index % 2 == 0 {
            table.join(&filter("t:*"), mailbox.queue());
        }
    }

    assert_eq!(publish(&table, "t:1").delivered, 10);
    assert_eq!(publish(&table, "t:2").delivered, 5);
    assert_eq!(publish(&table, "u:1").delivered, 0);
    for (index, (_, deliveries)) in readers.iter().enumerate() {
        assert_eq!(deliveries.queued(), if index % 2 == 0 { 2 } else { 1 });
    }
}

#[test]
fn an_entry_goes_only_when_nobody_wanted_it_since_it_was_idle() {
    let table = Table::new(1 << 30);
    let (mailbox, _deliveries) = reader();
    let (one, queue) = (filter("t:1"), mailbox.queue());

    table.join(&one, queue);
    table.join(&one, queue);
    assert!(table.leave(&one, queue).is_none(), "one of two is left");
    let idle = table.leave(&one, queue).expect("nobody is left");
    table.join(&one, queue);
    assert!(matches!(table.expire(&idle), Expiry::Wanted));

    let idle = table.leave(&one, queue).expect("reported anew");
    table.join(&one, queue);
    assert!(table.leave(&one, queue).is_none(), "it is reported already");
    let Expiry::Again(idle) = table.expire(&idle) else {
        panic!("it was wanted in between")
    };
    assert!(matches!(table.expire(&idle), Expiry::Removed));
    assert_eq!(table.incarnation(&one), None);
}

#[test]
fn a_gap_is_due_once_after_an_incarnation_that_had_confirmed() {
    let table = Table::new(1 << 30);
    let ((early, mut early_deliveries), (late, mut late_deliveries)) = (reader(), reader());
    let (confirmed, waiting) = (filter("t:1"), filter("t:2"));
    let loss = Loss {
        reason: Reason::Reconnected,
        missed: None,
    };
    table.join(&confirmed, early.queue());
    table.mark(&confirmed, 1);
    table.join(&waiting, late.queue());

    assert_eq!(table.begin().len(), 2);
    assert_eq!(table.incarnation(&confirmed), Some(0));
    // An incarnation that ends before it has confirmed anything takes nothing away.
    table.begin();

    assert!(table.resumed(&waiting).is_none());
    let readers = table.resumed(&confirmed).expect("a gap is due");
    assert_eq!(readers.push_gap_of(&confirmed, loss), 1);
    assert!(table.resumed(&confirmed).is_none());
    assert!(matches!(early_deliveries.try_next(), Some(Item::Gap(gap)) if gap.topic == "t:1"));
    assert!(late_deliveries.try_next().is_none());
}
