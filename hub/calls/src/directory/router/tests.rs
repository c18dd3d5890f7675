//! The router asks for scopes, and chooses by nearness and load.

use std::collections::HashMap;

use alkhub_protocol::OperationSpec;

use super::*;
use crate::fixture::{local, operation, remote, specs};

#[expect(
    clippy::needless_pass_by_value,
    reason = "lists that are made for one pool read better as they are"
)]
fn pool(here: Vec<Arc<Instance>>, elsewhere: Vec<Arc<Instance>>) -> Pool {
    let name = "text.upper".parse().expect("valid");
    let pool = Pool::new(name, Some(operation(&specs(), "text.upper", "true")), false);
    here.iter().chain(&elsewhere).for_each(|instance| pool.insert(instance));
    pool
}

/// Makes `calls` choices and counts them by instance.
fn chosen(pool: &Pool, calls: usize) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for _ in 0..calls {
        let instance = choose(pool, Wanted::default()).expect("somebody is free");
        *counts.entry(instance.entry.instance.to_string()).or_default() += 1;
    }
    counts
}

fn limited(text: &str, slots: u32) -> Arc<Instance> {
    let mut entry = crate::fixture::entry(text, "hub-b", &[]);
    entry.concurrency = Some(slots);
    Arc::new(Instance::new(entry, None))
}

#[test]
fn a_missing_scope_is_named() {
    let name = "text.upper".parse().expect("valid");
    assert!(allow_call(&Scopes::new(["call:*"]), &name).is_ok());
    assert!(allow_call(&Scopes::new(["call:text.*"]), &name).is_ok());
    assert!(allow_call(&Scopes::new(["admin"]), &name).is_ok());

    let error = allow_call(&Scopes::new(["call:other.*"]), &name).expect_err("not allowed");

    assert_eq!(error.code, Code::AccessDenied);
    assert!(error.message.contains("`call:text.upper`"), "{error}");
}

#[test]
fn required_scopes_match_literally_even_for_admin() {
    let mut spec: OperationSpec = crate::fixture::spec("task.watch", "true");
    spec.access_control.required_scopes = vec!["task:read".to_owned()];
    spec.access_control.required_scopes_any = vec!["team:a".to_owned(), "team:b".to_owned()];
    let operation = crate::fixture::compiled(&specs(), spec);
    let message = |scopes: &[&str]| {
        let allowed = allow_operation(&Scopes::new(scopes.iter().copied()), &operation);
        allowed.map_err(|error| error.message)
    };

    assert!(message(&["admin"]).expect_err("no").contains("`task:read`"));
    assert!(
        message(&["task:read"])
            .expect_err("no")
            .contains("`team:a` or `team:b`")
    );
    assert_eq!(message(&["task:read", "team:b"]), Ok(()));
}

#[test]
fn of_two_the_less_busy_one_is_chosen() {
    let (one, other) = (remote("s/one@1", &[]), remote("s/other@2", &[]));
    let pool = pool(vec![], vec![Arc::clone(&one), Arc::clone(&other)]);

    let counts = chosen(&pool, 100);

    assert_eq!((counts["one"], counts["other"]), (50, 50));
}

#[test]
fn a_large_pool_is_loaded_evenly() {
    let instances: Vec<_> = (0..50).map(|i| remote(&format!("s/i{i}@{i}"), &[])).collect();

    chosen(&pool(vec![], instances.clone()), 5_000);

    let loads: Vec<u32> = instances.iter().map(|instance| instance.load.get()).collect();
    assert!(loads.iter().all(|load| (90..=110).contains(load)), "{loads:?}");
}

#[test]
fn one_on_this_hub_is_preferred_unless_twice_as_busy() {
    let (near, _outgoing) = local("s/near@1", &[]);
    let far = remote("s/far@2", &[]);
    let pool = pool(vec![Arc::clone(&near)], vec![Arc::clone(&far)]);

    chosen(&pool, 300);

    let (near, far) = (near.load.get(), far.load.get());
    assert!(
        (195..=205).contains(&near) && near + far == 300,
        "{near} near, {far} far"
    );
}

#[test]
fn full_instances_are_passed_over_and_a_full_pool_is_overloaded() {
    let pool = pool(vec![], vec![limited("s/one@1", 1), limited("s/two@2", 2)]);

    let counts = chosen(&pool, 3);
    let error = choose(&pool, Wanted::default()).expect_err("all slots are taken");

    assert_eq!((counts["one"], counts["two"]), (1, 2));
    assert_eq!((error.code, error.retryable), (Code::Overloaded, true));
    let one = pool
        .members()
        .all()
        .find(|i| i.entry.instance.as_str() == "one")
        .cloned();
    one.expect("it is there").load.release();
    assert_eq!(chosen(&pool, 1)["one"], 1);
}

#[test]
fn a_target_is_the_only_one_that_may_answer() {
    let pool = pool(vec![], vec![remote("a/one@1", &[]), remote("b/one@2", &[])]);
    let target = |name: &str| name.parse::<SpokeName>().expect("valid");
    let choose_target = |target: &SpokeName| {
        let wanted = Wanted {
            target: Some(target),
            ..Wanted::default()
        };
        choose(&pool, wanted)
    };

    for _ in 0..10 {
        assert_eq!(choose_target(&target("b")).expect("offered").entry.spoke, target("b"));
    }
    let error = choose_target(&target("c")).expect_err("not offered");
    assert_eq!(error.code, Code::NoProvider);
    assert!(error.message.contains("`c`"), "{error}");
}

