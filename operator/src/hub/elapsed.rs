//! The time that has passed since what Kubernetes or a hub has dated.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

/// How long ago something was; what another machine's clock puts into the future has just been.
pub(super) fn elapsed(since: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(since)).unwrap_or_default()
}
