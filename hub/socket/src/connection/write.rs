//! The writes of a connection: control frames, then calls, then events.

use std::io;
use std::task::{Context, Poll};

use alkhub_calls::OutgoingItem;
use alkhub_events::Item;
use alkhub_protocol::CloseCode;
use alkhub_protocol::frame::encode;
use alkhub_wire::{MessageKind, framed_text};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{BATCH, Connection, Phase};

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Writes until nothing is queued (`Ready`), or the socket accepts no more (`Pending`).
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>) -> io::Result<Poll<()>> {
        loop {
            if !self.batch.is_empty() {
                let waiting = self.batch.len();
                let polled = self.batch.poll_write(cx, &mut self.io);
                self.registered.writing(polled.is_pending(), self.batch.len() < waiting);
                match polled {
                    Poll::Ready(written) => written?,
                    Poll::Pending => return Ok(Poll::Pending),
                }
                if std::mem::take(&mut self.taken) {
                    self.session.outgoing.written();
                }
            }
            if self.phase == Phase::Open {
                self.fill(cx);
            }
            if self.batch.is_empty() {
                return Ok(Poll::Ready(()));
            }
        }
    }

    /// Queues what is to be written next: control frames, then calls, then events.
    fn fill(&mut self, cx: &mut Context<'_>) {
        if let Some(payload) = self.pong.take() {
            self.batch.pong(&payload);
        }
        // Before the peer's first message, only a close can be queued.
        let kind = self.kind.unwrap_or(MessageKind::Text);
        let beat = self.registered.socket.take_ping();
        if beat {
            self.batch.ping(&[]);
            self.session.held.beat();
        }
        self.say_uncounted(kind, beat);
        if self.say(cx, kind) {
            return;
        }
        if let Some(asked) = self.session.held.ask() {
            self.batch.ping(&asked);
        }
        self.tell(cx, kind);
    }

    /// Queues answers and calls; true when the close is queued.
    fn say(&mut self, cx: &mut Context<'_>, kind: MessageKind) -> bool {
        while self.batch.len() < BATCH {
            if let Some(message) = self.session.held.take() {
                self.session.outgoing.sends(message.clone());
                self.taken = true;
                self.batch.message(kind, message);
                continue;
            }
            if let Some((code, reason)) = self.ending.take() {
                self.end(code, &reason);
                return true;
            }
            if self.is_moving_and_full() {
                break;
            }
            match self.session.outgoing.poll_next(cx) {
                Poll::Ready(Some(OutgoingItem::Message(message))) => {
                    self.session.conversation.wrote(1);
                    self.taken = true;
                    self.batch.message(kind, message);
                }
                Poll::Ready(Some(OutgoingItem::Last(message))) => {
                    self.session.conversation.wrote(1);
                    self.session.held.keep(message);
                }
                Poll::Ready(Some(OutgoingItem::Close { code, reason })) => {
                    // The end may have been decided since this poll began.
                    self.session.conversation.end_work(&reason);
                    self.session.held.release_all();
                    self.ending = Some((code, reason));
                }
                Poll::Ready(None) => {
                    self.close(CloseCode::GoingAway, "");
                    return true;
                }
                Poll::Pending => break,
            }
        }
        false
    }

    /// Whether the peer is moving elsewhere and what is written now might be lost: it may not read here any more. What
    /// it acknowledges makes room.
    fn is_moving_and_full(&self) -> bool {
        self.registered.socket.is_moving() && self.session.outgoing.is_full()
    }

    /// Queues events.
    fn tell(&mut self, cx: &mut Context<'_>, kind: MessageKind) {
        let mut messages = 0;
        let counts = self.session.id().is_some();
        while self.batch.len() < BATCH && !self.is_moving_and_full() {
            match self.session.conversation.poll_event(cx) {
                Poll::Ready(Item::Event(event)) => {
                    messages += 1;
                    let framed = event.framed(|text| framed_text(text));
                    self.batch.framed(kind, framed.clone());
                    if counts {
                        self.session.outgoing.passes(event.text().clone());
                    }
                }
                Poll::Ready(Item::Gap(gap)) => {
                    messages += 1;
                    let gap = encode::gap(&gap);
                    self.batch.message(kind, gap.clone());
                    if counts {
                        self.session.outgoing.passes(gap);
                    }
                }
                Poll::Pending => break,
            }
        }
        self.session.conversation.wrote(messages);
    }

    /// Writes the last messages, after everything that was queued before.
    fn end(&mut self, code: CloseCode, reason: &str) {
        if !self.peer_closed {
            let kind = self.kind.unwrap_or(MessageKind::Text);
            for message in self.session.conversation.last_errors(code, reason) {
                self.batch.message(kind, message);
            }
        }
        self.close(code, reason);
    }

    pub(super) fn close(&mut self, code: CloseCode, reason: &str) {
        self.batch.close(code.number(), reason);
        self.registered.closing();
        self.phase = if self.peer_closed {
            Phase::Closed
        } else {
            Phase::Closing
        };
    }
}
