//! Keeps the registrations of a spoke's sessions in step: what the spoke offers, and the calls that it takes at once,
//! which are divided between them.
//!
//! Invariants
//! - What is divided is the lesser of what the program wants and what the hubs allow an instance. The hubs see two
//!   instances and would allow each of them all of it.
//! - A session has its share from before it registers until it is over, even while its connection is lost: its
//!   registration stands meanwhile.
//! - At each change, a session's registration is compared with its share and with what is offered, and sent again if
//!   its hub refused it.
//! - Nothing is registered anew once the spoke is ending: that would bring its operations back.

use std::time::Duration;

use alkhub_protocol::register::RegisterOutput;
use alkhub_retry::Backoff;
use tokio::time::sleep;

use super::{SECOND, Shared};

/// Pauses before a registration that a hub refused is sent again.
const AGAIN: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_mins(1));

/// Keeps each session registered with its share and with what is offered, for as long as the future is polled.
pub(super) async fn divide(shared: &Shared) {
    let mut status = shared.status.subscribe();
    let mut pause = AGAIN;
    loop {
        status.borrow_and_update();
        let mut is_divided = true;
        for session in 0..shared.sessions.len() {
            is_divided &= shared.register_share(session).await;
        }
        shared.forget_handlers();
        if is_divided {
            pause = AGAIN;
        }
        tokio::select! {
            // Cannot fail: we hold the sender.
            _ = status.changed() => {}
            () = sleep(pause.pause()), if !is_divided => {}
        }
    }
}

// === impl Shared ===

impl Shared {
    /// Makes room for a session that is about to register, next to the other one if there is one; returns how many
    /// calls it may take at once.
    pub(super) async fn make_room(&self, session: usize) -> Option<u32> {
        self.sessions[session].takes_room();
        if self.other(session).is_some() {
            // If its hub does not answer, its registration stays as it was and is updated later; meanwhile the spoke
            // refuses calls.
            self.register_share(1 - session).await;
        }
        self.share(session)
    }

    /// The share of a session.
    fn share(&self, session: usize) -> Option<u32> {
        if !self.other(session).is_some_and(|other| other.has_room()) {
            return self.concurrency;
        }
        let all = self.most()?;
        let second = all / 2;
        Some(if session == SECOND { second } else { all - second }.max(1))
    }

    /// The calls that the spoke takes at once, over all sessions.
    pub(super) fn most(&self) -> Option<u32> {
        *self.most.lock()
    }

    /// Whether its calls can be divided between two sessions: a single one cannot.
    pub(super) fn is_divisible(&self) -> bool {
        self.most().is_none_or(|calls| calls > 1)
    }

    /// Notes what a hub's answer to a session that asked for this concurrency says about the total.
    pub(super) fn learn(&self, asked: Option<u32>, output: &RegisterOutput) {
        let limit = output
            .concurrency
            .filter(|most| asked.is_none_or(|asked| *most < asked));
        if limit.is_some() {
            *self.most.lock() = limit;
        } else if asked == self.concurrency {
            *self.most.lock() = self.concurrency;
        }
    }

    /// Registers a session with its share and with what is offered, unless it already is; `false` if its hub refuses or
    /// is silent.
    async fn register_share(&self, session: usize) -> bool {
        let _one_at_a_time = self.dividing.lock().await;
        let (attachment, share) = (&self.sessions[session], self.share(session));
        let offers_all = attachment.offers(self.offers.number());
        let is_registered_so = |now| now == share && offers_all;
        if self.is_ending() || attachment.concurrency().is_none_or(is_registered_so) {
            return true;
        }
        let Ok(answered) = self.register_again(attachment, share).await else {
            return false;
        };
        self.learn(share, &answered.output);
        attachment.set_registered(answered, share);
        self.show(None);
        true
    }
}
