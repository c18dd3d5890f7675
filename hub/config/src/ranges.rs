//! The range of each setting, in one table: a test fails if a setting is missing from it.
//!
//! Bounds are where something breaks, not where it becomes unwise: a limit of zero that refuses everybody, a time that
//! overflows a clock or that a server does not accept, a number beyond which another bound applies anyway.

use std::fmt;
use std::time::Duration;

use humantime_serde::re::humantime::parse_duration;
use toml::{Table, Value};
use url::Url;

use crate::days::{DAY, shown};
use crate::{Error, HubConfig};

/// The range of a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Range {
    /// A whole number from one to another.
    Number(i64, i64),
    /// A time from one to another.
    Time(Duration, Duration),
    /// An address of HTTP.
    Http,
    /// Whatever its type accepts; if it names a file or a server, whoever opens that reports what is wrong.
    Typed,
}

const MS: Duration = Duration::from_millis(1);
const LEAST: Duration = Duration::from_millis(100);
/// The longest wait; clocks and timers can add it to any time.
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// The longest time for which something is kept.
const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// Postgres counts milliseconds in 31 bits: 24.8 days.
const STATEMENT: Duration = Duration::from_secs(24 * 24 * 3600);

const KIB: i64 = 1024;
const TIB: i64 = 1024 * 1024 * 1024 * 1024;
/// An upper bound for any number of things.
const MANY: i64 = 1_000_000_000;
/// Records that wait, of 2 KiB at most (`RECORD_BYTES` in `calls/src/records.rs`): nobody has more memory to spare for
/// them.
const RECORDS: i64 = 1_000_000;
/// As many as one registration can have (`OPERATIONS_LIMIT` of the protocol).
const OPERATIONS: i64 = 10_000;

/// Every setting with its range.
const TABLE: &[(&str, Range)] = &[
    ("hub.namespace", Range::Typed),
    ("hub.name", Range::Typed),
    ("hub.uid", Range::Typed),
    ("pod.name", Range::Typed),
    ("pod.ip", Range::Typed),
    ("pod.uid", Range::Typed),
    ("pod.revision", Range::Typed),
    ("server.listen", Range::Typed),
    ("server.management-listen", Range::Typed),
    ("server.peer-listen", Range::Typed),
    ("server.tls", Range::Typed),
    ("server.cors-origins", Range::Typed),
    ("server.trusted-proxies", Range::Typed),
    ("server.client-address", Range::Typed),
    ("server.max-connections", Range::Number(1, MANY)),
    ("server.max-connections-per-address", Range::Number(1, MANY)),
    ("server.max-connections-per-key", Range::Number(1, MANY)),
    ("server.requests-per-second-per-key", Range::Number(1, MANY)),
    ("server.messages-per-second-per-key", Range::Number(1, MANY)),
    ("server.bad-keys-per-minute", Range::Number(1, MANY)),
    ("server.outbox-messages", Range::Number(1, MANY)),
    ("server.outbox-bytes", Range::Number(KIB, TIB)),
    ("server.header-timeout", Range::Time(LEAST, YEAR)),
    ("server.write-timeout", Range::Time(LEAST, YEAR)),
    ("server.ping-interval", Range::Time(LEAST, YEAR)),
    ("server.dead-after", Range::Time(LEAST, YEAR)),
    ("server.resume", Range::Time(Duration::ZERO, DAY)),
    ("server.message-timeout", Range::Time(LEAST, YEAR)),
    ("server.rebalance", Range::Typed),
    ("server.drain-delay", Range::Time(Duration::ZERO, YEAR)),
    ("server.drain-timeout", Range::Time(Duration::ZERO, YEAR)),
    ("auth.hash-key-file", Range::Typed),
    ("auth.hash-key-id", Range::Typed),
    ("auth.admin-key-file", Range::Typed),
    ("auth.cache-ttl", Range::Time(LEAST, YEAR)),
    ("auth.key-retention", Range::Time(Duration::ZERO, CENTURY)),
    ("budget.hub-bytes", Range::Number(64 * KIB, TIB)),
    ("budget.key-bytes", Range::Number(64 * KIB, TIB)),
    ("events.prefix", Range::Typed),
    ("events.redis-url", Range::Typed),
    ("events.redis-url-file", Range::Typed),
    ("events.redis-ca-file", Range::Typed),
    ("events.queue-items", Range::Number(1, MANY)),
    ("events.queue-bytes", Range::Number(KIB, TIB)),
    ("events.waiting-bytes", Range::Number(KIB, TIB)),
    ("events.link-queue", Range::Number(1, MANY)),
    ("events.timeout", Range::Time(LEAST, YEAR)),
    ("events.probe-interval", Range::Time(LEAST, YEAR)),
    ("events.unsubscribe-grace", Range::Time(Duration::ZERO, YEAR)),
    ("events.lease-ttl", Range::Time(LEAST, YEAR)),
    ("events.lease-interval", Range::Time(LEAST, YEAR)),
    ("store.database-url", Range::Typed),
    ("store.database-url-file", Range::Typed),
    ("store.ca-file", Range::Typed),
    ("store.schema", Range::Typed),
    ("store.max-connections", Range::Number(2, 100_000)),
    ("store.acquire-timeout", Range::Time(LEAST, YEAR)),
    ("store.statement-timeout", Range::Time(LEAST, STATEMENT)),
    ("store.ping-interval", Range::Time(LEAST, YEAR)),
    ("calls.default-timeout", Range::Time(MS, YEAR)),
    ("calls.max-timeout", Range::Time(MS, YEAR)),
    ("calls.max-in-flight", Range::Number(1, MANY)),
    ("calls.max-in-flight-per-key", Range::Number(1, MANY)),
    ("calls.subscription-items", Range::Number(1, MANY)),
    ("calls.subscription-bytes", Range::Number(KIB, TIB)),
    ("calls.max-operations", Range::Number(1, OPERATIONS)),
    ("calls.spec-bytes-per-spoke", Range::Number(KIB, TIB)),
    ("calls.spec-bytes", Range::Number(KIB, TIB)),
    ("calls.relay-queue", Range::Number(1, MANY)),
    ("calls.record-queue", Range::Number(1, RECORDS)),
    ("calls.record-retention", Range::Time(Duration::ZERO, CENTURY)),
    ("calls.undeclared-retention", Range::Time(Duration::ZERO, CENTURY)),
    ("calls.operation-retention", Range::Time(DAY, CENTURY)),
    ("telemetry.log-format", Range::Typed),
    ("telemetry.log-filter", Range::Typed),
    ("telemetry.otlp-endpoint", Range::Http),
];

