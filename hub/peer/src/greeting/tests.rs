//! Two ends of a pipe that greet each other, or one of them and a stranger.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use super::*;

/// A hub that greets.
struct Hub {
    id: HubId,
    secret: PeerSecret,
    binding: &'static [u8],
}

impl Hub {
    fn new(id: &str, secret: u8, binding: &'static [u8]) -> Self {
        Self {
            id: id.parse().expect("a hub's id"),
            secret: PeerSecret::new([secret; BYTES]),
            binding,
        }
    }

    fn greeter(&self) -> Greeter<'_> {
        Greeter {
            hub: &self.id,
            secret: &self.secret,
            binding: self.binding,
        }
    }
}

type Both = (
    Result<Frames<DuplexStream>, Error>,
    Result<Greeted<DuplexStream>, Error>,
);

async fn greet(dialer: &Hub, to: &str, acceptor: &Hub) -> Both {
    let (ours, theirs) = duplex(4096);
    let to = to.parse().expect("a hub's id");
    tokio::join!(
        dial(ours, Vec::new(), dialer.greeter(), &to),
        accept(theirs, Vec::new(), acceptor.greeter())
    )
}

#[tokio::test]
async fn hubs_with_one_secret_know_each_other_and_lose_nothing_that_follows() {
    let (dialled, accepted) = greet(&Hub::new("a", 1, b"s"), "b", &Hub::new("b", 1, b"s")).await;

    let (mut dialled, mut accepted) = (dialled.expect("greeted"), accepted.expect("greeted"));
    assert_eq!(accepted.from.as_str(), "a");
    accepted.frames.say("first".to_owned()).await.expect("open");
    assert_eq!(dialled.hear().await.expect("open"), "first");
}

#[tokio::test]
async fn who_has_another_secret_is_refused_on_either_side() {
    let (dialled, accepted) = greet(&Hub::new("a", 1, b""), "b", &Hub::new("b", 2, b"")).await;

    assert!(matches!(accepted, Err(Error::Secret)), "{accepted:?}");
    assert!(matches!(dialled, Err(Error::Refused)), "{dialled:?}");
}

#[tokio::test]
async fn a_proof_made_for_another_tls_session_is_none() {
    let (dialled, accepted) = greet(&Hub::new("a", 1, b"one"), "b", &Hub::new("b", 1, b"two")).await;

    assert!(matches!(accepted, Err(Error::Secret)), "{accepted:?}");
    assert!(matches!(dialled, Err(Error::Refused)), "{dialled:?}");
}

#[tokio::test]
async fn a_hub_that_is_another_one_by_now_refuses_and_so_does_one_that_dials_itself() {
    for (dialer, to, acceptor) in [("a", "b", "c"), ("b", "b", "b")] {
        let (dialled, accepted) = greet(&Hub::new(dialer, 1, b""), to, &Hub::new(acceptor, 1, b"")).await;

        assert!(matches!(accepted, Err(Error::AnotherHub)), "{accepted:?}");
        assert!(matches!(dialled, Err(Error::Refused)), "{dialled:?}");
    }
}

#[tokio::test]
async fn an_acceptor_that_has_no_proof_is_left() {
    let (ours, theirs) = duplex(4096);
    let hub = Hub::new("a", 1, b"");
    let to: HubId = "b".parse().expect("a hub's id");
    let impostor = async {
        let mut frames = Frames::new(theirs, Role::Server, Vec::new());
        frames
            .say(format!("challenge {}", hex::encode([7; BYTES])))
            .await
            .expect("open");
        let answer = frames.hear().await.expect("an answer");
        // Its own proof sent back to it: a proof is valid for one side only.
        let proof = answer.rsplit(' ').next().expect("a proof").to_owned();
        frames.say(format!("welcome {proof}")).await.expect("open");
    };

    let (dialled, ()) = tokio::join!(dial(ours, Vec::new(), hub.greeter(), &to), impostor);

    assert!(matches!(dialled, Err(Error::Secret)), "{dialled:?}");
}

#[tokio::test]
async fn what_is_no_greeting_is_refused_whatever_it_is() {
    for message in [
        "",
        "hello",
        "answer b a 00 00",
        "answer b a",
        &format!("answer b a {0} {0} {0}", "0".repeat(64)),
        &format!("answer b {0} {1} {1}", "x".repeat(200), "0".repeat(64)),
        &"x".repeat(10_000),
    ] {
        let (ours, theirs) = duplex(64 * 1024);
        let hub = Hub::new("b", 1, b"");
        let mut stranger = Frames::new(ours, Role::Client, Vec::new());
        stranger.say(message.to_owned()).await.expect("open");

        let accepted = accept(theirs, Vec::new(), hub.greeter()).await;

        assert!(
            matches!(accepted, Err(Error::Foreign(_) | Error::Secret)),
            "{message}: {accepted:?}"
        );
    }
    let (mut ours, theirs) = duplex(4096);
    let hub = Hub::new("b", 1, b"");
    ours.write_all(&[0xFF; 64]).await.expect("open");
    let accepted = accept(theirs, Vec::new(), hub.greeter()).await;
    assert!(matches!(accepted, Err(Error::Foreign(_))), "{accepted:?}");
    let mut said = Vec::new();
    ours.read_to_end(&mut said).await.expect("open");
    assert!(!said.is_empty(), "only the challenge");
}
