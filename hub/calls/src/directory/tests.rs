//! The directory puts, removes and pools what hubs offer.

use alkhub_protocol::admin::InstanceState;

use super::*;
use crate::fixture::{compiled, entry, local, operation, remote, specs};

fn directory() -> Directory {
    Directory::new(specs())
}

fn name(text: &str) -> OperationName {
    text.parse().expect("valid")
}

fn key(spoke: &str, instance: &str) -> (SpokeName, InstanceId) {
    (spoke.parse().expect("valid"), instance.parse().expect("valid"))
}

/// A fence above all others of its generation.
fn fence(generation: u64) -> Fence<'static> {
    static HUB: std::sync::LazyLock<HubId> = std::sync::LazyLock::new(|| "hub-z".parse().expect("valid"));
    Fence { generation, hub: &HUB }
}

/// `instance@generation` of each provider.
fn providers(directory: &Directory, operation: &str) -> Vec<String> {
    let pool = directory.pool(&name(operation)).expect("known");
    let shown = |i: &Arc<Instance>| format!("{}@{}", i.entry.instance, i.entry.generation);
    let mut providers: Vec<String> = pool.members().all().map(shown).collect();
    providers.sort();
    providers
}

#[test]
fn instances_of_one_specification_are_a_pool() {
    let directory = directory();
    let upper = operation(&directory.specs, "text.upper", "true");
    let (near, _outgoing) = local("a/one@1", &[&upper]);

    directory.put(&near);
    directory.put(&remote("a/two@2", &[&upper]));

    assert_eq!(providers(&directory, "text.upper"), ["one@1", "two@2"]);
    let pool = directory.pool(&name("text.upper")).expect("known");
    assert_eq!((pool.members().here.len(), pool.members().elsewhere.len()), (1, 1));
    assert!(directory.pool(&name("text.lower")).is_none());
}

#[test]
fn a_lower_generation_of_another_hub_changes_nothing() {
    let directory = directory();
    let upper = operation(&directory.specs, "text.upper", "true");
    let (near, _outgoing) = local("a/one@5", &[&upper]);
    directory.put(&near);

    assert!(matches!(directory.put(&remote("a/one@4", &[])), ChangeResult::Stale));
    let elsewhere = Arc::new(Instance::new(entry("a/one@5", "hub-0", &[]), None));
    assert!(
        matches!(directory.put(&elsewhere), ChangeResult::Stale),
        "the higher id counts"
    );
    assert!(directory.remove(&key("a", "one"), fence(4)).is_none());

    assert_eq!(providers(&directory, "text.upper"), ["one@5"]);
}

#[test]
fn of_equal_generations_the_hub_with_the_higher_id_takes_the_place() {
    let directory = directory();
    let upper = operation(&directory.specs, "text.upper", "true");
    let (near, _outgoing) = local("a/one@5", &[&upper]);
    directory.put(&near);

    let ChangeResult::Put(Some(old)) = directory.put(&remote("a/one@5", &[])) else {
        panic!("hub-b is higher than hub-a");
    };

    assert!(Arc::ptr_eq(&old, &near));
    assert!(providers(&directory, "text.upper").is_empty());
}

/// A hub that got no answer of Redis goes on with a generation of its own, which may be lower than the one Redis gave.
#[test]
fn what_another_hub_says_last_of_its_own_instance_counts() {
    let directory = directory();
    let upper = operation(&directory.specs, "text.upper", "true");
    directory.put(&remote("a/one@5", &[]));

    assert!(
        matches!(directory.put(&remote("a/one@5", &[])), ChangeResult::Stale),
        "the same"
    );
    assert!(matches!(
        directory.put(&remote("a/one@4", &[&upper])),
        ChangeResult::Put(Some(_))
    ));

    assert_eq!(providers(&directory, "text.upper"), ["one@4"]);
}

#[test]
fn a_record_that_says_the_same_is_no_news_and_one_whose_connection_is_back_is() {
    let directory = directory();
    let with = |state| {
        let mut entry = entry("a/one@5", "hub-b", &[]);
        entry.state = state;
        directory.put(&Arc::new(Instance::new(entry, None)))
    };
    with(InstanceState::Connected);

    assert!(matches!(with(InstanceState::Connected), ChangeResult::Stale));
    assert!(matches!(with(InstanceState::Reconnecting), ChangeResult::Stale));
    assert!(matches!(with(InstanceState::Connected), ChangeResult::Back));
    assert!(matches!(with(InstanceState::Connected), ChangeResult::Stale));
}

