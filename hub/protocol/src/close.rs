//! Close codes: why a hub ends a WebSocket, in a number.

/// Why a hub closes a WebSocket. Those under 4000 are RFC 6455's, the others are alkhub's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseCode {
    /// The peer is done: the answer to its own close.
    Normal,
    /// The hub is going away, or the peer must connect anew for another reason that is not its fault.
    GoingAway,
    /// The peer violated the WebSocket protocol.
    Protocol,
    /// Text was not UTF-8.
    NotUtf8,
    /// The peer takes too long or too much: it does not read, does not finish a message, or is over a budget.
    Policy,
    /// A message far over the limit.
    TooLarge,
    /// The session goes on over a newer connection.
    Moved,
    /// The key was revoked or has expired.
    Revoked,
    /// The spoke is suspended.
    Suspended,
    /// A newer connection has registered the same instance.
    Replaced,
    /// Calls, or their answers, are not read as fast as they arrive.
    Slow,
}

// === impl CloseCode ===

impl CloseCode {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::Normal,
        Self::GoingAway,
        Self::Protocol,
        Self::NotUtf8,
        Self::Policy,
        Self::TooLarge,
        Self::Moved,
        Self::Revoked,
        Self::Suspended,
        Self::Replaced,
        Self::Slow,
    ];

    /// Its number.
    pub const fn number(self) -> u16 {
        match self {
            Self::Normal => 1000,
            Self::GoingAway => 1001,
            Self::Protocol => 1002,
            Self::NotUtf8 => 1007,
            Self::Policy => 1008,
            Self::TooLarge => 1009,
            Self::Moved => 4001,
            Self::Revoked => 4401,
            Self::Suspended => 4403,
            Self::Replaced => 4409,
            Self::Slow => 4429,
        }
    }

    /// The code with this number; `None` if no hub sends it.
    pub fn of(number: u16) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.number() == number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_has_a_number_of_its_own() {
        for &code in CloseCode::ALL {
            assert_eq!(CloseCode::of(code.number()), Some(code));
        }
        assert_eq!(CloseCode::of(1006), None);
    }
}
