//! The secret that the hubs of one Hub share, and what each proves with it.
//!
//! Invariants
//! - A proof is valid for one side of one greeting: it covers both hubs, a fresh number of each, and the TLS session.
//! - Proofs are compared in constant time.

use std::fmt;

use alkhub_protocol::HubId;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// The length in bytes of a secret, a proof and a fresh number.
pub(crate) const BYTES: usize = 32;

/// The prefix of what every proof covers, so that a proof is good for nothing else under the same secret.
const DOMAIN: &[u8] = b"alkhub peer link 1";

/// The secret that the hubs of one Hub share.
#[derive(Clone)]
pub struct PeerSecret([u8; BYTES]);

/// The two ends of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkSide {
    Acceptor,
    Dialer,
}

/// What a proof covers.
#[derive(Debug)]
pub(crate) struct Transcript<'a> {
    pub(crate) acceptor: &'a HubId,
    pub(crate) dialer: &'a HubId,
    /// The fresh numbers of the acceptor and the dialer.
    pub(crate) numbers: [&'a [u8]; 2],
    /// What only the two ends of the TLS session know; empty without TLS.
    pub(crate) binding: &'a [u8],
}

// === impl PeerSecret ===

impl PeerSecret {
    /// A secret made of these bytes, which must not be guessable.
    pub fn new(bytes: [u8; BYTES]) -> Self {
        Self(bytes)
    }

    /// The proof of one side.
    pub(crate) fn prove(&self, side: LinkSide, transcript: &Transcript<'_>) -> [u8; BYTES] {
        self.over(side, transcript).finalize().into_bytes().into()
    }

    /// Whether `proof` is the proof of this side.
    pub(crate) fn verify(&self, side: LinkSide, transcript: &Transcript<'_>, proof: &[u8]) -> bool {
        self.over(side, transcript).verify_slice(proof).is_ok()
    }

    fn over(&self, side: LinkSide, transcript: &Transcript<'_>) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes a key of any length");
        let side: &[u8] = match side {
            LinkSide::Acceptor => b"acceptor",
            LinkSide::Dialer => b"dialer",
        };
        let Transcript {
            acceptor,
            dialer,
            numbers: [challenge, number],
            binding,
        } = transcript;
        let hubs = [acceptor.as_str().as_bytes(), dialer.as_str().as_bytes()];
        for part in [DOMAIN, side, hubs[0], hubs[1], challenge, number, binding] {
            // Each part follows its length, so that no two lists of parts look alike.
            mac.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            mac.update(part);
        }
        mac
    }
}

impl fmt::Debug for PeerSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PeerSecret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_holds_for_its_side_its_hubs_its_numbers_and_its_session_alone() {
        let (a, b): (HubId, HubId) = ("a".parse().expect("valid"), "b".parse().expect("valid"));
        let secret = PeerSecret::new([1; BYTES]);
        let transcript = |acceptor, dialer, numbers, binding| Transcript {
            acceptor,
            dialer,
            numbers,
            binding,
        };
        let ours = transcript(&a, &b, [&[1; 32], &[2; 32]], &[3]);
        let proof = secret.prove(LinkSide::Dialer, &ours);

        assert!(secret.verify(LinkSide::Dialer, &ours, &proof));
        assert!(!secret.verify(LinkSide::Acceptor, &ours, &proof));
        assert!(!PeerSecret::new([2; BYTES]).verify(LinkSide::Dialer, &ours, &proof));
        assert!(!secret.verify(LinkSide::Dialer, &ours, &proof[..31]));
        for other in [
            transcript(&b, &a, [&[1; 32], &[2; 32]], &[3]),
            transcript(&a, &b, [&[2; 32], &[1; 32]], &[3]),
            transcript(&a, &b, [&[1; 32], &[2; 32]], &[]),
        ] {
            assert!(!secret.verify(LinkSide::Dialer, &other, &proof), "{other:?}");
        }
        assert_eq!(format!("{secret:?}"), "PeerSecret(..)");
    }
}
