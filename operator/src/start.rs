//! Why the operator does not start, or does not go on.

use alkhub_tasks::Lost;

/// Why the operator cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The kubeconfig or the service account cannot be used.
    #[error("cannot reach the Kubernetes API")]
    Client(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A metric of the same name is registered already.
    #[error("metrics cannot be registered")]
    Metrics(#[from] prometheus::Error),
    /// The management port is busy.
    #[error("cannot listen on the management address")]
    Listen(#[source] std::io::Error),
    /// The client for the hubs' admin API cannot be made.
    #[error("the HTTP client cannot be made")]
    Http(#[from] reqwest::Error),
    /// A part of it ended by a fault of its own; after a restart it is whole again.
    #[error("the operator cannot go on")]
    Lost(#[from] Lost),
}
