//! Times as people write them: `90days`, where humantime alone would write `2months 29days 2h 52m 48s`.

use std::time::Duration;

use humantime_serde::re::humantime::format_duration;
use serde::Serializer;

pub(crate) use humantime_serde::deserialize;

pub(crate) const DAY: Duration = Duration::from_secs(24 * 3600);

/// In days if it is a whole number of them.
pub(crate) fn shown(time: Duration) -> String {
    let days = time.as_secs() / DAY.as_secs();
    if days > 0 && time == DAY * u32::try_from(days).unwrap_or(u32::MAX) {
        return format!("{days}days");
    }
    format_duration(time).to_string()
}

/// For `#[serde(with = "crate::days")]`.
pub(crate) fn serialize<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&shown(*time))
}
