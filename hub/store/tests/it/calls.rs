//! Call records.

use std::time::Duration;

use alkhub_protocol::call::{CallRecord, CallStatus};
use alkhub_store::{CallFilter, CallRow, Cursor, Mark, Store};
use alkhub_test_support::until;
use jiff::Timestamp;
use uuid::Uuid;

use crate::fixture::{config, database, execute, number, ready, store};

const WAITING: &str = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
                       AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

const PARTITIONS: &str = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'alkhub.calls'::regclass";

fn row(operation: &str, started_at: Timestamp) -> CallRow {
    CallRow {
        call_id: Uuid::now_v7(),
        root_call_id: Uuid::now_v7(),
        parent_call_id: None,
        request_id: "r-1".parse().expect("an id"),
        parent_request_id: None,
        operation: operation.parse().expect("a name"),
        status: CallStatus::Completed,
        code: None,
        caller: "key-1".into(),
        spoke: Some("builder".parse().expect("a name")),
        hub_id: "hub-0-abc".parse().expect("an id"),
        started_at,
        duration: Duration::from_micros(1_500),
        input_bytes: 10,
        output_bytes: 20,
        trace_id: None,
    }
}

fn now() -> Timestamp {
    Timestamp::now()
}

fn ids(records: &[CallRecord]) -> Vec<&str> {
    records.iter().map(|record| record.call_id.as_str()).collect()
}

#[tokio::test]
async fn a_record_is_read_as_it_was_written() {
    let store = store().await;
    let written = CallRow {
        parent_request_id: Some("r-0".parse().expect("an id")),
        status: CallStatus::Failed,
        code: Some("TIMEOUT".to_owned()),
        trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736".to_owned()),
        ..row("text.upper", now())
    };

    store
        .calls()
        .insert(std::slice::from_ref(&written))
        .await
        .expect("written");
    let read = store.calls().list(&CallFilter::default()).await.expect("asked");

    let [read] = &read[..] else { panic!("{read:?}") };
    assert_eq!(read.call_id, written.call_id.to_string());
    assert_eq!(
        (read.request_id.as_str(), read.parent_request_id.as_deref()),
        ("r-1", Some("r-0"))
    );
    assert_eq!(
        (read.operation.as_str(), read.status),
        ("text.upper", CallStatus::Failed)
    );
    assert_eq!((read.code.as_deref(), read.caller.as_str()), (Some("TIMEOUT"), "key-1"));
    assert_eq!(
        (read.spoke.as_deref(), read.hub_id.as_str()),
        (Some("builder"), "hub-0-abc")
    );
    assert_eq!(read.started_at.as_microsecond(), written.started_at.as_microsecond());
    assert_eq!((read.duration_us, read.input_bytes, read.output_bytes), (1_500, 10, 20));
    assert_eq!(read.trace_id, written.trace_id);
}

#[tokio::test]
async fn a_batch_that_is_sent_twice_is_written_once() {
    let store = store().await;
    let rows: Vec<_> = (0..1_000).map(|_| row("text.upper", now())).collect();

    store.calls().insert(&[]).await.expect("nothing to do");
    store.calls().insert(&rows).await.expect("written");
    store.calls().insert(&rows).await.expect("written again");

    let filter = CallFilter {
        limit: 5_000,
        ..CallFilter::default()
    };
    assert_eq!(store.calls().list(&filter).await.expect("asked").len(), 1_000);
}

#[tokio::test]
async fn a_strange_code_spoils_no_batch() {
    let store = store().await;
    let strange = CallRow {
        code: Some("A\0B".to_owned()),
        ..row("text.upper", now())
    };

    store
        .calls()
        .insert(&[strange, row("text.upper", now())])
        .await
        .expect("written");

    let records = store.calls().list(&CallFilter::default()).await.expect("asked");
    let codes: Vec<_> = records.iter().filter_map(|record| record.code.as_deref()).collect();
    assert_eq!((records.len(), codes), (2, vec!["A\u{FFFD}B"]));
}

