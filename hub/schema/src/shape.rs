//! How often a schema applies to one and the same value, determined from the schema alone.
//!
//! Invariants
//! - What stays at the value is counted: `allOf`, `anyOf`, `oneOf`, `not`, `if`, the dependencies and references, each
//!   place once for every path to it.
//! - What descends into members and items is not counted: the check itself pays for that as it meets them.

use std::collections::{HashMap, HashSet};

use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

use crate::keywords::{BELOW, BELOW_LISTS, BELOW_MAPS, LISTS, MAPS, REFERENCES, SINGLE};

/// How many subschemas may apply to one value.
const SPREAD_LIMIT: u64 = 10_000;

/// How deep they may be nested in each other.
const DEPTH_LIMIT: u32 = 64;

/// How many patterns one schema may have.
const PATTERNS_LIMIT: usize = 1_000;

/// The number of subschemas of a meta-schema; all of them are in the crate that checks.
const META_SPREAD: u64 = 64;

/// Why a schema is refused although it is valid. Places are JSON pointers into the schema.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// A loop of references that never descends.
    #[error(
        "applies itself to the same value again at `{0}`: let a reference to itself go through a member or an item"
    )]
    Endless(String),
    /// Alternatives multiply at one value.
    #[error(
        "may apply more than {SPREAD_LIMIT} subschemas to one value at `{0}`: refer to each alternative once, and put \
         what they share beside `anyOf`, `oneOf` and `allOf`, not into each"
    )]
    Wide(String),
    /// The subschemas of one value are nested too deeply.
    #[error(
        "nests more than {DEPTH_LIMIT} subschemas that apply to one value at `{0}`: let references name their target \
         without detours"
    )]
    Deep(String),
    /// A reference that would have to be fetched.
    #[error("has a reference at `{0}` that leaves the schema")]
    Leaves(String),
    /// Too many patterns.
    #[error("has more than {PATTERNS_LIMIT} patterns")]
    Patterns,
}

/// The most that may apply to one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Spread {
    subschemas: u64,
    depth: u32,
}

/// The patterns of a schema.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Patterns {
    pub(crate) count: usize,
    /// Whether any of them may look around or back, which takes more than one pass through a text.
    pub(crate) look_around: bool,
}

struct Walk<'a> {
    root: &'a Value,
    /// The resource that an object belongs to: the nearest enclosing one with an `$id`.
    resources: HashMap<usize, &'a Value>,
    ids: Vec<(&'a str, &'a Value)>,
    anchors: HashMap<&'a str, Vec<&'a Value>>,
    known: HashMap<usize, Option<Spread>>,
}

/// The widest spread at any value; refuses a schema whose spread exceeds the limits.
pub(crate) fn spread(schema: &Value) -> Result<u64, ShapeError> {
    let mut walk = Walk::new(schema);
    let mut widest = 1;
    let mut seen = HashSet::new();
    let mut open = vec![schema];
    while let Some(schema) = open.pop() {
        let Value::Object(keywords) = schema else { continue };
        if !seen.insert(address(schema)) {
            continue;
        }
        let spread = walk.spread(schema, 0)?;
        widest = widest.max(spread.subschemas);
        open.extend(walk.in_place(schema, keywords)?);
        open.extend(below(keywords));
    }
    Ok(widest)
}

/// The patterns in a schema, including anything that only looks like one.
pub(crate) fn patterns(schema: &Value) -> Result<Patterns, ShapeError> {
    let mut found = Patterns::default();
    let mut open = vec![schema];
    while let Some(value) = open.pop() {
        match value {
            Value::Array(items) => open.extend(items),
            Value::Object(keywords) => {
                open.extend(keywords.values());
                let own = keywords.get("pattern").and_then(Value::as_str);
                let names = keywords.get("patternProperties").and_then(Value::as_object);
                let names = names.into_iter().flat_map(Map::keys).map(String::as_str);
                for pattern in own.into_iter().chain(names) {
                    found.count += 1;
                    found.look_around |= looks_around(pattern);
                }
            }
            _ => {}
        }
    }
    match found.count {
        0..=PATTERNS_LIMIT => Ok(found),
        _ => Err(ShapeError::Patterns),
    }
}

