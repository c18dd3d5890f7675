//! The one place where failures become answers: every error is a problem document (RFC 9457).

use std::time::Duration;

use alkhub_protocol::call::Delivered;
use alkhub_protocol::error::PROBLEM_PREFIX;
use alkhub_protocol::{CallError, Chain, Code, Problem};
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};

/// The media type of problem documents.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// Why a request is answered with an error.
#[derive(Debug)]
pub struct ApiError {
    error: CallError,
    status: StatusCode,
}

/// The body of an error, kept beside it so that the request's id can be put in.
#[derive(Clone, Debug)]
pub(crate) struct ProblemBody(pub(crate) Problem);

// === impl ApiError ===

impl ApiError {
    /// An error whose status follows from its code.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        CallError::new(code, message).into()
    }

    /// A bad request.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(Code::BadRequest, message)
    }

    /// A limit was reached.
    pub fn rate_limited(message: impl Into<String>, wait: Duration) -> Self {
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
        CallError::new(Code::RateLimited, message)
            .retryable()
            .retry_after_ms(wait_ms)
            .into()
    }

    /// The store failed. The answer says what the caller can fix; any other reason goes to the log.
    pub fn store(error: &alkhub_store::Error) -> Self {
        match error {
            alkhub_store::Error::Text => Self::bad_request(error.to_string()),
            alkhub_store::Error::KeyInUse | alkhub_store::Error::LastAdmin => {
                Self::new(Code::Conflict, error.to_string())
            }
            alkhub_store::Error::ActorEnded => Self::new(Code::Unauthenticated, error.to_string()),
            error if error.is_transient() => {
                tracing::warn!(error = %Chain::of(error), "Postgres did not answer a request");
                CallError::new(Code::Unavailable, "Postgres is not available")
                    .retryable()
                    .retry_after_ms(1_000)
                    .into()
            }
            error => Self::internal(error),
        }
    }

    /// A fault of ours: the caller learns only the request's id.
    pub fn internal(error: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!(error = %Chain::of(error), "a request failed by a fault of the hub");
        Self::new(
            Code::Internal,
            "the hub failed; its log has the reason under this request's id",
        )
    }

    /// The same with another status than the code's.
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }
}

impl From<CallError> for ApiError {
    fn from(error: CallError) -> Self {
        let status = status(&error);
        Self { error, status }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let problem = problem(&self.error, self.status);
        let body = serde_json::to_vec(&problem).expect("a problem is a plain struct");
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if let Some(wait_ms) = self.error.retry_after_ms {
            headers.insert(RETRY_AFTER, HeaderValue::from(wait_ms.div_ceil(1000)));
        }
        // A status 401 that an operation declares has nothing to do with the hub's keys.
        if self.error.code == Code::Unauthenticated {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"alkhub\""));
        }
        response.extensions_mut().insert(ProblemBody(problem));
        response
    }
}

/// The problem document of an error.
pub fn problem(error: &CallError, status: StatusCode) -> Problem {
    Problem {
        kind: format!("{PROBLEM_PREFIX}{}", error.code),
        title: error.code.title().to_owned(),
        status: status.as_u16(),
        detail: error.message.clone(),
        instance: None,
        code: error.code.clone(),
        retryable: error.retryable,
        delivered: error.delivered,
        details: error.details.clone(),
    }
}

/// The status of an error: the one that the operation declares for it, or that of its code.
pub fn status(error: &CallError) -> StatusCode {
    let by_code = match &error.code {
        Code::BadRequest => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::AccessDenied => StatusCode::FORBIDDEN,
        Code::OperationNotFound | Code::NotFound => StatusCode::NOT_FOUND,
        Code::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        Code::Conflict => StatusCode::CONFLICT,
        Code::PayloadTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Code::ValidationError => StatusCode::UNPROCESSABLE_ENTITY,
        Code::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        Code::Unsupported => StatusCode::NOT_IMPLEMENTED,
        Code::ExecutionError | Code::UnknownError | Code::SpokeLost | Code::OutputInvalid | Code::Domain(_) => {
            StatusCode::BAD_GATEWAY
        }
        Code::NoProvider | Code::Overloaded | Code::Unavailable | Code::Aborted => StatusCode::SERVICE_UNAVAILABLE,
        Code::Timeout => StatusCode::GATEWAY_TIMEOUT,
    };
    error
        .declared_status
        .filter(|status| (400..600).contains(status))
        .and_then(|status| StatusCode::from_u16(status).ok())
        .unwrap_or(by_code)
}

/// The error of a call that was still running when its caller's connection had to end, through no fault of its key.
pub fn unanswered(reason: &str) -> CallError {
    left_running(Code::Unavailable, reason)
}

/// The error of a call that was still running when something ended it on its caller's side.
pub fn left_running(code: Code, reason: &str) -> CallError {
    CallError::new(code, reason).delivered(Delivered::Maybe)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status_of(code: Code) -> u16 {
        status(&CallError::new(code, "")).as_u16()
    }

    #[test]
    fn each_code_has_the_status_that_the_design_settled() {
        for (code, expected) in [
            (Code::BadRequest, 400),
            (Code::Unauthenticated, 401),
            (Code::AccessDenied, 403),
            (Code::OperationNotFound, 404),
            (Code::MethodNotAllowed, 405),
            (Code::PayloadTooLarge, 413),
            (Code::ValidationError, 422),
            (Code::RateLimited, 429),
            (Code::SpokeLost, 502),
            (Code::ExecutionError, 502),
            (Code::OutputInvalid, 502),
            (Code::NoProvider, 503),
            (Code::Unavailable, 503),
            (Code::Timeout, 504),
        ] {
            assert_eq!(status_of(code.clone()), expected, "{code}");
        }
    }

    #[test]
    fn only_a_refused_key_is_challenged() {
        let mut declared = CallError::new(Code::Domain("LOGIN".to_owned()), "log in there first");
        declared.declared_status = Some(401);
        let refused = CallError::new(Code::Unauthenticated, "no key");

        let challenged = |error: CallError| {
            let response = ApiError::from(error).into_response();
            (
                response.status().as_u16(),
                response.headers().contains_key(WWW_AUTHENTICATE),
            )
        };

        assert_eq!(challenged(declared), (401, false));
        assert_eq!(challenged(refused), (401, true));
    }

    #[test]
    fn a_declared_error_has_its_declared_status() {
        let mut error = CallError::new(Code::Domain("QUOTA".to_owned()), "no more");
        assert_eq!(status(&error), StatusCode::BAD_GATEWAY);

        error.declared_status = Some(409);
        assert_eq!(status(&error), StatusCode::CONFLICT);

        error.declared_status = Some(200);
        assert_eq!(status(&error), StatusCode::BAD_GATEWAY);
    }

    #[test]
    fn a_wait_is_told_in_whole_seconds_rounded_up() {
        let response = ApiError::rate_limited("slow down", Duration::from_millis(1_200)).into_response();

        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()[RETRY_AFTER], "2");
        assert_eq!(response.headers()[CONTENT_TYPE], PROBLEM_JSON);
    }
}
