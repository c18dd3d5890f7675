//! The settings of a development hub; mistakes in them are reported before anything is created.

use std::time::Duration;

use alkhub_config::{HubConfig, address};
use alkhub_server::telemetry;
use secrecy::ExposeSecret as _;

use super::database;
use crate::args::DevArgs;
use crate::failure::{Failure, chain};

/// Time for running calls to finish at the end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// The command line's settings over those of the environment, checked before anything is created for them.
pub(super) fn read(args: &DevArgs) -> Result<HubConfig, Failure> {
    let mut config = HubConfig::load(None).map_err(|e| Failure::usage(chain(&e)))?;
    if let Some(listen) = args.listen {
        config.server.listen = listen;
        config.server.management_listen = ([127, 0, 0, 1], 0).into();
    }
    if let Some(listen) = args.management_listen {
        config.server.management_listen = listen;
    }
    config.server.drain_timeout = DRAIN_TIMEOUT;
    if let Some(url) = &args.database_url {
        config.store.database_url = Some(url.clone().into());
    }
    if let Some(url) = &args.redis_url {
        config.events.redis_url = Some(url.clone().into());
    }
    config.telemetry.log_filter.clone_from(&args.log);
    check(&config)?;
    Ok(config)
}

/// Names the flag of a mistake that can be seen here. The addresses may have been moved to the environment, to keep
/// them out of the sight of `ps`, where they no longer show that they came from flags.
fn check(config: &HubConfig) -> Result<(), Failure> {
    let secret = |error: &alkhub_config::secret::Error| Failure::usage(chain(error));
    if database::is_external(config) {
        let url = config.store.database().map_err(|e| secret(&e))?;
        let wrong = |error| {
            format!(
                "--database-url (ALKHUB_STORE__DATABASE_URL) is not a Postgres URL: {}",
                chain(&error)
            )
        };
        address::postgres(url.expose_secret()).map_err(|e| Failure::usage(wrong(e)))?;
    }
    if let Some(url) = config.events.redis().map_err(|e| secret(&e))? {
        let wrong = |error| {
            format!(
                "--redis-url (ALKHUB_EVENTS__REDIS_URL) is not a Redis URL: {}",
                chain(&error)
            )
        };
        address::redis(url.expose_secret()).map_err(|e| Failure::usage(wrong(e)))?;
    }
    telemetry::check(&config.telemetry).map_err(|e| {
        let cause = std::error::Error::source(&e).map_or_else(|| e.to_string(), ToString::to_string);
        Failure::usage(format!(
            "--log is not a filter of logs: {cause}; write `info`, or `info,alkhub_calls=debug`"
        ))
    })
}
