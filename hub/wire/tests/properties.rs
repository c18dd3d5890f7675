//! What holds for every sequence of frames, in either role and however it is cut.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use alkhub_wire::{Batch, Decoder, Error, MessageKind, Received, Role, framed_text};
use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use tokio::io::AsyncWrite;

/// The longest message that is read; some of those that are sent are longer.
const LIMIT: usize = 2_000;

/// Something that one end sends.
#[derive(Clone, Debug)]
enum Sent {
    Text(String),
    Binary(Vec<u8>),
    Shared(String),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
}

/// A frame that may break any rule: its first byte, whether it is masked, its payload.
type Frame = (u8, Option<[u8; 4]>, Vec<u8>);

/// Accepts a limited number of bytes at a time.
struct Narrow {
    taken: Vec<u8>,
    step: usize,
}

impl AsyncWrite for Narrow {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let take = bytes.len().min(self.step);
        self.taken.extend_from_slice(&bytes[..take]);
        Poll::Ready(Ok(take))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Sent {
    fn add(&self, batch: &mut Batch) {
        match self {
            Self::Text(text) => batch.message(MessageKind::Text, Bytes::copy_from_slice(text.as_bytes())),
            Self::Binary(data) => batch.message(MessageKind::Binary, Bytes::copy_from_slice(data)),
            Self::Shared(text) => batch.framed(MessageKind::Text, framed_text(text.as_bytes())),
            Self::Ping(payload) => batch.ping(payload),
            Self::Pong(payload) => batch.pong(payload),
        }
    }

    fn received(&self) -> Received {
        match self {
            Self::Text(text) | Self::Shared(text) => message(MessageKind::Text, text.as_bytes()),
            Self::Binary(data) => message(MessageKind::Binary, data),
            Self::Ping(payload) => Received::Ping(Bytes::copy_from_slice(payload)),
            Self::Pong(payload) => Received::Pong(Bytes::copy_from_slice(payload)),
        }
    }
}

fn message(kind: MessageKind, data: &[u8]) -> Received {
    let data = Bytes::copy_from_slice(data);
    if data.len() > LIMIT {
        let size = data.len();
        Received::TooLarge { kind, head: data, size }
    } else {
        Received::Message { kind, data }
    }
}

fn other(role: Role) -> Role {
    match role {
        Role::Server => Role::Client,
        Role::Client => Role::Server,
    }
}

/// The result of reading `bytes`, which arrive in pieces of these lengths in turn, and how it ended.
fn read(role: Role, mut bytes: &[u8], cuts: &[usize]) -> (Vec<Received>, Result<(), Error>) {
    let mut decoder = Decoder::new(role, LIMIT);
    let mut received = Vec::new();
    for cut in cuts.iter().cycle() {
        let (mut piece, rest) = bytes.split_at((*cut).min(bytes.len()));
        loop {
            match decoder.feed(&mut piece) {
                Ok(Some(item)) => received.push(item),
                Ok(None) => break,
                Err(error) => return (received, Err(error)),
            }
        }
        assert!(piece.is_empty(), "what was fed is taken");
        assert!(
            decoder.kept() <= 2 * (LIMIT + 16 * 1024),
            "{} bytes kept",
            decoder.kept()
        );
        bytes = rest;
        if bytes.is_empty() {
            break;
        }
    }
    (received, Ok(()))
}

/// The bytes of a frame; its length may be written in a longer form than necessary.
fn spell((first, mask, payload): &Frame) -> Vec<u8> {
    let masked = if mask.is_some() { 0x80 } else { 0 };
    let length = u16::try_from(payload.len()).expect("short");
    let mut out = match u8::try_from(length) {
        Ok(short) if short < 126 => vec![*first, masked | short],
        _ => [&[*first, masked | 126], &length.to_be_bytes()[..]].concat(),
    };
    out.extend(mask.iter().flatten());
    let key = mask.unwrap_or_default();
    out.extend(payload.iter().enumerate().map(|(i, byte)| byte ^ key[i & 3]));
    out
}

fn sent() -> impl Strategy<Value = Sent> {
    prop_oneof![
        ".{0,80}".prop_map(Sent::Text),
        vec(any::<u8>(), 0..3_000).prop_map(Sent::Binary),
        ".{0,80}".prop_map(Sent::Shared),
        vec(any::<u8>(), 0..=125).prop_map(Sent::Ping),
        vec(any::<u8>(), 0..=125).prop_map(Sent::Pong),
    ]
}

fn roles() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::Server), Just(Role::Client)]
}

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    vec(1_usize..200, 1..8)
}

