//! Logs and traces of the process: set up once, by the binary.
//!
//! A log line's message reads alone; its fields are dotted. Traces go by OTLP over HTTP when an endpoint is given, and
//! the W3C trace context goes through the hub with or without them.

use std::io::IsTerminal as _;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use alkhub_config::{LogFormat, TelemetryConfig};
use http::HeaderMap;
use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
use opentelemetry::trace::{TraceContextExt as _, TracerProvider as _};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
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

/// Checks the settings; sets up nothing.
///
/// # Errors
/// [`Error::Filter`].
pub fn check(config: &TelemetryConfig) -> Result<(), Error> {
    EnvFilter::try_new(&config.log_filter)?;
    Ok(())
}

/// Sets up logs, and traces when an endpoint is configured, for the whole process. Logs go to standard error. With an
/// endpoint it must run inside a tokio runtime with more than one thread.
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
        .with_attribute(opentelemetry::KeyValue::new("service.version", crate::app::VERSION))
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

/// Makes a request's span a child of its caller's.
pub(crate) fn continue_trace(span: &Span, headers: &HeaderMap) {
    if headers.contains_key(crate::request::TRACEPARENT) {
        let parent = TraceContextPropagator::new().extract(&Headers(headers));
        // Refused only by a span that is disabled, and then there is nothing to join.
        span.set_parent(parent).ok();
    }
}

/// The trace context to hand on: of the current span where traces are on, else the caller's as it came.
pub(crate) fn traceparent(headers: &HeaderMap) -> Option<String> {
    let context = Span::current().context();
    let span = context.span();
    let span = span.span_context();
    if span.is_valid() {
        let flags = span.trace_flags().to_u8();
        return Some(format!("00-{}-{}-{flags:02x}", span.trace_id(), span.span_id()));
    }
    let came = headers.get(crate::request::TRACEPARENT)?.to_str().ok()?;
    is_traceparent(came).then(|| came.to_owned())
}

/// `version-traceid-spanid-flags`, in lower-case hexadecimal.
fn is_traceparent(text: &str) -> bool {
    let hex = |part: &str, length| {
        part.len() == length && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let mut parts = text.split('-');
    [2, 32, 16, 2]
        .iter()
        .all(|&length| parts.next().is_some_and(|part| hex(part, length)))
        && text.len() == 55
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_context_goes_on_only_when_it_is_one() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert!(is_traceparent(good));
        for bad in ["", "00-x", &good[1..], &format!("{good}-00"), &good.to_uppercase()] {
            assert!(!is_traceparent(bad), "{bad}");
        }
    }
}
