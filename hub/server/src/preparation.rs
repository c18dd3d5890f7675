//! What is bound and read before any part of a hub runs, so that mistakes are reported at once.

use std::net::SocketAddr;

use alkhub_config::{AuthConfig, HubConfig, ServerConfig, secret};
use alkhub_edge::auth::FirstKey;
use alkhub_edge::listener::{self, tls};
use alkhub_hub_cluster::{PeerAddress, PeerSecret, PeerSetup};
use alkhub_protocol::ApiKey;
use alkhub_store::KeyHasher;
use tokio::net::{TcpListener, TcpSocket};

use crate::start_error::StartError;

/// What is bound and read before anything runs.
pub(crate) struct Preparation {
    pub(crate) main: TcpSocket,
    pub(crate) management: TcpListener,
    pub(crate) tls: Option<tls::Acceptor>,
    pub(crate) peers: Option<PeerSetup>,
    pub(crate) hasher: KeyHasher,
    pub(crate) admin: Option<ApiKey>,
}

// === impl Preparation ===

impl Preparation {
    /// The addresses of the main and of the management listener.
    ///
    /// # Errors
    /// The system does not report them.
    pub(crate) fn addresses(&self, server: &ServerConfig) -> Result<(SocketAddr, SocketAddr), StartError> {
        Ok((
            local_address(self.main.local_addr(), "server.listen", server.listen)?,
            local_address(
                self.management.local_addr(),
                "server.management-listen",
                server.management_listen,
            )?,
        ))
    }

    /// Reads and binds what the settings name.
    ///
    /// # Errors
    /// [`StartError`] names the setting.
    pub(crate) fn new(config: &HubConfig) -> Result<Self, StartError> {
        let hasher = hasher(&config.auth)?;
        let tls = config.server.tls.as_ref().map(tls::acceptor).transpose()?;
        Ok(Self {
            admin: FirstKey::read(&config.auth)?,
            main: bind("server.listen", config.server.listen)?,
            management: listen("server.management-listen", config.server.management_listen)?,
            peers: peers(config, &hasher, tls.clone())?,
            hasher,
            tls,
        })
    }
}

/// What links from pod to pod need, if they are wanted.
fn peers(config: &HubConfig, hasher: &KeyHasher, tls: Option<tls::Acceptor>) -> Result<Option<PeerSetup>, StartError> {
    let (Some(address), Some(ip)) = (config.server.peer_listen, config.peer_address()) else {
        return Ok(None);
    };
    let setting = "server.peer-listen";
    let listener = listen(setting, address)?;
    let port = local_address(listener.local_addr(), setting, address)?.port();
    Ok(Some(PeerSetup {
        listener,
        address: PeerAddress {
            address: (ip, port).into(),
            tls: tls.is_some(),
        },
        secret: PeerSecret::new(hasher.derive(&format!("links between the hubs of {}", config.events.prefix))),
        tls,
        ping_interval: PeerSetup::PING_INTERVAL,
    }))
}

fn listen(setting: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    let unusable = |source| StartError::Bind {
        setting,
        address,
        source,
    };
    listener::listen(bind(setting, address)?).map_err(unusable)
}

fn hasher(auth: &AuthConfig) -> Result<KeyHasher, StartError> {
    let file = auth.hash_key_file.as_deref().ok_or(StartError::HashKeyMissing)?;
    let secret = secret::read("auth.hash-key-file", file)?;
    Ok(KeyHasher::from_hex(auth.hash_key_id.as_str(), &secret)?)
}

fn bind(setting: &'static str, address: SocketAddr) -> Result<TcpSocket, StartError> {
    listener::bind(address).map_err(|source| StartError::Bind {
        setting,
        address,
        source,
    })
}

fn local_address(
    bound: std::io::Result<SocketAddr>,
    setting: &'static str,
    address: SocketAddr,
) -> Result<SocketAddr, StartError> {
    bound.map_err(|source| StartError::Bind {
        setting,
        address,
        source,
    })
}
