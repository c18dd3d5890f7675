//! Names by which several parts of alkhub know the same objects of Kubernetes.

use std::time::Duration;

/// Label: what made an object; here, the operator.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "alkhub-operator");

/// Label: the name of the Hub to which an object belongs.
pub const INSTANCE: &str = "app.kubernetes.io/instance";

/// Label: which part of a Hub an object is; [`HUB`] for its pods.
pub const COMPONENT: &str = "app.kubernetes.io/component";

/// The value of [`COMPONENT`] on a hub's pods.
pub const HUB: &str = "hub";

/// Annotation on a pod that somebody wants to be emptied but kept: any value but `false`. `kubectl alkhub drain` writes
/// it.
pub const DRAIN_REQUESTED: &str = "alkhub.dev/drain";

/// Annotation on a pod that the operator is removing: since when it has been giving its connections away, RFC 3339.
pub const DRAIN_SINCE: &str = "alkhub.dev/drain-since";

/// Annotation on a Hub: when somebody last wanted its connections to be evened out, RFC 3339. `kubectl alkhub
/// rebalance` writes it.
pub const REBALANCE: &str = "alkhub.dev/rebalance";

/// A hub that the operator tells to drain does so for this long, unless it is told again.
pub const DRAIN_LAPSE: Duration = Duration::from_secs(20);

/// Whether a host is the name of a Service as a cluster spells it, `hub.team.svc` or `hub.team.svc.cluster.local`:
/// whoever uses such a name is in a cluster, and reaches pods by their addresses. A short name, or one in another
/// domain, could be anybody's.
pub fn is_service_name(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let name = host.strip_suffix(".cluster.local").unwrap_or(&host);
    let labels: Vec<&str> = name.split('.').collect();
    matches!(&*labels, [service, namespace, "svc"] if !service.is_empty() && !namespace.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_known_by_its_whole_name_alone() {
        for name in ["hub.team.svc", "Hub.Team.SVC.", "hub.team.svc.cluster.local"] {
            assert!(is_service_name(name), "{name}");
        }
        for name in [
            "",
            "hub",
            "localhost",
            "team.svc",
            "hub..svc",
            "hub.team",
            "10.0.0.7",
            "hub.team.svc.example.com",
            "hub.example.com",
            "a.hub.team.svc",
        ] {
            assert!(!is_service_name(name), "{name}");
        }
    }
}
