//! Golden frames: the wire of the origin, byte for byte.

use super::encode::{self, RequestOptions};
use super::*;
use crate::call::Delivered;

fn decode(text: &str) -> Result<(Frame, Option<Dialect>), Error> {
    Frame::decode_of_peer(&Bytes::copy_from_slice(text.as_bytes()))
}

fn nested(levels: usize) -> String {
    format!("{}{}", "[".repeat(levels), "]".repeat(levels))
}

fn name(error: &Error) -> Option<&str> {
    error.call.as_ref().map(|call| call.request_id.as_str())
}

fn text(frame: Bytes) -> String {
    String::from_utf8(frame.into()).expect("frames are UTF-8")
}

#[test]
fn a_call_of_the_origin_is_read() {
    let (frame, dialect) = decode(
        r#"{"type":"call.requested","id":"","payload":{"requestId":"r1","operationId":"task.watch","input":{"a":[1, 2]},"deadline":2000,"identity":{"id":"mallory","scopes":["admin"]}}}"#,
    )
    .expect("valid");

    let Frame::Requested(call) = frame else {
        panic!("{frame:?}")
    };
    assert_eq!(dialect, Some(Dialect::Payload));
    assert_eq!(call.operation.as_str(), "task.watch");
    assert_eq!(call.input.as_ref().map(RawJson::as_str), Some(r#"{"a":[1, 2]}"#));
    assert_eq!(call.into_request(500).timeout, Some(Duration::from_millis(1500)));
}

#[test]
fn a_call_with_its_id_in_the_envelope_is_read() {
    let (frame, dialect) =
        decode(r#"{"type":"call.requested","id":"r2","payload":{"operationId":"/fs/readFile","input":null}}"#)
            .expect("valid");

    let Frame::Requested(call) = frame else {
        panic!("{frame:?}")
    };
    assert_eq!(dialect, Some(Dialect::Id));
    assert_eq!(
        (call.request_id.as_str(), call.operation.as_str()),
        ("r2", "fs.readFile")
    );
}

#[test]
fn each_peer_is_answered_in_its_own_dialect() {
    let output = RawJson::parse(r#"{"data":1,"meta":{"source":"local"}}"#).expect("valid");

    assert_eq!(
        text(encode::call_responded(Dialect::Payload, "r1", &output)),
        r#"{"type":"call.responded","id":"","payload":{"requestId":"r1","output":{"data":1,"meta":{"source":"local"}}}}"#
    );
    assert_eq!(
        text(encode::call_responded(Dialect::Id, "r1", &output)),
        r#"{"type":"call.responded","id":"r1","payload":{"requestId":"r1","output":{"data":1,"meta":{"source":"local"}}}}"#
    );
}

#[test]
fn frames_are_written_as_the_protocol_says() {
    let operation = "a.b".parse().expect("valid");
    let options = RequestOptions {
        timeout: Some(Duration::from_secs(1)),
        now_ms: 500,
        ..RequestOptions::default()
    };
    let target = "builder".parse().expect("valid");
    let targeted = RequestOptions {
        target: Some(&target),
        ..RequestOptions::default()
    };
    let error = CallError::new(Code::Domain("QUOTA".to_owned()), "too \"much\"").delivered(Delivered::Yes);

    for (frame, golden) in [
        (
            encode::call_requested(Dialect::Payload, "r", &operation, Some(&RawJson::null()), &options),
            r#"{"type":"call.requested","id":"","payload":{"requestId":"r","operationId":"a.b","input":null,"deadline":1500,"timeoutMs":1000}}"#,
        ),
        (
            encode::call_requested(Dialect::Payload, "r", &operation, None, &options),
            r#"{"type":"call.requested","id":"","payload":{"requestId":"r","operationId":"a.b","deadline":1500,"timeoutMs":1000}}"#,
        ),
        (
            encode::call_requested(Dialect::Id, "r", &operation, None, &targeted),
            r#"{"type":"call.requested","id":"r","payload":{"requestId":"r","operationId":"a.b","target":{"spokeId":"builder"}}}"#,
        ),
        (
            encode::call_completed(Dialect::Payload, "r"),
            r#"{"type":"call.completed","id":"","payload":{"requestId":"r"}}"#,
        ),
        (
            encode::call_aborted(Dialect::Id, "r", Some("deadline")),
            r#"{"type":"call.aborted","id":"r","payload":{"requestId":"r","reason":"deadline"}}"#,
        ),
        (
            encode::call_error(Dialect::Payload, "r", &error),
            r#"{"type":"call.error","id":"","payload":{"requestId":"r","code":"QUOTA","message":"too \"much\"","retryable":false,"delivered":"yes"}}"#,
        ),
        (
            encode::topic_control("__subscribed", &"a:1".parse().expect("valid")),
            r#"{"type":"__subscribed","id":"","payload":{"topic":"a:1"}}"#,
        ),
        (
            encode::refused_of_call(&error, "r"),
            r#"{"type":"__error","id":"","payload":{"code":"QUOTA","message":"too \"much\"","retryable":false,"delivered":"yes","requestId":"r"}}"#,
        ),
        (
            encode::gap(&Gap {
                topic: "a:1".to_owned(),
                reason: "overflow".to_owned(),
                missed: Some(3),
            }),
            r#"{"type":"__gap","id":"","payload":{"topic":"a:1","reason":"overflow","missed":3}}"#,
        ),
    ] {
        assert_eq!(text(frame), golden);
    }
}

/// What a hub adds for a spoke comes after what was there before.
#[test]
fn a_spoke_is_told_who_asks_and_everything_that_the_caller_sent() {
    let operation = "a.b".parse().expect("valid");
    let identity = Identity {
        id: "k1".to_owned(),
        scopes: vec!["git:read".to_owned()],
    };
    let plain = metadata(r#"{ "n": 1.50 }"#);
    let traced = metadata(r#"{"traceparent":"own"}"#);
    for (metadata, traceparent, golden) in [
        (Some(&plain), None, r#"{ "n": 1.50 }"#),
        (Some(&plain), Some("t"), r#"{"traceparent":"t", "n": 1.50 }"#),
        (Some(&traced), Some("t"), r#"{"traceparent":"own"}"#),
        (Some(&metadata("{ }")), Some("t"), r#"{"traceparent":"t"}"#),
        (None, Some("t"), r#"{"traceparent":"t"}"#),
    ] {
        let options = RequestOptions {
            parent: Some("p"),
            traceparent,
            metadata,
            identity: Some(&identity),
            ..RequestOptions::default()
        };
        let frame = encode::call_requested(Dialect::Payload, "r", &operation, Some(&RawJson::null()), &options);

        assert_eq!(
            text(frame.clone()),
            format!(
                r#"{{"type":"call.requested","id":"","payload":{{"requestId":"r","operationId":"a.b","input":null,"parentRequestId":"p","metadata":{golden},"identity":{{"id":"k1","scopes":["git:read"]}}}}}}"#
            )
        );
        let (Frame::Requested(call), _) = Frame::decode(&frame).expect("valid") else {
            panic!("not a call")
        };
        assert_eq!(call.metadata.expect("there").raw().as_str(), golden);
        assert_eq!(call.identity.as_deref(), Some(&identity), "a hub is believed");
        let (Frame::Requested(call), _) = Frame::decode_of_peer(&frame).expect("valid") else {
            panic!("not a call")
        };
        assert_eq!(call.identity, None, "a peer is not");
    }
}

fn metadata(text: &str) -> Metadata {
    Metadata::new(RawJson::parse(text.to_owned()).expect("JSON")).expect("an object")
}

#[test]
fn metadata_is_an_object_of_bounded_size() {
    let call = |metadata: &str| {
        decode(&format!(
            r#"{{"type":"call.requested","id":"r","payload":{{"operationId":"a.b","metadata":{metadata}}}}}"#
        ))
    };
    let large = format!(r#"{{"x":"{}"}}"#, "x".repeat(crate::call::METADATA_LIMIT_BYTES - 8));

    for taken in ["null", "{}", r#"{"traceparent":5}"#, &large] {
        assert!(call(taken).is_ok(), "{taken}");
    }
    for (refused, code) in [
        ("5", Code::BadRequest),
        (r#"["00-a-b-01"]"#, Code::BadRequest),
        (large.replace("{", "{ ").as_str(), Code::PayloadTooLarge),
    ] {
        let error = call(refused).expect_err("refused");
        assert_eq!((error.to_call_error().code, name(&error)), (code, Some("r")));
    }
}

#[test]
fn every_form_of_subscribe_names_the_same_topic() {
    for payload in [r#""a:1""#, r#"{"topic":"a:1"}"#, r#"{"type":"a","id":"1"}"#] {
        let (frame, _) = decode(&format!(r#"{{"type":"__subscribe","id":"","payload":{payload}}}"#)).expect("valid");
        assert!(
            matches!(frame, Frame::Subscribe(filter) if filter.to_string() == "a:1"),
            "{payload}"
        );
    }
}

#[test]
fn register_is_a_message_or_a_call() {
    let (frame, dialect) = decode(r#"{"type":"hub.register","id":"x","payload":{"operations":[]}}"#).expect("valid");

    let Frame::Requested(call) = frame else {
        panic!("{frame:?}")
    };
    assert_eq!(
        (call.request_id.as_str(), call.operation.as_str()),
        ("x", "hub.register")
    );
    assert_eq!(dialect, None, "its dialect is unknown");
}

#[test]
fn a_wrong_call_is_answered_under_its_id() {
    let error = decode(r#"{"type":"call.requested","id":"","payload":{"requestId":"r1","operationId":"nodot"}}"#)
        .expect_err("no dot");

    assert_eq!(name(&error), Some("r1"));
    assert_eq!(error.to_call_error().code, Code::BadRequest);
    assert!(error.to_string().contains("namespace.operation"), "{error}");
}

#[test]
fn a_control_message_of_the_future_is_named_unsupported() {
    let error = decode(r#"{"type":"__later","id":"","payload":{}}"#).expect_err("unknown");

    assert_eq!(error.to_call_error().code, Code::Unsupported);
}

#[test]
fn a_spokes_error_without_a_code_is_unknown() {
    let (frame, _) = decode(r#"{"type":"call.error","id":"","payload":{"requestId":"r1"}}"#).expect("valid");

    assert!(matches!(frame, Frame::Failed { error, .. } if error.code == Code::UnknownError));
}

#[test]
fn an_input_of_exactly_the_limit_is_read_and_one_byte_more_is_answered_under_its_id() {
    let request = |size: usize| {
        let text = "x".repeat(size - 2);
        format!(
            r#"{{"type":"call.requested","id":"","payload":{{"requestId":"r1","operationId":"a.b","input":"{text}"}}}}"#
        )
    };

    assert!(decode(&request(crate::PAYLOAD_LIMIT_BYTES)).is_ok());
    let error = decode(&request(crate::PAYLOAD_LIMIT_BYTES + 1)).expect_err("too large");

    assert_eq!(name(&error), Some("r1"));
    assert_eq!(error.to_call_error().code, Code::PayloadTooLarge);
}

#[test]
fn a_broken_call_is_answered_under_its_id_in_its_dialect() {
    let deep = nested(65);
    for payload in [
        r#""timeoutMs":1500.5"#,
        r#""deadline":"soon""#,
        r#""target":"text""#,
        r#""target":{"spokeId":"Not A Name"}"#,
        r#""input":1,"input":2"#,
        r#""operationId":5"#,
        &format!(r#""input":{deep}"#),
        r#""input":[1,"#,
    ] {
        for (frame, dialect) in [
            (
                format!(
                    r#"{{"type":"call.requested","id":"","payload":{{"requestId":"r9","operationId":"a.b",{payload}}}}}"#
                ),
                Dialect::Payload,
            ),
            (
                format!(r#"{{"type":"call.requested","id":"r9","payload":{{"operationId":"a.b",{payload}}}}}"#),
                Dialect::Id,
            ),
        ] {
            let error = decode(&frame).expect_err(payload);
            let named = error.call.as_ref().expect("names its call");

            assert_eq!(
                (named.request_id.as_str(), named.dialect, named.asks),
                ("r9", Some(dialect), true),
                "{frame}"
            );
            assert_eq!(error.to_call_error().code, Code::BadRequest, "{frame}");
        }
    }
}

/// The second look at a refused message names the same call as the first look does for a faultless one.
#[test]
fn the_second_look_sees_what_the_first_one_does() {
    let operation = "a.b".parse().expect("valid");
    let output =
        RawJson::parse(r#"{"type":"job","id":"no","payload":{"requestId":"no"}, "s":"\"}{\\"}"#).expect("valid");
    let error = CallError::new(Code::Timeout, r#""requestId":"no""#).details(output.clone());
    for dialect in [Dialect::Payload, Dialect::Id] {
        for (message, asks) in [
            (
                encode::call_requested(dialect, "r\\1", &operation, Some(&output), &RequestOptions::default()),
                true,
            ),
            (encode::call_responded(dialect, "r\\1", &output), false),
            (encode::call_completed(dialect, "r\\1"), false),
            (encode::call_aborted(dialect, "r\\1", Some("{[")), false),
            (encode::call_error(dialect, "r\\1", &error), false),
        ] {
            assert!(Frame::decode(&message).is_ok(), "{message:?}");
            let named = glance::about(&message).call.expect("names its call");

            assert_eq!(
                (named.request_id.as_str(), named.dialect, named.asks),
                ("r\\1", Some(dialect), asks),
                "{message:?}"
            );
        }
    }
}

#[test]
fn milliseconds_are_whole_however_they_are_written() {
    let text =
        r#"{"type":"call.requested","id":"r","payload":{"operationId":"a.b","deadline":1.5e12,"timeoutMs":10.0}}"#;
    let (frame, _) = decode(text).expect("valid");

    let Frame::Requested(call) = frame else {
        panic!("{frame:?}")
    };
    assert_eq!((call.deadline_ms, call.timeout_ms), (Some(1_500_000_000_000), Some(10)));
    for wrong in ["1500.5", "-1", "1e300", "\"10\"", "true"] {
        let text =
            format!(r#"{{"type":"call.requested","id":"r","payload":{{"operationId":"a.b","timeoutMs":{wrong}}}}}"#);
        let error = decode(&text).expect_err(wrong);
        assert!(error.to_string().contains("whole number of milliseconds"), "{error}");
    }
}

#[test]
fn an_absent_input_differs_from_null() {
    let input = |fields: &str| {
        let text =
            format!(r#"{{"type":"call.requested","id":"","payload":{{"requestId":"r","operationId":"a.b"{fields}}}}}"#);
        match decode(&text).expect("valid").0 {
            Frame::Requested(call) => call.into_request(0),
            other => panic!("{other:?}"),
        }
    };

    assert_eq!(input("").input, None);
    assert_eq!(input("").input_or_null(), RawJson::null());
    assert_eq!(input(r#","input": null"#).input, Some(RawJson::null()));
}

/// The origin passes them to timers that accept any number.
#[test]
fn a_deadline_and_an_idle_timeout_are_any_number() {
    const LAST: u64 = 1 << 53;
    for (number, wanted) in [
        ("1500.5", 1500),
        ("1e3", 1000),
        ("0.99", 0),
        ("-0.0", 0),
        ("-0", 0),
        ("-1", 0),
        ("-1e300", 0),
        ("9007199254740991.5", LAST),
        ("9007199254740993", LAST),
        ("18446744073709551615", LAST),
        ("100000000000000000000", LAST),
        ("1.7976931348623157e+308", LAST),
        ("1732000000000.75", 1_732_000_000_000),
    ] {
        let text = format!(
            r#"{{"type":"call.requested","id":"r","payload":{{"operationId":"a.b","deadline":{number},"idleTimeout":{number}}}}}"#
        );
        let Frame::Requested(call) = decode(&text).expect(number).0 else {
            panic!("not a call")
        };
        assert_eq!(
            (call.deadline_ms, call.idle_timeout_ms),
            (Some(wanted), Some(wanted)),
            "{number}"
        );
    }
    for wrong in ["\"10\"", "true", "{}", "[1]"] {
        for field in ["deadline", "idleTimeout"] {
            let text =
                format!(r#"{{"type":"call.requested","id":"r","payload":{{"operationId":"a.b","{field}":{wrong}}}}}"#);
            let error = decode(&text).expect_err(wrong).to_call_error();
            assert!(error.message.contains("expected a number of milliseconds"), "{error}");
            assert_eq!(error.code, Code::BadRequest);
        }
    }
}

#[test]
fn a_target_that_is_not_built_is_refused_by_name() {
    let text = r#"{"type":"call.requested","id":"r","payload":{"operationId":"a.b","target":{"spokeId":"text","labels":{"gpu":"yes"}}}}"#;
    let error = decode(text).expect_err("no labels");

    assert_eq!(name(&error), Some("r"));
    assert_eq!(error.to_call_error().code, Code::Unsupported);
    assert!(
        error.to_string().contains("`target.labels` is not supported"),
        "{error}"
    );
}

#[test]
fn what_is_expected_is_said_in_words_of_the_wire() {
    for (text, wanted) in [
        ("[]", r#"the JSON object {"type": string"#),
        (r#"["a","1",5,null]"#, "this is an array"),
        ("5", "expected a JSON object"),
        (
            r#"{"type":"__subscribe","id":"","payload":{}}"#,
            r#"{"topic": "type:id"}"#,
        ),
        (
            r#"{"type":"__subscribe","id":"","payload":5}"#,
            r#"a topic is "type:id""#,
        ),
        (
            r#"{"type":"call.requested","id":"r","payload":5}"#,
            "expected a JSON object",
        ),
        (
            r#"{"type":"call.requested","id":"r","payload":["r","a.b"]}"#,
            "expected a JSON object",
        ),
        (
            r#"{"type":"hub.register","id":"r","payload":[]}"#,
            "expected a JSON object",
        ),
        (
            r#"{"type":"call.requested","id":"r","payload":{"operationId":"a.b","target":"text"}}"#,
            r#"expected an object {"spokeId": "name"}"#,
        ),
    ] {
        let error = decode(text).expect_err(text).to_call_error();

        assert!(error.message.contains(wanted), "{text}: {error}");
        for rust in ["struct", "enum", "variant", "u64", "element"] {
            assert!(!error.message.contains(rust), "{text}: {error}");
        }
    }
}

#[test]
fn a_refusal_repeats_little_of_a_long_text() {
    let long = "x".repeat(100_000);
    let text =
        format!(r#"{{"type":"call.requested","id":"r","payload":{{"operationId":"a.b","timeoutMs":"{long}"}}}}"#);

    let error = decode(&text).expect_err("no number").to_call_error();

    assert!(error.message.len() <= 500, "{} bytes", error.message.len());
}

/// Everybody can read what a hub puts around a peer's deepest value.
#[test]
fn a_value_of_sixty_four_levels_is_read_wherever_it_stands() {
    let input = RawJson::parse(nested(64)).expect("the limit");
    let wrapped = RawJson::parse(format!(r#"{{"data":{},"meta":{{}}}}"#, nested(63))).expect("the limit");
    let operation = "a.b".parse().expect("valid");
    let options = RequestOptions::default();
    let (topic, id) = ("a:1".parse().expect("valid"), "r");
    for message in [
        encode::event(&topic, Some(&input)),
        encode::call_requested(Dialect::Payload, id, &operation, Some(&input), &options),
        encode::call_responded(Dialect::Payload, id, &input),
        encode::call_responded(Dialect::Payload, id, &wrapped),
    ] {
        assert!(Frame::decode_of_peer(&message).is_ok(), "{}", text(message));
        assert!(Frame::decode(&message).is_ok(), "{}", text(message));
    }
    for message in [
        format!(r#"{{"type":"a","id":"1","payload":{}}}"#, nested(65)),
        format!(
            r#"{{"type":"call.requested","id":"r","payload":{{"operationId":"a.b","input":{}}}}}"#,
            nested(65)
        ),
        format!(
            r#"{{"type":"call.responded","id":"r","payload":{{"output":{{"data":{}}}}}}}"#,
            nested(65)
        ),
    ] {
        let error = decode(&message).expect_err("one level more");
        assert!(error.to_string().contains("64 levels"), "{error}");
    }
}

/// Details are a spoke's words: they may hold what no number or text of ours does.
#[test]
fn a_refusal_carries_its_details_as_they_came() {
    for details in ["1e400", r#"{"cut":"\ud83d"}"#] {
        let mut error = crate::CallError::new(Code::BadRequest, "no");
        error.details = Some(crate::RawJson::parse(details).expect("JSON"));

        let frame = encode::refused(&error, Some("a:1"));

        let text = std::str::from_utf8(&frame).expect("UTF-8");
        assert!(text.contains(details) && text.contains(r#""topic":"a:1""#), "{text}");
    }
}

#[test]
fn a_session_is_spoken_of_as_the_protocol_says() {
    use super::session::{Hello, Migrate, Resume, ResumeRequest, Welcome};
    let resumed = |generation| Resume {
        received: 3,
        generation,
    };
    let hello = Hello {
        protocols: vec!["alk.v1.json".to_owned()],
        features: vec!["resume".to_owned()],
        resume: Some(ResumeRequest {
            session_id: "5f".to_owned(),
            received: 7,
        }),
    };
    let welcome = Welcome {
        session_id: "5f".to_owned(),
        hub_id: "hub-0-x".to_owned(),
        heartbeat_ms: 10_000,
        resume_ms: 30_000,
        max_inflight: 100,
        features: vec!["resume".to_owned()],
    };

    assert_eq!(
        text(encode::hello(&hello)),
        r#"{"type":"__hello","id":"","payload":{"protocols":["alk.v1.json"],"features":["resume"],"resume":{"sessionId":"5f","received":7}}}"#
    );
    assert_eq!(
        text(encode::welcome(&welcome)),
        r#"{"type":"__welcome","id":"","payload":{"sessionId":"5f","hubId":"hub-0-x","heartbeatMs":10000,"resumeMs":30000,"maxInflight":100,"features":["resume"]}}"#
    );
    assert_eq!(
        text(encode::resumed(&resumed(None))),
        r#"{"type":"__resume","id":"","payload":{"received":3}}"#
    );
    assert_eq!(
        text(encode::resumed(&resumed(Some(7)))),
        r#"{"type":"__resume","id":"","payload":{"received":3,"generation":7}}"#
    );
    assert_eq!(
        text(encode::ack(3)),
        r#"{"type":"__ack","id":"","payload":{"count":3}}"#
    );
    assert_eq!(text(encode::ping()), r#"{"type":"__ping","id":""}"#);
    let read = |frame: Bytes| Frame::decode(&frame).expect("valid").0;
    let migrate = Migrate {
        deadline_ms: 30_000,
        resume: true,
        target: None,
    };
    assert_eq!(
        text(encode::migrate(&migrate)),
        r#"{"type":"hub.migrate","id":"","payload":{"deadlineMs":30000,"resume":true}}"#
    );
    assert!(matches!(read(encode::migrate(&migrate)), Frame::Migrate(read) if *read == migrate));
    assert!(matches!(read(encode::hello(&hello)), Frame::Hello(read) if *read == hello));
    assert!(matches!(read(encode::welcome(&welcome)), Frame::Welcome(read) if *read == welcome));
    for generation in [None, Some(7)] {
        let resume = resumed(generation);
        assert!(matches!(read(encode::resumed(&resume)), Frame::Resumed(read) if read == resume));
    }
    assert!(matches!(read(encode::ack(3)), Frame::Acknowledged(3)));
    assert!(matches!(read(encode::ping()), Frame::Ping(None)));
    assert_eq!(
        text(encode::hubs(2)),
        r#"{"type":"__hubs","id":"","payload":{"count":2}}"#
    );
    assert!(matches!(read(encode::hubs(2)), Frame::Hubs(2)));
}

#[test]
fn what_counts_in_a_session_is_decided_by_the_type_alone() {
    let of = |text: &str| match decode(text) {
        Ok((frame, _)) => frame.counts(),
        Err(error) => error.counts,
    };

    for kind in [
        "__hello",
        "__welcome",
        "__resume",
        "__ack",
        "__hubs",
        "__ping",
        "__pong",
        "hub.migrate",
    ] {
        assert!(!of(&format!(r#"{{"type":"{kind}","payload":{{}}}}"#)), "{kind}");
        assert!(!of(&format!(r#"{{"type":"{kind}","payload":[1"#)), "{kind}, broken");
    }
    for text in [
        r#"{"type":"call.aborted","id":"r"}"#,
        r#"{"type":"__subscribe","payload":"a:1"}"#,
        r#"{"type":"__gap","payload":{"topic":"a:1","reason":"overflow"}}"#,
        r#"{"type":"__new"}"#,
        r#"{"type":"a","id":"1"}"#,
        "{",
        "",
    ] {
        assert!(of(text), "{text}");
    }
}

#[test]
fn a_hello_of_a_wrong_shape_is_refused_by_name() {
    for payload in [
        "null",
        "[]",
        r#"{"features":"resume"}"#,
        r#"{"features":[1]}"#,
        r#"{"resume":{"sessionId":"x"}}"#,
        r#"{"resume":{"sessionId":"x","received":-1}}"#,
        r#"{"resume":{"sessionId":"x","received":"1"}}"#,
    ] {
        let error = decode(&format!(r#"{{"type":"__hello","payload":{payload}}}"#)).expect_err(payload);
        assert!(error.to_string().contains("`__hello`"), "{error}");
        assert_eq!(error.to_call_error().code, Code::BadRequest);
    }
    let long = format!(r#"{{"type":"__ping","payload":"{}"}}"#, "x".repeat(124));
    assert_eq!(
        decode(&long).expect_err("126 bytes").to_call_error().code,
        Code::PayloadTooLarge
    );
}

#[test]
fn an_update_of_a_registration_is_a_message_or_a_call() {
    for (text, id, dialect) in [
        (
            r#"{"type":"hub.register.update","id":"u","payload":{"add":["4SMtD0vVLfq53SPKe0NEobgBSw3lZPmO58I16A7ljWc"],"remove":["text.lower"]}}"#,
            "u",
            None,
        ),
        (
            r#"{"type":"hub.register.update","id":"","payload":{"add":["4SMtD0vVLfq53SPKe0NEobgBSw3lZPmO58I16A7ljWc"],"remove":["text.lower"]}}"#,
            "hub.register.update",
            None,
        ),
        (
            r#"{"type":"call.requested","id":"u","payload":{"operationId":"hub.register.update","input":{"add":["4SMtD0vVLfq53SPKe0NEobgBSw3lZPmO58I16A7ljWc"],"remove":["text.lower"]}}}"#,
            "u",
            Some(Dialect::Id),
        ),
    ] {
        let (frame, seen) = decode(text).expect(text);

        let Frame::Requested(requested) = frame else {
            panic!("{text}")
        };
        assert_eq!((requested.request_id.as_str(), seen), (id, dialect), "{text}");
        assert_eq!(requested.operation.as_str(), kind::REGISTER_UPDATE_NAME, "{text}");
        let input: crate::register::UpdateInput = requested.input.expect("it has one").to().expect("an update");
        assert_eq!(input.add.len(), 1);
        assert_eq!(input.remove, ["text.lower".parse().expect("valid")]);
    }
    assert_eq!(
        kind::REGISTER_UPDATE
            .parse::<crate::OperationName>()
            .expect("valid")
            .as_str(),
        kind::REGISTER_UPDATE_NAME
    );
}

#[test]
fn what_a_registration_may_name_is_bounded() {
    use crate::register::{OPERATIONS_LIMIT, RegisterInput, UpdateInput};
    let list = |entry: &str, count: usize| vec![entry; count].join(",");
    for (entry, member) in [("\"h\"", "operations"), ("\"h\"", "add"), ("\"a.b\"", "remove")] {
        let text = |count: usize| format!("{{\"{member}\":[{}]}}", list(entry, count));
        let read = |count: usize| {
            let raw = RawJson::parse(text(count)).expect("JSON");
            match member {
                "operations" => raw.to::<RegisterInput>().map(drop),
                _ => raw.to::<UpdateInput>().map(drop),
            }
        };

        read(OPERATIONS_LIMIT).expect(member);
        let refused = read(OPERATIONS_LIMIT + 1).expect_err(member).to_string();
        assert!(refused.contains("more than 10000 entries"), "{refused}");
    }
}

#[test]
fn what_a_hub_says_of_hashes_is_pinned() {
    use crate::register::{OperationResult, RefusedDetails, Registered};
    let told = OperationResult {
        name: "text.upper".to_owned(),
        result: Registered::Registered,
        reason: None,
        hash: Some("4SMtD0vVLfq53SPKe0NEobgBSw3lZPmO58I16A7ljWc".to_owned()),
        warnings: Vec::new(),
    };
    let rejected = OperationResult {
        name: "text.lower".to_owned(),
        result: Registered::Rejected,
        reason: Some("why".to_owned()),
        hash: None,
        warnings: Vec::new(),
    };
    let unknown = RefusedDetails {
        unknown: vec!["4SMtD0vVLfq53SPKe0NEobgBSw3lZPmO58I16A7ljWc".to_owned()],
        ..RefusedDetails::default()
    };
    let refused = RefusedDetails {
        rejected: vec![rejected],
        ..RefusedDetails::default()
    };

    let json = |value: serde_json::Result<String>| value.expect("plain");
    assert_eq!(
        json(serde_json::to_string(&told)),
        r#"{"name":"text.upper","result":"registered","hash":"4SMtD0vVLfq53SPKe0NEobgBSw3lZPmO58I16A7ljWc"}"#
    );
    assert_eq!(
        json(serde_json::to_string(&unknown)),
        r#"{"unknown":["4SMtD0vVLfq53SPKe0NEobgBSw3lZPmO58I16A7ljWc"]}"#
    );
    assert_eq!(
        json(serde_json::to_string(&refused)),
        r#"{"rejected":[{"name":"text.lower","result":"rejected","reason":"why"}]}"#
    );
}
