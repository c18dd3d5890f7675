//! What a socket gets of a batch, from either role.

use std::task::Waker;

use super::*;
use crate::encode::push_frame;
use crate::{Decoder, Received, framed_text};

/// Takes a few bytes at a time.
struct Narrow(Vec<u8>, usize);

impl AsyncWrite for Narrow {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let take = bytes.len().min(self.1);
        self.0.extend_from_slice(&bytes[..take]);
        Poll::Ready(Ok(take))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn written(batch: &mut Batch, step: usize) -> Vec<u8> {
    let mut io = Narrow(Vec::new(), step);
    let done = batch.poll_write(&mut Context::from_waker(Waker::noop()), &mut io);
    assert!(matches!(done, Poll::Ready(Ok(()))));
    assert!(batch.is_empty());
    io.0
}

/// What the other end reads of it.
fn received(role: Role, bytes: &[u8]) -> Vec<Received> {
    let mut decoder = Decoder::new(role, 1 << 20);
    let mut input = bytes;
    std::iter::from_fn(|| decoder.feed(&mut input).expect("frames of this crate")).collect()
}

#[test]
fn everything_leaves_in_its_order_however_little_a_write_takes() {
    let large = Bytes::from(vec![b'x'; LARGE]);
    let mut expected = BytesMut::new();
    push_frame(&mut expected, Role::Server, OPCODE_PING, b"");
    for payload in [b"small", large.as_ref(), b"event", large.as_ref()] {
        push_frame(&mut expected, Role::Server, MessageKind::Text.opcode(), payload);
    }

    for step in [1, 7, 100_000] {
        let mut batch = Batch::new(Role::Server);
        batch.ping(b"");
        batch.message(MessageKind::Text, Bytes::from_static(b"small"));
        batch.message(MessageKind::Text, large.clone());
        batch.framed(MessageKind::Text, framed_text(b"event"));
        batch.framed(MessageKind::Text, framed_text(&large));
        assert_eq!(batch.len(), expected.len());

        assert_eq!(written(&mut batch, step), expected, "{step} at a time");
    }
}

#[test]
fn a_lone_shared_frame_is_not_copied() {
    let framed = framed_text(b"event");
    let mut batch = Batch::new(Role::Server);

    batch.framed(MessageKind::Text, framed.clone());

    assert_eq!(batch.pieces[0].as_ptr(), framed.as_ptr());
}

#[test]
fn a_shared_text_frame_goes_as_binary_to_a_peer_that_speaks_binary() {
    for payload in [b"event".to_vec(), vec![b'x'; LARGE]] {
        let mut expected = BytesMut::new();
        push_frame(&mut expected, Role::Server, MessageKind::Binary.opcode(), &payload);
        let mut batch = Batch::new(Role::Server);

        batch.framed(MessageKind::Binary, framed_text(&payload));

        assert_eq!(written(&mut batch, 50), expected);
    }
}

#[test]
fn a_client_masks_every_frame_and_leaves_shared_payloads_as_they_are() {
    let large = Bytes::from(vec![b'x'; LARGE]);
    let mut batch = Batch::new(Role::Client);
    batch.message(MessageKind::Binary, Bytes::from_static(b"small"));
    batch.message(MessageKind::Text, large.clone());
    batch.framed(MessageKind::Text, framed_text(b"event"));
    batch.framed(MessageKind::Binary, framed_text(&large));
    batch.pong(b"yes");
    batch.close(1000, "done");
    let len = batch.len();

    let bytes = written(&mut batch, 1000);

    let message = |kind, data: &[u8]| Received::Message {
        kind,
        data: Bytes::copy_from_slice(data),
    };
    assert_eq!(bytes.len(), len);
    assert_eq!(
        received(Role::Server, &bytes),
        [
            message(MessageKind::Binary, b"small"),
            message(MessageKind::Text, &large),
            message(MessageKind::Text, b"event"),
            message(MessageKind::Binary, &large),
            Received::Pong(Bytes::from_static(b"yes")),
            Received::Close { code: Some(1000) },
        ]
    );
    assert!(large.iter().all(|byte| *byte == b'x'));
}

#[test]
fn a_client_masks_in_place_what_nobody_else_has() {
    let payload = Bytes::from(vec![b'x'; LARGE]);
    let at = payload.as_ptr();
    let mut batch = Batch::new(Role::Client);

    batch.message(MessageKind::Binary, payload);

    assert_eq!(batch.pieces[1].as_ptr(), at);
}

#[test]
fn the_payload_of_a_control_frame_is_cut_to_what_fits() {
    let mut batch = Batch::new(Role::Server);
    batch.ping(&[b'x'; 200]);
    batch.close(1001, &"x".repeat(200));

    let bytes = written(&mut batch, 1000);

    let ping = Received::Ping(Bytes::from(vec![b'x'; 125]));
    assert_eq!(
        received(Role::Client, &bytes),
        [ping, Received::Close { code: Some(1001) }]
    );
}
