//! Why the cluster did not do what it was asked to do.

/// One variant for each thing that a caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Redis is away, refuses or does not answer: the same request may succeed later.
    #[error(transparent)]
    Unreachable(alkhub_redis::Error),
    /// Too much waits, on the way to Redis or in this hub's own inbox.
    #[error("too much waits to be sent")]
    Full,
    /// In process there is no other hub to send to.
    #[error("no other hub can be reached without Redis")]
    Alone,
    /// A registration was given up before its turn came.
    #[error("the registration was given up")]
    GivenUp,
    /// The instance has registered again since its record was given up: the new record stands.
    #[error("the instance has registered over another connection")]
    Taken,
    /// This hub is ending.
    #[error("this hub is ending")]
    Ending,
}

// === impl Error ===

impl From<alkhub_redis::Error> for Error {
    fn from(error: alkhub_redis::Error) -> Self {
        use alkhub_redis::Error as Redis;
        match error {
            Redis::Full => Self::Full,
            Redis::Unavailable(_) | Redis::Timeout(_) | Redis::Refused(_) => Self::Unreachable(error),
        }
    }
}
