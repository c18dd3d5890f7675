//! Tests of the mirror: what a change does to it, and what its reader gets.

use alkhub_config::EventsConfig;
use futures::FutureExt as _;
use prometheus::Registry;

use super::*;
use crate::directory::changes::{self, DirectoryChanges};
use crate::metrics::Metrics;

/// The mirror of hub `m`, its reader's end, and leases for it.
fn mirror(room: usize) -> (Mirror, DirectoryChanges, Leases) {
    let hub: HubId = "m".parse().expect("a hub id");
    let metrics = Metrics::register(&Registry::new()).expect("fresh metrics");
    let leases = Leases::new(&EventsConfig::default(), &hub, None, metrics);
    let (changes, reader) = changes::channel(room);
    (Mirror::new(hub, changes), DirectoryChanges::new(reader), leases)
}

fn entry(instance: &str, generation: u64, hub: &str) -> DirectoryEntry {
    let json = format!(
        r#"{{"spoke":"s","instance":"{instance}","hub":"{hub}","connection":"c","generation":{generation},
        "connectedAt":"2026-01-01T00:00:00Z"}}"#
    );
    serde_json::from_str(&json).expect("an entry")
}

/// The field and value of an entry.
fn stored(entry: &DirectoryEntry) -> (String, String) {
    let record = record::write(entry);
    let value = format!("{} {} {}", entry.generation, entry.hub, record.entry);
    (record.field, value)
}

/// The directory as of change 1.
fn directory(entries: &[DirectoryEntry]) -> StoredDirectory {
    StoredDirectory {
        epoch: "e".to_owned(),
        number: 1,
        entries: entries.iter().map(stored).collect(),
    }
}

fn put(number: u64, entry: &DirectoryEntry) -> String {
    let (field, value) = stored(entry);
    format!("e {number} put {field} {value}")
}

fn held(mirror: &mut Mirror, reader: &mut DirectoryChanges) -> Vec<(String, String)> {
    mirror.snapshot();
    let Some(DirectoryChange::Snapshot(entries)) = reader.try_recv() else {
        panic!("there is room for a snapshot")
    };
    let mut held: Vec<_> = entries
        .iter()
        .map(|entry| (entry.instance.to_string(), entry.hub.to_string()))
        .collect();
    held.sort();
    held
}

#[test]
fn a_change_that_is_missing_shows_in_the_numbers() {
    let (mut mirror, _reader, leases) = mirror(8);
    mirror.load(directory(&[]), &BTreeSet::new());

    let next = mirror.follow(put(2, &entry("i", 1, "a")).as_bytes(), &leases);
    let again = mirror.follow(put(2, &entry("i", 1, "a")).as_bytes(), &leases);
    let hole = mirror.follow(put(4, &entry("i", 2, "a")).as_bytes(), &leases);
    let other_epoch = mirror.follow(b"f 3 gone a", &leases);

    assert_eq!((next, again), (Ok(()), Ok(())));
    assert_eq!((hole, other_epoch), (Err(OutOfStep), Err(OutOfStep)));
}

#[test]
fn an_entry_of_this_hub_gives_way_to_a_higher_fence_only() {
    let (mut mirror, mut reader, leases) = mirror(8);
    mirror.register(entry("kept", 5, "m"));
    mirror.register(entry("lost", 5, "m"));
    mirror.load(directory(&[]), &BTreeSet::new());

    for (number, of_another) in [(2, entry("kept", 5, "a")), (3, entry("lost", 5, "z"))] {
        let followed = mirror.follow(put(number, &of_another).as_bytes(), &leases);
        assert_eq!(followed, Ok(()));
    }

    let expected = [("kept", "m"), ("lost", "z")].map(|(instance, hub)| (instance.to_owned(), hub.to_owned()));
    assert_eq!(held(&mut mirror, &mut reader), expected);
}

/// The feed lags behind: this hub has registered the instance and ended it again before it hears of the other hub's
/// entry.
#[test]
fn an_entry_that_one_of_this_hub_has_replaced_does_not_outlive_it() {
    let (mut mirror, mut reader, leases) = mirror(8);
    mirror.load(directory(&[]), &BTreeSet::new());
    assert_eq!(held(&mut mirror, &mut reader), []);
    let (before, own) = (entry("i", 6, "a"), entry("i", 7, "m"));
    mirror.register(own.clone());
    mirror.unregister(&InstanceKey::of(&own), 7);

    for (number, of_then) in [(2, &before), (3, &own)] {
        assert_eq!(mirror.follow(put(number, of_then).as_bytes(), &leases), Ok(()));
    }

    let mut changes: Vec<_> = std::iter::from_fn(|| reader.try_recv()).collect();
    let last = changes.pop().expect("a change");
    let DirectoryChange::Remove { generation: 6, hub, .. } = &last else {
        panic!("{last:?} after {changes:?}")
    };
    assert_eq!(hub.as_str(), "a");
    assert_eq!(held(&mut mirror, &mut reader), []);
}

#[test]
fn what_redis_has_of_this_hub_and_this_hub_does_not_hold_is_to_be_unregistered() {
    let (mut mirror, mut reader, _leases) = mirror(8);

    let stale = mirror.load(directory(&[entry("old", 3, "m"), entry("i", 4, "a")]), &BTreeSet::new());

    let [DirectoryWrite::Unregister { field, generation: 3 }] = &stale[..] else {
        panic!("{stale:?}")
    };
    assert_eq!(field, "s/old");
    assert_eq!(held(&mut mirror, &mut reader), [("i".to_owned(), "a".to_owned())]);
    assert!(mirror.next_generation() > 4);
}