#[tokio::test]
async fn records_are_filtered_by_operation_status_and_caller() {
    let store = store().await;
    let mut rows: Vec<_> = ["text.upper", "text.lower", "git.log"]
        .map(|name| row(name, now()))
        .into();
    rows[1].status = CallStatus::Aborted;
    rows[2].caller = "key-2".into();
    store.calls().insert(&rows).await.expect("written");
    let list = async |filter: CallFilter| store.calls().list(&filter).await.expect("asked");
    let any = CallFilter::default;

    let by_operation = list(CallFilter {
        operation: Some(rows[0].operation.clone()),
        ..any()
    })
    .await;
    let by_status = list(CallFilter {
        status: Some(CallStatus::Aborted),
        ..any()
    })
    .await;
    let by_caller = list(CallFilter {
        caller: Some("key-2".to_owned()),
        ..any()
    })
    .await;
    let by_all = list(CallFilter {
        caller: Some("key-2".to_owned()),
        status: Some(CallStatus::Aborted),
        ..any()
    })
    .await;

    assert_eq!(ids(&by_operation), [rows[0].call_id.to_string()]);
    assert_eq!(ids(&by_status), [rows[1].call_id.to_string()]);
    assert_eq!(ids(&by_caller), [rows[2].call_id.to_string()]);
    assert!(by_all.is_empty());
}

#[tokio::test]
async fn pages_meet_without_a_gap_or_an_overlap() {
    let store = store().await;
    // Many of one moment, and over the end of an hour.
    let start = now();
    let rows: Vec<_> = (0..50_u64)
        .map(|number| row("text.upper", start - Duration::from_secs(600 * (number / 7))))
        .collect();
    store.calls().insert(&rows).await.expect("written");
    let all = store.calls().list(&CallFilter::default()).await.expect("asked");

    let (mut down, mut before) = (Vec::new(), None);
    loop {
        let filter = CallFilter {
            before,
            limit: 7,
            ..CallFilter::default()
        };
        let page = store.calls().list(&filter).await.expect("asked");
        let Some(last) = page.last() else { break };
        before = Some(through_text(&Cursor::of_call(last).expect("a cursor")));
        down.extend(page);
    }
    let up = followed(&store, &mut Cursor::of_call(&all[49]).expect("a cursor").into()).await;

    assert_eq!(all.len(), 50);
    assert_eq!(ids(&down), ids(&all));
    let written: Vec<_> = rows.iter().map(|row| row.call_id.to_string()).collect();
    let oldest = all[49].call_id.as_str();
    let wanted: Vec<_> = written.iter().map(String::as_str).filter(|id| *id != oldest).collect();
    assert_eq!(
        ids(&up),
        wanted,
        "everything that ended after the oldest, as it was written"
    );
    let between = CallFilter {
        before: Cursor::of_call(&all[10]).ok(),
        after: Cursor::of_call(&all[20]).ok().map(Mark::from),
        ..CallFilter::default()
    };
    assert_eq!(
        ids(&store.calls().list(&between).await.expect("asked")),
        ids(&all[11..20])
    );
}

fn through_text<T: ToString + std::str::FromStr<Err: std::fmt::Debug>>(cursor: &T) -> T {
    cursor.to_string().parse().expect("its own text")
}

/// Everything after a mark, page by page; the mark is behind it then.
async fn followed(store: &Store, mark: &mut Mark) -> Vec<CallRecord> {
    let filter = CallFilter {
        limit: 7,
        ..CallFilter::default()
    };
    let mut all = Vec::new();
    loop {
        let (page, next) = store.calls().follow(mark, &filter).await.expect("asked");
        let Some(next) = next else { return all };
        *mark = through_text(&next);
        all.extend(page);
    }
}

/// A reader's first place: behind a record of an hour ago.
async fn begin(store: &Store) -> Mark {
    let first = row("text.first", now() - Duration::from_secs(3600));
    store.calls().insert(&[first]).await.expect("written");
    let newest = store.calls().list(&CallFilter::default()).await.expect("asked");
    Cursor::of_call(&newest[0]).expect("a cursor").into()
}

