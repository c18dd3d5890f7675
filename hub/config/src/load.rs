//! Reads the settings: defaults < file < environment.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use toml::{Table, Value};

use crate::{ClientAddress, Error, HubConfig, ranges};

/// The prefix of settings in the environment.
const PREFIX: &str = "ALKHUB_";

/// Variables of the `alkhub` commands that share the prefix but are not settings of a hub.
const NOT_SETTINGS: [&str; 3] = ["ALKHUB_URL", "ALKHUB_TOKEN", "ALKHUB_CA_FILE"];

/// Settings that have no default and are not plain text.
const UNTYPED: [(&str, &str); 1] = [("server", "tls")];

// === impl HubConfig ===

impl HubConfig {
    /// The settings of this process: defaults, then `file`, then the environment.
    ///
    /// # Errors
    /// [`Error`] names the setting.
    pub fn load(file: Option<&Path>) -> Result<Self, Error> {
        Self::load_from(file, std::env::vars_os())
    }

    /// The same with a given environment, for tests.
    ///
    /// # Errors
    /// [`Error`].
    pub fn load_from(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, Error> {
        let mut table = Table::new();
        if let Some(path) = file {
            let text = std::fs::read_to_string(path).map_err(|source| Error::File {
                path: path.into(),
                source,
            })?;
            let origin = format!("in {}", path.display());
            table = text
                .parse()
                .map_err(|e: toml::de::Error| invalid(&origin, e.message()))?;
            read(table.clone(), &origin)?;
        }
        overlay(&mut table, environment)?;
        let config = read(table, "with the environment")?;
        config.check()?;
        Ok(config)
    }

    /// Reads settings from TOML alone.
    ///
    /// # Errors
    /// [`Error`] names the setting.
    pub fn from_toml(text: &str) -> Result<Self, Error> {
        let table = text
            .parse()
            .map_err(|e: toml::de::Error| invalid("text", e.message()))?;
        let config = read(table, "text")?;
        config.check()?;
        Ok(config)
    }

    /// Checks each setting against its range, and then what a single field cannot show.
    ///
    /// # Errors
    /// [`Error::Range`] names the setting, its value and the range; [`Error::Contradiction`] the fields and the remedy.
    pub fn check(&self) -> Result<(), Error> {
        ranges::check(self)?;
        let is_proxied = self.server.client_address == ClientAddress::ProxyProtocol;
        let rules = [
            (
                self.server.dead_after >= self.server.ping_interval * 2,
                "`server.dead-after` must be at least twice `server.ping-interval`",
            ),
            (
                !is_proxied || !self.server.trusted_proxies.is_empty(),
                "`server.client-address` is `proxy-protocol` and `server.trusted-proxies` is empty, so that no header of \
                 the PROXY protocol is read and every connection with one gets 400: name the proxies",
            ),
            (
                self.server.peer_listen.is_none() || self.peer_address().is_some(),
                "`server.peer-listen` listens on every address and `pod.ip` does not say which of them other hubs can dial: \
                 set `pod.ip` to the pod's address, or `server.peer-listen` to one",
            ),
            (
                self.events.lease_ttl >= self.events.lease_interval * 2,
                "`events.lease-ttl` must be at least twice `events.lease-interval`",
            ),
            (
                self.budget.key_bytes <= self.budget.hub_bytes,
                "`budget.key-bytes` must not be more than `budget.hub-bytes`",
            ),
            (
                self.calls.default_timeout <= self.calls.max_timeout,
                "`calls.default-timeout` must not be longer than `calls.max-timeout`",
            ),
        ];
        match rules.into_iter().find(|(holds, _)| !holds) {
            Some((_, rule)) => Err(Error::Contradiction(rule)),
            None => Ok(()),
        }
    }
}

impl HubConfig {
    /// The address at which other hubs dial this one: the pod's, or the one in `server.peer-listen`.
    pub fn peer_address(&self) -> Option<IpAddr> {
        let listen = self.server.peer_listen?.ip();
        match self.pod.ip.parse() {
            Ok(address) => Some(address),
            Err(_) if self.pod.ip.is_empty() && !listen.is_unspecified() => Some(listen),
            Err(_) => None,
        }
    }

