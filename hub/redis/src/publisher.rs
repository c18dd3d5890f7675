//! Sends to Redis what this hub publishes and relays, many messages in one write.
//!
//! One batch is on its way at a time; whatever arrives meanwhile makes up the next one. So a lone message leaves at
//! once, and under load the cost of a write is shared. What a batch has for one hub is sent as one message
//! ([`bundle`]).
//!
//! Invariants
//! - Events reach Redis in the order in which they were accepted, and so do the messages for each hub.
//! - What waits is bounded in messages and bytes; beyond that a message is refused ([`Error::Full`]).
//! - A relayed message that nobody received, or that was never sent, is returned. So is one whose batch broke, marked
//!   as possibly received.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use alkhub_protocol::{Delivered, HubId};
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::bundle;
use crate::channel::Names;
use crate::error::{Error, Unconfirmed};
use crate::link::{Link, LinkHold};
use crate::receive::{HubReceiver, Undelivered};

/// Messages that may wait; more are refused.
const QUEUE_MESSAGES: usize = 131_072;

/// Bytes that may wait; more are refused.
const QUEUE_BYTES: usize = 64 * 1024 * 1024;

/// The most messages in one write.
const BATCH_MESSAGES: usize = 256;

/// After this many bytes, a write takes no further message.
const BATCH_BYTES: usize = 1024 * 1024;

/// Accepts messages. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Publisher {
    commands: mpsc::Sender<PublishCommand>,
    bytes: Arc<AtomicUsize>,
    link: Link,
}

/// The task that sends them.
pub(crate) struct Publishing {
    commands: mpsc::Receiver<PublishCommand>,
    bytes: Arc<AtomicUsize>,
    link: Link,
    names: Arc<Names>,
}

#[derive(Debug)]
struct PublishCommand {
    message: Bytes,
    to: Recipient,
}

#[derive(Debug)]
enum Recipient {
    /// Everybody who listens to a channel; the publisher waits for the confirmation.
    Channel(String, oneshot::Sender<Result<(), Unconfirmed>>),
    /// One hub.
    Hub(HubId),
}

pub(crate) fn new(link: Link, names: Arc<Names>) -> (Publisher, Publishing) {
    let (sender, commands) = mpsc::channel(QUEUE_MESSAGES);
    let bytes = Arc::new(AtomicUsize::new(0));
    let publisher = Publisher {
        commands: sender,
        bytes: bytes.clone(),
        link: link.clone(),
    };
    let publishing = Publishing {
        commands,
        bytes,
        link,
        names,
    };
    (publisher, publishing)
}

// === impl Publisher ===

impl Publisher {
    /// Publishes and waits until Redis has it.
    pub(crate) async fn publish(&self, channel: String, message: Bytes) -> Result<(), Unconfirmed> {
        let refused = |source| Unconfirmed {
            delivered: Delivered::No,
            source,
        };
        self.link.incarnation().map_err(refused)?;
        let (waiter, answer) = oneshot::channel();
        self.accept(PublishCommand {
            message,
            to: Recipient::Channel(channel, waiter),
        })
        .map_err(refused)?;
        let lost = |_| Unconfirmed {
            delivered: Delivered::Maybe,
            source: self.link.why_down(),
        };
        answer.await.map_err(lost)?
    }

    /// Hands on a message for one hub.
    pub(crate) fn relay(&self, to: HubId, message: Bytes) -> Result<(), Error> {
        self.link.incarnation()?;
        self.accept(PublishCommand {
            message,
            to: Recipient::Hub(to),
        })
    }

    fn accept(&self, command: PublishCommand) -> Result<(), Error> {
        let size = command.message.len();
        if self.bytes.fetch_add(size, Ordering::Relaxed) > QUEUE_BYTES {
            self.bytes.fetch_sub(size, Ordering::Relaxed);
            return Err(Error::Full);
        }
        self.commands.try_send(command).map_err(|refused| {
            self.bytes.fetch_sub(size, Ordering::Relaxed);
            match refused {
                mpsc::error::TrySendError::Full(_) => Error::Full,
                mpsc::error::TrySendError::Closed(_) => self.link.why_down(),
            }
        })
    }
}

// === impl Publishing ===

