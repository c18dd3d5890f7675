//! Host and port of Redis or Postgres, in a form in which two names of one server are equal.

use alkhub_config::Address;

/// Where a server is; never includes its user or password.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ServerAddress {
    /// `host:port`. A name inside the cluster is written `name.namespace`.
    pub(crate) address: String,
}

// === impl ServerAddress ===

impl ServerAddress {
    /// An address from a URL; a bare host name is taken to be in `namespace`.
    pub(crate) fn of(address: &Address, namespace: &str) -> Self {
        Self {
            address: format!("{}:{}", canonical(&address.host, namespace), address.port),
        }
    }

    /// A server that the operator runs.
    pub(crate) fn managed(service: &str, namespace: &str, port: u16) -> Self {
        Self {
            address: format!("{service}.{namespace}:{port}"),
        }
    }

    /// Whether both are the same server. The scheme does not matter, as Redis may serve TLS and plain text side by
    /// side.
    pub(crate) fn is_server_of(&self, other: &Self) -> bool {
        self.address == other.address
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
    use alkhub_config::address;

    use super::*;

    fn endpoint(url: &str, namespace: &str) -> ServerAddress {
        ServerAddress::of(&address::redis(url).expect(url), namespace)
    }

    #[test]
    fn all_names_of_one_server_look_the_same() {
        for url in [
            "redis://cache",
            "redis://:pass@cache:6379/3",
            "rediss://user:p%40ss@CACHE.team:6379",
            "redis://cache.team.svc/0?protocol=resp3",
            "redis://a@b:c@cache.team.svc.cluster.local.",
        ] {
            assert_eq!(endpoint(url, "team").address, "cache.team:6379", "{url}");
        }
    }

    #[test]
    fn other_ports_and_namespaces_are_other_servers() {
        let one = endpoint("redis://cache", "team");

        assert!(!one.is_server_of(&endpoint("redis://cache", "other")));
        assert!(!one.is_server_of(&endpoint("redis://cache:6380", "team")));
        assert!(one.is_server_of(&ServerAddress::managed("cache", "team", 6379)));
    }
}
