//! What is open is counted, closed once for its key, and told how far the end of the hub has come.

use alkhub_store::KeyHash;
use prometheus::Registry;

use super::*;
use crate::key::record;

/// Notes what it is asked for.
#[derive(Debug, Default)]
struct Asked(Mutex<Vec<String>>);

impl Asked {
    fn note(&self, what: &str) {
        self.0.lock().push(what.to_owned());
    }

    fn taken(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock())
    }
}

impl Closeable for Asked {
    fn recheck(&self, _: &Arc<Caller>) {
        self.note("recheck");
    }

    fn drain(&self) {
        self.note("drain");
    }

    fn close(&self, why: Closing) {
        self.note(&format!("close {why:?}"));
    }

    fn kill(&self) {
        self.note("kill");
    }
}

fn key() -> Arc<Key> {
    Arc::new(Key::new(KeyHash([0; 32]), &record(), 0))
}

fn enter(open: &Open, key: &Arc<Key>) -> (Arc<Asked>, Entered) {
    let metrics = EdgeMetrics::new(&Registry::new()).expect("new names");
    let slot = key.connections.take(10).expect("free");
    let asked = Arc::new(Asked::default());
    let counted = (slot, metrics.open(ConnectionKind::Sse));
    let entered = open.enter(key.clone(), asked.clone(), counted);
    (asked, entered)
}

#[test]
fn what_a_key_has_open_is_closed_once_when_the_key_ends() {
    let (open, key, other) = (Open::default(), key(), key());
    let (asked, entered) = enter(&open, &key);
    let (bystander, _stays) = enter(&open, &other);
    open.review();

    key.revoke_by(1);
    open.review();
    open.review();

    assert_eq!(asked.taken(), ["close Key(Revoked)"]);
    assert!(bystander.taken().is_empty());
    drop(entered);
    assert_eq!(open.count(ConnectionKind::Sse), 1);
    assert_eq!(open.keys().len(), 1);
    assert!(key.connections.take(1).is_some());
}

#[test]
fn a_connection_is_counted_while_it_is_open_whatever_its_gauge_says() {
    let registry = Registry::new();
    let metrics = EdgeMetrics::new(&registry).expect("new names");
    let open = Open::default();
    let (first, second) = (open.connect(&metrics), open.connect(&metrics));
    let _of_another_list = metrics.open(ConnectionKind::Http);

    assert_eq!(open.count(ConnectionKind::Http), 2);
    assert_eq!(open.count(ConnectionKind::Sse), 0);
    drop(first);
    assert_eq!(open.count(ConnectionKind::Http), 1);
    drop(second);
    assert_eq!(open.count(ConnectionKind::Http), 0);
}

#[test]
fn what_a_key_has_open_is_looked_at_once_for_each_change_of_what_the_key_allows() {
    let (open, key) = (Open::default(), key());
    let (asked, _entered) = enter(&open, &key);
    let mut wider = record();
    wider.scopes = alkhub_protocol::Scopes::new(["events:subscribe:a"]);

    key.update(&record(), 0, || false);
    open.review();
    assert!(asked.taken().is_empty(), "nothing has changed");
    key.update(&wider, 0, || false);
    open.review();
    open.review();

    assert_eq!(asked.taken(), ["recheck"]);
}

#[test]
fn what_enters_while_the_hub_ends_is_told_how_far_the_end_has_come() {
    let (open, key) = (Open::default(), key());
    let (early, _early) = enter(&open, &key);
    open.drain();
    let (draining, _draining) = enter(&open, &key);
    open.close();
    open.kill();
    let (late, _late) = enter(&open, &key);

    let all = ["drain", "close Drain", "kill"];
    assert_eq!(early.taken(), all);
    assert_eq!(draining.taken(), all);
    assert_eq!(late.taken(), all);
}