#[test]
fn a_registration_that_gave_the_call_back_is_not_asked_again() {
    let instance = remote("s/one@1", &[]);
    let wanted = Wanted {
        not: Excluded::Registration(&instance),
        ..Wanted::default()
    };

    let moved = choose(&pool(vec![], vec![Arc::clone(&instance)]), wanted);
    let newer = choose(&pool(vec![], vec![remote("s/one@2", &[])]), wanted);

    assert_eq!(moved.expect_err("nobody else").code, Code::NoProvider);
    assert!(newer.is_ok());
}

#[test]
fn what_a_hub_did_not_receive_goes_to_no_other_instance_there() {
    let instances = ["s/one@1", "s/two@2"].map(|id| remote(id, &[]));
    let hub = instances[0].entry.hub.clone();
    let wanted = Wanted {
        not: Excluded::Hub(&hub),
        ..Wanted::default()
    };
    assert!(instances.iter().all(|instance| instance.entry.hub == hub));
    let (here, _outgoing) = local("s/here@3", &[]);

    let nobody = choose(&pool(vec![], instances.to_vec()), wanted);
    let chosen = choose(&pool(vec![Arc::clone(&here)], instances.to_vec()), wanted);

    assert_eq!(nobody.expect_err("all are there").code, Code::NoProvider);
    assert_eq!(chosen.expect("one is elsewhere").entry.instance, here.entry.instance);
}

#[test]
fn without_a_link_to_other_hubs_only_instances_here_are_chosen() {
    let (instance, _outgoing) = local("s/here@1", &[]);
    let wanted = Wanted {
        only_here: true,
        ..Wanted::default()
    };
    // Twice as busy as the instance elsewhere, which would be chosen but for `only_here`.
    for _ in 0..4 {
        assert!(instance.load.reserve(None));
    }
    let both = pool(vec![Arc::clone(&instance)], vec![remote("s/there@2", &[])]);
    let elsewhere = pool(vec![], vec![remote("s/there@2", &[])]);

    let chosen = choose(&both, wanted).expect("one is here");
    let error = choose(&elsewhere, wanted).expect_err("it cannot be reached");

    assert_eq!(chosen.entry.instance, instance.entry.instance);
    assert_eq!((&error.code, error.retryable), (&Code::Unavailable, true));
    assert!(error.message.contains("the link to them is down"), "{error}");
    let target = "other".parse().expect("valid");
    let wanted = Wanted {
        target: Some(&target),
        ..wanted
    };
    let error = choose(&elsewhere, wanted).expect_err("it is on no hub");
    assert_eq!(error.code, Code::NoProvider, "{error}");
}

#[test]
fn a_closing_connection_gets_no_calls() {
    let (instance, outgoing) = local("s/one@1", &[]);
    let pool = pool(vec![instance], vec![]);
    assert!(choose(&pool, Wanted::default()).is_ok());

    drop(outgoing);

    assert_eq!(
        choose(&pool, Wanted::default()).expect_err("closed").code,
        Code::NoProvider
    );
}

#[test]
fn nobody_and_not_yet_known_are_different_answers() {
    let mut pool = pool(vec![], vec![]);
    assert_eq!(
        choose(&pool, Wanted::default()).expect_err("nobody").code,
        Code::NoProvider
    );

    pool.waits_for_spec = true;

    let error = choose(&pool, Wanted::default()).expect_err("not loaded");
    assert_eq!((error.code, error.retryable), (Code::Unavailable, true));
}

#[test]
fn an_instance_that_is_lost_is_not_chosen_although_a_pool_still_has_it() {
    let (instance, _outgoing) = local("text/a@1", &[]);
    let pool = pool(vec![Arc::clone(&instance)], vec![]);
    assert!(choose(&pool, Wanted::default()).is_ok());

    instance.session.as_ref().expect("on this hub").end();

    let error = choose(&pool, Wanted::default()).expect_err("it is gone");
    assert_eq!(error.code, Code::NoProvider, "{error}");
}

#[test]
fn an_instance_on_a_hub_that_drains_gets_calls_only_when_nobody_else_can_take_them() {
    let (near, _outgoing) = local("text/near@1", &[]);
    let draining = HashSet::from(["hub-a".parse().expect("valid")]);
    let wanted = Wanted {
        draining: Some(&draining),
        ..Wanted::default()
    };
    let far = limited("text/far@2", 10);
    let both = pool(vec![Arc::clone(&near)], vec![Arc::clone(&far)]);

    for _ in 0..10 {
        assert_eq!(choose(&both, wanted).expect("free").entry.instance, far.entry.instance);
    }
    let next = choose(&both, wanted).expect("the other is full");
    let alone = choose(&pool(vec![near], vec![]), wanted).expect("there is nobody else");

    assert_eq!(
        (next.entry.instance.as_str(), alone.entry.instance.as_str()),
        ("near", "near")
    );
}
