//! The names by which `kubectl alkhub` and the operator know the same objects of Kubernetes.

use std::time::Duration;

/// Label: who made an object, which is the operator.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "alkhub-operator");

/// Label: the name of the Hub to which an object belongs.
pub const INSTANCE: &str = "app.kubernetes.io/instance";

/// Label: which part of a Hub an object is; [`HUB`] for its pods.
pub const COMPONENT: &str = "app.kubernetes.io/component";

/// The value of [`COMPONENT`] on a hub's pods.
pub const HUB: &str = "hub";

/// Annotation of a pod that somebody wants to be empty, and to stay: anything but `false`. `kubectl alkhub drain` writes it.
pub const DRAIN_REQUESTED: &str = "alkhub.dev/drain";

/// Annotation of a pod that the operator takes away: since when it gives its connections away, RFC 3339.
pub const DRAIN_SINCE: &str = "alkhub.dev/drain-since";

/// Annotation of a Hub: when somebody last wanted its connections to be evened out, RFC 3339. `kubectl alkhub rebalance`
/// writes it.
pub const REBALANCE: &str = "alkhub.dev/rebalance";

/// A hub that the operator tells to drain does so for this long, unless it is told again.
pub const DRAIN_LAPSE: Duration = Duration::from_secs(20);
