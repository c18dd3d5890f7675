//! Reasons of conditions that several verdicts give, or that other verdicts depend on.

/// The hub's admin API did not answer.
pub(crate) const HUB_UNREACHABLE: &str = "HubUnreachable";

/// The API server refused an object, or did not answer.
pub(crate) const APPLY_FAILED: &str = "ApplyFailed";

/// The spec cannot be read.
pub(crate) const INVALID_SPEC: &str = "InvalidSpec";

/// Another Hub uses the channel prefix.
pub(crate) const PREFIX_IN_USE: &str = "PrefixInUse";
