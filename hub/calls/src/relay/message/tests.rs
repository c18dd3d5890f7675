//! Messages are read as they were written, and what does not belong is refused.

use alkhub_protocol::frame::encode::{self, RequestOptions};
use alkhub_protocol::{Dialect, RawJson};
use uuid::Uuid;

use super::*;

fn remote(attempt: u8) -> RemoteCall {
    RemoteCall {
        hub: "hub-1".parse().expect("valid"),
        key: 7,
        attempt,
    }
}

fn read(header: &Header, frame: &[u8]) -> Result<RelayMessage, Error> {
    let message = [&header.encode(), frame].concat();
    RelayMessage::decode(remote(0).hub, &message.into())
}

fn to() -> Destination {
    Destination {
        spoke: "builder".parse().expect("valid"),
        instance: "i-1/{}".parse().expect("valid"),
        generation: 9,
    }
}

/// The id of a call that another call led to.
fn id() -> CallId {
    CallId {
        id: Uuid::from_u128(3),
        root: Uuid::from_u128(1),
        parent: Some(Uuid::from_u128(2)),
    }
}

#[test]
fn a_call_arrives_with_its_input_as_it_was() {
    let input = RawJson::parse(r#"{"n": 1.50, "s": "a\nb"}"#).expect("JSON");
    let name = "builder.build".parse().expect("valid");
    let options = RequestOptions {
        timeout: Some(std::time::Duration::from_secs(3)),
        traceparent: Some("00-a-b-01"),
        ..RequestOptions::default()
    };
    let frame = encode::call_requested(Dialect::Payload, "7", &name, Some(&input), &options);
    let header = Header::Call {
        key: 7,
        attempt: 1,
        id: id(),
        to: to(),
        on_disconnect: OnDisconnect::Detach,
        was_lost: true,
    };

    let message = read(&header, &frame).expect("valid");

    let RelayMessage::Call { call, requested } = message else {
        panic!("not a call: {message:?}");
    };
    let sent = RelayedCall {
        remote: remote(1),
        id: id(),
        to: to(),
        on_disconnect: OnDisconnect::Detach,
        was_lost: true,
    };
    assert_eq!(call, sent);
    assert_eq!(requested.input, Some(input));
    assert_eq!(requested.timeout_ms, Some(3000));
    assert_eq!(requested.traceparent.as_deref(), Some("00-a-b-01"));
}

#[test]
fn what_comes_back_names_the_attempt_and_is_read_later() {
    let frame = encode::call_aborted(Dialect::Payload, "7", None);

    let back = read(&Header::Answer { key: 7, attempt: 1 }, &frame).expect("valid");
    let moved = |rest| read(&Header::Moved { key: 7, attempt: 0 }, rest).expect("needs no frame");
    let abort = read(&Header::Abort { key: 7 }, b"").expect("needs no frame");
    let Destination { spoke, instance, .. } = to();
    let late = read(
        &Header::Late {
            key: 7,
            spoke,
            instance,
        },
        &frame,
    )
    .expect("valid");

    let RelayMessage::Answer { call, frame } = back else {
        panic!("{back:?}");
    };
    assert_eq!(call, remote(1));
    assert!(matches!(answer(&frame), Ok(Frame::Aborted { .. })));
    assert!(answer(&Bytes::from_static(b"{}")).is_err());
    for said in [
        RegistrationStanding::Gone,
        RegistrationStanding::Ready,
        RegistrationStanding::Reconnecting,
    ] {
        let moved = moved(said.written());
        assert!(matches!(moved, RelayMessage::Moved { call, standing } if call == remote(0) && standing == said));
    }
    assert!(matches!(abort, RelayMessage::Abort { from, key: 7 } if from == remote(0).hub));
    let RelayMessage::Late {
        key: 7,
        spoke,
        instance,
        frame,
    } = late
    else {
        panic!("{late:?}");
    };
    assert_eq!((spoke, instance), (to().spoke, to().instance));
    assert!(matches!(answer(&frame), Ok(Frame::Aborted { .. })));
}

#[test]
fn a_question_about_a_registration_and_its_answer_name_the_hub_that_says_them() {
    let asked = read(&Header::Ask { key: 7, about: to() }, b"").expect("needs no frame");
    let answers = [true, false].map(|can| read(&Header::Callable { key: 7, can }, b"").expect("needs no frame"));

    let hub = remote(0).hub;
    let RelayMessage::Ask { from, key: 7, about } = asked else {
        panic!("{asked:?}");
    };
    assert_eq!((&from, about), (&hub, to()));
    for (answer, wanted) in answers.into_iter().zip([true, false]) {
        let RelayMessage::Callable { from, key: 7, can } = answer else {
            panic!("{answer:?}");
        };
        assert_eq!((&from, can), (&hub, wanted));
    }
}

#[test]
fn what_does_not_belong_is_refused() {
    let call = Header::Call {
        key: 7,
        attempt: 0,
        id: id(),
        to: to(),
        on_disconnect: OnDisconnect::Detach,
        was_lost: true,
    };
    let aborted = encode::call_aborted(Dialect::Payload, "7", None);
    assert!(matches!(read(&call, &aborted), Err(Error::Unexpected)));
    assert!(matches!(read(&call, b"{}"), Err(Error::Frame(_))));
    for line in [
        "",
        "\n",
        "{}",
        "{}\n{}",
        "call 7\n",
        "answer 7 256\n",
        "abort -1\n",
        "abort 7 8\n",
        "moved 7\n",
        "late 7 builder\n",
        "ask 7 9 builder\n",
        "ask 7 builder 9 i\n",
        "callable 7\n",
        "callable 7 perhaps\n",
    ] {
        let message = RelayMessage::decode(remote(0).hub, &Bytes::copy_from_slice(line.as_bytes()));
        assert!(matches!(message, Err(Error::Header)), "{line:?}: {message:?}");
    }
}
