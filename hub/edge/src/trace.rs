//! The W3C trace context of a request: its span joins it, and it is handed on whether or not traces are on.

use http::{HeaderMap, HeaderName};
use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
use opentelemetry::trace::TraceContextExt as _;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::header::{TRACEPARENT, only};

struct Headers<'a>(&'a HeaderMap);

/// Makes a request's span a child of its caller's. Two `traceparent` headers count as none: the trace begins anew.
pub(crate) fn continue_trace(span: &Span, headers: &HeaderMap) {
    if only(headers, &TRACEPARENT).is_some() {
        let parent = TraceContextPropagator::new().extract(&Headers(headers));
        // Fails only if the span is disabled, and then there is nothing to join.
        span.set_parent(parent).ok();
    }
}

/// The trace context to hand on: that of the current span if traces are on, otherwise the caller's as it came.
pub fn traceparent(headers: &HeaderMap) -> Option<String> {
    let context = Span::current().context();
    let span = context.span();
    let span = span.span_context();
    if span.is_valid() {
        let flags = span.trace_flags().to_u8();
        return Some(format!("00-{}-{}-{flags:02x}", span.trace_id(), span.span_id()));
    }
    let came = only(headers, &TRACEPARENT)?.to_str().ok()?;
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

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_trace_context_goes_on_only_when_it_is_one() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert!(is_traceparent(good));
        for bad in ["", "00-x", &good[1..], &format!("{good}-00"), &good.to_uppercase()] {
            assert!(!is_traceparent(bad), "{bad}");
        }
    }

    #[test]
    fn of_two_trace_contexts_none_goes_on() {
        let mut headers = HeaderMap::new();
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        headers.insert(TRACEPARENT, HeaderValue::from_static(good));
        assert_eq!(traceparent(&headers).as_deref(), Some(good));

        headers.append(TRACEPARENT, HeaderValue::from_static(good));

        assert_eq!(traceparent(&headers), None);
    }
}
