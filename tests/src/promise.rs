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

/// The meaning of an error's field `delivered`; if it is absent, nobody knows.
pub fn delivered(said: Option<&str>) -> Delivered {
    match said {
        Some("yes") => Delivered::Yes,
        Some("no") => Delivered::No,
        _ => Delivered::Maybe,
    }
}

/// Whether what a caller was told is true of a call that reached spokes this many times. More than once is never right,
/// except for a query ([`holds_of_query`]).
pub fn holds(delivered: Delivered, deliveries: usize) -> bool {
    deliveries <= 1 && holds_of_query(delivered, deliveries)
}

/// The same for a query, which is sent again if its spoke is lost.
pub fn holds_of_query(delivered: Delivered, deliveries: usize) -> bool {
    match delivered {
        Delivered::Yes => (1..=2).contains(&deliveries),
        Delivered::No => deliveries == 0,
        Delivered::Maybe => deliveries <= 2,
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

    #[test]
    fn a_query_may_reach_two_spokes_and_never_three() {
        let of = |said| [0, 1, 2, 3].map(|count| holds_of_query(delivered(said), count));

        assert_eq!(of(Some("yes")), [false, true, true, false]);
        assert_eq!(of(Some("no")), [true, false, false, false]);
        assert_eq!(of(Some("maybe")), [true, true, true, false]);
    }
}
