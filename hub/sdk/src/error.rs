//! Why a request to a hub failed.

use std::sync::Arc;
use std::time::Duration;

use alkhub_protocol::id::InvalidId;
use alkhub_protocol::register::OperationResult;
use alkhub_protocol::topic::InvalidTopic;
use alkhub_protocol::{CallError, CloseCode, Code, Delivered, Problem};

/// One variant for each thing that a program can do about it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// A setting of a builder cannot be used.
    #[error("{setting} is not valid: {reason}")]
    Setting {
        /// Which setting.
        setting: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// An operation, spoke or instance name breaks its rule.
    #[error(transparent)]
    Name(#[from] InvalidId),
    /// A topic breaks its rule.
    #[error(transparent)]
    Topic(#[from] InvalidTopic),
    /// No hub answers at the address.
    #[error("cannot reach the hub at {url}")]
    Unreachable {
        /// The address.
        url: String,
        /// Why.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// What answers at the address cannot be trusted. This fails only the first connection; later ones are tried again,
    /// since a certificate can be replaced.
    #[error("cannot trust the hub at {url}: {distrust}")]
    Untrusted {
        /// The address.
        url: String,
        /// What is wrong, and the remedy.
        distrust: Distrust,
        /// The TLS error.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The hub, or a proxy before it, did not let the connection in, or closed it.
    #[error("the hub at {url} {} {status}: {reason}", did(*status))]
    Refused {
        /// The address.
        url: String,
        /// The HTTP status, or the code with which the WebSocket was closed.
        status: u16,
        /// The reason that it gave.
        reason: String,
        /// How long it asks to wait before another try, if it does.
        retry_after: Option<Duration>,
    },
    /// The call failed; code, retryable and delivered are inside.
    #[error(transparent)]
    Call(Box<CallError>),
    /// The HTTP API refused.
    #[error("{}: {}", .0.code, .0.detail)]
    Problem(Box<Problem>),
    /// The hub refused the spoke's operations; the spoke is not connected.
    #[error("the hub refused {}", list(.0))]
    Rejected(Vec<OperationResult>),
    /// The connection broke after the call was handed to it and before it was answered.
    #[error("the connection to the hub broke before the answer came")]
    Lost,
    /// No answer in time; the call was aborted.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The reader of a subscription was too slow, and items would have been lost: the subscription was ended.
    #[error("subscription ended: {0} items were waiting for a reader that did not come")]
    Lagged(usize),
    /// The value cannot be written as JSON.
    #[error("value cannot be written as JSON")]
    Encode(#[source] Arc<serde_json::Error>),
    /// The answer does not have the expected shape.
    #[error("{what} does not have the expected shape")]
    Decode {
        /// Whose answer.
        what: String,
        /// The error of serde.
        source: Arc<serde_json::Error>,
    },
    /// The input, output or event is larger than the wire allows.
    #[error("payload of {size} bytes is larger than the limit of {limit} bytes")]
    TooLarge {
        /// Its size.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// The client or the spoke was closed.
    #[error("closed")]
    Closed,
    /// A panic ended the task that keeps the connection: a fault in this crate, or in code of the program that it calls
    /// (a subscriber of `tracing`).
    #[error("the task that keeps the connection to the hub panicked")]
    Panicked,
}

/// Why a hub cannot be trusted; one variant per remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Distrust {
    /// The certificate was issued by an authority that is not trusted here.
    #[error("no authority that is trusted here issued its certificate (`ca_file` adds one)")]
    Authority,
    /// The certificate is not for the host in the URL.
    #[error("its certificate is for another name (the URL must have one of its names)")]
    Name,
    /// The certificate is expired or not valid yet.
    #[error("its certificate is not valid now (renew it, or set the clock)")]
    Time,
    /// The certificate is that of an authority itself, as `openssl req -x509` makes them: no server may use it.
    #[error(
        "its certificate is self-signed as an authority's own (CA:TRUE), which no server may show (give the hub one with CA:FALSE)"
    )]
    SelfSigned,
    /// The certificate is not accepted for another reason.
    #[error("its certificate is not accepted")]
    Certificate,
    /// There is no TLS at the address.
    #[error("it does not speak TLS (an address without TLS begins with http://)")]
    Plain,
}

// === impl Error ===

impl Error {
    /// The code from the hub or the spoke, if one of them sent one.
    pub fn code(&self) -> Option<&Code> {
        match self {
            Self::Call(error) => Some(&error.code),
            Self::Problem(problem) => Some(&problem.code),
            _ => None,
        }
    }

    /// Whether the same request may be sent again as it is. For [`Error::Lost`] and [`Error::Timeout`] that depends on
    /// the operation: see [`Error::delivered`].
    pub fn retryable(&self) -> bool {
        match self {
            Self::Call(error) => error.retryable,
            Self::Problem(problem) => problem.retryable,
            Self::Unreachable { .. } => true,
            Self::Refused { status, .. } => !permanent(*status),
            _ => false,
        }
    }

    /// How long to wait before another try, if the hub or a proxy before it names a time.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Call(error) => error.retry_after_ms.map(Duration::from_millis),
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether the spoke received the call.
    pub fn delivered(&self) -> Delivered {
        match self {
            Self::Call(error) => error.delivered,
            Self::Problem(problem) => problem.delivered,
            Self::Lost | Self::Timeout(_) => Delivered::Maybe,
            Self::Decode { .. } | Self::Lagged(_) => Delivered::Yes,
            _ => Delivered::No,
        }
    }

    /// Whether nobody took the connection: it was refused, or reset before a request was sent over it. That is so for a
    /// moment when a pod has died and its Service still leads there, so the request may be made again, whatever it asks
    /// for. A name that does not resolve is not meant.
    pub fn nobody_listens(&self) -> bool {
        match self {
            Self::Unreachable { source, .. } => is_refused_connection(source.as_ref()),
            _ => false,
        }
    }

    /// An error of a connection: [`Error::Untrusted`] if it is about trust, otherwise [`Error::Unreachable`].
    pub(crate) fn connection(url: String, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        match tls(&source).and_then(|tls| Some((Distrust::of(tls)?, tls.clone()))) {
            Some((distrust, tls)) => Self::Untrusted {
                url,
                distrust,
                source: Arc::new(tls),
            },
            None => Self::Unreachable {
                url,
                source: Arc::new(source),
            },
        }
    }

    /// Whether trying again cannot help: the key or the settings must change first.
    pub(crate) fn is_permanent(&self) -> bool {
        match self {
            Self::Refused { status, .. } => permanent(*status),
            Self::Setting { .. } | Self::Rejected(_) | Self::Closed | Self::Name(_) => true,
            Self::Call(error) => !error.retryable,
            _ => false,
        }
    }

    /// Whether another connection of the same instance has replaced this one.
    pub(crate) fn is_replaced(&self) -> bool {
        match self {
            Self::Refused { status, .. } => CloseCode::of(*status) == Some(CloseCode::Replaced),
            Self::Call(error) => error.code == Code::Conflict,
            _ => false,
        }
    }

    /// Why a task was dropped before it ended by itself: it panicked, or its runtime shuts down.
    pub(crate) fn of_drop() -> Self {
        if std::thread::panicking() {
            Self::Panicked
        } else {
            Self::Closed
        }
    }

    pub(crate) fn decode(what: impl Into<String>, source: serde_json::Error) -> Self {
        Self::Decode {
            what: what.into(),
            source: Arc::new(source),
        }
    }

    /// An answer that cannot be read for a reason other than its JSON.
    pub(crate) fn unreadable(what: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        Self::decode(what, serde::de::Error::custom(reason))
    }

    pub(crate) fn encode(source: serde_json::Error) -> Self {
        Self::Encode(Arc::new(source))
    }
}

// === impl Distrust ===

impl Distrust {
    /// What was wrong in a failed handshake, if it was about trust.
    fn of(error: &rustls::Error) -> Option<Self> {
        use rustls::{CertificateError as Fault, Error as Tls, InvalidMessage};
        Some(match error {
            Tls::InvalidCertificate(fault) => match fault {
                // An authority of the same name with another key shows as a bad signature.
                Fault::UnknownIssuer | Fault::BadSignature => Self::Authority,
                Fault::NotValidForName | Fault::NotValidForNameContext { .. } => Self::Name,
                Fault::Expired
                | Fault::ExpiredContext { .. }
                | Fault::NotValidYet
                | Fault::NotValidYetContext { .. } => Self::Time,
                // This case has no variant of its own.
                Fault::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => Self::SelfSigned,
                _ => Self::Certificate,
            },
            Tls::InvalidMessage(InvalidMessage::InvalidContentType) => Self::Plain,
            _ => return None,
        })
    }
}

/// The TLS error among an error and its sources.
fn tls<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    std::iter::successors(Some(error), |&error| cause(error)).find_map(|error| error.downcast_ref())
}

/// Whether an error tells of a connection that nobody took.
fn is_refused_connection(error: &(dyn std::error::Error + 'static)) -> bool {
    for error in std::iter::successors(Some(error), |&error| cause(error)) {
        // A connection that breaks later gives an I/O error of the same kind, and the request may have been sent.
        if let Some(request) = error.downcast_ref::<reqwest::Error>()
            && !request.is_connect()
        {
            return false;
        }
        if let Some(error) = error.downcast_ref::<std::io::Error>()
            && is_refusal(error.kind())
        {
            return true;
        }
    }
    false
}

fn is_refusal(kind: std::io::ErrorKind) -> bool {
    use std::io::ErrorKind as Kind;
    matches!(
        kind,
        Kind::ConnectionRefused | Kind::ConnectionReset | Kind::ConnectionAborted | Kind::HostUnreachable
    )
}

/// What is behind an error.
fn cause<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a (dyn std::error::Error + 'static)> {
    // An I/O error returns the source of the error it holds, skipping that error itself.
    match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
        Some(held) => Some(held),
        None => error.source(),
    }
}

impl From<CallError> for Error {
    fn from(error: CallError) -> Self {
        Self::Call(Box::new(error))
    }
}

/// Whether connecting again unchanged cannot help: a key that is not valid (401) or was revoked, an instance that was
/// replaced, no hub at the address. A suspended spoke (403, and its close code) may be resumed, so it tries again.
fn permanent(status: u16) -> bool {
    match CloseCode::of(status) {
        Some(CloseCode::Revoked | CloseCode::Replaced) => true,
        Some(
            CloseCode::Normal
            | CloseCode::GoingAway
            | CloseCode::Protocol
            | CloseCode::NotUtf8
            | CloseCode::Policy
            | CloseCode::TooLarge
            | CloseCode::Moved
            | CloseCode::Suspended
            | CloseCode::Slow,
        ) => false,
        None => matches!(status, 400..=402 | 404..=407 | 409..=428 | 430..=499),
    }
}

/// WebSocket close codes begin at 1000, above all HTTP codes.
fn did(status: u16) -> &'static str {
    if status < 1000 {
        "refused the connection with status"
    } else {
        "closed the connection with code"
    }
}

fn list(operations: &[OperationResult]) -> String {
    let one = |o: &OperationResult| {
        format!(
            "operation `{}`: {}",
            o.name,
            o.reason.as_deref().unwrap_or("no reason given")
        )
    };
    operations.iter().map(one).collect::<Vec<_>>().join("; ")
}
