//! Several messages for one hub in a single Redis message: publishing, delivering and confirming many costs the same as
//! for one.
//!
//! Each message is preceded by its length: four bytes, the most significant first.
//!
//! Invariants
//! - A message that is read has memory of its own unless it is most of its bundle, so keeping a small one keeps no more
//!   than that.
//! - Nothing after a damaged length is read.

use bytes::{Buf as _, Bytes};

/// Bytes of a length.
const LENGTH: usize = 4;

/// The messages of a bundle, in order.
#[derive(Debug)]
struct Messages {
    rest: Bytes,
    whole: usize,
}

/// A bundle ends in the middle of a message.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("messages of another hub are cut off")]
pub(crate) struct Truncated;

/// Puts messages into one.
pub(crate) fn encode<'a>(messages: impl Iterator<Item = &'a Bytes> + Clone) -> Vec<u8> {
    let size = messages.clone().map(|message| LENGTH + message.len()).sum();
    let mut bundle = Vec::with_capacity(size);
    for message in messages {
        let length = u32::try_from(message.len()).expect("frames have a limit far below 4 GiB");
        bundle.extend_from_slice(&length.to_be_bytes());
        bundle.extend_from_slice(message);
    }
    bundle
}

/// Reads what [`encode`] wrote.
pub(crate) fn decode(bundle: Bytes) -> impl Iterator<Item = Result<Bytes, Truncated>> {
    Messages {
        whole: bundle.len(),
        rest: bundle,
    }
}

// === impl Messages ===

impl Iterator for Messages {
    type Item = Result<Bytes, Truncated>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let length = self.rest.try_get_u32().map_or(usize::MAX, |length| length as usize);
        if length > self.rest.len() {
            self.rest.clear();
            return Some(Err(Truncated));
        }
        let message = self.rest.split_to(length);
        let is_most = length >= self.whole / 2;
        Some(Ok(if is_most {
            message
        } else {
            Bytes::copy_from_slice(&message)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bundle: Vec<u8>) -> Vec<Result<Bytes, Truncated>> {
        decode(bundle.into()).collect()
    }

    #[test]
    fn messages_come_out_as_they_went_in() {
        let messages = [Bytes::from_static(b"one"), Bytes::new(), Bytes::from(vec![7; 70_000])];

        let bundle = encode(messages.iter());

        assert_eq!(read(bundle), messages.map(Ok));
        assert_eq!(read(Vec::new()), []);
    }

    #[test]
    fn what_is_cut_off_is_not_read() {
        let bundle = encode([Bytes::from_static(b"one"), Bytes::from_static(b"two")].iter());

        for cut in [1, 3, 4, 6] {
            let read = read(bundle[..bundle.len() - cut].to_vec());
            assert_eq!(
                read,
                [Ok(Bytes::from_static(b"one")), Err(Truncated)],
                "{cut} bytes are missing"
            );
        }
    }

    #[test]
    fn a_small_message_that_is_kept_does_not_keep_the_whole_bundle() {
        let bundle = Bytes::from(encode([Bytes::from_static(b"small"), Bytes::from(vec![7; 100])].iter()));
        let within = bundle.as_ptr_range();

        let shares = decode(bundle.clone()).map(|message| within.contains(&message.expect("whole").as_ptr()));

        assert_eq!(shares.collect::<Vec<_>>(), [false, true]);
    }
}
