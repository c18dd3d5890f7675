//! How two hubs authenticate each other on an open WebSocket.
//!
//! ```text
//! acceptor: challenge {number}
//! dialer:   answer {acceptor} {dialer} {number} {proof}
//! acceptor: welcome {proof}
//! ```
//!
//! The numbers are fresh; numbers and proofs are written in hexadecimal digits. The dialer names the hub that it means
//! to reach, since the address may be another pod's by now.
//!
//! Invariants
//! - The acceptor reveals its identity only to a hub that has the secret.

use alkhub_protocol::HubId;
use alkhub_wire::Role;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::error::Error;
use crate::frames::Frames;
use crate::secret::{BYTES, LinkSide, PeerSecret, Transcript};

/// The hub that greets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Greeter<'a> {
    pub(crate) hub: &'a HubId,
    pub(crate) secret: &'a PeerSecret,
    /// What only the two ends of the TLS session know; empty without TLS.
    pub(crate) binding: &'a [u8],
}

/// The hub that has dialled and proved itself, and the connection to it.
#[derive(Debug)]
pub(crate) struct Greeted<S> {
    pub(crate) from: HubId,
    pub(crate) frames: Frames<S>,
}

/// Greets as the end that dialled; `to` is the hub that should answer.
pub(crate) async fn dial<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    rest: Vec<u8>,
    greeter: Greeter<'_>,
    to: &HubId,
) -> Result<Frames<S>, Error> {
    let mut frames = Frames::new(stream, Role::Client, rest);
    let challenge = fields::<1>(&frames.hear().await?, "challenge").and_then(|[number]| bytes(number))?;
    let number: [u8; BYTES] = rand::random();
    let transcript = Transcript {
        acceptor: to,
        dialer: greeter.hub,
        numbers: [&challenge, &number],
        binding: greeter.binding,
    };
    let proof = greeter.secret.prove(LinkSide::Dialer, &transcript);
    let answer = format!(
        "answer {to} {} {} {}",
        greeter.hub,
        hex::encode(number),
        hex::encode(proof)
    );
    frames.say(answer).await?;
    let welcome = fields::<1>(&frames.hear().await?, "welcome").and_then(|[proof]| bytes(proof))?;
    if !greeter.secret.verify(LinkSide::Acceptor, &transcript, &welcome) {
        return Err(Error::Secret);
    }
    Ok(frames)
}

/// Greets as the end that was dialled.
pub(crate) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    rest: Vec<u8>,
    greeter: Greeter<'_>,
) -> Result<Greeted<S>, Error> {
    let mut frames = Frames::new(stream, Role::Server, rest);
    let challenge: [u8; BYTES] = rand::random();
    frames.say(format!("challenge {}", hex::encode(challenge))).await?;
    let answer = frames.hear().await?;
    let [to, from, number, proof] = fields(&answer, "answer")?;
    let (number, proof) = (bytes(number)?, bytes(proof)?);
    let hub = |text: &str| text.parse().map_err(|_| Error::Foreign("a greeting names no hub"));
    let (to, from): (HubId, HubId) = (hub(to)?, hub(from)?);
    let transcript = Transcript {
        acceptor: &to,
        dialer: &from,
        numbers: [&challenge, &number],
        binding: greeter.binding,
    };
    if !greeter.secret.verify(LinkSide::Dialer, &transcript, &proof) {
        frames.refuse("no proof of the secret of this Hub").await?;
        return Err(Error::Secret);
    }
    if to != *greeter.hub || from == to {
        frames.refuse("another hub is here").await?;
        return Err(Error::AnotherHub);
    }
    let proof = greeter.secret.prove(LinkSide::Acceptor, &transcript);
    frames.say(format!("welcome {}", hex::encode(proof))).await?;
    Ok(Greeted { from, frames })
}

fn fields<'a, const N: usize>(message: &'a str, word: &str) -> Result<[&'a str; N], Error> {
    let mut fields = message.split(' ');
    if fields.next() != Some(word) {
        return Err(Error::Foreign("a greeting begins with another word"));
    }
    let fields: Vec<&str> = fields.collect();
    fields
        .try_into()
        .map_err(|_| Error::Foreign("a greeting has more or fewer parts"))
}

fn bytes(digits: &str) -> Result<[u8; BYTES], Error> {
    let mut bytes = [0; BYTES];
    hex::decode_to_slice(digits, &mut bytes).map_err(|_| Error::Foreign("a number of a greeting is not one"))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