impl Publishing {
    /// Sends until the end; what was accepted before is still sent. `hold` keeps the link open until then.
    pub(crate) async fn run(mut self, hubs: Arc<dyn HubReceiver>, stop: CancellationToken, hold: LinkHold) {
        let mut batch = Vec::with_capacity(BATCH_MESSAGES);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled(), if !self.commands.is_closed() => self.commands.close(),
                first = self.commands.recv() => match first {
                    Some(first) => {
                        self.fill(&mut batch, first);
                        self.send(&mut batch, &*hubs).await;
                    }
                    None => break,
                },
            }
        }
        drop(hold);
    }

    fn fill(&mut self, batch: &mut Vec<PublishCommand>, first: PublishCommand) {
        let mut bytes = first.message.len();
        batch.push(first);
        while batch.len() < BATCH_MESSAGES && bytes < BATCH_BYTES {
            let Ok(command) = self.commands.try_recv() else { break };
            bytes += command.message.len();
            batch.push(command);
        }
        self.bytes.fetch_sub(
            batch.iter().map(|command| command.message.len()).sum(),
            Ordering::Relaxed,
        );
    }

    async fn send(&self, batch: &mut Vec<PublishCommand>, hubs: &dyn HubReceiver) {
        let Ok(incarnation) = self.link.incarnation() else {
            batch
                .drain(..)
                .for_each(|command| command.fail(Delivered::No, self.link.why_down(), hubs));
            return;
        };
        // A stable sort: each hub's messages stay in order.
        batch.sort_by(|one, other| one.hub().cmp(&other.hub()));
        let (mut pipeline, mut sizes) = (redis::Pipeline::new(), Vec::new());
        for commands in batch.chunk_by(PublishCommand::goes_with) {
            match &commands[0].to {
                Recipient::Channel(channel, _) => pipeline.cmd("PUBLISH").arg(channel).arg(&commands[0].message[..]),
                Recipient::Hub(hub) => {
                    let bundle = bundle::encode(commands.iter().map(|command| &command.message));
                    pipeline.cmd("PUBLISH").arg(self.names.inbox(hub)).arg(bundle)
                }
            };
            sizes.push(commands.len());
        }
        match incarnation.query_all(&pipeline).await {
            Ok(answers) => {
                let is_just_back = incarnation.is_just_back();
                let mut commands = batch.drain(..);
                for (size, answer) in sizes.into_iter().zip(answers) {
                    let receivers = incarnation.read(answer);
                    for command in commands.by_ref().take(size) {
                        command.answered(&receivers, is_just_back, hubs);
                    }
                }
            }
            Err(error) => {
                incarnation.teardown().begin("a publish was not confirmed");
                batch
                    .drain(..)
                    .for_each(|command| command.fail(Delivered::Maybe, error.clone(), hubs));
            }
        }
    }
}

// === impl PublishCommand ===

impl PublishCommand {
    fn hub(&self) -> Option<&HubId> {
        match &self.to {
            Recipient::Hub(hub) => Some(hub),
            Recipient::Channel(..) => None,
        }
    }

    /// Whether two commands go into one message.
    fn goes_with(&self, other: &Self) -> bool {
        self.hub().is_some() && self.hub() == other.hub()
    }

    /// Redis has answered how many received it. If the link `is_just_back`, others may not listen yet.
    fn answered(self, receivers: &Result<i64, Error>, is_just_back: bool, hubs: &dyn HubReceiver) {
        match (receivers, self.to) {
            (Ok(_), Recipient::Channel(_, waiter)) => drop(waiter.send(Ok(()))),
            (Ok(1..), Recipient::Hub(_)) => hubs.delivered(),
            (Ok(_) | Err(_), Recipient::Hub(hub)) => hubs.undelivered(Undelivered {
                hub,
                message: self.message,
                delivered: Delivered::No,
                nobody_listens: receivers.is_ok() && !is_just_back,
            }),
            (Err(source), Recipient::Channel(_, waiter)) => drop(waiter.send(Err(Unconfirmed {
                delivered: Delivered::No,
                source: source.clone(),
            }))),
        }
    }

    /// It was not sent, or the link broke while it was on its way.
    fn fail(self, delivered: Delivered, source: Error, hubs: &dyn HubReceiver) {
        match self.to {
            Recipient::Channel(_, waiter) => drop(waiter.send(Err(Unconfirmed { delivered, source }))),
            Recipient::Hub(hub) => hubs.undelivered(Undelivered {
                hub,
                message: self.message,
                delivered,
                nobody_listens: false,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    /// Notes of each message that comes back whether nobody listens.
    #[derive(Debug, Default)]
    struct Returns(Mutex<Vec<bool>>);

    impl HubReceiver for Returns {
        fn relayed(&self, _: Bytes) {}

        fn directory_changed(&self, _: Bytes) {}

        fn keys_changed(&self, _: Bytes) {}

        fn delivered(&self) {}

        fn undelivered(&self, undelivered: Undelivered) {
            self.0.lock().push(undelivered.nobody_listens);
        }
    }

    #[test]
    fn nobody_listens_only_where_redis_says_so_and_this_hub_was_not_away_itself() {
        let returns = Returns::default();
        let command = || PublishCommand {
            message: Bytes::new(),
            to: Recipient::Hub("b".parse().expect("an id")),
        };

        command().answered(&Ok(0), false, &returns);
        command().answered(&Ok(0), true, &returns);
        command().answered(&Err(Error::Full), false, &returns);
        command().fail(Delivered::No, Error::Full, &returns);
        command().answered(&Ok(1), false, &returns);

        assert_eq!(*returns.0.lock(), [true, false, false, false]);
    }
}
