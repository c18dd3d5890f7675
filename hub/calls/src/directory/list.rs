//! Lists of the operations that spokes offer now, page by page, for every surface.
//!
//! Invariants
//! - A list shows a caller what it may call, and everything else only if it asks for all.
//! - A page is bounded in operations and in bytes, so that it fits into one message; while there are more operations it
//!   has at least one. Pages are ordered by name: whatever is offered throughout, from the first page to the last, is
//!   in one of them.

use std::io;
use std::sync::Arc;

use alkhub_protocol::operation::OperationInfo;
use alkhub_protocol::{OperationKind, OperationName, OperationSpec, PAGE_BYTES, PAGE_LIMIT};
use serde::Serialize;

use crate::caller::Caller;
use crate::directory::router;
use crate::directory::{Directory, Pool};

/// Which operations are wanted.
#[derive(Clone, Debug, Default)]
pub struct ListQuery {
    /// Words that must all appear in the name, the title, the description or the tags.
    pub search: String,
    /// Only this namespace.
    pub namespace: Option<String>,
    /// Include operations that the caller may not call.
    pub all: bool,
    /// Only operations after this one: the last page's [`OperationPage::next`].
    pub cursor: Option<OperationName>,
    /// At most so many; [`PAGE_LIMIT`] if absent or larger.
    pub limit: Option<u32>,
}

/// A page of operations, by name.
#[derive(Clone, Debug, Serialize)]
pub struct OperationPage<T> {
    /// The operations on it.
    pub operations: Vec<T>,
    /// How many there are on all pages.
    pub total: usize,
    /// Where the next page begins; absent when this is the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<OperationName>,
}

/// An operation in a list; `hub.schema` has the rest.
#[derive(Debug, Serialize)]
pub(crate) struct Summary<'a> {
    operation: &'a OperationName,
    #[serde(rename = "type")]
    kind: OperationKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<&'a str>,
    description: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    tags: &'a [String],
    spokes: Vec<String>,
}

/// The pools that a query asks for, by name.
pub(crate) fn listed(directory: &Directory, caller: &Caller, query: &ListQuery) -> Vec<Arc<Pool>> {
    let words: Vec<String> = query.search.split_whitespace().map(str::to_lowercase).collect();
    let mut pools = directory.pools();
    pools.retain(|pool| {
        let Some(operation) = &pool.operation else { return false };
        query
            .namespace
            .as_deref()
            .is_none_or(|wanted| pool.name.namespace() == wanted)
            && (query.all || router::allow(&caller.scopes, operation).is_ok())
            && matches(&pool.name, &operation.spec, &words)
    });
    pools
}

/// The page of a list that a query asks for; `shown` makes the entry of a pool.
pub(crate) fn page<'a, T: Serialize>(
    pools: &'a [Arc<Pool>],
    query: &ListQuery,
    shown: impl Fn(&'a Pool) -> Option<T>,
) -> OperationPage<T> {
    let first = query
        .cursor
        .as_ref()
        .map_or(0, |cursor| pools.partition_point(|pool| pool.name <= *cursor));
    let mut room = query.limit.unwrap_or(PAGE_LIMIT).clamp(1, PAGE_LIMIT);
    let (mut operations, mut bytes, mut last, mut more) = (Vec::new(), 0, None, false);
    for pool in &pools[first..] {
        let Some(one) = shown(pool) else { continue };
        bytes += size(&one);
        more = room == 0 || (bytes > PAGE_BYTES && !operations.is_empty());
        if more {
            break;
        }
        operations.push(one);
        room -= 1;
        last = Some(&pool.name);
    }
    OperationPage {
        operations,
        total: pools.len(),
        next: last.filter(|_| more).cloned(),
    }
}

/// Everything about the operation of a pool.
pub(crate) fn info(pool: &Pool) -> Option<OperationInfo> {
    Some(OperationInfo {
        operation: pool.name.clone(),
        spec: pool.operation.as_ref()?.spec.clone(),
        spokes: spokes(pool),
    })
}

/// The operation of a pool in a list.
pub(crate) fn summary(pool: &Pool) -> Option<Summary<'_>> {
    let spec = &pool.operation.as_ref()?.spec;
    Some(Summary {
        operation: &pool.name,
        kind: spec.kind,
        title: spec.title.as_deref(),
        description: &spec.description,
        tags: &spec.tags,
        spokes: spokes(pool),
    })
}

/// The names of the spokes in a pool, each once.
fn spokes(pool: &Pool) -> Vec<String> {
    let members = pool.members();
    let spokes = members.all().map(|instance| instance.entry.spoke.to_string());
    let mut spokes: Vec<String> = spokes.collect();
    spokes.sort_unstable();
    spokes.dedup();
    spokes
}

/// Whether every word is in the name, the title, the description or a tag; case does not count.
fn matches(name: &OperationName, spec: &OperationSpec, words: &[String]) -> bool {
    if words.is_empty() {
        return true;
    }
    let title = spec.title.as_deref().unwrap_or_default();
    let text = [name.as_str(), title, &spec.description, &spec.tags.join(" ")]
        .join(" ")
        .to_lowercase();
    words.iter().all(|word| text.contains(word.as_str()))
}

/// The length of a value as JSON.
fn size(value: &impl Serialize) -> usize {
    let mut counted = Counted(0);
    serde_json::to_writer(&mut counted, value).map_or(0, |()| counted.0)
}

struct Counted(usize);

impl io::Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
