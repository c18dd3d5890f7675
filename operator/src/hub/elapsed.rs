//! The time since a moment that Kubernetes or a hub has dated.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

/// How long ago something was; a time in the future, by another machine's clock, counts as now.
pub(super) fn elapsed(since: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(since)).unwrap_or_default()
}
