//! What a registration offers, looked at one operation after the other.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use alkhub_protocol::json::tree::Tree;
use alkhub_protocol::register::{OperationResult, Registered};
use alkhub_protocol::{OperationSpec, RawJson};
use serde::Deserialize;

use super::registrant::Registrant;
use super::{door, fields};
use crate::compiled::Specs;
use crate::directory::Directory;
use crate::operation::Operation;

/// What a registration leads to, operation by operation.
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
    /// Operations of one instance at most.
    pub(crate) max_operations: usize,
}

// === impl Examiner ===

impl Examiner {
    /// Looks at each operation for itself.
    pub(super) async fn examine(&self, registrant: &Registrant, operations: &[RawJson]) -> Offer {
        let mut offer = Offer::default();
        let mut names = HashSet::new();
        for (i, raw) in operations.iter().enumerate() {
            let examined = if i < self.max_operations {
                self.examine_one(registrant, raw).await
            } else {
                Err(format!("one instance may offer {} operations", self.max_operations))
            };
            let unique = examined.and_then(|(operation, result)| {
                let new = names.insert(operation.name.clone());
                new.then_some((operation, result))
                    .ok_or_else(|| "the registration names it twice".to_owned())
            });
            let result = unique.and_then(|(operation, result)| {
                let warnings = fields::look(raw, &operation.spec)?;
                Ok((operation, result, warnings))
            });
            offer.add(raw, result);
        }
        offer
    }

    async fn examine_one(
        &self,
        registrant: &Registrant,
        raw: &RawJson,
    ) -> Result<(Arc<Operation>, Registered), String> {
        let spec: OperationSpec = raw
            .to()
            .map_err(|error| format!("it is not an OperationSpec: {error}"))?;
        let name = spec.operation().map_err(|error| error.to_string())?;
        if name.is_reserved() {
            return Err("the namespace `hub` is the hub's own: choose another one".to_owned());
        }
        if let Some(policy) = registrant.policy.as_ref().filter(|policy| !policy.allows(&name)) {
            let allowed = if policy.operations.is_empty() {
                format!("{}.*", policy.name)
            } else {
                policy.operations.join("`, `")
            };
            return Err(format!("spoke `{}` may offer `{allowed}` only", policy.name));
        }
        let operation = self
            .specs
            .compile(&registrant.spoke, &registrant.key, spec)
            .await
            .map_err(|error| error.to_string())?;
        let own = (registrant.spoke.clone(), registrant.instance.clone());
        let Some(other) = self.directory.offered_by_others(&name, &own) else {
            return Ok((operation, Registered::Registered));
        };
        match other.offers.get(&name) {
            Some(hash) if *hash != operation.hash => {
                let standing = self.specs.get(hash);
                let difference =
                    standing.map_or_else(String::new, |standing| difference(&standing.spec, &operation.spec));
                Err(format!(
                    "spoke `{}` offers it with another specification{difference}",
                    other.entry.spoke
                ))
            }
            _ => Ok((operation, Registered::Pooled)),
        }
    }
}

// === impl Offer ===

impl Offer {
    fn add(&mut self, raw: &RawJson, examined: Result<(Arc<Operation>, Registered, Vec<String>), String>) {
        let result = match examined {
            Ok((operation, result, mut warnings)) => {
                warnings.extend(operation.warnings.iter().cloned());
                let name = operation.name.to_string();
                self.accepted.push(operation);
                OperationResult {
                    name,
                    result,
                    reason: None,
                    warnings,
                }
            }
            Err(reason) => OperationResult {
                name: name_in(raw),
                result: Registered::Rejected,
                reason: Some(reason),
                warnings: Vec::new(),
            },
        };
        self.results.push(self.answer.fit(result));
    }
}

/// The name of an operation that was refused, as far as it can be read.
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
