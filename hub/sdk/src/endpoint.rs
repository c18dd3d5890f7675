//! Where a hub is and how to get in: its address, the key, and which certificates to trust.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use alkhub_protocol::Problem;
use alkhub_protocol::json::strict;
use alkhub_protocol::kubernetes::is_service_name;
use alkhub_retry::Backoff;
use http::HeaderValue;
use http::header::{AUTHORIZATION, RETRY_AFTER};
use reqwest::Url;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, http as ws_http};
use tokio_tungstenite::{Connector, MaybeTlsStream, WebSocketStream, client_async_tls_with_config};

use crate::Error;

/// One open WebSocket.
pub(crate) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Time limit for a connection: name lookup, TCP, TLS and upgrade together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The same for an address that a hub has named: if it leads nowhere, the usual address is still to be tried.
const TARGET_TIMEOUT: Duration = Duration::from_secs(2);

/// Pauses between tries to connect, and to be given a topic.
pub(crate) const BACKOFF: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(15));

/// The longest wait before another connection attempt that a refusal can ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// The read buffer of a socket; tungstenite would take 128 KiB.
const BUFFER_BYTES: usize = 16 * 1024;

/// Attempts at reaching a hub other than the one to avoid, before any hub will do.
pub(crate) const TRIES: u32 = 4;

/// A hub's address, a key and the certificate authorities to trust.
#[derive(Clone)]
pub(crate) struct HubEndpoint {
    base: Url,
    token: Option<HeaderValue>,
    tls: Arc<rustls::ClientConfig>,
    /// Where to connect in place of the host of `base`.
    address: Option<SocketAddr>,
    avoid: Option<Avoid>,
}

/// Called when a connection is opened; returns the hub that must not get it.
type Avoid = Arc<dyn Fn() -> Option<String> + Send + Sync>;

// === impl HubEndpoint ===

impl HubEndpoint {
    /// Checks the settings; connects to nothing.
    pub(crate) fn new(url: &str, token: Option<&str>, ca_file: Option<&Path>) -> Result<Self, Error> {
        let base = base(url)?;
        let token = token.map(bearer).transpose()?;
        let tls = Arc::new(tls(base.scheme() == "https", ca_file)?);
        Ok(Self {
            base,
            token,
            tls,
            address: None,
            avoid: None,
        })
    }

    /// The same, but no WebSocket is opened to the hub whose `hubId` `avoid` returns at that time: that hub refuses it.
    pub(crate) fn avoiding(&self, avoid: impl Fn() -> Option<String> + Send + Sync + 'static) -> Self {
        Self {
            avoid: Some(Arc::new(avoid)),
            ..self.clone()
        }
    }

    /// The endpoint after so many tries: from [`TRIES`] on, any hub will do.
    pub(crate) fn after(&self, tries: u32) -> Self {
        Self {
            avoid: self.avoid.clone().filter(|_| tries < TRIES),
            ..self.clone()
        }
    }

