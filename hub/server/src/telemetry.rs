//! Logs and traces of the process: set up once, by the program.
//!
//! A log message makes sense by itself; its fields have dotted names. Traces are sent by OTLP over HTTP if an endpoint
//! is given.

use std::io::IsTerminal as _;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use alkhub_config::{LogFormat, TelemetryConfig};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry};

/// Why logs or traces cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter is not one of `tracing`'s.
    #[error("`telemetry.log-filter` is not valid")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Another subscriber is already set.
    #[error("logs are already set up in this process")]
    AlreadySet(#[from] tracing_subscriber::util::TryInitError),
    /// The exporter of traces cannot be built.
    #[error("`telemetry.otlp-endpoint` cannot be used")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
    /// Traces are exported on a tokio runtime, and there is none.
    #[error("traces need a tokio runtime")]
    Runtime(#[from] tokio::runtime::TryCurrentError),
}

/// Keeps telemetry running; dropping it sends what is left, for at most some seconds.
#[derive(Debug)]
pub struct Guard {
    traces: Option<SdkTracerProvider>,
}

/// Checks the settings without setting anything up.
///
/// # Errors
/// [`Error::Filter`].
pub fn check(config: &TelemetryConfig) -> Result<(), Error> {
    EnvFilter::try_new(&config.log_filter)?;
    Ok(())
}

/// Sets up logs, and traces if an endpoint is configured, for the whole process. Logs go to standard error. With an
/// endpoint it must run inside a multi-threaded tokio runtime.
///
/// # Errors
/// [`Error`].
pub fn init(config: &TelemetryConfig) -> Result<Guard, Error> {
    let filter = EnvFilter::try_new(&config.log_filter)?;
    let traces = config.otlp_endpoint.as_deref().map(provider).transpose()?;
    let spans = traces
        .as_ref()
        .map(|provider| tracing_opentelemetry::layer().with_tracer(provider.tracer("alkhub")));
    tracing_subscriber::registry()
        .with(log(config.log_format).with_filter(filter))
        .with(spans)
        .try_init()?;
    Ok(Guard { traces })
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.traces.as_ref().map(SdkTracerProvider::shutdown) {
            tracing::debug!(%error, "the last traces were not sent");
        }
    }
}

fn log(format: LogFormat) -> Box<dyn Layer<Registry> + Send + Sync> {
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_span_list(false).boxed(),
    }
}

fn provider(endpoint: &str) -> Result<SdkTracerProvider, Error> {
    let exporter = SpanExporter::builder()
        .with_http()
        .with_endpoint(endpoint)
        .with_timeout(Duration::from_secs(5))
        .build()?;
    let resource = Resource::builder()
        .with_service_name("alkhub")
        .with_attribute(opentelemetry::KeyValue::new("service.version", alkhub_edge::VERSION))
        .build();
    let exporter = OnRuntime {
        exporter: Arc::new(exporter),
        runtime: tokio::runtime::Handle::try_current()?,
    };
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource)
        .build())
}

/// The batch processor's thread has no reactor, which the HTTP client needs.
#[derive(Debug)]
struct OnRuntime {
    exporter: Arc<SpanExporter>,
    runtime: tokio::runtime::Handle,
}

impl opentelemetry_sdk::trace::SpanExporter for OnRuntime {
    fn export(&self, batch: Vec<SpanData>) -> impl Future<Output = OTelSdkResult> + Send {
        let exporter = self.exporter.clone();
        let sent = self
            .runtime
            .spawn(async move { opentelemetry_sdk::trace::SpanExporter::export(&*exporter, batch).await });
        let sent: Pin<Box<dyn Future<Output = OTelSdkResult> + Send>> = Box::pin(async move {
            sent.await
                .unwrap_or_else(|e| Err(opentelemetry_sdk::error::OTelSdkError::InternalFailure(e.to_string())))
        });
        sent
    }
}