    /// The URL at which a peer in the same cluster reaches exactly this pod: the pod's address with the port of
    /// `server.listen`; `None` if the address is unknown.
    pub fn pod_url(&self) -> Option<String> {
        let (listen, address) = (self.server.listen, self.pod.ip.parse::<IpAddr>().ok()?);
        let takes_all = listen.ip().is_unspecified() && (listen.is_ipv6() || address.is_ipv4());
        let is_reached = listen.port() != 0 && (takes_all || listen.ip() == address);
        let scheme = if self.server.tls.is_some() { "https" } else { "http" };
        is_reached.then(|| format!("{scheme}://{}", SocketAddr::new(address, listen.port())))
    }
}

fn read(table: Table, origin: &str) -> Result<HubConfig, Error> {
    table
        .try_into()
        .map_err(|e: toml::de::Error| invalid(origin, e.to_string().trim()))
}

fn invalid(origin: &str, message: &str) -> Error {
    Error::Invalid {
        origin: origin.to_owned(),
        message: message.replace('\n', " "),
    }
}

/// Puts `ALKHUB_SECTION__KEY` variables over the table, reading each value as the type of its default.
fn overlay(table: &mut Table, environment: impl IntoIterator<Item = (OsString, OsString)>) -> Result<(), Error> {
    let defaults = Table::try_from(HubConfig::default()).expect("the defaults have a TOML form");
    for (name, value) in environment {
        let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else {
            continue;
        };
        if NOT_SETTINGS.contains(&name) || name.starts_with("ALKHUB_TEST_") {
            continue;
        }
        let value = value.to_str().ok_or_else(|| Error::Encoding(name.to_owned()))?;
        let setting = name[PREFIX.len()..]
            .to_ascii_lowercase()
            .replace("__", ".")
            .replace('_', "-");
        let (section, key) = setting
            .split_once('.')
            .ok_or_else(|| Error::Variable(name.to_owned()))?;
        let default = defaults.get(section).and_then(|section| section.get(key));
        let value =
            typed(value, default).map_err(|kind| invalid(&format!("in {name}"), &format!("expected {kind}")))?;
        set(table, section, key, value).ok_or_else(|| Error::Variable(name.to_owned()))?;
    }
    Ok(())
}

/// Sets `section.key`, where the key may have one more level (`server.tls.cert-file`).
fn set(table: &mut Table, section: &str, key: &str, value: Value) -> Option<()> {
    let section_table = table
        .entry(section)
        .or_insert_with(|| Value::Table(Table::new()))
        .as_table_mut()?;
    match key.split_once('.') {
        None => {
            section_table.insert(key.to_owned(), value);
        }
        Some((outer, inner)) if UNTYPED.contains(&(section, outer)) => {
            let outer = section_table
                .entry(outer)
                .or_insert_with(|| Value::Table(Table::new()))
                .as_table_mut()?;
            outer.insert(inner.to_owned(), value);
        }
        Some(_) => return None,
    }
    Some(())
}

fn typed(text: &str, default: Option<&Value>) -> Result<Value, &'static str> {
    Ok(match default {
        Some(Value::Integer(_)) => Value::Integer(text.parse().map_err(|_| "a whole number")?),
        Some(Value::Boolean(_)) => Value::Boolean(text.parse().map_err(|_| "true or false")?),
        Some(Value::Array(_)) => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Value::Array(items.map(|item| Value::String(item.to_owned())).collect())
        }
        _ => Value::String(text.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::time::Duration;

    use super::*;

    fn load(file: &str, environment: &[(&str, &str)]) -> Result<HubConfig, Error> {
        let mut path = tempfile::NamedTempFile::new().expect("a file");
        path.write_all(file.as_bytes()).expect("written");
        let environment = environment
            .iter()
            .map(|(name, value)| (OsString::from(name), OsString::from(value)));
        HubConfig::load_from(Some(path.path()), environment)
    }

    #[test]
    fn the_environment_goes_over_the_file_and_the_file_over_the_defaults() {
        let config = load(
            "[server]\nlisten = \"0.0.0.0:1\"\nmax-connections = 5\n[calls]\ndefault-timeout = \"2s\"",
            &[
                ("ALKHUB_SERVER__MAX_CONNECTIONS", "7"),
                ("ALKHUB_EVENTS__PREFIX", "x:"),
                ("PATH", "/bin"),
            ],
        )
        .expect("valid");

        assert_eq!(config.server.listen.port(), 1);
        assert_eq!(config.server.max_connections, 7);
        assert_eq!(config.calls.default_timeout, Duration::from_secs(2));
        assert_eq!(config.events.prefix.as_str(), "x:");
        assert_eq!(config.store, crate::StoreConfig::default());
    }

    #[test]
    fn other_hubs_dial_the_pod_or_the_address_that_is_listened_on() {
        let address = |listen: &str, ip: &str| {
            let mut config = HubConfig::default();
            config.server.peer_listen = Some(listen.parse().expect("an address"));
            config.pod.ip = ip.to_owned();
            config
                .check()
                .map(|()| config.peer_address().expect("checked").to_string())
        };

        assert_eq!(address("0.0.0.0:7422", "10.0.0.7").expect("both"), "10.0.0.7");
        assert_eq!(address("127.0.0.1:7422", "").expect("one of them"), "127.0.0.1");
        for (listen, ip) in [("0.0.0.0:7422", ""), ("[::]:7422", ""), ("127.0.0.1:7422", "pod-1")] {
            let error = address(listen, ip).expect_err(listen).to_string();
            assert!(error.contains("`pod.ip`"), "{error}");
        }
        assert_eq!(HubConfig::default().peer_address(), None);
    }

    #[test]
    fn an_unknown_setting_is_named() {
        for (file, environment, named) in [
            ("[server]\nlisen = \"0.0.0.0:1\"", vec![], "lisen"),
            ("", vec![("ALKHUB_SERVER__LISEN", "0.0.0.0:1")], "lisen"),
            ("", vec![("ALKHUB_PORT", "tcp://10.0.0.1:1")], "ALKHUB_PORT"),
            ("", vec![("ALKHUB_SERVER__MAX_CONNECTIONS", "many")], "a whole number"),
            (
                "[server]\ncors-origins = [\"https://a.b/\"]",
                vec![],
                "write `https://a.b`",
            ),
            ("[server]\ncors-origins = [\"https://a.b/\"]", vec![], "cors-origins"),
            (
                "",
                vec![("ALKHUB_SERVER__CORS_ORIGINS", "https://a.b,a.b")],
                "write `https://a.b`",
            ),
            (
                "[server]\ntrusted-proxies = [\"10.0.0.1/8\"]",
                vec![],
                "write `10.0.0.0/8`",
            ),
            (
                "",
                vec![("ALKHUB_SERVER__TRUSTED_PROXIES", "10.0.0.1/8")],
                "trusted-proxies",
            ),
            (
                "",
                vec![("ALKHUB_SERVER__CLIENT_ADDRESS", "x-real-ip")],
                "proxy-protocol",
            ),
        ] {
            let error = load(file, &environment).expect_err(named);
            assert!(error.to_string().contains(named), "{error}");
        }
    }

    #[test]
    fn what_the_commands_read_is_no_setting() {
        let variables = NOT_SETTINGS.map(|name| (name, "x"));

        assert_eq!(load("", &variables).expect("valid"), HubConfig::default());
    }

    #[test]
    fn what_is_written_reads_the_same_and_holds_no_secret() {
        let mut config = HubConfig::default();
        config.events.redis_url = Some("redis://:hunter2@r".into());
        config.store.database_url = Some("postgres://u:hunter2@p".into());

        let text = toml::to_string(&config).expect("every field has a TOML form");

        assert!(!text.contains("hunter2"));
        assert_eq!(HubConfig::from_toml(&text).expect("reads"), config);
    }

    #[test]
    fn a_certificate_can_come_from_the_environment() {
        let config = load(
            "",
            &[
                ("ALKHUB_SERVER__TLS__CERT_FILE", "/c"),
                ("ALKHUB_SERVER__TLS__KEY_FILE", "/k"),
            ],
        )
        .expect("valid");

        assert_eq!(config.server.tls.expect("given").cert_file, Path::new("/c"));
    }

    #[test]
    fn contradicting_settings_are_refused() {
        for (text, setting) in [
            ("[server]\nping-interval = \"20s\"", "server.dead-after"),
            (
                "[server]\nclient-address = \"proxy-protocol\"",
                "server.trusted-proxies",
            ),
            ("[events]\nlease-interval = \"9s\"", "events.lease-ttl"),
        ] {
            let error = load(text, &[]).expect_err(text);
            assert!(error.to_string().contains(setting), "{error}");
        }
    }
}
