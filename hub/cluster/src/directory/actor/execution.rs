//! Registrations, departures and states: written to Redis in batches, and visible in the mirror once Redis has them.
//!
//! Invariants
//! - A registration whose connection has ended by its turn is not made: it would replace the one with which the
//!   instance has come back. One whose connection ends while Redis is being asked is taken back before anybody on this
//!   hub knows of it: what this hub held before stands.

use std::sync::atomic::Ordering;

use alkhub_protocol::HubId;
use alkhub_redis::{DirectoryWrite, Written};

use super::DirectoryActor;
use crate::directory::command::{Command, Refused, StateChange};
use crate::directory::record::{self, InstanceKey};
use crate::entry::{DirectoryEntry, Fence};

// === impl DirectoryActor ===

impl DirectoryActor {
    /// Writes what arrived together to Redis together.
    pub(super) async fn execute(&mut self, batch: &mut Vec<Command>) {
        batch.retain(|command| !command.is_void());
        self.note_marks(batch);
        if batch.is_empty() {
            return;
        }
        let writes: Vec<DirectoryWrite> = batch.iter_mut().map(|command| self.prepare(command)).collect();
        let mut results = self.write(&writes).await.into_iter();
        let mut given_up = Vec::new();
        for command in batch.drain(..) {
            let written = results.next().and_then(Result::ok);
            match command {
                Command::Register { entry, gone, .. } if gone.is_cancelled() => given_up.push((entry, written)),
                Command::Register { entry, from, done, .. } => {
                    let _ = done.send(self.registered(entry, from.as_ref(), written));
                }
                Command::Unregister { key, generation, done } => {
                    self.mirror.unregister(&key, generation);
                    let _ = done.send(());
                }
                Command::CatchUp { .. } => unreachable!("it was taken out before"),
            }
        }
        self.take_back(given_up).await;
    }

    /// Handles the commands that write nothing.
    fn note_marks(&mut self, batch: &mut Vec<Command>) {
        let mut is_out_of_step = false;
        batch.retain(|command| {
            let Command::CatchUp { to, mark } = command else {
                return true;
            };
            is_out_of_step |= self.mirror.mark(to, mark).is_err();
            false
        });
        if is_out_of_step {
            self.fall_out_of_step();
        }
    }

    /// Tells the others which connections are away, for instances that are still held.
    pub(super) async fn tell_states(&mut self, changes: Vec<StateChange>) {
        let mut writes = Vec::new();
        for change in changes {
            let is_reconnecting = change.is_reconnecting.load(Ordering::Acquire);
            let changed = self.mirror.set_state(&change.key, change.generation, is_reconnecting);
            writes.extend(changed.map(|entry| DirectoryWrite::Assert(record::write(entry))));
        }
        if !writes.is_empty() {
            self.write(&writes).await;
        }
    }

    /// Takes back registrations that Redis may have but nobody wants any more. If Redis did not answer, the next load
    /// does that.
    async fn take_back(&mut self, given_up: Vec<(DirectoryEntry, Option<Written>)>) {
        let mut writes = Vec::new();
        for (entry, written) in given_up {
            let Some(Written::Stored { generation, .. }) = written else {
                continue;
            };
            self.mirror.seen(generation);
            let key = InstanceKey::of(&entry);
            writes.push(match self.mirror.held(&key) {
                // Among the records of one hub, the last one written counts, whatever its generation.
                Some(before) => DirectoryWrite::Assert(record::write(before)),
                None => DirectoryWrite::Unregister {
                    field: key.field(),
                    generation,
                },
            });
        }
        if !writes.is_empty() {
            self.write(&writes).await;
        }
    }

    fn prepare(&mut self, command: &mut Command) -> DirectoryWrite {
        match command {
            Command::Register { entry, from, .. } => {
                if let Some((_, given_up)) = from {
                    // Redis may not know it, and the clock that it was derived from may be ahead of this one.
                    self.mirror.seen(*given_up);
                }
                self.mirror.adopt(entry);
                let record = record::write(entry);
                match from.clone() {
                    Some((from, generation)) => DirectoryWrite::TakeOver {
                        record,
                        from,
                        generation,
                    },
                    None => DirectoryWrite::Register(record),
                }
            }
            Command::Unregister { key, generation, .. } => DirectoryWrite::Unregister {
                field: key.field(),
                generation: *generation,
            },
            Command::CatchUp { .. } => unreachable!("it writes nothing"),
        }
    }

    fn registered(
        &mut self,
        mut entry: DirectoryEntry,
        from: Option<&(HubId, u64)>,
        written: Option<Written>,
    ) -> Result<u64, Refused> {
        if let Some((hub, generation)) = from
            && written.is_none()
        {
            let given_up = Fence {
                generation: *generation,
                hub,
            };
            if self.mirror.is_beyond(&InstanceKey::of(&entry), given_up) {
                return Err(Refused);
            }
        }
        match written {
            Some(Written::Stored {
                generation,
                is_own: false,
            }) => {
                self.mirror.seen(generation);
                return Err(Refused);
            }
            Some(Written::Stored { generation, .. }) => {
                entry.generation = generation;
                self.mirror.seen(generation);
            }
            // Redis may have accepted the proposed generation, and later ones may have been given since, so a
            // generation that nobody was given is used.
            Some(Written::Removed) | None if self.redis.is_some() => {
                entry.generation = self.mirror.next_generation();
            }
            Some(Written::Removed) | None => {}
        }
        let generation = entry.generation;
        self.mirror.register(entry);
        Ok(generation)
    }
}