/// Whether a pattern may look around; errs on the side of yes.
fn looks_around(pattern: &str) -> bool {
    let groups = pattern.split("(?").skip(1).any(|group| !group.starts_with(':'));
    let possessive = ["++", "*+", "?+", "}+"].iter().any(|sign| pattern.contains(sign));
    let mut escapes = pattern.split('\\').skip(1);
    let back =
        escapes.any(|escape| escape.starts_with(|sign: char| sign.is_ascii_digit() || "kKgGAzZbB".contains(sign)));
    groups || possessive || back
}

fn address(value: &Value) -> usize {
    std::ptr::from_ref(value).addr()
}

fn below<'a>(keywords: &'a Map<String, Value>) -> Vec<&'a Value> {
    let get = |keyword: &&str| keywords.get(*keyword);
    let mut found: Vec<&'a Value> = BELOW.iter().filter_map(get).collect();
    found.extend(BELOW_LISTS.iter().filter_map(get).filter_map(Value::as_array).flatten());
    found.extend(
        BELOW_MAPS
            .iter()
            .filter_map(get)
            .filter_map(Value::as_object)
            .flat_map(Map::values),
    );
    found
}

// === impl Spread ===

impl Spread {
    const ONE: Self = Self {
        subschemas: 1,
        depth: 1,
    };
}

// === impl Walk ===

impl<'a> Walk<'a> {
    fn new(root: &'a Value) -> Self {
        let mut walk = Self {
            root,
            resources: HashMap::new(),
            ids: Vec::new(),
            anchors: HashMap::new(),
            known: HashMap::new(),
        };
        let mut open = vec![(root, root)];
        while let Some((value, around)) = open.pop() {
            match value {
                Value::Array(items) => open.extend(items.iter().map(|item| (item, around))),
                Value::Object(keywords) => {
                    let resource = walk.note(value, keywords).unwrap_or(around);
                    walk.resources.insert(address(value), resource);
                    open.extend(keywords.values().map(|value| (value, resource)));
                }
                _ => {}
            }
        }
        walk
    }

