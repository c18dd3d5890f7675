//! The text protocol of nats-server inside WebSocket messages.

use anyhow::{Context as _, Result, bail};

use crate::ws::Reader;

/// One `MSG`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Delivery<'a> {
    /// Where it was published.
    pub(crate) subject: &'a [u8],
    /// Where an answer should be sent.
    pub(crate) reply: Option<&'a [u8]>,
    pub(crate) payload: &'a [u8],
}

/// Goes through everything that one WebSocket message carries, skipping the server's own pings and news.
pub(crate) fn deliveries<'a>(mut text: &'a [u8], mut each: impl FnMut(Delivery<'a>) -> Result<()>) -> Result<()> {
    while !text.is_empty() {
        let end = text.windows(2).position(|window| window == b"\r\n").context("a line")?;
        let (line, rest) = (&text[..end], &text[end + 2..]);
        text = rest;
        if let Some(fields) = line.strip_prefix(b"MSG ") {
            let fields: Vec<&[u8]> = fields.split(|byte| *byte == b' ').collect();
            let length: usize = std::str::from_utf8(fields.last().context("a length")?)?.parse()?;
            each(Delivery {
                subject: fields[0],
                reply: (fields.len() == 4).then(|| fields[2]),
                payload: rest.get(..length).context("a whole payload")?,
            })?;
            text = rest.get(length + 2..).context("a whole message")?;
        } else if ![b"PING".as_slice(), b"PONG", b"INFO"]
            .iter()
            .any(|known| line.starts_with(known))
        {
            bail!("nats-server says {}", String::from_utf8_lossy(line));
        }
    }
    Ok(())
}

/// Waits for the answer to a `PING`, which comes once everything before it has been done.
pub(crate) async fn pong(reader: &mut Reader) -> Result<()> {
    loop {
        let message = reader.next().await?;
        if message.split(|byte| *byte == b'\n').any(|line| line == b"PONG\r") {
            return Ok(());
        }
    }
}
