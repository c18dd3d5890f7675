//! Takes the links of other hubs.
//!
//! Invariants
//! - A peer that has proved nothing gets little time, and only a few of them are heard at once.

use std::sync::Arc;
use std::time::Duration;

use alkhub_protocol::Chain;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use crate::error::Error;
use crate::greeting::{self, Greeted, Greeter};
use crate::links::Shared;
use crate::metrics::BUSY;
use crate::receiver::PeerReceiver;
use crate::{opening, tls};

/// How many connections that have proved nothing yet are heard at once.
const UNPROVEN: usize = 64;

/// How long a hub has to prove itself.
pub(crate) const GREETING: Duration = Duration::from_secs(5);

/// How long a failing `accept` waits before the next try.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Refusals within this time make one warning.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Takes links until the hub ends.
#[derive(Debug)]
pub(crate) struct LinkAcceptor {
    pub(crate) shared: Arc<Shared>,
    pub(crate) receiver: Arc<dyn PeerReceiver>,
    pub(crate) tasks: TaskTracker,
    pub(crate) tls: Option<Tls>,
    /// When a refusal was last logged.
    pub(crate) logged: Mutex<Option<Instant>>,
}

/// TLS for connections from hubs that dial.
#[derive(Clone)]
pub(crate) struct Tls(pub(crate) TlsAcceptor);

// === impl LinkAcceptor ===

impl LinkAcceptor {
    /// Accepts until the hub ends; each connection is a task of its own.
    pub(crate) async fn run(self, listener: TcpListener) {
        let acceptor = Arc::new(self);
        let unproven = Arc::new(Semaphore::new(UNPROVEN));
        while let Some(accepted) = acceptor.shared.stop.run_until_cancelled(listener.accept()).await {
            let Ok((stream, _)) = accepted else {
                sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let Ok(permit) = Arc::clone(&unproven).try_acquire_owned() else {
                acceptor.shared.metrics.refused.with_label_values(&[BUSY]).inc();
                continue;
            };
            let taking = Arc::clone(&acceptor);
            acceptor.tasks.spawn(async move {
                let drop_permit = move || drop(permit);
                if let Err(error) = Box::pin(taking.take(stream, drop_permit)).await {
                    taking.shared.metrics.refused.with_label_values(&[error.label()]).inc();
                    taking.log(&error);
                }
            });
        }
    }

    /// A peer without a proof can cause no more log lines than this; all refusals are counted.
    fn log(&self, error: &Error) {
        let error = Chain::of(error);
        let now = Instant::now();
        let mut logged = self.logged.lock();
        if logged.is_some_and(|at| now.duration_since(at) < LOG_EVERY) {
            tracing::debug!(%error, "a connection to the port for hubs was refused");
        } else {
            *logged = Some(now);
            tracing::warn!(%error, "a connection to the port for hubs was refused");
        }
    }

    async fn take(&self, stream: TcpStream, greeted: impl FnOnce()) -> Result<(), Error> {
        stream.set_nodelay(true)?;
        match &self.tls {
            None => {
                let other = self.in_time(self.greet(stream, &[])).await?;
                greeted();
                self.serve(other).await;
            }
            Some(Tls(tls)) => {
                let greeting = async {
                    let stream = tls.accept(stream).await?;
                    let binding = tls::binding(stream.get_ref().1);
                    let binding = binding.map_err(|_| Error::Foreign("the TLS session has no exporter"))?;
                    self.greet(stream, &binding).await
                };
                let other = Box::pin(self.in_time(greeting)).await?;
                greeted();
                self.serve(other).await;
            }
        }
        Ok(())
    }

    /// Greets within a bounded time, and only while the hub lives.
    async fn in_time<T>(&self, greeting: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let greeting = timeout(GREETING, greeting);
        match self.shared.stop.run_until_cancelled(greeting).await {
            Some(Ok(greeted)) => greeted,
            Some(Err(_)) => Err(Error::Late(GREETING)),
            None => Err(Error::Refused),
        }
    }

    async fn greet<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        mut stream: S,
        binding: &[u8],
    ) -> Result<Greeted<S>, Error> {
        let rest = opening::answer(&mut stream).await?;
        let greeter = Greeter {
            hub: &self.shared.hub,
            secret: &self.shared.secret,
            binding,
        };
        greeting::accept(stream, rest, greeter).await
    }

    async fn serve<S: AsyncRead + AsyncWrite>(&self, other: Greeted<S>) {
        self.shared.serve(&other.from, other.frames, &*self.receiver).await;
    }
}

// === impl Tls ===

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls(..)")
    }
}