    /// Notes the names by which an object can be referred to; returns it if it is a resource.
    fn note(&mut self, value: &'a Value, keywords: &'a Map<String, Value>) -> Option<&'a Value> {
        for keyword in ["$anchor", "$dynamicAnchor"] {
            if let Some(anchor) = keywords.get(keyword).and_then(Value::as_str) {
                self.anchors.entry(anchor).or_default().push(value);
            }
        }
        let ids = ["$id", "id"]
            .into_iter()
            .filter_map(|keyword| keywords.get(keyword)?.as_str());
        let mut resource = None;
        for id in ids {
            match id.strip_prefix('#') {
                Some(anchor) => self.anchors.entry(anchor).or_default().push(value),
                None => {
                    self.ids.push((id.trim_end_matches('#'), value));
                    resource = Some(value);
                }
            }
        }
        resource
    }

    /// How much applies to a value to which this schema applies.
    fn spread(&mut self, schema: &'a Value, level: u32) -> Result<Spread, ShapeError> {
        let Value::Object(keywords) = schema else {
            return Ok(Spread::ONE);
        };
        match self.known.get(&address(schema)) {
            Some(Some(known)) => return Ok(*known),
            Some(None) => return Err(ShapeError::Endless(self.place(schema))),
            None if level >= DEPTH_LIMIT => return Err(ShapeError::Deep(self.place(schema))),
            None => self.known.insert(address(schema), None),
        };
        let mut spread = Spread::ONE;
        for inner in self.in_place(schema, keywords)? {
            let inner = self.spread(inner, level + 1)?;
            spread.subschemas = spread.subschemas.saturating_add(inner.subschemas);
            spread.depth = spread.depth.max(inner.depth + 1);
        }
        if keywords.contains_key("unevaluatedProperties") || keywords.contains_key("unevaluatedItems") {
            // Every subschema is asked again about what it has looked at.
            spread.subschemas = spread.subschemas.saturating_mul(3);
        }
        let mut references = REFERENCES.iter().filter_map(|keyword| keywords.get(*keyword)?.as_str());
        if references.any(|reference| self.is_meta(reference)) {
            spread.subschemas = spread.subschemas.saturating_add(META_SPREAD);
        }
        if spread.subschemas > SPREAD_LIMIT {
            return Err(ShapeError::Wide(self.place(schema)));
        }
        if spread.depth + level > DEPTH_LIMIT {
            return Err(ShapeError::Deep(self.place(schema)));
        }
        self.known.insert(address(schema), Some(spread));
        Ok(spread)
    }

    fn in_place(&self, schema: &'a Value, keywords: &'a Map<String, Value>) -> Result<Vec<&'a Value>, ShapeError> {
        let get = |keyword: &&str| keywords.get(*keyword);
        let mut found: Vec<&'a Value> = SINGLE.iter().filter_map(get).collect();
        found.extend(LISTS.iter().filter_map(get).filter_map(Value::as_array).flatten());
        found.extend(
            MAPS.iter()
                .filter_map(get)
                .filter_map(Value::as_object)
                .flat_map(Map::values),
        );
        for reference in REFERENCES.iter().filter_map(get).filter_map(Value::as_str) {
            let targets = self.targets(schema, reference);
            if targets.is_empty() && !self.is_meta(reference) {
                return Err(ShapeError::Leaves(self.place(schema)));
            }
            found.extend(targets);
        }
        Ok(found)
    }

    /// Where a reference may lead; several places if only the run decides.
    fn targets(&self, from: &Value, reference: &str) -> Vec<&'a Value> {
        let (base, fragment) = reference.split_once('#').unwrap_or((reference, ""));
        let fragment = percent_decode_str(fragment).decode_utf8_lossy();
        let own = self.resources.get(&address(from)).copied().unwrap_or(self.root);
        let bases: Vec<&'a Value> = match base {
            "" => vec![own],
            _ => self
                .ids
                .iter()
                .filter(|(id, _)| last(id) == last(base))
                .map(|(_, value)| *value)
                .collect(),
        };
        if fragment.is_empty() {
            return bases;
        }
        if !fragment.starts_with('/') {
            return self.anchors.get(&*fragment).cloned().unwrap_or_default();
        }
        let found: Vec<_> = bases.iter().filter_map(|base| base.pointer(&fragment)).collect();
        match found.is_empty() {
            // Some drafts and dialects start from the document.
            true => self.root.pointer(&fragment).into_iter().collect(),
            false => found,
        }
    }

    /// Whether a reference may lead to a meta-schema, of which the crate that checks has copies.
    fn is_meta(&self, reference: &str) -> bool {
        let meta = |uri: &str| uri.contains("json-schema.org/");
        meta(reference) || self.ids.iter().any(|(id, _)| meta(id))
    }

    /// The JSON pointer of a schema.
    fn place(&self, wanted: &Value) -> String {
        let mut open = vec![(self.root, String::new())];
        while let Some((value, path)) = open.pop() {
            if std::ptr::eq(value, wanted) {
                return path;
            }
            match value {
                Value::Array(items) => {
                    open.extend(items.iter().enumerate().map(|(i, item)| (item, format!("{path}/{i}"))));
                }
                Value::Object(members) => open.extend(members.iter().map(|(key, value)| {
                    let key = key.replace('~', "~0").replace('/', "~1");
                    (value, format!("{path}/{key}"))
                })),
                _ => {}
            }
        }
        String::new()
    }
}

/// The last segment of a URI's path.
fn last(uri: &str) -> &str {
    uri.rsplit(['/', ':']).next().unwrap_or(uri)
}
