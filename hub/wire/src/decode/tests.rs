//! Valid and invalid frames according to RFC 6455.

use bytes::Bytes;

use super::*;
use crate::encode::push_header;

const MASK: [u8; 4] = [0x12, 0xAB, 0x00, 0xFF];

/// A frame from either end; `first` has FIN, RSV and opcode.
fn frame(sender: Role, first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = match sender {
        Role::Server => None,
        Role::Client => Some(MASK),
    };
    let mut out = BytesMut::new();
    push_header(&mut out, first, payload.len(), mask);
    let start = out.len();
    out.extend_from_slice(payload);
    if let Some(mask) = mask {
        apply_mask(&mut out[start..], mask, 0);
    }
    out.to_vec()
}

fn client(first: u8, payload: &[u8]) -> Vec<u8> {
    frame(Role::Client, first, payload)
}

/// The result of reading a client's bytes when `step` of them arrive at a time, and how it ended.
fn read(bytes: &[u8], step: usize) -> (Vec<Received>, Result<(), Error>) {
    read_as(Role::Server, bytes, step)
}

fn read_as(role: Role, bytes: &[u8], step: usize) -> (Vec<Received>, Result<(), Error>) {
    let mut decoder = Decoder::new(role, 1024);
    let mut received = Vec::new();
    for mut piece in bytes.chunks(step) {
        loop {
            match decoder.feed(&mut piece) {
                Ok(Some(item)) => received.push(item),
                Ok(None) => break,
                Err(error) => return (received, Err(error)),
            }
        }
        assert!(piece.is_empty());
    }
    (received, Ok(()))
}

fn text_message(text: &str) -> Received {
    Received::Message {
        kind: MessageKind::Text,
        data: Bytes::copy_from_slice(text.as_bytes()),
    }
}

fn refused(bytes: &[u8]) -> Violation {
    let whole = read(bytes, usize::MAX).1.expect_err("refused").violation;
    assert_eq!(read(bytes, 1).1.expect_err("refused byte by byte").violation, whole);
    whole
}

#[test]
fn a_message_is_read_however_it_is_cut() {
    let bytes = [client(0x81, b"hello"), client(0x82, b"\x00\xFF")].concat();
    let expected = vec![
        text_message("hello"),
        Received::Message {
            kind: MessageKind::Binary,
            data: Bytes::from_static(b"\x00\xFF"),
        },
    ];

    for step in 1..=bytes.len() {
        assert_eq!(read(&bytes, step), (expected.clone(), Ok(())), "{step} at a time");
    }
}

#[test]
fn a_client_reads_unmasked_frames_and_no_others() {
    let bytes = [
        frame(Role::Server, 0x01, "hällo".as_bytes()),
        frame(Role::Server, 0x89, b"?"),
        frame(Role::Server, 0x80, &[b'!'; 300]),
        frame(Role::Server, 0x88, &1001_u16.to_be_bytes()),
    ]
    .concat();
    let expected = [
        Received::Ping(Bytes::from_static(b"?")),
        text_message(&format!("hällo{}", "!".repeat(300))),
        Received::Close { code: Some(1001) },
    ];

    for step in 1..=bytes.len() {
        let (received, end) = read_as(Role::Client, &bytes, step);
        assert_eq!(
            (received.as_slice(), end),
            (expected.as_slice(), Ok(())),
            "{step} at a time"
        );
    }
    let masked = read_as(Role::Client, &client(0x81, b"x"), 1).1;
    assert_eq!(masked.expect_err("refused").violation, Violation::Protocol);
}

#[test]
fn control_frames_may_come_between_fragments() {
    let bytes = [
        client(0x01, b"frag"),
        client(0x89, b"are you there"),
        client(0x00, b"men"),
        client(0x8A, b""),
        client(0x80, b"ted"),
    ]
    .concat();

    let (received, end) = read(&bytes, 3);

    assert_eq!(
        received,
        [
            Received::Ping(Bytes::from_static(b"are you there")),
            Received::Pong(Bytes::new()),
            text_message("fragmented"),
        ]
    );
    assert_eq!(end, Ok(()));
}

