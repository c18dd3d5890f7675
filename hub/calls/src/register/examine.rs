//! Examines what a registration offers, operation by operation.
//!
//! Invariants
//! - An operation that is named by the hash of its specification is examined like one that was sent.
//! - A peer that has not asked for hashes sees none, and nothing that it sends is taken for one.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use alkhub_protocol::json::tree::Tree;
use alkhub_protocol::register::{OperationResult, RefusedDetails, Registered};
use alkhub_protocol::{CallError, Code, OperationName, OperationSpec, RawJson, SpecHash};
use serde::Deserialize;

use super::recall::Recall;
use super::registrant::Registrant;
use super::{door, fields};
use crate::directory::Directory;
use crate::directory::compiled::Specs;
use crate::directory::operation::Operation;

/// The result of a registration, operation by operation.
#[derive(Default)]
pub(super) struct Offer {
    pub(super) accepted: Vec<Arc<Operation>>,
    pub(super) results: Vec<OperationResult>,
    answer: door::Answer,
}

/// Examines what is offered.
#[derive(Debug)]
pub(crate) struct Examiner {
    pub(crate) specs: Arc<Specs>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) recall: Recall,
    /// The most operations of one instance.
    pub(crate) max_operations: usize,
}

/// An operation that may be offered.
struct Examined {
    operation: Arc<Operation>,
    result: Registered,
    warnings: Vec<String>,
    /// The hash by which the peer can name it the next time.
    hash: Option<SpecHash>,
}

// === impl Examiner ===

impl Examiner {
    /// Examines each operation on its own.
    ///
    /// # Errors
    /// Some are named by hashes that are not known; the details list them.
    pub(super) async fn examine(&self, registrant: &Registrant, operations: &[RawJson]) -> Result<Offer, CallError> {
        let looked_at = &operations[..operations.len().min(self.max_operations)];
        let hashes: Vec<Option<SpecHash>> = match registrant.is_by_hash {
            true => looked_at.iter().map(hash_in).collect(),
            false => vec![None; looked_at.len()],
        };
        let known = self.known(registrant, &hashes).await?;
        let mut offer = Offer::default();
        let mut names = HashSet::new();
        for (raw, hash) in looked_at.iter().zip(hashes) {
            let known = hash.and_then(|hash| known.get(&hash));
            let examined = match known {
                Some(operation) => self.examine_known(registrant, operation),
                None => self.examine_sent(registrant, raw).await,
            };
            let unique = examined.and_then(|examined| {
                let new = names.insert(examined.operation.name.clone());
                new.then_some(examined).ok_or_else(|| "it is named twice".to_owned())
            });
            match unique {
                Ok(examined) => offer.accept(examined),
                Err(reason) => offer.reject(
                    known.map_or_else(|| name_in(raw), |known| known.name.to_string()),
                    reason,
                ),
            }
        }
        for raw in &operations[looked_at.len()..] {
            let reason = format!(
                "one instance may offer {} operations (`calls.max-operations`)",
                self.max_operations
            );
            offer.reject(name_in(raw), reason);
        }
        Ok(offer)
    }

    /// The operations that are named by their hashes.
    async fn known(
        &self,
        registrant: &Registrant,
        hashes: &[Option<SpecHash>],
    ) -> Result<HashMap<SpecHash, Arc<Operation>>, CallError> {
        let named: HashSet<SpecHash> = hashes.iter().flatten().copied().collect();
        if named.is_empty() {
            return Ok(HashMap::new());
        }
        let known = self.recall.recall(registrant, &named).await;
        let mut unknown: Vec<SpecHash> = named.into_iter().filter(|hash| !known.contains_key(hash)).collect();
        if unknown.is_empty() {
            return Ok(known);
        }
        unknown.sort_unstable();
        Err(not_known(&unknown))
    }

    async fn examine_sent(&self, registrant: &Registrant, raw: &RawJson) -> Result<Examined, String> {
        if raw.as_bytes().first() == Some(&b'"') {
            return Err(not_by_hash(registrant.is_by_hash).to_owned());
        }
        let spec: OperationSpec = raw
            .to()
            .map_err(|error| format!("it is not an OperationSpec: {error}"))?;
        let name = spec.operation().map_err(|error| error.to_string())?;
        check_name(registrant, &name)?;
        let operation = self
            .specs
            .compile(&registrant.spoke, &registrant.key, spec)
            .await
            .map_err(|error| error.to_string())?;
        let result = self.check_others(registrant, &operation)?;
        let looked = fields::look(raw, &operation.spec)?;
        let hash = (registrant.is_by_hash && looked.is_whole).then_some(operation.hash);
        Ok(Examined {
            operation,
            result,
            warnings: looked.warnings,
            hash,
        })
    }

    fn examine_known(&self, registrant: &Registrant, operation: &Arc<Operation>) -> Result<Examined, String> {
        check_name(registrant, &operation.name)?;
        Ok(Examined {
            operation: Arc::clone(operation),
            result: self.check_others(registrant, operation)?,
            warnings: fields::look_at_known(&operation.spec)?,
            hash: None,
        })
    }

