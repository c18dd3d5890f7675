//! The body of an HTTP answer, read up to a limit: what answers may not be a hub at all.

use alkhub_protocol::FRAME_LIMIT_BYTES;
use bytes::Bytes;
use reqwest::Response;

/// The longest list: a hub without pages returns all keys at once, a few hundred bytes each.
pub(super) const LIST_LIMIT: usize = 64 * 1024 * 1024;

/// The longest output of an operation, or problem: what a frame can hold, with room for the envelope around it.
pub(super) const VALUE_LIMIT: usize = 2 * FRAME_LIMIT_BYTES;

/// Why there is no body.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unread {
    /// The connection broke.
    #[error("the answer broke off")]
    Broken(#[source] reqwest::Error),
    /// It is longer than any answer of a hub would be.
    #[error("the answer is longer than {0} bytes")]
    TooLong(usize),
}

/// Reads a body of `limit` bytes at most.
pub(super) async fn body(mut response: Response, limit: usize) -> Result<Bytes, Unread> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(Unread::Broken)? {
        if chunk.len() > limit - body.len() {
            return Err(Unread::TooLong(limit));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(size: usize) -> Result<Bytes, Unread> {
        body(http::Response::new(vec![b'x'; size]).into(), 10).await
    }

    #[tokio::test]
    async fn a_body_is_read_up_to_its_limit() {
        assert_eq!(read(10).await.expect("as long as it may be").len(), 10);
        assert!(matches!(read(11).await, Err(Unread::TooLong(10))));
    }
}