#[test]
fn calls_that_run_on_an_instance_elsewhere_count_on_when_it_registers_anew() {
    let first = Instance::new(entry("a/one@5", "hub-b", &[]), None);
    assert!(first.load.reserve(None));
    let (near, _outgoing) = local("a/one@7", &[]);
    assert!(near.load.reserve(None));

    let later = Instance::elsewhere(entry("a/one@6", "hub-c", &[]), Some(&first));

    assert_eq!(later.load.get(), 1);
    first.load.release();
    assert_eq!(later.load.get(), 0);
    assert_eq!(
        Instance::elsewhere(entry("a/one@8", "hub-b", &[]), Some(&near))
            .load
            .get(),
        0,
        "its hub tells"
    );
}

#[test]
fn a_higher_generation_takes_the_place_and_tells_whose_it_was() {
    let directory = directory();
    let upper = operation(&directory.specs, "text.upper", "true");
    let lower = operation(&directory.specs, "text.lower", "true");
    let (near, _outgoing) = local("a/one@1", &[&upper]);
    directory.put(&near);

    let ChangeResult::Put(Some(old)) = directory.put(&remote("a/one@2", &[&lower])) else {
        panic!("it replaces");
    };

    assert!(Arc::ptr_eq(&old, &near));
    assert!(providers(&directory, "text.upper").is_empty());
    assert_eq!(providers(&directory, "text.lower"), ["one@2"]);
}

#[test]
fn a_name_without_provider_stays_known() {
    let directory = directory();
    let upper = operation(&directory.specs, "text.upper", "true");
    directory.put(&remote("a/one@1", &[&upper]));

    assert!(directory.remove(&key("a", "one"), fence(1)).is_some());

    let pool = directory.pool(&name("text.upper")).expect("still known");
    assert!(pool.is_empty() && pool.operation.is_some());
    assert!(directory.pools().is_empty());
}

#[test]
fn names_that_nobody_offers_are_bounded() {
    let directory = directory();
    let operations: Vec<_> = (0..IDLE_NAMES + 10)
        .map(|i| operation(&directory.specs, &format!("n.op{i}"), "true"))
        .collect();

    for (i, operation) in operations.iter().enumerate() {
        directory.put(&remote(&format!("a/i@{}", 2 * i + 1), &[operation]));
    }
    directory.remove(&key("a", "i"), fence(u64::MAX));

    assert!(directory.pools.len() <= IDLE_NAMES, "{}", directory.pools.len());
    assert!(directory.pool(&name("n.op0")).is_none());
    assert!(directory.pool(&operations.last().expect("some").name).is_some());
}

#[test]
fn a_name_that_comes_and_goes_is_remembered_however_often() {
    let directory = directory();
    let (flaps, once) = (
        operation(&directory.specs, "text.flaps", "true"),
        operation(&directory.specs, "text.once", "true"),
    );
    directory.put(&remote("a/once@1", &[&once]));
    directory.remove(&key("a", "once"), fence(u64::MAX));

    for turn in 0..=IDLE_NAMES as u64 + 10 {
        directory.put(&remote(&format!("a/one@{}", turn + 1), &[&flaps]));
        directory.remove(&key("a", "one"), fence(u64::MAX));
    }

    for operation in [&flaps, &once] {
        let pool = directory.pool(&operation.name).expect("it was offered");
        assert!(pool.is_empty() && pool.operation.is_some());
    }
}

/// Counted, not timed: an instance that joins moves nobody but itself.
#[test]
fn ten_thousand_instances_that_join_and_leave_one_by_one_move_once_each() {
    const INSTANCES: usize = 10_000;
    let directory = directory();
    let upper = operation(&directory.specs, "text.upper", "true");
    let moves = || directory.changes.lock().moves;

    for i in 1..=INSTANCES {
        directory.put(&remote(&format!("a/i{i}@{i}"), &[&upper]));
    }
    let joined = moves();
    for i in 1..=INSTANCES {
        directory.remove(&key("a", &format!("i{i}")), fence(u64::MAX));
    }

    assert_eq!((joined, moves() - joined), (INSTANCES, INSTANCES));
    assert!(directory.pool(&upper.name).expect("known").is_empty());
    assert!(!directory.has_instances_of(&"a".parse().expect("valid")));
}

