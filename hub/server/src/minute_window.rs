//! The growth in the last minute, from totals that are sampled now and then; pure.

use std::collections::VecDeque;
use std::time::Duration;

use alkhub_protocol::admin::LastMinute;
use tokio::time::Instant;

const MINUTE: Duration = Duration::from_secs(60);

/// The totals of the last minute, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct MinuteWindow(VecDeque<(Instant, LastMinute)>);

// === impl MinuteWindow ===

impl MinuteWindow {
    /// Adds the present totals; returns the growth in the last minute, or since the first sample if that is more
    /// recent.
    pub(crate) fn add(&mut self, totals: LastMinute) -> LastMinute {
        let now = Instant::now();
        self.0.push_back((now, totals));
        // The sample from a minute ago stays, since the growth is counted from there.
        while self.0.get(1).is_some_and(|(at, _)| now - *at >= MINUTE) {
            self.0.pop_front();
        }
        self.0.front().map_or(totals, |(_, first)| totals - *first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_older_than_a_minute_counts_no_more() {
        let mut window = MinuteWindow::default();
        let mut look = |calls| {
            let totals = LastMinute {
                calls,
                ..LastMinute::default()
            };
            window.add(totals).calls
        };

        assert_eq!(look(100), 0, "from before the first look");
        for second in 1..=60 {
            tokio::time::advance(Duration::from_secs(1)).await;
            assert_eq!(look(100 + second), second);
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(look(160), 59);
        tokio::time::advance(Duration::from_secs(120)).await;
        assert_eq!(look(170), 10, "there was no look for long");
    }
}
