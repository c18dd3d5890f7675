//! Budgets keep to their bounds and get everything back.

use super::*;

const MIB: usize = 1024 * 1024;

fn budgets(hub_bytes: usize, key_bytes: usize) -> Budgets {
    Budgets::new(&BudgetConfig { hub_bytes, key_bytes }, &Registry::new()).expect("a fresh registry")
}

fn key(budgets: &Budgets, id: &str) -> Budget {
    budgets.key(&Arc::from(id))
}

#[test]
fn a_key_holds_no_more_than_it_may_and_what_is_dropped_is_free_again() {
    let budgets = budgets(100 * MIB, 4 * MIB);
    let budget = key(&budgets, "a");
    let first = budget.take(Kept::Calls, 3 * MIB).expect("room");

    let refused = budget.take(Kept::Queues, 2 * MIB);

    assert_eq!(refused.expect_err("too much"), Exhausted::Key);
    assert_eq!(key(&budgets, "a").used(), 3 * MIB, "the same key, the same budget");
    drop(first);
    assert_eq!(budget.used(), 0);
    budget.take(Kept::Queues, 4 * MIB).expect("room");
}

#[test]
fn a_key_that_uses_little_is_not_refused_because_others_use_everything() {
    let budgets = budgets(4 * MIB, 200 * MIB);
    let (greedy, modest) = (key(&budgets, "greedy"), key(&budgets, "modest"));
    let _all = greedy.take(Kept::Queues, RESERVE + 4 * MIB).expect("room");

    assert_eq!(greedy.take(Kept::Queues, 1).expect_err("full"), Exhausted::Hub);
    let mut little = modest.take(Kept::Calls, RESERVE).expect("its own");
    assert_eq!(little.resize(RESERVE + 1), Err(Exhausted::Hub));
    assert_eq!(little.bytes(), RESERVE);
}

#[test]
fn whatever_the_order_of_giving_back_nothing_stays() {
    let budgets = budgets(10 * MIB, 10 * MIB);
    let budget = key(&budgets, "a");

    let mut first = budget.take(Kept::Calls, MIB / 2).expect("room");
    let second = budget.take(Kept::Queues, 3 * MIB).expect("room");
    first.resize(2 * MIB).expect("room");
    drop(first);
    drop(second);

    assert_eq!((budget.used(), budgets.0.used.load(Ordering::Relaxed)), (0, 0));
}

#[test]
fn use_and_refusals_are_told_by_kind() {
    let registry = Registry::new();
    let config = BudgetConfig {
        hub_bytes: MIB,
        key_bytes: MIB,
    };
    let budgets = Budgets::new(&config, &registry).expect("a fresh registry");
    let budget = key(&budgets, "a");
    let _held = budget.take(Kept::Registrations, 1_000).expect("room");
    budget.take(Kept::Calls, 2 * MIB).expect_err("too much");

    let gathered = registry.gather();
    let value = |family: &str, label: &str| {
        let family = gathered
            .iter()
            .find(|found| found.name() == family)
            .expect("registered");
        let of = |metric: &&prometheus::proto::Metric| metric.get_label().iter().any(|pair| pair.value() == label);
        let metric = family.get_metric().iter().find(of).expect("a series");
        metric.get_gauge().get_value() + metric.get_counter().get_value()
    };
    assert_eq!(value("alkhub_budget_bytes", "registrations"), 1_000.0);
    assert_eq!(value("alkhub_budget_bytes", "calls"), 0.0);
    let of_key = gathered
        .iter()
        .find(|found| found.name() == "alkhub_budget_refused_total")
        .expect("registered")
        .get_metric()
        .iter()
        .map(|metric| metric.get_counter().get_value())
        .sum::<f64>();
    assert_eq!(of_key, 1.0);
}

#[test]
fn what_changes_all_the_time_is_charged_in_steps() {
    let budgets = budgets(10 * MIB, 10 * MIB);
    let budget = key(&budgets, "a");
    let mut held = budget.nothing(Kept::Queues);

    held.follow(10).expect("room");
    assert_eq!(budget.used(), STEP);
    held.follow(SLACK).expect("room");
    held.follow(STEP).expect("less");
    assert_eq!(budget.used(), SLACK, "it may grow again soon");
    held.follow(0).expect("less");

    assert_eq!(budget.used(), 0);
}

#[test]
fn a_budget_of_the_hubs_own_is_bounded_by_what_all_share_and_has_its_reserve() {
    let budgets = budgets(4 * MIB, 3 * MIB);
    let (link, other) = (budgets.own(), budgets.own());

    let _all = link.take(Kept::Links, RESERVE + 4 * MIB).expect("no key's limit");

    assert_eq!(link.take(Kept::Links, 1).expect_err("full"), Exhausted::Hub);
    other.take(Kept::Links, RESERVE).expect("its own");
    assert_eq!(other.take(Kept::Links, RESERVE + 1).expect_err("full"), Exhausted::Hub);
}

#[test]
fn what_is_kept_in_any_case_is_counted_and_given_back() {
    let budgets = budgets(MIB, MIB);
    let budget = budgets.own();
    let mut held = budget.take(Kept::Links, RESERVE + MIB).expect("room");

    held.insist(RESERVE + MIB + 1);

    assert_eq!(budget.used(), RESERVE + MIB + STEP);
    assert_eq!(held.follow(RESERVE + 2 * MIB), Err(Exhausted::Hub));
    held.insist(0);
    assert_eq!((budget.used(), budgets.0.used.load(Ordering::Relaxed)), (0, 0));
}

#[test]
fn what_nothing_needs_takes_an_eighth_of_each_budget_until_less_is_held() {
    let budgets = budgets(8 * MIB, 8 * MIB);
    let (budget, other) = (key(&budgets, "a"), key(&budgets, "b"));
    let mut held = budget.take(Kept::Calls, 4 * MIB).expect("room");
    let mut more = budget.take(Kept::Calls, MIB).expect("room");

    held.spare(MIB).expect("an eighth");

    assert_eq!(more.spare(1), Err(Exhausted::Key));
    let mut of_other = other.take(Kept::Calls, MIB).expect("room");
    of_other.spare(RESERVE / SPARE).expect("its own");
    // The first one takes 768 KiB of the 1 MiB that all share.
    assert_eq!(of_other.spare(RESERVE / SPARE + MIB / 4 + 1), Err(Exhausted::Hub));
    of_other.spare(RESERVE / SPARE + MIB / 4).expect("the rest");
    held.shrink(4 * MIB - 1);
    more.spare(MIB / 2).expect("free again");
    drop((held, more, of_other));
    let spare = |budget: &Budget| budget.0.spare.load(Ordering::Relaxed);
    assert_eq!(
        [spare(&budget), spare(&other), budgets.0.spare.load(Ordering::Relaxed)],
        [0; 3]
    );
}
