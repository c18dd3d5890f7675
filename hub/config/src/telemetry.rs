//! Logs and traces.

use serde::{Deserialize, Serialize};

/// `[telemetry]`, `ALKHUB_TELEMETRY__*`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct TelemetryConfig {
    /// How a line of the log looks: `text` or `json`.
    pub log_format: LogFormat,
    /// What is logged, in the form of `tracing`'s filters: `info`, or `info,alkhub_calls=debug`.
    pub log_filter: String,
    /// Where traces go by OTLP over HTTP, for example `http://collector:4318/v1/traces`; nowhere when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otlp_endpoint: Option<String>,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For programs, one object on a line.
    Json,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            log_format: LogFormat::Text,
            log_filter: "info".to_owned(),
            otlp_endpoint: None,
        }
    }
}
