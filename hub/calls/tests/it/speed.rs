//! The cost of one routed call, checked and recorded, without sockets.
//!
//! The figures are printed (`cargo test -p alkhub-calls speed -- --nocapture`), and only a bound that holds for any
//! build is asserted. `make bench` measures with sockets.

use std::collections::VecDeque;
use std::time::Duration;

use alkhub_calls::{Limits, OutgoingItem, Reply};
use alkhub_protocol::frame::encode::{self, RequestOptions};
use alkhub_protocol::{Dialect, Frame, RawJson, RequestId};
use serde_json::json;

use crate::fixture::{Hub, Spoke, admin, decode, operation, peer_of};

const CALLS: usize = 20_000;

#[tokio::test]
async fn a_routed_call_costs_little() {
    let hub = Hub::local().await;
    let schema = json!({
        "inputSchema": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
        "outputSchema": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
    });
    let mut spoke = Spoke::connect(&hub, "text", &[operation("text.upper", "query", &schema)]).await;

    for in_flight in [1, 128] {
        let cost = run(&hub, &mut spoke, in_flight);
        println!(
            "{in_flight:>3} in flight: {:.1} us of CPU per call, both ends included",
            cost.as_secs_f64() * 1e6
        );
        assert!(cost < Duration::from_millis(1), "{cost:?}");
    }
    assert_eq!(hub.calls.in_flight(), 0);
}

/// CPU time of this thread, which unlike wall-clock time is the same on a busy machine.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux tells");
    let spent = stat.split_whitespace().next().and_then(|ns| ns.parse().ok());
    Duration::from_nanos(spent.expect("nanoseconds"))
}

/// CPU time per call: the caller's frame in, the spoke's frame out and its answer in, the answer out, and both
/// simulated ends.
fn run(hub: &Hub, spoke: &mut Spoke, window: usize) -> Duration {
    let (caller, mut outgoing) = peer_of(Limits {
        items: 1_000,
        bytes: 10 << 20,
    });
    let admin = admin();
    let name = "text.upper".parse().expect("valid");
    let input = RawJson::from(json!({"text": "x".repeat(100)}));
    let output = RawJson::from(json!({"data": {"text": "X".repeat(100)}, "meta": {"source": "local"}}));
    let requested = |n: usize| {
        encode::call_requested(
            Dialect::Payload,
            &format!("r{n}"),
            &name,
            Some(&input),
            &RequestOptions::default(),
        )
    };
    let start = cpu();
    let mut running: VecDeque<RequestId> = VecDeque::new();
    for n in 0..CALLS {
        let message = requested(n);
        let Frame::Requested(request) = decode(&message) else {
            panic!("a request");
        };
        let reply = Reply::Outbox(caller.clone());
        hub.calls
            .dispatch(&admin, request.into_request(0), reply)
            .expect("routed");
        let Some(OutgoingItem::Message(message)) = spoke.outgoing.try_next() else {
            panic!("the call");
        };
        let Frame::Requested(call) = decode(&message) else {
            panic!("a request");
        };
        running.push_back(call.request_id);
        while running.len() >= window {
            let id = running.pop_front().expect("not empty");
            answer(spoke, &id, &output, &mut outgoing);
        }
    }
    for id in running {
        answer(spoke, &id, &output, &mut outgoing);
    }
    (cpu() - start) / u32::try_from(CALLS).expect("small")
}

fn answer(spoke: &Spoke, id: &RequestId, output: &RawJson, outgoing: &mut alkhub_calls::Outgoing) {
    let message = encode::call_responded(Dialect::Payload, id.as_str(), output);
    spoke.registration.received(decode(&message));
    assert!(
        matches!(outgoing.try_next(), Some(OutgoingItem::Message(_))),
        "an answer"
    );
}