    /// The address as it was given, without a slash at the end.
    pub(crate) fn url(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// Where it connects to, for the log.
    pub(crate) fn place(&self) -> String {
        let at = |address| format!("{} at {address}", self.url());
        self.address.map_or_else(|| self.url().to_owned(), at)
    }

    /// The URL of a route, with `segments` escaped.
    ///
    /// # Errors
    /// A segment is `.` or `..`: however it is spelled, every proxy on the way would take it for another path.
    pub(crate) fn route(&self, segments: &[&str]) -> Result<Url, Error> {
        if let Some(dots) = segments.iter().find(|segment| is_dots(segment)) {
            return Err(Error::Setting {
                setting: "a name",
                reason: format!("`{dots}` cannot be part of an address: in a path it means another one"),
            });
        }
        Ok(self.path(segments))
    }

    fn path(&self, segments: &[&str]) -> Url {
        let mut url = self.base.clone();
        url.path_segments_mut()
            .expect("http addresses have a path")
            .pop_if_empty()
            .extend(segments);
        url
    }

    /// An HTTP client with the key in its headers.
    pub(crate) fn http(&self) -> Result<reqwest::Client, Error> {
        let mut headers = http::HeaderMap::new();
        if let Some(token) = &self.token {
            headers.insert(AUTHORIZATION, token.clone());
        }
        reqwest::Client::builder()
            .tls_backend_preconfigured((*self.tls).clone())
            .default_headers(headers)
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent(concat!("alkhub-sdk/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| Error::Setting {
                setting: "the HTTP client",
                reason: e.to_string(),
            })
    }

    /// The same, but connections go to the address of one pod, which a hub has named. Everything else stays as it is
    /// set, above all the name that a certificate must have: nobody gets the key who would not have got it at the usual
    /// address.
    ///
    /// # Errors
    /// It is not an address, or a pod's address makes no sense from here: the hub is not dialled by the name of a
    /// Service, or is behind a path, or the scheme differs.
    pub(crate) fn at(&self, url: &str) -> Result<Self, Error> {
        let wrong = |reason: &str| Error::Setting {
            setting: "the hub's target",
            reason: format!("`{url}` {reason}"),
        };
        let target = base(url)?;
        if target.scheme() != self.base.scheme() {
            return Err(wrong(&format!("does not begin with {}://", self.base.scheme())));
        }
        if [&target, &self.base].iter().any(|url| url.path() != "/") {
            return Err(wrong("and the hub's URL must have no path"));
        }
        if !self.base.host_str().is_some_and(is_service_name) {
            return Err(wrong("is for peers that dial the hub as NAME.NAMESPACE.svc"));
        }
        let host = target.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let host: IpAddr = host.parse().map_err(|_| wrong("names no IP address"))?;
        let port = target.port_or_known_default().unwrap_or(80);
        Ok(Self {
            address: Some(SocketAddr::new(host, port)),
            ..self.clone()
        })
    }

    /// Opens a WebSocket; dropping the future gives up the attempt.
    pub(crate) async fn dial(&self) -> Result<Socket, Error> {
        let time = self.address.map_or(CONNECT_TIMEOUT, |_| TARGET_TIMEOUT);
        let attempt = tokio::time::timeout(time, self.attempt());
        attempt
            .await
            .unwrap_or_else(|_| Err(self.unreachable(std::io::Error::from(std::io::ErrorKind::TimedOut))))
    }

    async fn attempt(&self) -> Result<Socket, Error> {
        let mut url = self.path(&["v1", "ws"]);
        let scheme = if url.scheme() == "https" { "wss" } else { "ws" };
        url.set_scheme(scheme)
            .expect("between http and ws any change is allowed");
        if let Some(hub) = self.avoid.as_ref().and_then(|avoid| avoid()) {
            url.query_pairs_mut().append_pair("avoid", &hub);
        }
        let mut request = url.as_str().into_client_request().map_err(|e| self.unreachable(e))?;
        if let Some(token) = &self.token {
            request.headers_mut().insert(AUTHORIZATION, token.clone());
        }
        let stream = self.connect().await.map_err(|e| self.unreachable(e))?;
        stream.set_nodelay(true).map_err(|e| self.unreachable(e))?;
        let config = WebSocketConfig::default().read_buffer_size(BUFFER_BYTES);
        let connector = Connector::Rustls(self.tls.clone());
        let opened = client_async_tls_with_config(request, stream, Some(config), Some(connector)).await;
        opened.map(|(socket, _)| socket).map_err(|e| self.handshake(e))
    }

    async fn connect(&self) -> std::io::Result<TcpStream> {
        if let Some(address) = self.address {
            return TcpStream::connect(address).await;
        }
        let host = self.base.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let port = self.base.port_or_known_default().unwrap_or(80);
        TcpStream::connect((host, port)).await
    }

    pub(crate) fn unreachable(&self, source: impl std::error::Error + Send + Sync + 'static) -> Error {
        Error::connection(self.url().to_owned(), source)
    }

    pub(crate) fn refused(&self, status: u16, reason: String) -> Error {
        Error::Refused {
            url: self.url().to_owned(),
            status,
            reason,
            retry_after: None,
        }
    }

    fn handshake(&self, error: tungstenite::Error) -> Error {
        match error {
            tungstenite::Error::Http(response) => Error::Refused {
                url: self.url().to_owned(),
                status: response.status().as_u16(),
                reason: reason(&response),
                retry_after: retry_after(&response),
            },
            other => self.unreachable(other),
        }
    }
}

impl fmt::Debug for HubEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The key stays out of logs.
        f.debug_struct("HubEndpoint")
            .field("url", &self.url())
            .finish_non_exhaustive()
    }
}

/// How long to wait before another attempt to connect: as long as was asked for, otherwise according to the failures.
pub(crate) fn pause(error: &Error, backoff: &mut Backoff) -> Duration {
    let asked = error.retry_after().filter(|wait| !wait.is_zero());
    let asked = asked.map(|wait| wait.min(LONGEST_WAIT));
    // No sooner than asked, and with jitter, so that peers refused together do not come back together.
    asked.map_or_else(|| backoff.pause(), |wait| wait.max(alkhub_retry::jittered(wait)))
}

/// Whether a name would change the path if used as a segment of it.
pub(crate) fn is_dots(segment: &str) -> bool {
    [".", ".."].contains(&segment)
}

