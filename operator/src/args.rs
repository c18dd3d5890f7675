//! The settings of the operator: flags, or the environment in their place.
//!
//! | what | value |
//! |---|---|
//! | binary, entrypoint of the image | `/alkhub-operator` |
//! | image | `alkhub/operator:VERSION`, user 65532, read-only root |
//! | port | 7430 `management`: `/metrics`, `/livez`, `/readyz` |
//! | environment | `ALKHUB_OPERATOR_*` as in `--help`; the chart sets `…_NAMESPACE` and `…_IDENTITY` by the downward API |
//!
//! RBAC, cluster-wide (or a Role in the namespace of `--watch-namespace`):
//!
//! | group | resources | verbs | why |
//! |---|---|---|---|
//! | alkhub.dev | hubs, spokes | get, list, watch | what it reconciles |
//! | alkhub.dev | spokes | patch | the finalizer that ends a spoke's key before the resource goes |
//! | alkhub.dev | hubs/status, spokes/status | patch | conditions |
//! | alkhub.dev | hubs/scale | patch | the number of pods of a Hub with `spec.autoscaling` |
//! | alkhub.dev | hubs/finalizers, spokes/finalizers | update | owner references with `blockOwnerDeletion`, where the admission plugin asks for it |
//! | apps | replicasets, controllerrevisions | get, list, watch, create, patch, delete | hub pods and what they are made of, by revision; old revisions go |
//! | apps | replicasets/scale | patch | how many pods of a revision there are |
//! | apps | statefulsets | get, list, watch, create, patch, delete | managed Redis and Postgres |
//! | "" | serviceaccounts | get, list, watch, create, patch | the account of hub pods, without rights |
//! | "" | services, configmaps | get, list, watch, create, patch, delete | what a hub pod needs beside it |
//! | "" | secrets | get, list, watch, create, patch, delete | generated keys and passwords; URLs that a Hub names (list and watch ask for metadata only) |
//! | "" | pods | list, watch, patch | how hub pods are, and why they do not become ready; the mark of one that is to go |
//! | autoscaling | horizontalpodautoscalers | list | whether another autoscaler acts on such a Hub |
//! | policy | poddisruptionbudgets | get, list, watch, create, patch, delete | a drain of nodes leaves a Hub serving |
//! | events.k8s.io | events | create, patch | one Event per transition |
//!
//! In the operator's own namespace, a Role: coordination.k8s.io `leases`: get, list, watch, update of the one of
//! `--lease-name`, and create (leader election).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use alkhub_config::LogFormat;
use alkhub_protocol::time;
use clap::Parser;
use clap::builder::{PossibleValuesParser, TypedValueParser};

