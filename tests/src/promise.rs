//! What the caller of a call is promised, whatever happens meanwhile.

use alkhub_protocol::Delivered;

/// Codes of errors that trouble explains: a hub, a spoke or a link that was away.
pub const TROUBLE: [&str; 8] = [
    "NO_PROVIDER",
    "OPERATION_NOT_FOUND",
    "SPOKE_LOST",
    "UNAVAILABLE",
    "TIMEOUT",
    "OVERLOADED",
    "ABORTED",
    "RATE_LIMITED",
];

/// What the field `delivered` of an error says; without one nobody knows.
pub fn delivered(said: Option<&str>) -> Delivered {
    match said {
        Some("yes") => Delivered::Yes,
        Some("no") => Delivered::No,
        _ => Delivered::Maybe,
    }
}

/// Whether what a caller was told is true of a call that reached spokes so many times. More than once is never right.
pub fn holds(delivered: Delivered, deliveries: usize) -> bool {
    match delivered {
        Delivered::Yes => deliveries == 1,
        Delivered::No => deliveries == 0,
        Delivered::Maybe => deliveries <= 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_caller_was_told_holds_for_so_many_deliveries_and_never_for_two() {
        let of = |said| [0, 1, 2].map(|count| holds(delivered(said), count));

        assert_eq!(of(Some("yes")), [false, true, false]);
        assert_eq!(of(Some("no")), [true, false, false]);
        assert_eq!(of(Some("maybe")), [true, true, false]);
        assert_eq!(of(None), [true, true, false]);
    }
}
