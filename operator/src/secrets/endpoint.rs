//! Scheme, host and port of a URL of Redis or Postgres, in a form in which two names of one server look the same.

use std::fmt;

/// Where a server is; never its user or password.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Endpoint {
    /// In lower case.
    pub(crate) scheme: String,
    /// `host:port`. A name inside the cluster is written `name.namespace`.
    pub(crate) address: String,
}

// === impl Endpoint ===

impl Endpoint {
    /// Reads a URL; a bare host name is one of `namespace`.
    pub(crate) fn parse(url: &str, namespace: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let authority = rest.split(['/', '?', '#']).next()?;
        let place = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => (host, Some(port)),
            _ => (place, None),
        };
        let scheme = scheme.to_ascii_lowercase();
        let default = match scheme.as_str() {
            "redis" | "rediss" => "6379",
            "postgres" | "postgresql" => "5432",
            _ => return None,
        };
        if host.is_empty() {
            return None;
        }
        let host = canonical(host, namespace);
        Some(Self {
            scheme,
            address: format!("{host}:{}", port.unwrap_or(default)),
        })
    }

    /// A server that the operator runs.
    pub(crate) fn managed(scheme: &str, service: &str, namespace: &str, port: u16) -> Self {
        Self {
            scheme: scheme.to_owned(),
            address: format!("{service}.{namespace}:{port}"),
        }
    }

    /// Whether both are one server: the scheme does not matter, as Redis may serve TLS and plain side by side.
    pub(crate) fn is_server_of(&self, other: &Self) -> bool {
        self.address == other.address
    }

    /// Whether the scheme is one of these.
    pub(crate) fn speaks(&self, schemes: &[&str]) -> bool {
        schemes.contains(&self.scheme.as_str())
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.address)
    }
}

fn canonical(host: &str, namespace: &str) -> String {
    let host = host.to_ascii_lowercase();
    let host = host.trim_end_matches('.');
    let host = host.strip_suffix(".cluster.local").unwrap_or(host);
    let host = host.strip_suffix(".svc").unwrap_or(host);
    if host.contains(['.', ':']) {
        host.to_owned()
    } else {
        format!("{host}.{namespace}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_names_of_one_server_look_the_same() {
        for url in [
            "redis://cache",
            "redis://:pass@cache:6379/3",
            "rediss://user:p%40ss@CACHE.team:6379",
            "redis://cache.team.svc/0?protocol=resp3",
            "redis://a@b:c@cache.team.svc.cluster.local.",
        ] {
            let endpoint = Endpoint::parse(url, "team").expect(url);
            assert_eq!(endpoint.address, "cache.team:6379", "{url}");
            assert!(!format!("{endpoint:?}").contains("pass"));
        }
    }

    #[test]
    fn other_ports_and_namespaces_are_other_servers() {
        let one = Endpoint::parse("redis://cache", "team").expect("valid");

        assert!(!one.is_server_of(&Endpoint::parse("redis://cache", "other").expect("valid")));
        assert!(!one.is_server_of(&Endpoint::parse("redis://cache:6380", "team").expect("valid")));
        assert!(one.is_server_of(&Endpoint::managed("redis", "cache", "team", 6379)));
        assert_eq!(Endpoint::parse("http://cache", "team"), None);
        assert_eq!(Endpoint::parse("redis://", "team"), None);
    }
}
