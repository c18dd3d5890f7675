//! `spec.config` and what the operator itself sets, as one [`HubConfig`]; pure.
//!
//! The settings are read back through the struct that the hub parses, so whatever the hub would refuse is refused here.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use alkhub_config::{ChannelPrefix, HubConfig, MANAGEMENT_PORT, PORT};
use serde_json::Value as Json;
use toml::{Table, Value};

use crate::hub::files;
use crate::hub::spec_error::SpecError;
use crate::names::ObjectNames;

/// Settings that belong to the operator: another value would cut the hub off from what was made for it.
const OWN: [&str; 22] = [
    "hub.namespace",
    "hub.name",
    "hub.uid",
    "pod.name",
    "pod.ip",
    "pod.uid",
    "pod.revision",
    "server.listen",
    "server.management-listen",
    "server.peer-listen",
    "server.tls",
    "auth.hash-key-file",
    "auth.hash-key-id",
    "auth.admin-key-file",
    "events.prefix",
    "events.redis-url",
    "events.redis-url-file",
    "events.redis-ca-file",
    "store.database-url",
    "store.database-url-file",
    "store.ca-file",
    "store.schema",
];

/// Where the hubs of one Hub dial each other.
pub(crate) const PEER_PORT: u16 = 7422;

/// Time for endpoints to notice that a pod is going, unless the user sets another.
const DRAIN_DELAY: Duration = Duration::from_secs(5);

/// Which files with certificate authorities are mounted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mounted {
    pub(crate) redis_ca: bool,
    pub(crate) postgres_ca: bool,
}

/// The settings of a Hub, and their text.
pub(super) fn render(
    given: &BTreeMap<String, Json>,
    names: &ObjectNames,
    prefix: &ChannelPrefix,
    mounted: Mounted,
) -> Result<(HubConfig, String), SpecError> {
    let given = table(given)?;
    own(&given)?;
    let unknown = |error: &dyn std::fmt::Display| {
        SpecError::invalid(
            "InvalidSetting",
            format!("spec.config: {}", error.to_string().trim().replace('\n', " ")),
        )
    };
    let mut config = HubConfig::from_toml(&given.to_string()).map_err(|error| unknown(&error))?;
    if given
        .get("server")
        .and_then(|server| server.get("drain-delay"))
        .is_none()
    {
        config.server.drain_delay = DRAIN_DELAY;
    }
    let file = |name: &str| Some(PathBuf::from(files::path(name)));
    config.hub.namespace.clone_from(&names.namespace);
    config.hub.name.clone_from(&names.hub);
    config.hub.uid.clone_from(&names.uid);
    config.server.listen = everywhere(PORT);
    config.server.management_listen = everywhere(MANAGEMENT_PORT);
    config.server.peer_listen = Some(everywhere(PEER_PORT));
    config.auth.hash_key_file = file(files::HASH_KEY);
    config.auth.admin_key_file = file(files::ADMIN_KEY);
    config.events.prefix = prefix.clone();
    config.events.redis_url_file = file(files::REDIS.url);
    config.events.redis_ca_file = if mounted.redis_ca { file(files::REDIS.ca) } else { None };
    config.store.database_url_file = file(files::POSTGRES.url);
    config.store.ca_file = if mounted.postgres_ca {
        file(files::POSTGRES.ca)
    } else {
        None
    };
    config.store.schema = names.schema().parse().map_err(|error| unknown(&error))?;
    // A pod brings its own address; for the check, any address will do.
    config.pod.ip = Ipv4Addr::LOCALHOST.to_string();
    config.check().map_err(|error| unknown(&error))?;
    config.pod.ip.clear();
    let toml = text(&config, &given).map_err(|error| unknown(&error))?;
    Ok((config, toml))
}

fn table(given: &BTreeMap<String, Json>) -> Result<Table, SpecError> {
    let without_nulls = given
        .iter()
        .filter(|(_, value)| !value.is_null())
        .collect::<BTreeMap<_, _>>();
    Table::try_from(without_nulls)
        .map_err(|error| SpecError::invalid("InvalidSetting", format!("spec.config: {}", error.to_string().trim())))
}

fn own(given: &Table) -> Result<(), SpecError> {
    for (section, values) in given {
        for key in values.as_table().into_iter().flat_map(Table::keys) {
            let setting = format!("{section}.{key}");
            if OWN.contains(&setting.as_str()) {
                let message = format!("spec.config: `{setting}` is set by the operator; leave it out");
                return Err(SpecError::invalid("ReservedSetting", message));
            }
        }
    }
    Ok(())
}

fn everywhere(port: u16) -> SocketAddr {
    (Ipv4Addr::UNSPECIFIED, port).into()
}

/// What differs from the defaults, and what the user set: this way an older hub reads no setting that it does not know.
fn text(config: &HubConfig, given: &Table) -> Result<String, toml::ser::Error> {
    let mut table = Table::try_from(config)?;
    let defaults = Table::try_from(HubConfig::default())?;
    table.retain(|section, values| {
        let Value::Table(values) = values else { return true };
        values.retain(|key, value| {
            let named = given.get(section).and_then(|section| section.get(key)).is_some();
            named || defaults.get(section).and_then(|section| section.get(key)) != Some(value)
        });
        !values.is_empty()
    });
    Ok(table.to_string())
}
