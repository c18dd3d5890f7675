//! A connection while its two ends greet each other, one small message at a time.

use std::future::poll_fn;

use alkhub_protocol::CloseCode;
use alkhub_wire::{Batch, Decoder, MessageKind, Received, Role};
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};

use crate::error::Error;

/// The longest message of a greeting.
const MESSAGE_LIMIT: usize = 512;

/// One end of a connection.
#[derive(Debug)]
pub(crate) struct Frames<S> {
    pub(crate) stream: S,
    pub(crate) role: Role,
    /// Bytes that were read but not decoded yet.
    pub(crate) rest: Vec<u8>,
    decoder: Decoder,
}

// === impl Frames ===

impl<S: AsyncRead + AsyncWrite + Unpin> Frames<S> {
    pub(crate) fn new(stream: S, role: Role, rest: Vec<u8>) -> Self {
        Self {
            stream,
            role,
            rest,
            decoder: Decoder::new(role, MESSAGE_LIMIT),
        }
    }

    pub(crate) async fn say(&mut self, message: String) -> Result<(), Error> {
        let mut batch = Batch::new(self.role);
        batch.message(MessageKind::Binary, Bytes::from(message));
        self.write(batch).await
    }

    /// Ends the connection, with a reason.
    pub(crate) async fn refuse(&mut self, reason: &'static str) -> Result<(), Error> {
        let mut batch = Batch::new(self.role);
        batch.close(CloseCode::Policy.number(), reason);
        self.write(batch).await
    }

    pub(crate) async fn hear(&mut self) -> Result<String, Error> {
        loop {
            let mut input = self.rest.as_slice();
            let fed = self.decoder.feed(&mut input);
            let left = input.len();
            self.rest.drain(..self.rest.len() - left);
            match fed {
                Ok(Some(Received::Message { data, .. })) => {
                    let text = String::from_utf8(data.to_vec());
                    return text.map_err(|_| Error::Foreign("a greeting is not UTF-8"));
                }
                Ok(Some(Received::Close { .. })) => return Err(Error::Refused),
                Ok(Some(Received::TooLarge { .. } | Received::Ping(_) | Received::Pong(_))) => {
                    return Err(Error::Foreign("a greeting is small and nothing else"));
                }
                Ok(None) => self.read().await?,
                Err(error) => return Err(Error::Foreign(error.reason)),
            }
        }
    }

    async fn read(&mut self) -> Result<(), Error> {
        let mut chunk = [0; 1024];
        match self.stream.read(&mut chunk).await? {
            0 => Err(Error::Refused),
            count => {
                self.rest.extend_from_slice(&chunk[..count]);
                Ok(())
            }
        }
    }

    async fn write(&mut self, mut batch: Batch) -> Result<(), Error> {
        poll_fn(|context| batch.poll_write(context, &mut self.stream)).await?;
        Ok(())
    }
}
