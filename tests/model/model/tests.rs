//! Each promise, both broken and kept, without a hub.

use super::*;

/// One spoke with one connection, registered at hub 0, in a calm state.
fn calm() -> Model {
    let mut model = Model::new(Instant::now());
    registered(&mut model, 0, 1);
    model.is_calm();
    model
}

fn registered(model: &mut Model, hub: usize, generation: u64) -> usize {
    let connection = model.connected(0, hub);
    model.asks(connection);
    model.registered(connection, &(generation, format!("hub-{hub}")));
    connection
}

fn call(model: &mut Model, kind: Kind) -> usize {
    model.calls(0, 0, kind, None)
}

fn failed(code: &str, delivered: Delivered) -> End {
    End::Failed {
        code: code.to_owned(),
        delivered,
    }
}

fn output(number: usize, by: usize) -> End {
    End::Output(serde_json::json!({ "call": number, "by": by }))
}

fn item(number: usize, item: u64) -> Value {
    serde_json::json!({ "call": number, "item": item })
}

#[track_caller]
fn breaks(model: &Model, what: &str) {
    let broken = model.broken();
    assert!(broken.len() == 1 && broken[0].contains(what), "{broken:?}");
}

#[track_caller]
fn breaks_nothing(model: &Model) {
    assert!(model.broken().is_empty(), "{:?}", model.broken());
}

#[test]
fn a_call_that_its_spoke_answers_breaks_nothing() {
    let mut model = calm();
    let number = call(&mut model, Kind::Mutation);

    model.reached(0, number, "r");
    model.says(number, Reply::Good);
    model.ended(number, output(number, 0));

    breaks_nothing(&model);
    assert_eq!((model.calls_over(), model.spokes_told()), (Ok(()), Ok(())));
}

#[test]
fn a_call_that_reaches_spokes_twice_breaks_a_promise() {
    let mut model = calm();
    let number = call(&mut model, Kind::Query);

    model.reached(0, number, "r");
    model.reached(0, number, "s");

    breaks(&model, "reached connections 0 and 0");
}

#[test]
fn a_query_reaches_a_second_spoke_when_the_first_is_lost_and_nothing_else_does() {
    let (mut query, mut mutation) = (calm(), calm());
    for (model, kind) in [(&mut query, Kind::Query), (&mut mutation, Kind::Mutation)] {
        let number = call(model, kind);
        model.reached(0, number, "r");
        model.leaves(0);
        model.closed(0, None);
        let other = registered(model, 1, 2);
        model.reached(other, number, "s");
    }

    breaks_nothing(&query);
    breaks(&mutation, "reached connections 0 and 1");
    query.says(0, Reply::Good);
    query.ended(0, output(0, 1));
    breaks_nothing(&query);
    query.leaves(1);
    let third = registered(&mut query, 2, 3);
    query.reached(third, 0, "t");
    breaks(&query, "reached connections 0 and 2");
}

#[test]
fn delivered_is_true_of_what_happened_before_and_after() {
    let (mut yes, mut no, mut late) = (calm(), calm(), calm());
    for model in [&mut yes, &mut no, &mut late] {
        let number = call(model, Kind::Query);
        model.turns(1, Health::Apart);
        assert_eq!(number, 0);
    }

    yes.ended(0, failed("SPOKE_LOST", Delivered::Yes));
    no.reached(0, 0, "r");
    no.ended(0, failed("SPOKE_LOST", Delivered::No));
    late.ended(0, failed("SPOKE_LOST", Delivered::No));
    breaks_nothing(&late);
    late.reached(0, 0, "r");

    breaks(&yes, "it reached 0 spokes");
    breaks(&no, "it reached 1 spokes");
    breaks(&late, "after its caller was told");
}

#[test]
fn an_answer_of_another_call_or_before_its_spoke_gave_one_breaks_a_promise() {
    let (mut other, mut early) = (calm(), calm());
    for model in [&mut other, &mut early] {
        let number = call(model, Kind::Query);
        model.reached(0, number, "r");
    }

    other.says(0, Reply::Good);
    other.ended(0, output(1, 0));
    early.ended(0, output(0, 0));

    breaks(&other, "not what its spoke said");
    breaks(&early, "not what its spoke said");
}

#[test]
fn a_second_end_breaks_a_promise() {
    let mut model = calm();
    let number = call(&mut model, Kind::Query);
    model.gives_up(number, false);

    model.ended(number, End::Aborted);
    model.ended(number, End::Aborted);

    breaks(&model, "ended twice");
}

