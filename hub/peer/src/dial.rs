//! Dials the other hubs.
//!
//! Invariants
//! - Of two hubs, the one with the smaller id dials.
//! - A hub that cannot be reached is dialled again for as long as it is there, with growing pauses.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use alkhub_protocol::{Chain, HubId};
use alkhub_retry::{Backoff, jittered};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::accept::GREETING;
use crate::address::PeerAddress;
use crate::error::Error;
use crate::frames::Frames;
use crate::greeting::{self, Greeter};
use crate::links::Shared;
use crate::receiver::PeerReceiver;
use crate::{opening, tls};

/// The longest pause between two attempts: at first, and after many.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Dials the other hubs until this one ends. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Dialer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) receiver: Arc<dyn PeerReceiver>,
    pub(crate) tasks: TaskTracker,
    pub(crate) tls: TlsConnector,
}

/// One hub that is being dialled.
#[derive(Debug)]
struct Dialled {
    address: PeerAddress,
    end: CancellationToken,
}

/// The hub that should answer, and where it is thought to be.
#[derive(Clone, Copy, Debug)]
struct Destination<'a> {
    hub: &'a HubId,
    address: PeerAddress,
}

// === impl Dialer ===

impl Dialer {
    /// Keeps one task for each hub that is to be dialled.
    pub(crate) async fn run(self) {
        let mut others = self.shared.others.subscribe();
        others.mark_changed();
        let mut dialled = HashMap::new();
        while let Some(Ok(())) = self.shared.stop.run_until_cancelled(others.changed()).await {
            let now = others.borrow_and_update().clone();
            self.update(&mut dialled, now);
        }
    }

    fn update(&self, dialled: &mut HashMap<HubId, Dialled>, others: BTreeMap<HubId, PeerAddress>) {
        dialled.retain(|hub, known| {
            let stays = others.get(hub) == Some(&known.address);
            if !stays {
                known.end.cancel();
            }
            stays
        });
        for (hub, address) in others {
            if self.shared.hub < hub && !dialled.contains_key(&hub) {
                let end = self.shared.stop.child_token();
                let dialing = self.clone().keep(hub.clone(), address, end.clone());
                self.tasks.spawn(dialing);
                dialled.insert(hub, Dialled { address, end });
            }
        }
    }

    /// Dials one hub, and again after each loss, until it is gone.
    async fn keep(self, hub: HubId, address: PeerAddress, end: CancellationToken) {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            let pause = match Box::pin(self.link(&hub, address, &end)).await {
                Ok(()) => {
                    backoff.reset();
                    jittered(FIRST_PAUSE)
                }
                Err(error) => {
                    self.shared.metrics.failed.with_label_values(&[error.label()]).inc();
                    // Logged once for each period in which it cannot be reached.
                    if backoff.failures() == 0 {
                        let error = Chain::of(&error);
                        tracing::warn!(hub.id = %hub, %address, %error, "another pod cannot be dialled; messages to it go through Redis");
                    }
                    backoff.pause()
                }
            };
            if end.run_until_cancelled(sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    /// Makes a link and serves it until it ends. A hub that is no longer there is not dialled again, but a link to it
    /// continues.
    async fn link(&self, hub: &HubId, address: PeerAddress, end: &CancellationToken) -> Result<(), Error> {
        let late = |_| Error::Late(GREETING);
        let to = Destination { hub, address };
        let connecting = async {
            let stream = TcpStream::connect(address.address).await?;
            stream.set_nodelay(true)?;
            Ok::<_, Error>(stream)
        };
        if address.tls {
            let greeting = async {
                let stream = self.tls.connect(tls::name(address.address), connecting.await?).await?;
                let binding = tls::binding(stream.get_ref().1);
                let binding = binding.map_err(|_| Error::Foreign("the TLS session has no exporter"))?;
                self.greet(stream, &binding, to).await
            };
            let greeted = end.run_until_cancelled(timeout(GREETING, greeting)).await;
            let Some(greeted) = greeted else { return Ok(()) };
            self.serve(hub, greeted.map_err(late)??).await;
        } else {
            let greeting = async { self.greet(connecting.await?, &[], to).await };
            let greeted = end.run_until_cancelled(timeout(GREETING, greeting)).await;
            let Some(greeted) = greeted else { return Ok(()) };
            self.serve(hub, greeted.map_err(late)??).await;
        }
        Ok(())
    }

    async fn greet<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        mut stream: S,
        binding: &[u8],
        to: Destination<'_>,
    ) -> Result<Frames<S>, Error> {
        let rest = opening::ask(&mut stream, to.address.address).await?;
        let greeter = Greeter {
            hub: &self.shared.hub,
            secret: &self.shared.secret,
            binding,
        };
        greeting::dial(stream, rest, greeter, to.hub).await
    }

    async fn serve<S: AsyncRead + AsyncWrite>(&self, hub: &HubId, frames: Frames<S>) {
        self.shared.serve(hub, frames, &*self.receiver).await;
    }
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialer")
            .field("hub", &self.shared.hub)
            .finish_non_exhaustive()
    }
}
