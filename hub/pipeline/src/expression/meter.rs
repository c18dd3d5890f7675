//! What one evaluation may still cost.

/// Units and bytes that are left.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Meter {
    /// Units of time: nodes, and 16 bytes that one looks at.
    pub(crate) units: u64,
    /// Bytes that may still be built.
    pub(crate) bytes: usize,
}

/// Why an evaluation has no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Halt {
    /// The meter has no units left.
    Units,
    /// The meter has no bytes left.
    Bytes,
    /// The expression has no value for this event. The text has names and types, and nothing of the event.
    Failed(String),
}

// === impl Meter ===

impl Meter {
    /// Pays for time.
    pub(crate) fn pay(&mut self, units: u64) -> Result<(), Halt> {
        match self.units.checked_sub(units) {
            Some(left) => {
                self.units = left;
                Ok(())
            }
            None => {
                self.units = 0;
                Err(Halt::Units)
            }
        }
    }

    /// Pays for a look at this many bytes.
    pub(crate) fn look(&mut self, bytes: usize) -> Result<(), Halt> {
        self.pay(1 + bytes as u64 / 16)
    }

    /// Pays for handing this many bytes on, which takes no time.
    pub(crate) fn hand_on(&mut self, bytes: usize) -> Result<(), Halt> {
        self.bytes = self.bytes.checked_sub(bytes).ok_or(Halt::Bytes)?;
        Ok(())
    }

    /// Pays for building this many bytes, before they are built.
    pub(crate) fn build(&mut self, bytes: usize) -> Result<(), Halt> {
        self.look(bytes)?;
        self.hand_on(bytes)
    }
}

// === impl Halt ===

impl Halt {
    pub(crate) fn failed(reason: impl Into<String>) -> Self {
        Self::Failed(reason.into())
    }

    /// Whether it is about the expression alone, so that the other side of `||` may still decide.
    pub(crate) fn is_of_the_value(&self) -> bool {
        matches!(self, Self::Failed(_))
    }
}