#[test]
fn trouble_is_excused_by_what_happened_and_by_nothing_else() {
    let (mut fair, mut cut) = (calm(), calm());
    for model in [&mut fair, &mut cut] {
        call(model, Kind::Query);
    }
    cut.turns(2, Health::Apart);

    fair.ended(0, failed("UNAVAILABLE", Delivered::No));
    cut.ended(0, failed("UNAVAILABLE", Delivered::No));

    breaks(&fair, "all was well");
    breaks_nothing(&cut);
    call(&mut cut, Kind::Query);
    cut.ended(1, failed("INTERNAL", Delivered::Maybe));
    breaks(&cut, "no trouble explains it");
}

#[test]
fn a_call_without_a_provider_is_told_so() {
    let mut model = calm();
    let number = model.calls(0, 1, Kind::Query, None);

    model.ended(number, failed("NO_PROVIDER", Delivered::No));

    breaks_nothing(&model);
}

#[test]
fn items_come_in_order_without_a_hole_and_before_the_end() {
    let play = |arrive: &[u64], end: End| {
        let mut model = calm();
        let number = call(&mut model, Kind::Subscription);
        model.reached(0, number, "r");
        model.says(number, Reply::Items(3));
        model.says(number, Reply::Good);
        model.turns(1, Health::Apart);
        arrive.iter().for_each(|next| model.item(number, &item(number, *next)));
        model.ended(number, end);
        model.broken().len()
    };

    assert_eq!(play(&[0, 1, 2], End::Completed), 0);
    assert_eq!(play(&[0, 1], End::Completed), 1, "an item is missing");
    assert_eq!(
        play(&[0, 1], failed("UNAVAILABLE", Delivered::Yes)),
        0,
        "the end says so"
    );
    assert_eq!(play(&[0, 2], failed("UNAVAILABLE", Delivered::Yes)), 1, "a hole");
    assert_eq!(play(&[0, 0], failed("UNAVAILABLE", Delivered::Yes)), 1, "twice");
    assert_eq!(
        play(&[0, 1, 2, 3], failed("UNAVAILABLE", Delivered::Yes)),
        1,
        "never sent"
    );
}

#[test]
fn a_deadline_ends_a_call_neither_early_nor_late() {
    let mut model = calm();
    let limit = Duration::from_secs(1);
    let number = model.calls(0, 0, Kind::Query, Some(limit));
    let call = &mut model.calls[number];
    call.end = Some(failed("TIMEOUT", Delivered::Maybe));
    let ends = |after: u64| call.ends_well(number, call.sent + Duration::from_millis(after));

    assert_eq!(ends(1_000), Ok(()));
    assert!(ends(900).is_err_and(|why| why.contains("has not passed")));
    assert!(ends(10_000).is_err_and(|why| why.contains("late")));
}

#[test]
fn a_spoke_is_told_that_its_call_is_over_unless_it_has_gone() {
    let mut model = calm();
    let number = call(&mut model, Kind::Query);
    model.reached(0, number, "r");
    model.gives_up(number, true);

    assert!(model.spokes_told().is_err());
    model.stopped(0, "r");
    assert_eq!(model.spokes_told(), Ok(()));
    model.stopped(0, "other");
    breaks(&model, "never got");
}

#[test]
fn of_two_registrations_the_newer_one_counts() {
    let mut model = calm();
    let newer = registered(&mut model, 1, 2);

    assert_eq!(model.current(), [newer]);
    assert!(model.registrations_settled().is_err(), "the older one is open");
    model.closed(0, Some(4409));
    assert_eq!(model.registrations_settled(), Ok(()));
    breaks_nothing(&model);
    model.closed(newer, Some(4409));
    breaks(&model, "closed with Some(4409) for no reason");
}

#[test]
fn a_connection_is_closed_with_its_hub_or_for_no_reason() {
    let (mut dead, mut alive) = (calm(), calm());
    dead.turns(0, Health::Ended);

    dead.closed(0, None);
    alive.closed(0, Some(1011));

    breaks_nothing(&dead);
    breaks(&alive, "for no reason");
}

#[test]
fn a_call_goes_to_the_registration_that_its_hub_made_last() {
    let mut model = calm();
    registered(&mut model, 1, 2);
    let (elsewhere, there) = (call(&mut model, Kind::Query), model.calls(1, 0, Kind::Query, None));

    model.reached(0, elsewhere, "r");
    breaks_nothing(&model);
    model.reached(0, there, "s");
    breaks(&model, "which was replaced before");
}

#[test]
fn a_generation_grows_while_all_hubs_agree() {
    let mut model = calm();

    registered(&mut model, 1, 1);
    breaks_nothing(&model);
    registered(&mut model, 1, 1);
    breaks(&model, "after");
}