// === impl Range ===

impl Range {
    /// The range of a setting (`section.key`); `None` if it is not in the table.
    pub(crate) fn of(setting: &str) -> Option<Self> {
        let row = TABLE.iter().find(|(name, _)| *name == setting);
        row.map(|(_, range)| *range)
    }

    fn holds(self, value: &Value) -> bool {
        match (self, value) {
            (Self::Number(least, most), Value::Integer(number)) => (least..=most).contains(number),
            (Self::Time(least, most), Value::String(text)) => {
                parse_duration(text).is_ok_and(|time| (least..=most).contains(&time))
            }
            (Self::Http, Value::String(text)) => is_http(text),
            (Self::Typed, _) => true,
            (Self::Number(..) | Self::Time(..) | Self::Http, _) => false,
        }
    }
}

impl fmt::Display for Range {
    /// Follows `must be`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(least, most) => write!(f, "{least} to {most}"),
            Self::Time(least, most) => write!(f, "`{}` to `{}`", shown(*least), shown(*most)),
            Self::Http => f.write_str("an address such as `http://collector:4318/v1/traces`"),
            Self::Typed => Ok(()),
        }
    }
}

/// Checks every setting against the table.
///
/// # Errors
/// [`Error::Range`] names the setting, its value and its range.
pub(crate) fn check(config: &HubConfig) -> Result<(), Error> {
    let settings = Table::try_from(config).map_err(|error| Error::Invalid {
        origin: "in this process".to_owned(),
        message: error.to_string(),
    })?;
    for (section, keys) in &settings {
        for (key, value) in keys.as_table().into_iter().flatten() {
            let setting = format!("{section}.{key}");
            let Some(range) = Range::of(&setting).filter(|range| !range.holds(value)) else {
                continue;
            };
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            return Err(Error::Range {
                setting,
                value: value.chars().take(80).collect(),
                range: range.to_string(),
            });
        }
    }
    Ok(())
}

fn is_http(text: &str) -> bool {
    Url::parse(text).is_ok_and(|url| ["http", "https"].contains(&url.scheme()) && url.has_host())
}

#[cfg(test)]
mod tests {
    use humantime_serde::re::humantime::format_duration;

    use super::*;

    fn refusal(text: &str) -> String {
        match HubConfig::from_toml(text) {
            Ok(_) => panic!("{text} is taken"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn every_setting_has_a_range_and_every_range_a_setting() {
        let mut settings = crate::reference::settings();
        let mut ranges: Vec<String> = TABLE.iter().map(|(name, _)| (*name).to_owned()).collect();
        settings.sort();
        ranges.sort();

        assert_eq!(ranges, settings, "a new setting needs a row in the table");
    }

    #[test]
    fn a_number_or_a_time_outside_of_its_range_is_refused_by_name_value_and_range() {
        let mut tried = 0;
        for (setting, range) in TABLE {
            let (section, key) = setting.split_once('.').expect("section.key");
            let outside: Vec<String> = match range {
                Range::Number(least, most) => vec![(least - 1).to_string(), (most + 1).to_string()],
                Range::Time(least, most) => [least.checked_sub(MS), most.checked_add(MS)]
                    .into_iter()
                    .flatten()
                    .map(|time| format!("\"{}\"", format_duration(time)))
                    .chain(["\"9000000000000y\"".to_owned()])
                    .collect(),
                Range::Http => ["nonsense", "collector:4318", "http://", "grpc://c:4317"]
                    .map(|text| format!("\"{text}\""))
                    .to_vec(),
                Range::Typed => continue,
            };
            for value in outside {
                let text = format!("[{section}]\n{key} = {value}");
                let error = refusal(&text);
                assert!(error.contains(key), "{text}: {error}");
                if !value.contains("9000000000000y") && !value.starts_with('-') {
                    assert!(error.contains(setting) && error.contains(&range.to_string()), "{error}");
                }
                tried += 1;
            }
        }
        assert!(tried > 80, "{tried}");
    }

    #[test]
    fn what_a_range_says_is_itself_taken() {
        for (setting, range) in TABLE {
            let bounds = match range {
                Range::Number(least, most) => [Value::Integer(*least), Value::Integer(*most)],
                Range::Time(least, most) => [shown(*least), shown(*most)].map(Value::String),
                Range::Http | Range::Typed => continue,
            };
            for bound in bounds {
                assert!(range.holds(&bound), "{setting} = {bound}");
            }
        }
        assert!(Range::Http.holds(&Value::String("https://collector/v1/traces".to_owned())));
    }
}