/// Each hub writes late, and later when Postgres was away.
#[tokio::test]
async fn who_follows_gets_a_record_that_is_written_after_younger_ones() {
    let store = store().await;
    let mut mark = begin(&store).await;
    let late = row("text.late", now() - Duration::from_secs(60));
    let young = row("text.young", now());

    store
        .calls()
        .insert(std::slice::from_ref(&young))
        .await
        .expect("written");
    let first = followed(&store, &mut mark).await;
    store
        .calls()
        .insert(std::slice::from_ref(&late))
        .await
        .expect("written");
    let second = followed(&store, &mut mark).await;

    assert_eq!(ids(&first), [young.call_id.to_string()]);
    assert_eq!(ids(&second), [late.call_id.to_string()]);
}

/// Numbers are given in one order and are committed in another.
#[tokio::test]
async fn what_is_written_and_not_committed_holds_up_who_follows() {
    let url = database().await;
    let store = ready(&config(&url)).await;
    let mut mark = begin(&store).await;
    let mut slow = crate::fixture::connection(&url).await;
    sqlx::raw_sql(
        "BEGIN; SET LOCAL search_path TO alkhub;
         INSERT INTO calls (ended_at, call_id, duration_us, input_bytes, output_bytes, operation, status, caller, hub_id,
                            request_id)
         VALUES (now(), gen_random_uuid(), 1, 1, 1, 'text.slow', 'completed', 'k', 'hub-b', 'r')",
    )
    .execute(&mut slow)
    .await
    .expect("written, not committed");
    store
        .calls()
        .insert(&[row("text.quick", now())])
        .await
        .expect("written beside it");

    let following = followed(&store, &mut mark);
    tokio::pin!(following);
    let waits = until("the reader to wait for the writer", || async {
        let waiting = number(&url, WAITING).await;
        (waiting == 1).then_some(()).ok_or(waiting)
    });
    tokio::select! {
        records = &mut following => panic!("not waited for: {records:?}"),
        () = waits => {}
    }
    sqlx::raw_sql("COMMIT").execute(&mut slow).await.expect("committed");
    let records = following.await;

    let operations: Vec<_> = records.iter().map(|record| record.operation.as_str()).collect();
    assert_eq!(operations, ["text.slow", "text.quick"]);
}

#[tokio::test]
async fn who_follows_two_hubs_that_write_at_once_gets_each_record_once() {
    let url = database().await;
    let (one, two) = (ready(&config(&url)).await, ready(&config(&url)).await);
    let mut mark = begin(&one).await;
    let write = async |store: &Store| {
        for batch in 0..40_u64 {
            let rows: Vec<_> = (0..10)
                .map(|i| row("text.upper", now() - Duration::from_millis(7 * (batch % 30) + i)))
                .collect();
            store.calls().insert(&rows).await.expect("written");
        }
    };
    let written = std::cell::Cell::new(false);
    let writing = async {
        tokio::join!(write(&one), write(&two));
        written.set(true);
    };
    let reading = async {
        let mut seen = Vec::new();
        loop {
            let all = written.get();
            seen.extend(followed(&one, &mut mark).await);
            if all {
                return seen;
            }
        }
    };

    let ((), seen) = tokio::join!(writing, reading);

    let different: std::collections::HashSet<&str> = ids(&seen).into_iter().collect();
    assert_eq!((seen.len(), different.len()), (800, 800));
}

/// They have no number of their own.
#[tokio::test]
async fn records_of_before_there_were_numbers_are_followed_too() {
    let url = database().await;
    let store = ready(&config(&url)).await;
    let mut mark = begin(&store).await;
    let rows: Vec<_> = (0..20).map(|_| row("text.upper", now())).collect();
    store.calls().insert(&rows).await.expect("written");
    execute(&url, "UPDATE alkhub.calls SET written = 0").await;
    store
        .calls()
        .insert(&[row("text.new", now() - Duration::from_secs(1))])
        .await
        .expect("written");

    let records = followed(&store, &mut mark).await;

    assert_eq!(records.len(), 21);
    assert_eq!(records[20].operation, "text.new");
}

#[test]
fn a_text_that_is_no_cursor_is_refused() {
    for text in [
        "",
        "1",
        "x-y",
        "1-2",
        "99999999999999999999-018f0000000070008000000000000000",
    ] {
        assert!(text.parse::<Cursor>().is_err(), "{text}");
        assert!(text.parse::<Mark>().is_err(), "{text}");
    }
    let place = "1-018f0000000070008000000000000000";
    for text in [".1", ".x.y", &format!(".1.{place}.1"), &format!(".{place}.1")] {
        assert!(format!("{place}{text}").parse::<Mark>().is_err(), "{text}");
    }
}