#[test]
fn utf8_may_be_cut_between_fragments_and_is_checked_over_the_whole() {
    let snowman = "☃".as_bytes();
    let good = [client(0x01, &snowman[..1]), client(0x80, &snowman[1..])].concat();
    let bad = [client(0x01, &snowman[..1]), client(0x80, b"x")].concat();

    assert_eq!(read(&good, 1).0, [text_message("☃")]);
    assert_eq!(refused(&bad), Violation::NotUtf8);
}

#[test]
fn a_character_may_be_cut_anywhere() {
    let text = "aü☃𝄞";

    for cut in 0..=text.len() {
        let (first, rest) = text.as_bytes().split_at(cut);
        let bytes = [client(0x01, first), client(0x89, b""), client(0x80, rest)].concat();
        for step in [1, 3, usize::MAX] {
            let (received, end) = read(&bytes, step);
            assert_eq!(
                received,
                [Received::Ping(Bytes::new()), text_message(text)],
                "cut at {cut}"
            );
            assert_eq!(end, Ok(()));
        }
        let unfinished = client(0x81, first);
        let whole = std::str::from_utf8(first).is_ok();
        assert_eq!(read(&unfinished, 1).1.is_ok(), whole, "ends at {cut}");
    }
}

#[test]
fn text_is_refused_at_the_first_byte_that_cannot_be_utf8() {
    for (case, wrong) in [
        ("a continuation of nothing", &b"\x80"[..]),
        ("never in UTF-8", b"\xFF"),
        ("cut by another character", b"\xE2\x98a"),
        ("an overlong slash", b"\xC0"),
        ("an overlong NUL of three bytes", b"\xE0\x80"),
        ("a surrogate", b"\xED\xA0"),
        ("beyond U+10FFFF", b"\xF4\x90"),
    ] {
        let text = [b"abc \xCE\xBA ", wrong, b" and more of it, and more"].concat();
        let frame = client(0x01, &text);
        let header = frame.len() - text.len();
        let mut decoder = Decoder::new(Role::Server, 1024);

        let read = frame
            .iter()
            .position(|byte| decoder.feed(&mut [*byte].as_slice()).is_err());

        assert_eq!(read, Some(header + 7 + wrong.len() - 1), "{case}");
        assert_eq!(refused(&frame), Violation::NotUtf8, "{case}");
    }
}

#[test]
fn what_breaks_the_protocol_is_closed_with_1002() {
    for (case, bytes) in [
        ("RSV1", client(0xC1, b"x")),
        ("RSV2", client(0xA1, b"x")),
        ("RSV3", client(0x91, b"x")),
        ("not masked", frame(Role::Server, 0x81, b"x")),
        ("opcode 3", client(0x83, b"")),
        ("opcode 11", client(0x8B, b"")),
        ("fragmented ping", client(0x09, b"x")),
        ("fragmented close", client(0x08, b"")),
        ("ping of 126 bytes", client(0x89, &[0; 126])),
        ("continuation of nothing", client(0x80, b"x")),
        ("text within text", [client(0x01, b"a"), client(0x81, b"b")].concat()),
        ("close of one byte", client(0x88, b"\x03")),
    ] {
        assert_eq!(refused(&bytes), Violation::Protocol, "{case}");
    }
}

#[test]
fn close_codes_that_no_peer_may_send_are_refused() {
    for bad in [0_u16, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535] {
        assert_eq!(refused(&client(0x88, &bad.to_be_bytes())), Violation::Protocol, "{bad}");
    }
    for good in [1000_u16, 1001, 1002, 1003, 1007, 1011, 1014, 3000, 4401, 4999] {
        let (received, end) = read(&client(0x88, &good.to_be_bytes()), 1);
        assert_eq!((received, end), (vec![Received::Close { code: Some(good) }], Ok(())));
    }
    assert_eq!(read(&client(0x88, b""), 9).0, [Received::Close { code: None }]);
    assert_eq!(refused(&client(0x88, b"\x03\xE8\xFF")), Violation::NotUtf8);
}

