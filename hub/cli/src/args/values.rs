//! Values of options: the form of results, kinds, times.

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use alkhub_protocol::{CallStatus, OperationKind, time};
use clap::ValueEnum;
use clap::builder::PossibleValue;

/// The form of results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people
    #[default]
    Table,
    /// For programs: one JSON value, or one on each line of a stream
    Json,
}

/// One of the three kinds of operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind(pub(crate) OperationKind);

impl ValueEnum for Kind {
    fn value_variants<'a>() -> &'a [Self] {
        &[
            Self(OperationKind::Query),
            Self(OperationKind::Mutation),
            Self(OperationKind::Subscription),
        ]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let help = match self.0 {
            OperationKind::Query => "Reads only",
            OperationKind::Mutation => "Has effects",
            OperationKind::Subscription => "Answers with items over time",
        };
        Some(PossibleValue::new(self.0.as_str()).help(help))
    }
}

/// The status of the calls to be listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StatusFilter(pub(crate) CallStatus);

impl ValueEnum for StatusFilter {
    fn value_variants<'a>() -> &'a [Self] {
        &[
            Self(CallStatus::Completed),
            Self(CallStatus::Failed),
            Self(CallStatus::Aborted),
        ]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let help = match self.0 {
            CallStatus::Completed => "With an answer",
            CallStatus::Failed => "With an error",
            CallStatus::Aborted => "By its caller",
        };
        Some(PossibleValue::new(self.0.as_str()).help(help))
    }
}

/// A length of time as in the header `Alkhub-Timeout`, or in days: `500ms`, `5s`, `2m`, `24h`, `30d`; a plain number
/// means seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Time(pub(crate) Duration);

impl FromStr for Time {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "write a whole number and a unit: 500ms, 5s, 2m, 24h, 30d (a number alone is seconds)";
        let time = match text.strip_suffix('d') {
            Some(days) => time::parse(&format!("{days}h")).map(|time| time * 24),
            None => time::parse(text),
        };
        time.map(Self).ok_or(FORM)
    }
}

/// A time above zero.
pub(crate) fn time_above_zero(text: &str) -> Result<Time, &'static str> {
    match text.parse::<Time>()? {
        Time(Duration::ZERO) => Err("it must be more than 0"),
        time => Ok(time),
    }
}

/// Where to listen.
pub(crate) fn address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse()
        .map_err(|_| "write ADDRESS:PORT, for example 127.0.0.1:7420; port 0 takes a free one")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_number_and_a_unit() {
        assert_eq!("500ms".parse(), Ok(Time(Duration::from_millis(500))));
        assert_eq!("30d".parse(), Ok(Time(Duration::from_secs(30 * 86_400))));
        assert_eq!("5".parse(), Ok(Time(Duration::from_secs(5))));
        assert!(time_above_zero("0").is_err() && time_above_zero("1ms").is_ok());
        for wrong in ["", "s", "1.5s", "5 s", "1.5d", "99999999999999999999d"] {
            assert!(wrong.parse::<Time>().is_err(), "{wrong}");
        }
    }
}