/// The reason that the refusing side gave: a problem's detail, or the status in words.
fn reason(response: &ws_http::Response<Option<Vec<u8>>>) -> String {
    let body = response.body().as_deref().unwrap_or_default();
    let detail = strict::from_slice::<Problem>(body).map(|problem| problem.detail);
    detail.unwrap_or_else(|_| {
        response
            .status()
            .canonical_reason()
            .unwrap_or("no reason given")
            .to_owned()
    })
}

/// The seconds of a `Retry-After`; a date is ignored.
fn retry_after(response: &ws_http::Response<Option<Vec<u8>>>) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse();
    seconds.ok().map(Duration::from_secs)
}

fn base(url: &str) -> Result<Url, Error> {
    let wrong = |reason: String| Error::Setting {
        setting: "the hub's URL",
        reason,
    };
    let text = match url.split_once("://") {
        Some(("ws", rest)) => format!("http://{rest}"),
        Some(("wss", rest)) => format!("https://{rest}"),
        _ => url.to_owned(),
    };
    let base: Url = text
        .parse()
        .map_err(|e| wrong(format!("`{url}`: {e}; write http://HOST:PORT")))?;
    if !["http", "https"].contains(&base.scheme()) || !base.has_host() {
        return Err(wrong(format!("`{url}` begins with neither http:// nor https://")));
    }
    Ok(base)
}

fn bearer(token: &str) -> Result<HeaderValue, Error> {
    let text = format!("Bearer {}", token.trim());
    let wrong = |_| Error::Setting {
        setting: "the key",
        reason: "it holds characters that no key has".to_owned(),
    };
    let mut value = HeaderValue::try_from(text).map_err(wrong)?;
    value.set_sensitive(true);
    Ok(value)
}