#[test]
fn an_instance_that_offers_other_operations_changes_those_pools_alone() {
    let directory = directory();
    let [upper, lower, trim] =
        ["text.upper", "text.lower", "text.trim"].map(|name| operation(&directory.specs, name, "true"));
    directory.put(&remote("a/two@1", &[&upper, &lower, &trim]));
    directory.put(&remote("a/one@2", &[&upper, &lower]));

    directory.put(&remote("a/one@3", &[&lower, &trim]));

    assert_eq!(providers(&directory, "text.upper"), ["two@1"]);
    assert_eq!(providers(&directory, "text.lower"), ["one@3", "two@1"]);
    assert_eq!(providers(&directory, "text.trim"), ["one@3", "two@1"]);
}

#[test]
fn a_name_that_the_store_knows_has_no_provider_until_somebody_comes() {
    let directory = directory();
    let upper = operation(&directory.specs, "text.upper", "true");

    directory.remember(&upper.name);

    assert!(directory.pool(&upper.name).expect("known").is_empty());
    directory.put(&remote("a/one@1", &[&upper]));
    directory.remember(&upper.name);
    assert_eq!(providers(&directory, "text.upper"), ["one@1"]);
}

#[tokio::test(start_paused = true)]
async fn a_spoke_that_was_let_go_is_expected_back_for_a_while_and_until_it_is_back() {
    let directory = directory();
    let [upper, lower] = ["text.upper", "text.lower"].map(|name| operation(&directory.specs, name, "true"));
    let spoke = |text: &str| text.parse::<SpokeName>().expect("valid");
    let (a, b) = (spoke("a"), spoke("b"));
    directory.put(&remote("a/one@1", &[&upper, &lower]));
    directory.put(&remote("b/one@2", &[&lower]));

    let gone = directory.remove(&key("a", "one"), fence(1)).expect("there");
    directory.note_let_go(&gone);
    assert!(directory.was_let_go(&upper.name, None) && directory.was_let_go(&lower.name, Some(&a)));
    assert!(!directory.was_let_go(&lower.name, None) && !directory.was_let_go(&lower.name, Some(&b)));

    tokio::time::advance(std::time::Duration::from_secs(30)).await;
    assert!(!directory.was_let_go(&upper.name, None) && !directory.was_let_go(&lower.name, Some(&a)));

    directory.put(&remote("a/one@3", &[&upper]));
    directory.note_let_go(&directory.remove(&key("a", "one"), fence(3)).expect("there"));
    directory.put(&remote("a/one@4", &[&upper]));
    assert!(
        directory.remove(&key("a", "one"), fence(4)).is_some(),
        "it leaves by itself"
    );
    assert!(!directory.was_let_go(&upper.name, None) && !directory.was_let_go(&upper.name, Some(&a)));
}

