//! How long the end of a hub pod may take: what Kubernetes must allow, and what the operator itself waits for; pure.

use std::time::Duration;

use alkhub_config::{ServerConfig, drain};

use crate::hub::spec_error::SpecError;

/// Time for the process itself to notice the signal and to exit, in addition to the parts of the drain.
const MARGIN: Duration = Duration::from_secs(3);

/// The longest grace period that is asked for: Kubernetes counts no further.
const LONGEST: u64 = 0x7fff_ffff;

/// The hubs' rebalancing rule empties a pod within this time.
pub(crate) const EMPTYING: Duration = Duration::from_secs(30);

/// The shortest grace period that cuts off no part of the drain, in seconds.
pub(crate) fn least(server: &ServerConfig) -> u64 {
    let parts = [server.drain_delay, server.drain_timeout, drain::LIMIT, MARGIN];
    let all = parts.into_iter().fold(Duration::ZERO, Duration::saturating_add);
    let whole = all.as_secs().saturating_add(u64::from(all.subsec_nanos() > 0));
    whole.min(LONGEST)
}

/// For how long a pod that is to go is waited for while it gives its connections away, in whole seconds: as long as its
/// calls may take, plus what the hubs need.
pub(crate) fn emptying(server: &ServerConfig) -> u64 {
    server.drain_timeout.max(EMPTYING).as_secs().min(LONGEST)
}

/// Checks a grace period that a user asks for.
pub(crate) fn check(given: Option<i64>, server: &ServerConfig) -> Result<(), SpecError> {
    let least = least(server);
    match given {
        Some(given) if u64::try_from(given).is_ok_and(|given| given < least) => {
            let message = format!(
                "spec.template.terminationGracePeriodSeconds: {given} is less than the {least} that a drain may take \
                 (server.drain-delay {:?}, server.drain-timeout {:?}, {:?} to close and {MARGIN:?} to go): Kubernetes would \
                 kill pods amid it. Give {least} or more, shorten the settings, or leave it out",
                server.drain_delay,
                server.drain_timeout,
                drain::LIMIT
            );
            Err(SpecError::invalid("GraceTooShort", message))
        }
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(delay: u64, timeout: Duration) -> ServerConfig {
        ServerConfig {
            drain_delay: Duration::from_secs(delay),
            drain_timeout: timeout,
            ..ServerConfig::default()
        }
    }

    #[test]
    fn a_grace_period_is_the_sum_of_the_drains_parts_and_never_less() {
        let usual = server(5, Duration::from_secs(30));

        assert_eq!(least(&usual), 60);
        assert_eq!(least(&server(5, Duration::from_millis(30_001))), 61);
        assert_eq!(least(&server(5, Duration::MAX)), LONGEST);
        assert!(check(None, &usual).is_ok() && check(Some(60), &usual).is_ok());
        let refused = check(Some(59), &usual).expect_err("too short");
        assert_eq!(refused.reason, "GraceTooShort");
        assert!(refused.message.contains("60") && refused.message.contains("server.drain-timeout 30s"));
    }

    #[test]
    fn a_pod_that_is_to_go_is_waited_for_as_long_as_its_calls_may_take() {
        assert_eq!(emptying(&server(0, Duration::from_secs(1))), 30);
        assert_eq!(emptying(&server(0, Duration::from_secs(300))), 300);
    }
}