/// The system's certificate authorities and those of `ca_file`; none are read for plain HTTP.
fn tls(encrypted: bool, ca_file: Option<&Path>) -> Result<rustls::ClientConfig, Error> {
    let mut roots = rustls::RootCertStore::empty();
    if encrypted {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    if let Some(path) = ca_file {
        add_authorities(&mut roots, path).map_err(|reason| Error::Setting {
            setting: "the CA file",
            reason: format!("{}: {reason}", path.display()),
        })?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider supports the default versions");
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

fn add_authorities(roots: &mut rustls::RootCertStore, path: &Path) -> Result<(), String> {
    let system = roots.len();
    let pem = std::fs::read(path).map_err(|e| e.to_string())?;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|e| e.to_string())?;
        roots
            .add(certificate)
            .map_err(|_| "one of its certificates cannot be read".to_owned())?;
    }
    if roots.len() == system {
        return Err("it holds no certificate in PEM".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn an_address_may_be_given_in_four_schemes_and_with_a_path() {
        for (given, route) in [
            ("http://h:1", "http://h:1/v1/ws"),
            ("ws://h:1/", "http://h:1/v1/ws"),
            ("wss://h/alk", "https://h/alk/v1/ws"),
            ("https://h/alk/", "https://h/alk/v1/ws"),
        ] {
            let endpoint = HubEndpoint::new(given, None, None).expect(given);
            assert_eq!(endpoint.path(&["v1", "ws"]).as_str(), route);
        }
    }

    #[test]
    fn a_wrong_address_is_answered_with_the_form() {
        for given in ["localhost:7420", "ftp://h", "h", ""] {
            let error = HubEndpoint::new(given, None, None).expect_err(given);
            assert!(error.to_string().contains("http://"), "{error}");
        }
    }

    #[test]
    fn a_file_without_authorities_is_named() {
        let here = env!("CARGO_MANIFEST_DIR");
        for (file, reason) in [
            ("/no/such.pem".to_owned(), "No such file"),
            (format!("{here}/Cargo.toml"), "no certificate"),
            (format!("{here}/src"), "directory"),
        ] {
            for url in ["http://h", "https://h"] {
                let error = HubEndpoint::new(url, None, Some(Path::new(&file))).expect_err(&file);
                let text = error.to_string();
                assert!(
                    text.contains("CA file") && text.contains(&file) && text.contains(reason),
                    "{text}"
                );
            }
        }
    }

    #[test]
    fn names_in_routes_are_escaped() {
        let endpoint = HubEndpoint::new("http://h", None, None).expect("valid");

        for (name, path) in [
            ("a/b", "/v1/events/a%2Fb/c%20d"),
            ("...", "/v1/events/.../c%20d"),
            ("%2e%2E", "/v1/events/%252e%252E/c%20d"),
        ] {
            let route = endpoint.route(&["v1", "events", name, "c d"]);
            assert_eq!(route.expect("a path").path(), path);
        }
    }

    #[test]
    fn a_name_that_means_another_path_is_in_no_route() {
        let endpoint = HubEndpoint::new("http://h", None, None).expect("valid");

        for name in [".", ".."] {
            let error = endpoint.route(&["v1", "admin", "keys", name]).expect_err(name);
            assert!(error.to_string().contains(&format!("`{name}`")), "{error}");
        }
    }

    #[test]
    fn who_refuses_says_how_long_to_wait_within_bounds_and_else_the_back_off_does() {
        let endpoint = HubEndpoint::new("http://h", None, None).expect("valid");
        let refused = |value: &str| {
            let response = ws_http::Response::builder().status(503).header("retry-after", value);
            let response = response.body(None).expect("a response");
            endpoint.handshake(tungstenite::Error::Http(response.into()))
        };
        let seconds = Duration::from_secs;

        for _ in 0..100 {
            let mut backoff = BACKOFF;
            let wait = pause(&refused("2"), &mut backoff);
            assert!((seconds(2)..=seconds(2) * 6 / 5).contains(&wait), "{wait:?}");
            assert!(pause(&refused("86400"), &mut backoff) <= LONGEST_WAIT * 6 / 5);
            assert_eq!(backoff.failures(), 0, "it is no failure");
            assert!(pause(&refused("Wed, 21 Oct 2015 07:28:00 GMT"), &mut backoff) <= Duration::from_millis(250));
            assert_eq!(backoff.failures(), 1);
        }
    }

    #[test]
    fn an_address_that_a_hub_names_is_taken_only_where_a_pod_can_be_meant() {
        let at = |base: &str, target: &str| {
            let endpoint = HubEndpoint::new(base, Some("alk_secret"), None).expect("valid");
            endpoint
                .at(target)
                .map(|endpoint| endpoint.address)
                .map_err(|error| error.to_string())
        };
        let pod = Some("10.0.0.7:7420".parse().expect("an address"));

        assert_eq!(at("http://hub.team.svc:7420", "http://10.0.0.7:7420"), Ok(pod));
        assert_eq!(at("wss://hub.team.svc", "https://10.0.0.7:7420"), Ok(pod));
        for (base, target, reason) in [
            ("https://hub.team.svc", "http://10.0.0.7:7420", "https://"),
            ("http://hub.team.svc", "https://10.0.0.7:7420", "http://"),
            ("http://hub.example.com", "http://10.0.0.7:7420", "NAMESPACE"),
            ("http://localhost:7420", "http://10.0.0.7:7420", "NAMESPACE"),
            ("http://hub.team.svc/alk", "http://10.0.0.7:7420", "path"),
            ("http://hub.team.svc", "http://10.0.0.7:7420/x", "path"),
            ("http://hub.team.svc", "http://elsewhere:7420", "IP address"),
        ] {
            let error = at(base, target).expect_err(target);
            assert!(error.contains(reason), "{error}");
        }
    }

    /// The first bytes sent over a connection to an address that a hub has named.
    async fn first_bytes(base: &str, scheme: &str) -> Vec<u8> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let target = format!("{scheme}://{}", listener.local_addr().expect("bound"));
        let endpoint = HubEndpoint::new(base, Some("alk_secret"), None).expect("valid");
        let endpoint = endpoint.at(&target).expect("it can be dialled");
        let answering = async {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut bytes = vec![0; 4_096];
            let count = stream.read(&mut bytes).await.expect("the first bytes");
            bytes.truncate(count);
            bytes
        };
        let (bytes, dialled) = tokio::join!(answering, endpoint.dial());
        assert!(dialled.is_err(), "nobody answers");
        bytes
    }

    fn has(bytes: &[u8], text: &str) -> bool {
        bytes.windows(text.len()).any(|part| part == text.as_bytes())
    }

    #[tokio::test]
    async fn at_an_address_that_a_hub_names_all_else_is_as_it_is_set() {
        let bytes = first_bytes("http://hub.team.svc:7420", "http").await;
        assert!(
            has(&bytes, "GET /v1/ws ") && has(&bytes, "hub.team.svc:7420"),
            "{bytes:?}"
        );

        let bytes = first_bytes("https://hub.team.svc", "https").await;
        assert!(has(&bytes, "hub.team.svc"), "the name that the certificate must have");
        assert!(!has(&bytes, "alk_secret"), "no key before that");
    }

    #[test]
    fn the_key_is_in_no_debug_output() {
        let endpoint = HubEndpoint::new("http://h", Some("alk_secret"), None).expect("valid");

        assert!(!format!("{endpoint:?}").contains("secret"));
    }
}