#[test]
fn the_oldest_instance_decides_the_specification() {
    let directory = directory();
    let old = operation(&directory.specs, "text.upper", "true");
    let new = operation(&directory.specs, "text.upper", r#"{"type":"string"}"#);

    directory.put(&remote("a/new@2", &[&new]));
    directory.put(&remote("a/old@1", &[&old]));
    assert_eq!(providers(&directory, "text.upper"), ["old@1"]);
    let standing = directory.offered_by_others(&new, &key("a", "third")).expect("offered");
    assert_eq!(standing.entry.generation, 1);

    directory.remove(&key("a", "old"), fence(1));
    assert_eq!(providers(&directory, "text.upper"), ["new@2"]);
}

#[test]
fn the_other_session_of_a_program_is_in_nobodys_way_and_that_of_another_spoke_is() {
    let directory = directory();
    let old = operation(&directory.specs, "text.upper", "true");
    let new = operation(&directory.specs, "text.upper", r#"{"type":"string"}"#);
    directory.put(&remote("a/i@1", &[&old]));

    let twin = key("a", "i#2");
    assert!(directory.offered_by_others(&new, &twin).is_none());
    assert!(directory.offered_by_others(&old, &twin).is_some());
    assert!(directory.offered_by_others(&new, &key("b", "i#2")).is_some());
    assert!(directory.offered_by_others(&old, &key("a", "i")).is_none());
}

#[test]
fn an_instance_joins_its_pool_when_its_specification_is_loaded() {
    let (directory, elsewhere) = (directory(), specs());
    let unknown = operation(&elsewhere, "text.upper", "true");
    directory.put(&remote("a/one@1", &[&unknown]));

    let pool = directory.pool(&name("text.upper")).expect("known");
    assert!(pool.waits_for_spec && pool.is_empty());
    assert_eq!(directory.missing(), [(unknown.hash, "a".parse().expect("valid"))]);

    compiled(&directory.specs, unknown.spec.clone());
    directory.resolved(&unknown.name, &unknown.hash);

    assert_eq!(providers(&directory, "text.upper"), ["one@1"]);
    assert!(directory.missing().is_empty());
}

#[test]
fn a_specification_that_nobody_offers_any_more_is_not_loaded() {
    let (directory, elsewhere) = (directory(), specs());
    let [one, two] = ["true", "false"].map(|input| operation(&elsewhere, "text.upper", input));
    let missing = || {
        directory
            .missing()
            .into_iter()
            .map(|(hash, _)| hash)
            .collect::<Vec<_>>()
    };

    directory.put(&remote("a/one@1", &[&one]));
    directory.put(&remote("a/one@2", &[&two]));
    assert_eq!(missing(), [two.hash], "the instance offers another one now");
    directory.put(&remote("b/two@3", &[&one]));
    directory.remove(&key("a", "one"), fence(2));
    assert_eq!(missing(), [one.hash], "the oldest instance decides");
    directory.remove_hub(&"hub-b".parse().expect("valid"));

    assert_eq!(missing(), []);
}

#[test]
fn a_hub_that_is_gone_takes_its_instances_with_it() {
    let directory = directory();
    let upper = operation(&directory.specs, "text.upper", "true");
    directory.put(&remote("a/one@1", &[&upper]));
    directory.put(&Arc::new(Instance::new(entry("a/two@2", "hub-c", &[&upper]), None)));

    assert_eq!(directory.remove_hub(&"hub-b".parse().expect("valid")), 1);

    assert_eq!(providers(&directory, "text.upper"), ["two@2"]);
    assert!(directory.has_instances_of(&"a".parse().expect("valid")));
}

#[tokio::test]
async fn an_instance_is_callable_when_it_is_there_and_each_of_its_specifications() {
    let (directory, elsewhere) = (directory(), specs());
    let known = operation(&directory.specs, "text.upper", "true");
    let missing = operation(&elsewhere, "text.lower", "true");
    let key = key("a", "one");
    let mut callable = Box::pin(directory.callable(&key, fence(3)));

    assert!(futures::poll!(&mut callable).is_pending());
    directory.put(&remote("a/one@2", &[&known]));
    assert!(futures::poll!(&mut callable).is_pending(), "an earlier one");
    directory.put(&remote("a/one@4", &[&known, &missing]));
    assert!(
        futures::poll!(&mut callable).is_pending(),
        "its specification is not there"
    );
    compiled(&directory.specs, missing.spec.clone());
    directory.resolved(&missing.name, &missing.hash);

    assert!(callable.await);
}

#[tokio::test]
async fn an_instance_whose_specification_is_given_up_is_not_callable() {
    let (directory, elsewhere) = (directory(), specs());
    let missing = operation(&elsewhere, "text.lower", "true");
    let (key, hub) = (key("a", "one"), "hub-b".parse().expect("valid"));
    directory.put(&remote("a/one@4", &[&missing]));
    let mut callable = Box::pin(directory.callable(
        &key,
        Fence {
            generation: 4,
            hub: &hub,
        },
    ));

    assert!(futures::poll!(&mut callable).is_pending());
    directory.give_up(&missing.hash);

    assert!(!callable.await);
}

#[tokio::test]
async fn who_waits_for_a_name_is_woken_by_who_offers_it() {
    let directory = directory();
    let upper = operation(&directory.specs, "text.upper", "true");
    let name = name("text.upper");

    directory.settled(&name, false).await;
    let mut comes = Box::pin(directory.settled(&name, true));
    assert!(futures::poll!(&mut comes).is_pending());
    directory.put(&remote("a/one@1", &[&upper]));

    comes.await;
    directory.remove(&key("a", "one"), fence(1));
    assert!(futures::poll!(Box::pin(directory.settled(&name, true))).is_pending());
}
