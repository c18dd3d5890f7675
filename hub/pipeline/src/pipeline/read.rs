//! From JSON to steps.

use std::time::Duration;

use alkhub_protocol::RawJson;
use alkhub_protocol::json::tree::Tree;

use super::options::{Options, count, expression, kind};
use crate::error::{Error, Flaw, did_you_mean, excerpt};
use crate::expression::{Expression, ExpressionRoom, Form, Meter};
use crate::limits::PipelineLimits;
use crate::step::{Placed, Share, Span, Step};

/// The names of all steps.
const NAMES: &[&str] = &[
    "filter", "map", "pipe", "take", "reduce", "to_array", "batch", "dedupe", "window", "flat", "group_by", "chain",
    "join",
];

/// The steps that keep items or keys.
const KEEPING: &[&str] = &["to_array", "batch", "dedupe", "window", "group_by"];

/// What an expression of a step knows.
const VARIABLES: &[&str] = &["type", "id", "payload"];

/// What the expression of `reduce` knows.
const FOLDING: &[&str] = &["type", "id", "payload", "acc"];

/// The keys that `dedupe` remembers, and for how long, unless it is told.
const REMEMBERED: usize = 10_000;
const REMEMBERED_FOR: Duration = Duration::from_secs(600);

/// The groups of `group_by`, and how long one may be idle, unless it is told.
const GROUPS: usize = 1_000;
const IDLE: Duration = Duration::from_secs(60);

/// What is left while a pipeline is read.
struct Reader<'l> {
    limits: &'l PipelineLimits,
    room: ExpressionRoom,
    steps: usize,
    share: Share,
}

/// Reads a list of steps.
pub(super) fn read(json: &[u8], limits: &PipelineLimits) -> Result<(Vec<Placed>, Share), Error> {
    let whole = |flaw: Flaw| flaw.in_step(Vec::new(), None);
    if json.len() > limits.text_bytes {
        let reason = format!("the pipeline has {} bytes", json.len());
        return Err(whole(Flaw::new(
            reason,
            format!("shorten it: it may have {}", limits.text_bytes),
        )));
    }
    let tree = Tree::parse(json).map_err(|error| {
        let error = excerpt(&error.to_string(), 120);
        let reason = format!("the pipeline is not JSON that can be used ({error})");
        whole(Flaw::new(
            reason,
            "write a list of steps: [{\"filter\":\"payload.ok\"},{\"take\":10}]",
        ))
    })?;
    let keeping = keeping(&tree).max(1);
    let share = Share {
        items: (limits.kept_items / keeping).max(1),
        bytes: (limits.kept_bytes / keeping).max(1),
        steps: keeping,
    };
    let room = ExpressionRoom {
        expression_bytes: limits.expression_bytes,
        nodes: limits.nodes,
        pattern_bytes: limits.pattern_bytes,
    };
    let mut reader = Reader {
        limits,
        room,
        steps: limits.steps,
        share,
    };
    let mut line = Vec::new();
    reader.line(&tree, &[], 0, &mut line)?;
    Ok((line, share))
}

/// How many steps keep something.
fn keeping(tree: &Tree<'_>) -> usize {
    match tree {
        Tree::Array(items) => items.iter().map(keeping).sum(),
        Tree::String(name) => usize::from(KEEPING.contains(&known_as(name))),
        Tree::Object(members) => members
            .iter()
            .map(|(name, value)| {
                let own = usize::from(KEEPING.contains(&known_as(name)));
                own + if matches!(value, Tree::Array(_)) {
                    keeping(value)
                } else {
                    0
                }
            })
            .sum(),
        _ => 0,
    }
}

/// The name of a step, which may be written as the origin writes it.
fn known_as(name: &str) -> &str {
    match name {
        "toArray" => "to_array",
        "groupBy" => "group_by",
        other => other,
    }
}

fn nothing() -> Tree<'static> {
    Tree::Object(alkhub_protocol::json::tree::Members::default())
}

// === impl Reader ===