#[tokio::test]
async fn a_reader_without_room_gets_a_snapshot_once_there_is_some() {
    let (mut mirror, mut reader, _leases) = mirror(1);
    mirror.snapshot();
    assert!(matches!(reader.recv().await, Some(DirectoryChange::Snapshot(none)) if none.is_empty()));
    mirror.register(entry("a", 1, "m"));
    mirror.register(entry("b", 2, "m"));

    assert!(matches!(reader.recv().await, Some(DirectoryChange::Put(_))));
    mirror.room().await;

    assert_eq!(held(&mut mirror, &mut reader).len(), 2);
}

/// With far fewer changes than may wait.
#[tokio::test]
async fn a_reader_that_would_keep_too_many_bytes_gets_a_snapshot_once_it_has_read_half_of_them() {
    let (mut mirror, mut reader, _leases) = mirror(1_000);
    mirror.snapshot();
    assert!(matches!(reader.recv().await, Some(DirectoryChange::Snapshot(none)) if none.is_empty()));

    for number in 1..=50 {
        let megabyte = serde_json::json!("x".repeat(1024 * 1024));
        mirror.register(DirectoryEntry {
            host_info: Some(megabyte.into()),
            ..entry(&format!("i{number}"), number, "m")
        });
    }

    assert!(mirror.room().now_or_never().is_none(), "nothing is read yet");
    let mut waiting = 0;
    while mirror.room().now_or_never().is_none() {
        assert!(matches!(reader.try_recv(), Some(DirectoryChange::Put(_))));
        waiting += 1;
    }
    assert_eq!(waiting, 16, "a megabyte and a little each, of 32");
    mirror.refill();
    let rest = std::iter::from_fn(|| reader.try_recv());
    let Some(DirectoryChange::Snapshot(entries)) = rest.last() else {
        panic!("a snapshot takes the place of what did not fit")
    };
    assert_eq!(entries.len(), 50);
}

#[test]
fn what_redis_has_lost_of_a_hub_that_answers_stays_until_that_hub_has_a_lease() {
    let (mut mirror, mut reader, _) = mirror(8);
    let all = [entry("i", 1, "linked"), entry("j", 2, "other"), entry("k", 3, "linked")];
    mirror.load(directory(&all), &BTreeSet::new());
    let lapsed = BTreeSet::from(["linked".parse().expect("a hub id")]);
    let held = |mirror: &mut Mirror, reader: &mut _| {
        held(mirror, reader)
            .into_iter()
            .map(|(instance, _)| instance)
            .collect::<Vec<_>>()
    };

    // The instance `k` has moved in the meantime.
    mirror.load(directory(&[entry("k", 4, "other")]), &lapsed);
    assert_eq!(held(&mut mirror, &mut reader), ["i", "k"]);

    mirror.load(directory(&[]), &BTreeSet::new());
    assert_eq!(held(&mut mirror, &mut reader), Vec::<String>::new());
}

/// What the reader got: which instance came, or that a mark did.
fn read(reader: &mut DirectoryChanges) -> Vec<String> {
    let shown = |change| match change {
        DirectoryChange::Put(entry) => entry.instance.to_string(),
        DirectoryChange::Mark(_) => "mark".to_owned(),
        DirectoryChange::Snapshot(_) => "snapshot".to_owned(),
        other => format!("{other:?}"),
    };
    std::iter::from_fn(|| reader.try_recv()).map(shown).collect()
}

fn place(epoch: &str, number: u64) -> Position {
    Position {
        epoch: epoch.to_owned(),
        number,
    }
}

#[test]
fn a_mark_comes_right_behind_the_change_that_it_waits_for() {
    let (mut mirror, mut reader, leases) = mirror(8);
    mirror.load(directory(&[]), &BTreeSet::new());
    mirror.snapshot();

    assert_eq!(mirror.mark(&place("e", 3), &FeedMark::new().0), Ok(()));
    for number in 2..=4 {
        let change = put(number, &entry(&format!("i{number}"), number, "a"));
        assert_eq!(mirror.follow(change.as_bytes(), &leases), Ok(()));
    }
    assert_eq!(mirror.mark(&place("e", 3), &FeedMark::new().0), Ok(()));

    assert_eq!(read(&mut reader), ["snapshot", "i2", "i3", "mark", "i4", "mark"]);
}

#[test]
fn a_mark_of_another_life_of_the_directory_comes_with_the_next_load() {
    let (mut mirror, mut reader, leases) = mirror(8);
    mirror.load(directory(&[]), &BTreeSet::new());
    mirror.snapshot();

    assert_eq!(mirror.mark(&place("f", 1), &FeedMark::new().0), Err(OutOfStep));
    assert_eq!(mirror.follow(put(2, &entry("i", 1, "a")).as_bytes(), &leases), Ok(()));
    assert_eq!(read(&mut reader), ["snapshot", "i"]);
    mirror.leave_feed();
    assert_eq!(mirror.mark(&place("f", 9), &FeedMark::new().0), Ok(()), "a load is due");
    mirror.load(directory(&[]), &BTreeSet::new());
    mirror.refill();

    assert_eq!(read(&mut reader), ["snapshot", "mark", "mark"]);
}

#[test]
fn a_mark_waits_for_a_reader_that_has_no_room() {
    let (mut mirror, mut reader, leases) = mirror(1);
    mirror.load(directory(&[]), &BTreeSet::new());
    mirror.snapshot();

    assert_eq!(mirror.mark(&place("e", 1), &FeedMark::new().0), Ok(()));
    assert_eq!(mirror.follow(put(2, &entry("i", 1, "a")).as_bytes(), &leases), Ok(()));

    // What did not fit is in the snapshot, and the mark follows it.
    for expected in [&["snapshot"][..], &["snapshot"], &["mark"], &[]] {
        assert_eq!(read(&mut reader), expected);
        mirror.refill();
    }
}
