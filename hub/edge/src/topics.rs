//! What the surfaces that carry events have in common: what a subscription costs, and how it fails.

use alkhub_config::EventsConfig;
use alkhub_events::{Limits, PublishError, SubscribeError};
use alkhub_protocol::{CallError, Code, Delivered, TopicFilter};
use alkhub_redis::Error;

/// What a subscription costs besides its topic, roughly, in bytes.
const SUBSCRIPTION_BYTES: usize = 1024;

/// How much may wait for the reader of one connection's or stream's topics.
pub fn queue_limits(events: &EventsConfig) -> Limits {
    Limits {
        items: events.queue_items,
        bytes: events.queue_bytes,
    }
}

/// How many bytes a subscription makes the hub keep, roughly.
pub fn cost(filter: &TopicFilter) -> usize {
    SUBSCRIPTION_BYTES + filter.to_string().len()
}

/// The error of a publication that Redis did not take, or may not have taken.
pub fn not_published(failed: &PublishError) -> CallError {
    let (code, cause) = cause(&failed.source);
    let known = match failed.delivered {
        Delivered::No => "nobody got the event",
        Delivered::Maybe | Delivered::Yes => "some subscribers may have got the event",
    };
    CallError::new(code, format!("{cause}; {known}"))
        .delivered(failed.delivered)
        .retryable()
        .retry_after_ms(1_000)
}

/// The error of a subscription that was not confirmed.
pub fn not_subscribed(SubscribeError(error): &SubscribeError) -> CallError {
    let (code, cause) = cause(error);
    CallError::new(code, format!("{cause}; there is no subscription"))
        .retryable()
        .retry_after_ms(1_000)
}

/// Why Redis did not do something, as far as a caller should know: addresses and the like go only to the log.
fn cause(error: &Error) -> (Code, String) {
    match error {
        Error::Unavailable(_) => (Code::Unavailable, "Redis is not available".to_owned()),
        Error::Timeout(limit) => (Code::Unavailable, format!("Redis did not confirm within {limit:?}")),
        Error::Full => (Code::Overloaded, "too much waits to be sent to Redis".to_owned()),
        Error::Refused(refusal) => (
            Code::Unavailable,
            format!(
                "Redis refused: {}",
                refusal.code().unwrap_or("its answer is in the hub's log")
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::StatusCode;

    use super::*;
    use crate::error::status;

    #[test]
    fn an_event_that_was_not_published_names_the_cause_and_says_what_is_known() {
        let (no, maybe) = (Delivered::No, Delivered::Maybe);
        let lost = || Error::Unavailable("connection refused by 10.0.0.7".to_owned());
        for (source, delivered, code, message) in [
            (
                lost(),
                no,
                Code::Unavailable,
                "Redis is not available; nobody got the event",
            ),
            (
                lost(),
                maybe,
                Code::Unavailable,
                "Redis is not available; some subscribers may have got the event",
            ),
            (
                Error::Timeout(Duration::from_secs(2)),
                maybe,
                Code::Unavailable,
                "Redis did not confirm within 2s; some subscribers may have got the event",
            ),
            (
                Error::Full,
                no,
                Code::Overloaded,
                "too much waits to be sent to Redis; nobody got the event",
            ),
        ] {
            let error = not_published(&PublishError { delivered, source });

            assert_eq!((&error.code, error.message.as_str()), (&code, message));
            assert_eq!((error.delivered, error.retryable), (delivered, true));
            assert_eq!(status(&error), StatusCode::SERVICE_UNAVAILABLE);
        }
    }
}