    /// Checks that nobody else offers a different operation of this name.
    fn check_others(&self, registrant: &Registrant, operation: &Operation) -> Result<Registered, String> {
        let own = (registrant.spoke.clone(), registrant.instance.clone());
        let Some(other) = self.directory.offered_by_others(operation, &own) else {
            return Ok(Registered::Registered);
        };
        match other.offers.get(&operation.name) {
            Some(hash) if *hash != operation.hash => {
                let standing = self.specs.get(hash);
                let difference =
                    standing.map_or_else(String::new, |standing| difference(&standing.spec, &operation.spec));
                Err(format!(
                    "spoke `{}` offers it with another specification{difference}",
                    other.entry.spoke
                ))
            }
            _ => Ok(Registered::Pooled),
        }
    }
}

// === impl Offer ===

impl Offer {
    fn accept(&mut self, examined: Examined) {
        let Examined {
            operation,
            result,
            mut warnings,
            hash,
        } = examined;
        warnings.extend(operation.warnings.iter().cloned());
        let name = operation.name.to_string();
        self.accepted.push(operation);
        self.add(OperationResult {
            name,
            result,
            reason: None,
            hash: hash.map(SpecHash::to_wire),
            warnings,
        });
    }

    fn reject(&mut self, name: String, reason: String) {
        self.add(OperationResult {
            name,
            result: Registered::Rejected,
            reason: Some(reason),
            hash: None,
            warnings: Vec::new(),
        });
    }

    fn add(&mut self, result: OperationResult) {
        let result = self.answer.fit(result);
        self.results.push(result);
    }
}

/// Checks that a spoke may offer an operation of this name at all.
fn check_name(registrant: &Registrant, name: &OperationName) -> Result<(), String> {
    if name.is_reserved() {
        return Err("the namespace `hub` is the hub's own: choose another one".to_owned());
    }
    match &registrant.policy {
        Some(policy) if !policy.allows(name) => {
            let allowed = if policy.operations.is_empty() {
                format!("{}.*", policy.name)
            } else {
                policy.operations.join("`, `")
            };
            Err(format!("spoke `{}` may offer `{allowed}` only", policy.name))
        }
        Some(_) | None => Ok(()),
    }
}

/// The hash that stands in place of a specification, if one does.
fn hash_in(raw: &RawJson) -> Option<SpecHash> {
    let text = raw.as_bytes().first() == Some(&b'"');
    let text: Option<String> = text.then(|| raw.to().ok()).flatten();
    SpecHash::from_wire(&text?)
}

/// The answer to a registration that names unknown hashes.
fn not_known(hashes: &[SpecHash]) -> CallError {
    let details = RefusedDetails {
        unknown: hashes.iter().map(|hash| hash.to_wire()).collect(),
        ..RefusedDetails::default()
    };
    let message = format!(
        "nothing is changed, for {} specifications are not known by their hash: send those in `details.unknown` whole",
        hashes.len()
    );
    let mut error = CallError::new(Code::NotFound, message);
    error.details = RawJson::from_value(&details).ok();
    error
}

/// The name of a refused operation, as far as it can be read.
fn name_in(raw: &RawJson) -> String {
    #[derive(Default, Deserialize)]
    struct Named {
        namespace: Option<RawJson>,
        name: Option<RawJson>,
    }
    let named: Named = raw.to().unwrap_or_default();
    let part = |part: Option<RawJson>| {
        let text: Option<String> = part.and_then(|part| part.to().ok());
        text.as_deref().unwrap_or("?").chars().take(128).collect::<String>()
    };
    format!("{}.{}", part(named.namespace), part(named.name))
}

/// Why a text does not stand for an operation, for a peer that may name operations by hash or for one that may not.
fn not_by_hash(is_by_hash: bool) -> &'static str {
    if is_by_hash {
        "it is not an OperationSpec, and no hash of 43 characters as the answer to a registration tells it: send it whole"
    } else {
        "it is not an OperationSpec: a hash may stand here only with `hashes` among the `features` of the `__hello`"
    }
}

/// ` (different in `inputSchema`, `version`)`: the fields in which two specifications differ.
fn difference(standing: &OperationSpec, new: &OperationSpec) -> String {
    let text = |spec| serde_json::to_vec(spec).unwrap_or_default();
    let (standing, new) = (text(standing), text(new));
    let (Ok(standing), Ok(new)) = (Tree::parse(&standing), Tree::parse(&new)) else {
        return String::new();
    };
    let names = |spec: &Tree<'_>| match spec {
        Tree::Object(fields) => fields.iter().map(|(name, _)| name.to_string()).collect(),
        _ => BTreeSet::new(),
    };
    let all = names(&standing)
        .union(&names(&new))
        .cloned()
        .collect::<BTreeSet<String>>();
    let differ = all.into_iter().filter(|name| standing.get(name) != new.get(name));
    let differ: Vec<String> = differ.map(|name| format!("`{name}`")).collect();
    format!(" (different in {})", differ.join(", "))
}