/// An insert that finds no partition makes one, but Postgres logs an error first, which somebody may be woken by.
#[tokio::test]
async fn the_partition_of_the_hour_is_there_before_the_first_record() {
    let url = database().await;

    let store = ready(&config(&url)).await;

    assert_eq!(number(&url, PARTITIONS).await, 2, "this hour and the coming one");
    store.close().await;
}

#[tokio::test]
async fn old_hours_are_dropped_and_the_rest_stays() {
    let url = database().await;
    let store = ready(&config(&url)).await;
    let hours = |hours: u64| Duration::from_secs(3600 * hours);
    let rows: Vec<_> = [0, 1, 23, 26, 27, 100]
        .map(|ago| row("text.upper", now() - hours(ago)))
        .into();
    store.calls().insert(&rows).await.expect("written");

    let dropped = store.calls().prune(hours(24)).await.expect("pruned");

    assert_eq!(dropped, 3);
    let left = store.calls().list(&CallFilter::default()).await.expect("asked");
    assert_eq!(left.len(), 3, "{left:?}");
    assert_eq!(store.calls().prune(hours(24)).await.expect("pruned"), 0);
    assert_eq!(
        number(&url, PARTITIONS).await,
        4,
        "three hours with records, and the coming one"
    );
}

#[tokio::test]
async fn a_reader_in_the_way_delays_the_drop_and_no_insert() {
    let url = database().await;
    let store = ready(&config(&url)).await;
    let old = row("text.upper", now() - Duration::from_secs(3600 * 30));
    store.calls().insert(&[old]).await.expect("written");
    let mut reader = crate::fixture::connection(&url).await;
    sqlx::raw_sql("BEGIN; SELECT count(*) FROM alkhub.calls")
        .execute(&mut reader)
        .await
        .expect("reads");

    let new = [row("text.lower", now())];
    let (dropped, inserted) = tokio::join!(
        store.calls().prune(Duration::from_secs(3600)),
        store.calls().insert(&new),
    );

    assert_eq!(dropped.expect("pruned"), 0);
    inserted.expect("written");
    sqlx::raw_sql("COMMIT").execute(&mut reader).await.expect("ends");
    assert_eq!(store.calls().prune(Duration::from_secs(3600)).await.expect("pruned"), 1);
}

/// An insert rarely falls into the moment in which another's new partition is visible but not announced yet, so many
/// inserts are made at once.
#[tokio::test]
async fn two_hubs_can_begin_an_hour_together() {
    let url = database().await;
    let hubs = [ready(&config(&url)).await, ready(&config(&url)).await];

    for ago in 0..100 {
        let at = now() - Duration::from_secs(3600 * ago);
        let inserts = (0..8).map(|i| {
            let calls = hubs[i % 2].calls();
            async move { calls.insert(&[row("text.upper", at)]).await }
        });
        let inserted = futures::future::try_join_all(inserts).await;
        inserted.expect("written");
    }

    assert_eq!(number(&url, "SELECT count(*) FROM alkhub.calls").await, 800);
}

#[tokio::test]
async fn a_page_of_the_newest_reads_one_partition_and_no_more() {
    let url = database().await;
    let store = ready(&config(&url)).await;
    let rows: Vec<_> = (0..20)
        .map(|ago| row("text.upper", now() - Duration::from_secs(3600 * ago)))
        .collect();
    store.calls().insert(&rows).await.expect("written");
    execute(&url, "ANALYZE alkhub.calls").await;

    let mut connection = crate::fixture::connection(&url).await;
    let plan: Vec<String> = sqlx::query_scalar(
        "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) SELECT * FROM alkhub.calls
         ORDER BY ended_at DESC, call_id DESC LIMIT 1",
    )
    .fetch_all(&mut connection)
    .await
    .expect("a plan");

    let executed = plan
        .iter()
        // The coming hour is looked at, and empty.
        .filter(|line| line.contains("Scan") && !line.contains("never executed") && !line.contains("rows=0"))
        .count();
    assert_eq!(executed, 1, "{plan:#?}");
}
