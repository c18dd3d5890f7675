//! The custom resources [`Hub`] and [`Spoke`] of the group `alkhub.dev/v1alpha1`, and the CRDs that declare them.
//!
//! These types are the only source of `crds/hub.yaml` and `crds/spoke.yaml` (`cargo run -p alkhub-crds --bin crdgen`).
//!
//! Promises
//! - A field exists only where the operator carries it out.
//! - What the API server can refuse, it refuses: bounds in the schema, rules in CEL, each with a message and a path.
//! - `Option` fields are left out when empty, so that server-side apply never owns a `null`.
//!
//! Never
//! - It asks no API server for anything, and decides on no resource: the operator does.
//!
//! Uses `protocol` (the scopes that there are).

pub mod condition;
pub mod hub;
pub mod manifest;
pub mod spoke;

pub use condition::{Condition, ConditionStatus};
pub use hub::{Hub, HubSpec, HubStatus};
pub use spoke::{Spoke, SpokePhase, SpokeSpec, SpokeStatus};

/// The API group of both kinds.
pub const GROUP: &str = "alkhub.dev";

/// The one version that exists.
pub const VERSION: &str = "v1alpha1";