impl Reader<'_> {
    /// Reads the steps of a list, and adds them to `line`.
    fn line(&mut self, tree: &Tree<'_>, at: &[usize], depth: usize, line: &mut Vec<Placed>) -> Result<(), Error> {
        let Tree::Array(items) = tree else {
            let flaw = Flaw::new(
                format!("steps are a list, and this is {}", kind(tree)),
                "write them in brackets: [{\"take\":10}]",
            );
            return Err(flaw.in_step(at.to_vec(), None));
        };
        for (i, item) in items.iter().enumerate() {
            let at: Vec<usize> = at.iter().copied().chain([i]).collect();
            self.placed(item, at, depth, line)?;
        }
        Ok(())
    }

    fn placed(&mut self, tree: &Tree<'_>, at: Vec<usize>, depth: usize, line: &mut Vec<Placed>) -> Result<(), Error> {
        let nothing = nothing();
        let (name, argument) = match tree {
            Tree::String(name) => (name, &nothing),
            Tree::Object(members) if members.len() == 1 => match members.iter().next() {
                Some((name, argument)) => (name, argument),
                None => return Ok(()),
            },
            other => {
                let flaw = Flaw::new(
                    format!(
                        "a step is an object with one member, its name, and this is {}",
                        kind(other)
                    ),
                    "write one such as {\"take\":10}, and each step by itself",
                );
                return Err(flaw.in_step(at, None));
            }
        };
        let written = known_as(name);
        let Some(name) = NAMES.iter().copied().find(|known| *known == written) else {
            let flaw = Flaw::new(
                format!("there is no step `{}`", excerpt(written, 40)),
                did_you_mean(written, NAMES),
            );
            return Err(flaw.in_step(at, None));
        };
        let Some(left) = self.steps.checked_sub(1) else {
            let flaw = Flaw::new(
                "the pipeline has too many steps",
                format!("join some of them: it may have {}", self.limits.steps),
            );
            return Err(flaw.in_step(at, Some(name)));
        };
        self.steps = left;
        if ["pipe", "chain", "join"].contains(&name) {
            return self.branches(name, argument, at, depth, line);
        }
        match self.step(name, argument) {
            Ok(step) => line.push(Placed { at, step }),
            Err(flaw) => return Err(flaw.in_step(at, Some(name))),
        }
        Ok(())
    }

    /// Reads a step that has steps within.
    fn branches(
        &mut self,
        name: &'static str,
        tree: &Tree<'_>,
        at: Vec<usize>,
        depth: usize,
        line: &mut Vec<Placed>,
    ) -> Result<(), Error> {
        if depth >= self.limits.nesting {
            let flaw = Flaw::new(
                "steps nest too deep",
                format!("take some out of others: {} may be open at once", self.limits.nesting),
            );
            return Err(flaw.in_step(at, Some(name)));
        }
        if name == "pipe" {
            return self.line(tree, &at, depth + 1, line);
        }
        let lists = match tree {
            Tree::Array(lists) if !lists.is_empty() && lists.iter().all(|list| matches!(list, Tree::Array(_))) => lists,
            _ => {
                let cure = format!("write {{\"{name}\":[[{{\"take\":1}}],[{{\"filter\":\"payload.ok\"}}]]}}");
                return Err(Flaw::new("it needs a list of lists of steps", cure).in_step(at, Some(name)));
            }
        };
        let mut branches = Vec::new();
        for (i, list) in lists.iter().enumerate() {
            let at: Vec<usize> = at.iter().copied().chain([i]).collect();
            let mut branch = Vec::new();
            self.line(list, &at, depth + 1, &mut branch)?;
            branches.push(branch);
        }
        // Each branch costs something for each event, even if it is empty.
        let Some(left) = self
            .steps
            .checked_sub(branches.iter().filter(|branch| branch.is_empty()).count())
        else {
            let cure = format!("leave some out: there may be {} steps", self.limits.steps);
            return Err(Flaw::new("there are too many empty branches", cure).in_step(at, Some(name)));
        };
        self.steps = left;
        let step = if name == "chain" {
            Step::Chain(branches)
        } else {
            Step::Join(branches)
        };
        line.push(Placed { at, step });
        Ok(())
    }

    /// Reads a step without others within.
    fn step(&mut self, name: &str, tree: &Tree<'_>) -> Result<Step, Flaw> {
        match name {
            "filter" => self.expression(expression(tree)?).map(Step::Filter),
            "map" => self.expression(expression(tree)?).map(Step::Map),
            "take" => count("take", tree, 1..=usize::MAX).map(|count| Step::Take(count as u64)),
            "reduce" => self.reduce(tree),
            "to_array" => {
                let options = Options::of(tree, &["limit"])?;
                let most = options
                    .count("limit", 1..=self.share.items)?
                    .unwrap_or(self.share.items);
                Ok(Step::ToArray { most })
            }
            "batch" => self.batch(tree),
            "dedupe" => self.dedupe(tree),
            "window" => self.window(tree),
            "flat" => {
                let text = match tree {
                    Tree::Object(members) if members.is_empty() => "payload",
                    other => expression(other)?,
                };
                self.expression(text).map(Step::Flat)
            }
            _ => self.group_by(tree),
        }
    }

    fn expression(&mut self, text: &str) -> Result<Expression, Flaw> {
        Expression::compile(text, VARIABLES, &mut self.room).map_err(|flaw| in_characters(flaw, text))
    }

    fn reduce(&mut self, tree: &Tree<'_>) -> Result<Step, Flaw> {
        let options = Options::of(tree, &["from", "with"])?;
        let (from, with) = (options.text("from")?, options.text("with")?);
        let first = Expression::compile(from, &[], &mut self.room).map_err(|flaw| in_characters(flaw, from))?;
        let mut meter = Meter {
            units: self.limits.event_units,
            bytes: self.limits.item_bytes,
        };
        let mut text = String::new();
        let written = first
            .evaluate(&mut Vec::new(), &mut meter)
            .and_then(|value| value.write(Form::Plain, &mut meter, &mut text));
        let first = written.ok().and_then(|()| RawJson::parse(text).ok());
        let Some(from) = first else {
            return Err(Flaw::new(
                "`from` has no value",
                "write a constant, such as \"0\" or \"[]\"",
            ));
        };
        let with = Expression::compile(with, FOLDING, &mut self.room).map_err(|flaw| in_characters(flaw, with))?;
        Ok(Step::Reduce { from, with })
    }

    fn batch(&mut self, tree: &Tree<'_>) -> Result<Step, Flaw> {
        let options = Options::of(tree, &["size", "every"])?;
        let size = options.count("size", 1..=self.share.items)?;
        let every = options.time("every", self.limits.longest)?;
        if size.is_none() && every.is_none() {
            return Err(Flaw::new(
                "it has neither `size` nor `every`",
                "write {\"size\":100,\"every\":\"1s\"}",
            ));
        }
        let size = size.unwrap_or(self.share.items);
        Ok(Step::Batch { size, every })
    }

    fn dedupe(&mut self, tree: &Tree<'_>) -> Result<Step, Flaw> {
        let (options, key) = keyed(tree, &["key", "count", "for"])?;
        let count = options.count("count", 1..=self.share.items)?;
        let time = options.time("for", self.limits.longest)?;
        Ok(Step::Dedupe {
            key: self.expression(key)?,
            count: count.unwrap_or_else(|| REMEMBERED.min(self.share.items)),
            time: time.unwrap_or_else(|| REMEMBERED_FOR.min(self.limits.longest)),
        })
    }

    fn window(&self, tree: &Tree<'_>) -> Result<Step, Flaw> {
        let options = Options::of(tree, &["every", "count"])?;
        let count = options.count("count", 1..=self.share.items)?;
        match (count, options.time("every", self.limits.longest)?) {
            (Some(count), None) => Ok(Step::Window(Span::Count(count))),
            (None, Some(every)) => Ok(Step::Window(Span::Time(every))),
            _ => Err(Flaw::new(
                "it needs either `every` or `count`",
                "write {\"every\":\"10s\"} or {\"count\":100}",
            )),
        }
    }

    fn group_by(&mut self, tree: &Tree<'_>) -> Result<Step, Flaw> {
        let (options, key) = keyed(tree, &["key", "size", "groups", "idle"])?;
        let size = options.count("size", 1..=self.share.items)?;
        let groups = options.count("groups", 1..=self.share.items)?;
        let idle = options.time("idle", self.limits.longest)?;
        Ok(Step::GroupBy {
            key: self.expression(key)?,
            size: size.unwrap_or(self.share.items),
            groups: groups.unwrap_or_else(|| GROUPS.min(self.share.items)),
            idle: idle.unwrap_or_else(|| IDLE.min(self.limits.longest)),
        })
    }
}

/// The options of a step that may be given its key alone.
fn keyed<'t>(tree: &'t Tree<'t>, known: &[&str]) -> Result<(Options<'t>, &'t str), Flaw> {
    if let Tree::String(key) = tree {
        return Ok((Options::none(), key));
    }
    let options = Options::of(tree, known)?;
    let key = options.text("key")?;
    Ok((options, key))
}

/// The position of a flaw in characters, counted from 1.
fn in_characters(flaw: Flaw, text: &str) -> Flaw {
    let position = flaw.position;
    let before = |bytes: usize| text.char_indices().take_while(|(at, _)| *at < bytes).count();
    flaw.at(position.map(|bytes| before(bytes) + 1))
}