/// Mostly frames that the RFC allows and rarely others, so that the states within a message are reached too.
fn frames() -> impl Strategy<Value = Vec<Frame>> {
    let first = prop_oneof![
        8 => prop::sample::select(vec![0x00_u8, 0x01, 0x02, 0x80, 0x80, 0x81, 0x82, 0x89, 0x8A]),
        1 => any::<u8>(),
    ];
    let payload = prop_oneof![
        3 => ".{0,40}".prop_map(String::into_bytes),
        1 => vec(any::<u8>(), 0..2_600),
    ];
    vec((first, Just(Some([1_u8, 2, 3, 4])), payload), 1..12)
}

proptest! {
    #[test]
    fn what_one_end_writes_the_other_reads_however_it_is_cut(
        role in roles(),
        all in vec(sent(), 1..12),
        step in 1_usize..1_000,
        cuts in cuts(),
    ) {
        let mut batch = Batch::new(role);
        all.iter().for_each(|sent| sent.add(&mut batch));
        batch.close(1001, "done");
        let len = batch.len();
        let mut io = Narrow { taken: Vec::new(), step };

        let polled = batch.poll_write(&mut Context::from_waker(Waker::noop()), &mut io);

        prop_assert!(matches!(polled, Poll::Ready(Ok(()))));
        prop_assert_eq!((io.taken.len(), batch.is_empty()), (len, true));
        let expected: Vec<Received> =
            all.iter().map(Sent::received).chain([Received::Close { code: Some(1001) }]).collect();
        prop_assert_eq!(read(other(role), &io.taken, &cuts), (expected, Ok(())));
    }

    #[test]
    fn fragments_are_put_together_however_they_are_cut(
        role in roles(),
        payloads in vec(vec(any::<u8>(), 0..700), 1..6),
        fragment in 1_usize..200,
        cuts in cuts(),
    ) {
        let mask = (role == Role::Server).then_some([0x12, 0xAB, 0x00, 0xFF]);
        let mut bytes = Vec::new();
        for payload in &payloads {
            let pieces: Vec<&[u8]> = if payload.is_empty() { vec![&[]] } else { payload.chunks(fragment).collect() };
            for (i, piece) in pieces.iter().enumerate() {
                let fin = if i + 1 == pieces.len() { 0x80 } else { 0 };
                bytes.extend(spell(&(fin | if i == 0 { 2 } else { 0 }, mask, piece.to_vec())));
            }
        }

        let expected = payloads.iter().map(|payload| message(MessageKind::Binary, payload)).collect();
        prop_assert_eq!(read(role, &bytes, &cuts), (expected, Ok(())));
    }

    /// Valid frames are read and invalid ones refused, wherever reads cut them.
    #[test]
    fn what_comes_of_frames_does_not_depend_on_where_reads_cut_them(
        frames in frames(),
        at in any::<prop::sample::Index>(),
        flip in prop_oneof![3 => Just(0_u8), 1 => any::<u8>()],
        cuts in cuts(),
    ) {
        let mut bytes: Vec<u8> = frames.iter().flat_map(spell).collect();
        *at.get_mut(&mut bytes) ^= flip;

        let whole = read(Role::Server, &bytes, &[usize::MAX]);

        prop_assert_eq!(read(Role::Server, &bytes, &cuts), whole);
    }

    #[test]
    fn no_bytes_make_it_panic(role in roles(), bytes in vec(any::<u8>(), 0..300), cuts in cuts()) {
        let _ = read(role, &bytes, &cuts);
    }
}
