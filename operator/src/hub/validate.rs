//! Decides what a Hub shall be, or what its user must fix; pure.

mod settings;

use std::collections::BTreeMap;

use alkhub_config::{ChannelPrefix, HubConfig};
use alkhub_crds::hub::{Backend, PodTemplate, ServiceSpec, Storage};
use alkhub_crds::{Hub, HubStatus, condition};
use serde_json::Value as Json;

pub(crate) use self::settings::{Mounted, PEER_PORT};
use crate::hub::grace;
use crate::hub::observe::{Observed, Rank, Values};
use crate::hub::spec_error::{SpecError, prefix_of};
use crate::names::ObjectNames;
use crate::reason::{INVALID_SPEC, PREFIX_IN_USE};
use crate::secrets::Location;

/// What a Hub shall be.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) names: ObjectNames,
    pub(crate) replicas: i32,
    pub(crate) image: String,
    pub(crate) redis_image: String,
    pub(crate) postgres_image: String,
    pub(crate) prefix: ChannelPrefix,
    /// `host:port` of Redis.
    pub(crate) redis_address: Option<String>,
    /// The settings that the user set.
    pub(crate) given: BTreeMap<String, Json>,
    /// The settings as the hub will read them.
    pub(crate) config: HubConfig,
    /// The same as text: only what differs from the defaults, and what the user set.
    pub(crate) toml: String,
    pub(crate) redis: Wiring,
    pub(crate) postgres: Wiring,
    pub(crate) template: PodTemplate,
    pub(crate) service: ServiceSpec,
}

/// Where a backend is.
#[derive(Clone, Debug)]
pub(crate) enum Wiring {
    /// The operator runs it.
    Managed(Storage),
    /// It exists already.
    Given {
        /// The URL, and the digest of what it is now.
        url: (Location, String),
        /// Certificate authorities to trust, with their digest.
        ca: Option<(Location, String)>,
    },
}

pub(crate) fn validate(hub: &Hub, observed: &Observed) -> Result<Plan, SpecError> {
    let names = ObjectNames::of(hub);
    let prefix = prefix_of(hub)?;
    let redis = wiring(&names, &hub.spec.redis, &observed.redis, "spec.redis")?;
    let postgres = wiring(&names, &hub.spec.postgres, &observed.postgres, "spec.postgres")?;
    conflict(hub, &prefix, observed)?;
    let mounted = Mounted {
        redis_ca: redis.has_ca(),
        postgres_ca: postgres.has_ca(),
    };
    let (config, toml) = settings::render(&hub.spec.config, &names, &prefix, mounted)?;
    let template = hub.spec.template.clone().unwrap_or_default();
    grace::check(template.termination_grace_period_seconds, &config.server)?;
    Ok(Plan {
        image: image(hub, observed),
        redis_image: pinned(hub, |status| &status.redis_image, &observed.images.redis),
        postgres_image: pinned(hub, |status| &status.postgres_image, &observed.images.postgres),
        replicas: hub.spec.replicas,
        template,
        service: hub.spec.service.clone().unwrap_or_default(),
        redis_address: observed.redis_server.as_ref().map(|server| server.address.clone()),
        given: hub.spec.config.clone(),
        names,
        prefix,
        config,
        toml,
        redis,
        postgres,
    })
}

// === impl Wiring ===

impl Wiring {
    fn has_ca(&self) -> bool {
        matches!(self, Self::Given { ca: Some(_), .. })
    }
}

fn wiring(names: &ObjectNames, backend: &Backend, values: &Values, field: &str) -> Result<Wiring, SpecError> {
    if backend.is_managed() {
        return Ok(Wiring::Managed(backend.storage.clone().unwrap_or_default()));
    }
    let Some(reference) = &backend.secret_ref else {
        return Err(SpecError::invalid(
            INVALID_SPEC,
            format!("{field}: give secretRef, or managed: true"),
        ));
    };
    let location = Location::of(&names.namespace, reference, "url");
    let Some(fact) = &values.url else {
        return Err(missing(field, "secretRef", &location));
    };
    let refused = |reason, part: &str, location: &Location, why: &str| {
        let message = format!(
            "{field}.{part}: key `{}` of Secret `{}` cannot be used: {why}",
            location.key, location.secret
        );
        SpecError::invalid(reason, message)
    };
    if let Err(why) = &fact.server {
        return Err(refused("InvalidUrl", "secretRef", &location, why));
    }
    let is_clear = fact.is_clear;
    let ca = match &backend.ca_secret_ref {
        None => None,
        Some(reference) => {
            let location = Location::of(&names.namespace, reference, "ca.crt");
            let Some(fact) = &values.ca else {
                return Err(missing(field, "caSecretRef", &location));
            };
            if let Err(why) = &fact.server {
                return Err(refused("InvalidAuthority", "caSecretRef", &location, why));
            }
            if is_clear {
                let why = "the URL of secretRef begins with redis://, which is in the clear: write rediss://, or leave \
                           caSecretRef out";
                return Err(refused("InvalidAuthority", "caSecretRef", &location, why));
            }
            Some((location, fact.digest.clone()))
        }
    };
    Ok(Wiring::Given {
        url: (location, fact.digest.clone()),
        ca,
    })
}

fn missing(field: &str, part: &str, location: &Location) -> SpecError {
    let message = format!(
        "{field}.{part}: there is no key `{}` in a Secret `{}`",
        location.key, location.secret
    );
    SpecError::invalid("SecretNotFound", message)
}

/// Of two Hubs whose names in one Redis could collide, one is refused: the one that has the prefix keeps it.
fn conflict(hub: &Hub, prefix: &ChannelPrefix, observed: &Observed) -> Result<(), SpecError> {
    let own = Rank::of(hub, prefix, observed.redis_server.as_ref());
    match observed.rivals.iter().find(|rival| rival.rank < own) {
        None => Ok(()),
        Some(rival) => Err(SpecError {
            kind: condition::PREFIX_CONFLICT,
            reason: PREFIX_IN_USE,
            message: format!(
                "prefix `{prefix}` overlaps with `{}`, which Hub {} has in the same Redis: set another spec.channelPrefix",
                rival.prefix, rival.name
            ),
        }),
    }
}

/// `image`; else the one for `version`, the one that has worked, or the operator's default.
fn image(hub: &Hub, observed: &Observed) -> String {
    if let Some(image) = &hub.spec.image {
        return image.clone();
    }
    if let Some(version) = &hub.spec.version {
        return format!("{}:{version}", repository(&observed.images.hub));
    }
    pinned(hub, |status| &status.image, &observed.images.hub)
}

/// The image that has worked according to the status, or the operator's default. Never what a workload happens to run:
/// neither an upgrade of the operator nor a manual edit of the workload changes an image.
fn pinned(hub: &Hub, field: impl FnOnce(&HubStatus) -> &Option<String>, default: &str) -> String {
    let worked = hub.status.as_ref().and_then(|status| field(status).clone());
    worked.unwrap_or_else(|| default.to_owned())
}

/// An image without its tag and digest; a `:` before the last `/` is a port.
fn repository(image: &str) -> &str {
    let image = image.split('@').next().unwrap_or(image);
    match image.rfind(':') {
        Some(colon) if !image[colon..].contains('/') => &image[..colon],
        _ => image,
    }
}

/// The tag of an image.
pub(crate) fn tag(image: &str) -> Option<&str> {
    let image = image.split('@').next().unwrap_or(image);
    image[repository(image).len()..].strip_prefix(':')
}

#[cfg(test)]
pub(crate) mod tests;
