//! What one hub writes, the other one reads.

use alkhub_protocol::Frame;
use alkhub_protocol::frame::encode::RequestOptions;

use super::*;

fn header(way: Way, to: Option<Destination>) -> Header {
    Header {
        from: "hub-1".parse().expect("valid"),
        key: 7,
        way,
        attempt: None,
        end: false,
        items: 0,
        to,
        known: None,
    }
}

fn said(attempt: Option<u8>) -> Asked {
    Asked {
        hub: "hub-1".parse().expect("valid"),
        key: 7,
        attempt,
    }
}

fn destination() -> Destination {
    Destination {
        spoke: "builder".parse().expect("valid"),
        instance: "i 1".replace(' ', "-").parse().expect("valid"),
        generation: 9,
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

    let read = Message::decode(&encoded(&header(Way::Out, Some(destination())), &frame)).expect("valid");

    let Message::Call { asked, to, requested } = read else {
        panic!("not a call: {read:?}");
    };
    assert_eq!((asked, to), (said(None), destination()));
    assert_eq!(requested.input, Some(input));
    assert_eq!(requested.timeout_ms, Some(3000));
    assert_eq!(requested.traceparent.as_deref(), Some("00-a-b-01"));
}

#[test]
fn an_abort_and_an_answer_differ_by_their_way() {
    let frame = encode::call_aborted(Dialect::Payload, "7", None);

    let out = Message::decode(&encoded(&header(Way::Out, None), &frame)).expect("valid");
    let back = Message::decode(&encoded(&header(Way::Back, None), &frame)).expect("valid");

    assert!(matches!(out, Message::Abort { key: 7, .. }));
    let Message::Answer { said: about, frame, .. } = back else {
        panic!("{back:?}");
    };
    assert_eq!(about, said(None));
    assert!(matches!(answer(&frame), Ok(Frame::Aborted { .. })));
    assert!(answer(&Bytes::from_static(b"{}")).is_err());
}

#[test]
fn what_does_not_belong_is_refused() {
    let event = Bytes::from_static(b"{\"type\":\"job\",\"id\":\"1\"}");
    let moved = Message::decode(&encoded(&header(Way::Moved, None), b"")).expect("needs no frame");

    assert!(matches!(moved, Message::Moved { said: about } if about == said(None)));
    assert!(Message::decode(&encoded(&header(Way::Out, None), &event)).is_err());
    assert!(Message::decode(&Bytes::from_static(b"{}")).is_err());
    assert!(Message::decode(&Bytes::from_static(b"{}\n{}")).is_err());
}

#[test]
fn what_hubs_tell_of_their_calls_needs_no_frame() {
    let known = Known {
        mine: vec![1, 2],
        attempts: vec![0, 1],
        held: Vec::new(),
        is_answer: true,
    };
    let told = Header {
        known: Some(Box::new(known.clone())),
        ..header(Way::Known, None)
    };
    let marked = Header {
        items: 5,
        ..header(Way::Mark, None)
    };

    let told = Message::decode(&encoded(&told, b"")).expect("valid");
    let marked = Message::decode(&encoded(&marked, b"")).expect("valid");
    let unknown = Message::decode(&encoded(&header(Way::Unknown, None), b"")).expect("valid");

    assert!(matches!(told, Message::Known { known: read, .. } if *read == known));
    assert!(matches!(marked, Message::Mark { said: about, items: 5 } if about == said(None)));
    assert!(matches!(unknown, Message::Unknown { said: about } if about == said(None)));
    assert!(Message::decode(&encoded(&header(Way::Known, None), b"")).is_err());
}

#[test]
fn an_attempt_and_an_end_are_read_and_a_hub_of_the_version_before_says_neither() {
    let again = Header {
        attempt: Some(1),
        ..header(Way::Unknown, None)
    };
    let ended = Header {
        attempt: Some(0),
        end: true,
        ..header(Way::Back, None)
    };
    let frame = encode::call_aborted(Dialect::Payload, "7", None);

    let again = Message::decode(&encoded(&again, b"")).expect("valid");
    let ended = Message::decode(&encoded(&ended, &frame)).expect("valid");
    let before = Bytes::from_static(
        b"{\"from\":\"hub-1\",\"key\":0,\"way\":\"known\",\"known\":{\"mine\":[1],\"is_answer\":true}}\n",
    );
    let before = Message::decode(&before).expect("valid");

    assert!(matches!(again, Message::Unknown { said: about } if about == said(Some(1))));
    assert!(matches!(ended, Message::Answer { said: about, is_end: true, .. } if about == said(Some(0))));
    assert!(matches!(before, Message::Known { known, .. } if known.mine == [1] && known.attempts.is_empty()));
}