/// Keeps Hubs and Spokes as their resources say.
#[derive(Clone, Debug, Parser)]
#[command(name = "alkhub-operator", version)]
pub struct Args {
    /// Namespace of the Lease that leaders hold: the operator's own.
    #[arg(long, env = "ALKHUB_OPERATOR_NAMESPACE", default_value = "alkhub-system")]
    pub namespace: String,
    /// Name of this candidate, different for each: the pod's name. A random part is added.
    #[arg(long, env = "ALKHUB_OPERATOR_IDENTITY", default_value = "alkhub-operator")]
    pub identity: String,
    /// Name of the Lease.
    #[arg(long, env = "ALKHUB_OPERATOR_LEASE_NAME", default_value = "alkhub-operator")]
    pub lease_name: String,
    /// Another candidate takes over when the leader has not renewed for this long, 3 s at least.
    #[arg(long, env = "ALKHUB_OPERATOR_LEASE_DURATION", default_value = "15s", value_parser = seconds)]
    pub lease_duration: Duration,
    /// Reconciles this namespace only; all of them when absent.
    #[arg(long, env = "ALKHUB_OPERATOR_WATCH_NAMESPACE")]
    pub watch_namespace: Option<String>,
    /// Image of hubs that name neither `image` nor `version`; its repository is that of `version`.
    #[arg(long, env = "ALKHUB_OPERATOR_HUB_IMAGE", default_value = concat!("alkhub/hub:", env!("CARGO_PKG_VERSION")))]
    pub hub_image: String,
    /// Image of a managed Redis.
    #[arg(long, env = "ALKHUB_OPERATOR_REDIS_IMAGE", default_value = "redis:7")]
    pub redis_image: String,
    /// Image of a managed Postgres; it must follow the official image's environment (`POSTGRES_PASSWORD` …, `PGDATA`).
    #[arg(long, env = "ALKHUB_OPERATOR_POSTGRES_IMAGE", default_value = "postgres:15")]
    pub postgres_image: String,
    /// Where a Hub's admin API is: `{hub}`, `{namespace}` and `{port}` are filled in. For an operator outside the
    /// cluster, name something that reaches in.
    #[arg(
        long,
        env = "ALKHUB_OPERATOR_HUB_URL_TEMPLATE",
        default_value = "http://{hub}.{namespace}.svc:{port}"
    )]
    pub hub_url_template: String,
    /// Time between two polls of a Hub's spokes.
    #[arg(long, env = "ALKHUB_OPERATOR_POLL_INTERVAL", default_value = "10s", value_parser = seconds)]
    pub poll_interval: Duration,
    /// Reconciliations at once, of each kind.
    #[arg(long, env = "ALKHUB_OPERATOR_CONCURRENCY", default_value_t = 16)]
    pub concurrency: u16,
    /// Where `/metrics`, `/livez` and `/readyz` are served.
    #[arg(long, env = "ALKHUB_OPERATOR_MANAGEMENT_LISTEN", default_value = "0.0.0.0:7430")]
    pub management_listen: SocketAddr,
    /// A kubeconfig for an operator outside the cluster; inside, the pod's service account is used.
    #[arg(long, env = "ALKHUB_OPERATOR_KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// What is logged, in the form of tracing's filters.
    #[arg(long, env = "ALKHUB_OPERATOR_LOG_FILTER", default_value = "info")]
    pub log_filter: String,
    /// How a line of the log looks.
    #[arg(long, env = "ALKHUB_OPERATOR_LOG_FORMAT", default_value = "text", value_parser = log_format())]
    pub log_format: LogFormat,
}

/// Longer intervals would amount to no Lease and no polling at all.
const LONGEST: Duration = Duration::from_secs(3_600);

/// `text` or `json`.
fn log_format() -> impl TypedValueParser<Value = LogFormat> {
    PossibleValuesParser::new(["text", "json"]).map(|name| match name.as_str() {
        "json" => LogFormat::Json,
        _ => LogFormat::Text,
    })
}

/// `15s`, `500ms`, `2m`.
fn seconds(text: &str) -> Result<Duration, String> {
    let has_unit = text.ends_with(|c: char| c.is_ascii_alphabetic());
    let duration = time::parse(text)
        .filter(|_| has_unit)
        .ok_or_else(|| format!("`{text}` is no duration: write 15s, 500ms or 2m"))?;
    if duration.is_zero() || duration > LONGEST {
        return Err(format!("`{text}` is out of range: 1ms to 60m"));
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_parse() {
        let args = Args::try_parse_from(["alkhub-operator"]).expect("valid");

        assert_eq!(args.lease_duration, Duration::from_secs(15));
        assert_eq!(args.management_listen.port(), 7430);
    }

    #[test]
    fn a_duration_needs_its_unit() {
        assert_eq!(seconds("500ms"), Ok(Duration::from_millis(500)));
        assert!(seconds("15").is_err());
        assert!(seconds("s").is_err());
        assert!(seconds("0s").is_err() && seconds("61m").is_err());
        assert!(seconds("18446744073709551615m").is_err() && seconds("18446744073709551615s").is_err());
    }
}
