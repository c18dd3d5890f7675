//! The steps of a served pipeline, once it has been read.

use std::fmt::Write as _;
use std::time::Duration;

use alkhub_protocol::RawJson;

use crate::expression::Expression;
use crate::limits::PipelineLimits;

#[derive(Debug)]
pub(super) struct Compiled {
    pub(super) line: Vec<Placed>,
    pub(super) limits: PipelineLimits,
    /// What each step that keeps something may keep.
    pub(super) share: Share,
    pub(super) text: String,
}

/// What one step may keep.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share {
    pub(super) items: usize,
    pub(super) bytes: usize,
    /// How many steps share what the pipeline may keep.
    pub(super) steps: usize,
}

/// A step, and where it stands.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) at: Vec<usize>,
    pub(super) step: Step,
}

/// One step. There is none for `pipe`: its steps stand in its place.
#[derive(Debug)]
pub(super) enum Step {
    Filter(Expression),
    Map(Expression),
    Take(u64),
    Reduce {
        from: RawJson,
        with: Expression,
    },
    ToArray {
        most: usize,
    },
    Batch {
        size: usize,
        every: Option<Duration>,
    },
    Dedupe {
        key: Expression,
        count: usize,
        time: Duration,
    },
    Window(Span),
    Flat(Expression),
    GroupBy {
        key: Expression,
        size: usize,
        groups: usize,
        idle: Duration,
    },
    Chain(Vec<Vec<Placed>>),
    Join(Vec<Vec<Placed>>),
}

/// How long a window is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Span {
    Count(usize),
    Time(Duration),
}

// === impl Step ===

impl Step {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Filter(_) => "filter",
            Self::Map(_) => "map",
            Self::Take(_) => "take",
            Self::Reduce { .. } => "reduce",
            Self::ToArray { .. } => "to_array",
            Self::Batch { .. } => "batch",
            Self::Dedupe { .. } => "dedupe",
            Self::Window(_) => "window",
            Self::Flat(_) => "flat",
            Self::GroupBy { .. } => "group_by",
            Self::Chain(_) => "chain",
            Self::Join(_) => "join",
        }
    }

    fn write(&self, to: &mut String) {
        let quoted = |expression: &Expression| text(expression.canonical());
        let ms = Duration::as_millis;
        _ = write!(to, "{{\"{}\":", self.name());
        _ = match self {
            Self::Filter(of) | Self::Map(of) | Self::Flat(of) => write!(to, "{}", quoted(of)),
            Self::Take(count) => write!(to, "{count}"),
            Self::Reduce { from, with } => {
                write!(to, r#"{{"from":{},"with":{}}}"#, text(from.as_str()), quoted(with))
            }
            Self::ToArray { most } => write!(to, r#"{{"limit":{most}}}"#),
            Self::Batch { size, every: None } => write!(to, r#"{{"size":{size}}}"#),
            Self::Batch {
                size,
                every: Some(every),
            } => write!(to, r#"{{"size":{size},"every":"{}ms"}}"#, ms(every)),
            Self::Dedupe { key, count, time } => {
                write!(
                    to,
                    r#"{{"key":{},"count":{count},"for":"{}ms"}}"#,
                    quoted(key),
                    ms(time)
                )
            }
            Self::Window(Span::Count(count)) => write!(to, r#"{{"count":{count}}}"#),
            Self::Window(Span::Time(every)) => write!(to, r#"{{"every":"{}ms"}}"#, ms(every)),
            Self::GroupBy {
                key,
                size,
                groups,
                idle,
            } => write!(
                to,
                r#"{{"key":{},"size":{size},"groups":{groups},"idle":"{}ms"}}"#,
                quoted(key),
                ms(idle)
            ),
            Self::Chain(branches) | Self::Join(branches) => {
                to.push('[');
                for (i, branch) in branches.iter().enumerate() {
                    to.push_str(if i > 0 { "," } else { "" });
                    write_line(branch, to);
                }
                to.push(']');
                Ok(())
            }
        };
        to.push('}');
    }
}

fn text(of: &str) -> String {
    serde_json::to_string(of).unwrap_or_default()
}

/// Writes the canonical text of a line of steps.
pub(super) fn write_line(line: &[Placed], to: &mut String) {
    to.push('[');
    for (i, placed) in line.iter().enumerate() {
        to.push_str(if i > 0 { "," } else { "" });
        placed.step.write(to);
    }
    to.push(']');
}
