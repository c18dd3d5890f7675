//! Where a hub is and how to get in: its address, the key, and which certificates to trust.

mod dialing;
#[cfg(test)]
mod tests;
mod trust;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use alkhub_protocol::kubernetes::is_service_name;
use http::HeaderValue;
use http::header::{AUTHORIZATION, LOCATION};
use reqwest::Url;

pub(crate) use self::dialing::{BACKOFF, Socket, pause};
use crate::Error;

/// Time limit for a connection: name lookup, TCP, TLS and upgrade together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

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
        let tls = Arc::new(trust::tls(base.scheme() == "https", ca_file)?);
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

    /// An HTTP client with the key in its headers. It follows no redirect: if nobody took the connection to where one
    /// leads, that would look like a request that nobody got, though the first hub may have acted on it.
    pub(crate) fn http(&self) -> Result<reqwest::Client, Error> {
        let mut headers = http::HeaderMap::new();
        if let Some(token) = &self.token {
            headers.insert(AUTHORIZATION, token.clone());
        }
        reqwest::Client::builder()
            .tls_backend_preconfigured((*self.tls).clone())
            .default_headers(headers)
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
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

    /// The failure to reach the hub.
    pub(crate) fn unreachable(&self, source: impl std::error::Error + Send + Sync + 'static) -> Error {
        Error::connection(self.url().to_owned(), source)
    }

    /// What to say of an answer to a request for `asked` with these headers, if it redirects: where to, and which URL
    /// of the hub to use, if that shows.
    pub(crate) fn redirect(&self, asked: &Url, headers: &http::HeaderMap) -> Option<String> {
        let location = headers.get(LOCATION)?.to_str().ok()?;
        let told = format!("it redirects to {location}, which is not followed");
        let hub = asked.join(location).ok().and_then(|to| self.behind(asked, to));
        Some(match hub {
            Some(hub) => format!("{told} (use {hub} as the hub's URL)"),
            None => told,
        })
    }

    /// The URL of the hub whose route a redirect leads to; `None` if it leads to something else.
    fn behind(&self, asked: &Url, mut to: Url) -> Option<String> {
        let route = asked.path().strip_prefix(self.base.path().trim_end_matches('/'))?;
        let path = to.path().strip_suffix(route)?.to_owned();
        to.set_path(&path);
        to.set_query(None);
        to.set_fragment(None);
        Some(to.as_str().trim_end_matches('/').to_owned())
    }

    /// The refusal of the hub.
    pub(crate) fn refused(&self, status: u16, reason: String) -> Error {
        Error::Refused {
            url: self.url().to_owned(),
            status,
            reason,
            retry_after: None,
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

/// Whether a name would change the path if used as a segment of it.
pub(crate) fn is_dots(segment: &str) -> bool {
    [".", ".."].contains(&segment)
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