#[test]
fn nothing_is_read_after_a_close() {
    let bytes = [client(0x88, b""), client(0x81, b"late"), client(0xFF, b"rubbish")].concat();

    assert_eq!(read(&bytes, 2), (vec![Received::Close { code: None }], Ok(())));
}

/// A message that is too long costs its sender only that message.
#[test]
fn a_message_over_the_limit_is_read_away_and_its_beginning_is_told() {
    let large: Vec<u8> = (0..1025_u32)
        .map(|i| b'a' + u8::try_from(i % 26).expect("a letter"))
        .collect();
    let after = client(0x81, b"after");
    let whole = [client(0x81, &large), after.clone()].concat();
    let cut = [
        client(0x01, &large[..1000]),
        client(0x89, b""),
        client(0x80, &large[1000..]),
        after,
    ]
    .concat();
    let too_large = |head: &[u8]| Received::TooLarge {
        kind: MessageKind::Text,
        head: Bytes::copy_from_slice(head),
        size: 1025,
    };

    for step in [1, 7, usize::MAX] {
        assert_eq!(
            read(&whole, step),
            (vec![too_large(&large), text_message("after")], Ok(()))
        );
        let (received, end) = read(&cut, step);
        assert_eq!(
            received,
            [Received::Ping(Bytes::new()), too_large(&large), text_message("after")]
        );
        assert_eq!(end, Ok(()));
    }
}

#[test]
fn a_message_over_the_limit_keeps_little_memory() {
    let mut decoder = Decoder::new(Role::Server, 64 * 1024);
    let (piece, rest) = (vec![b'x'; 60 * 1024], vec![b'x'; 400 * 1024]);
    let bytes = [client(0x02, &piece), client(0x00, &rest), client(0x80, &[])].concat();
    let mut input = &bytes[..bytes.len() - 6];

    while decoder.feed(&mut input).expect("read away").is_some() {}

    let (_, data) = decoder.message.as_ref().expect("under way");
    assert!(data.capacity() <= 2 * RESERVE_LIMIT, "{}", data.capacity());
    let received = decoder.feed(&mut &bytes[bytes.len() - 6..]).expect("read");
    assert!(
        matches!(received, Some(Received::TooLarge { head, size, .. }) if head.len() == RESERVE_LIMIT && size == 460 * 1024)
    );
}

#[test]
fn a_message_many_times_over_the_limit_is_refused_by_its_header_alone() {
    let mut header = client(0x81, &[b' '; 16 * 1024 + 1]);
    header.truncate(8);
    let fragments = [client(0x01, &[b' '; 16 * 1024]), client(0x80, b" ")].concat();
    let mut huge = vec![0x82, 0xFF];
    huge.extend([0xFF; 8]);
    huge.extend(MASK);

    assert_eq!(refused(&header), Violation::TooLarge);
    assert_eq!(refused(&fragments), Violation::TooLarge);
    assert_eq!(refused(&huge), Violation::TooLarge);
    assert_eq!(read(&client(0x81, &[b' '; 1024]), usize::MAX).1, Ok(()));
}

#[test]
fn memory_grows_with_what_arrived() {
    let mut decoder = Decoder::new(Role::Server, 1 << 30);
    let mut header = client(0x82, &vec![0; 1 << 20]);
    header.truncate(10 + 4 + 10);

    decoder.feed(&mut header.as_slice()).expect("within the limit");

    let (_, data) = decoder.message.as_ref().expect("under way");
    assert!(data.capacity() <= 2 * RESERVE_LIMIT, "{}", data.capacity());
}

#[test]
fn between_two_messages_nothing_is_kept() {
    let mut decoder = Decoder::new(Role::Server, 1024);
    let bytes = [client(0x89, b"ping"), client(0x81, b"text")].concat();
    let mut input = bytes.as_slice();

    while decoder.feed(&mut input).expect("valid").is_some() {}

    assert!(!decoder.is_within_message());
    assert_eq!((decoder.kept(), decoder.control.capacity()), (0, 0));
    assert!(size_of::<Decoder>() + size_of::<crate::Batch>() <= 256);
}
