//! `hub.register`: which connection becomes an instance of which spoke, and what it may offer.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use alkhub_budget::{Held, Kept};
use alkhub_events::{DirectoryEntry, OfferedOperation};
use alkhub_protocol::json::tree::Tree;
use alkhub_protocol::register::{OperationResult, RegisterInput, RegisterOutput, Registered};
use alkhub_protocol::{CallError, Code, InstanceId, OperationSpec, RawJson, SpokeName, scope};
use jiff::Timestamp;
use serde::Deserialize;
use tokio::sync::oneshot;

use crate::core::Core;
use crate::directory::{Instance, Outcome};
use crate::link::Link;
use crate::lost::CLOSE_REPLACED;
use crate::operation::Operation;
use crate::session::Session;
use crate::{Caller, Connection, SpokePolicy};

mod door;
mod fields;
mod narrow;
pub(crate) mod turns;

/// Who registers, once that is settled.
struct Identity {
    spoke: SpokeName,
    instance: InstanceId,
    policy: Option<Arc<SpokePolicy>>,
}

/// What a registration leads to, operation by operation.
#[derive(Default)]
struct Offer {
    accepted: Vec<Arc<Operation>>,
    results: Vec<OperationResult>,
    answer: door::Answer,
}

impl Core {
    /// Registers a connection. Dropping the future undoes what was done: the work runs in a task of its own, and a
    /// session that nobody takes ends at once. Those of one connection take effect in the order in which the futures
    /// are first polled.
    pub(crate) async fn register(
        self: &Arc<Self>,
        caller: &Arc<Caller>,
        input: RegisterInput,
        connection: Connection,
    ) -> Result<(RegisterOutput, Session), CallError> {
        let identity = self.identify(caller, &input, &connection)?;
        door::check(&input)?;
        // Kept from here on, for it may wait for its turn and for the directory.
        let held = self
            .budgets
            .key(&caller.key_id)
            .take(Kept::Registrations, door::weight(&input))?;
        let (done, result) = oneshot::channel();
        let core = Arc::clone(self);
        let mut turn = self.turns.take(&connection.id);
        self.tasks.spawn(async move {
            turn.comes().await;
            let registered = core.register_as(identity, input, connection, held).await;
            drop(done.send(registered));
            drop(turn);
        });
        result
            .await
            .map_err(|_| CallError::new(Code::Unavailable, "the hub is going away").retryable())?
    }

    fn identify(&self, caller: &Caller, input: &RegisterInput, connection: &Connection) -> Result<Identity, CallError> {
        let spoke = spoke_of(caller, input)?;
        if input.concurrency == Some(0) {
            let message =
                "`concurrency` is 0, so the instance would take no call: give at least 1, or none for no limit";
            return Err(CallError::new(Code::BadRequest, message));
        }
        let instance = match &input.instance_id {
            Some(instance) => instance.clone(),
            None => self.instance_id(&connection.id).map_err(|error| {
                CallError::new(
                    Code::BadRequest,
                    format!("`instanceId` is missing and none can be made: {error}"),
                )
            })?,
        };
        Ok(Identity {
            spoke,
            instance,
            policy: caller.spoke.clone(),
        })
    }

    async fn register_as(
        self: Arc<Self>,
        identity: Identity,
        input: RegisterInput,
        connection: Connection,
        held: Held,
    ) -> Result<(RegisterOutput, Session), CallError> {
        let offer = self.examine(&identity, &input.operations).await;
        self.save(&offer.accepted).await;
        let link = self.link(&identity, connection)?;
        let entry = self.entry(&identity, &input, &link, &offer);
        let session = self.enter(&identity, &link, entry).await?;
        let generation = session.generation();
        link.hold(held);
        let rejected = offer.results.len() - offer.accepted.len();
        self.metrics.registered(offer.accepted.len(), rejected);
        tracing::info!(
            spoke.id = %identity.spoke, instance.id = %identity.instance, generation,
            operations = offer.accepted.len(), rejected, "a spoke has registered"
        );
        let output = RegisterOutput {
            spoke_id: identity.spoke,
            instance_id: identity.instance,
            generation,
            hub_id: self.hub.clone(),
            heartbeat_ms: u64::try_from(self.heartbeat.as_millis()).unwrap_or(u64::MAX),
            operations: offer.results,
        };
        Ok((output, session))
    }

    /// Enters a registration into the directory of all hubs and into this one's.
    ///
    /// From the directory's answer on the record belongs to the session: whatever happens here or later, dropping it
    /// takes the record away, unless a later registration of the connection has it.
    async fn enter(
        self: &Arc<Self>,
        identity: &Identity,
        link: &Arc<Link>,
        entry: DirectoryEntry,
    ) -> Result<Session, CallError> {
        if !link.is_registered() {
            return Err(connection_ended());
        }
        let registered = self.cluster.register(entry.clone()).await;
        let generation = registered.map_err(|error| {
            self.lose(link);
            let message = format!("the directory did not take the registration: {error}");
            CallError::new(Code::Unavailable, message).retryable()
        })?;
        link.set_generation(generation);
        let session = Session::new(self, link, generation);
        let entry = DirectoryEntry { generation, ..entry };
        match self
            .directory
            .put(&Arc::new(Instance::new(entry, Some(Arc::clone(link)))))
        {
            Outcome::Put(Some(old)) if !old.is_on(link) => self.replaced(&old),
            Outcome::Put(_) => {}
            Outcome::Stale => {
                let reason = "a newer connection of this instance has registered";
                link.connection.outbox.close(CLOSE_REPLACED, reason);
                return Err(CallError::new(Code::Conflict, reason));
            }
        }
        let undeclared = identity.policy.as_ref().is_none_or(|policy| policy.uid.is_empty());
        self.presence.came(&link.spoke, undeclared);
        self.count_instances();
        // After the record is there: a connection that ends later finds it, one that ended before is found here.
        if link.is_registered() {
            Ok(session)
        } else {
            Err(connection_ended())
        }
    }

    /// The link of the connection: a new one, or the one by which it has registered before.
    fn link(&self, identity: &Identity, connection: Connection) -> Result<Arc<Link>, CallError> {
        let id = connection.id.clone();
        let link = self
            .links
            .entry(id)
            .or_insert_with(|| Arc::new(Link::new(identity.spoke.clone(), identity.instance.clone(), connection)));
        if link.spoke == identity.spoke && link.instance == identity.instance {
            return Ok(Arc::clone(&link));
        }
        let message = format!(
            "this connection is instance `{}` of spoke `{}`: open another one to register as something else",
            link.instance, link.spoke
        );
        Err(CallError::new(Code::Conflict, message))
    }

    fn entry(&self, identity: &Identity, input: &RegisterInput, link: &Link, offer: &Offer) -> DirectoryEntry {
        let offered = |operation: &Arc<Operation>| OfferedOperation {
            name: operation.name.clone(),
            hash: operation.hash.to_string(),
        };
        let allowed = identity.policy.as_ref().and_then(|policy| policy.concurrency);
        DirectoryEntry {
            spoke: identity.spoke.clone(),
            instance: identity.instance.clone(),
            hub: self.hub.clone(),
            connection: link.connection.id.clone(),
            generation: 0,
            spoke_type: input.spoke_type,
            labels: input.labels.clone(),
            concurrency: [allowed, input.concurrency].into_iter().flatten().min(),
            connected_at: Timestamp::now(),
            host_info: input.host_info.clone(),
            operations: offer.accepted.iter().map(offered).collect(),
        }
    }

    /// Looks at each operation for itself.
    async fn examine(&self, identity: &Identity, operations: &[RawJson]) -> Offer {
        let mut offer = Offer::default();
        let mut names = HashSet::new();
        for (i, raw) in operations.iter().enumerate() {
            let examined = if i < self.config.max_operations {
                self.examine_one(identity, raw).await
            } else {
                Err(format!(
                    "one instance may offer {} operations",
                    self.config.max_operations
                ))
            };
            let unique = examined.and_then(|(operation, result)| {
                let new = names.insert(operation.name.clone());
                new.then_some((operation, result))
                    .ok_or_else(|| "the registration names it twice".to_owned())
            });
            let told = unique.and_then(|(operation, result)| {
                let warnings = fields::look(raw, &operation.spec)?;
                Ok((operation, result, warnings))
            });
            offer.add(raw, told);
        }
        offer
    }

    async fn examine_one(&self, identity: &Identity, raw: &RawJson) -> Result<(Arc<Operation>, Registered), String> {
        let spec: OperationSpec = raw
            .to()
            .map_err(|error| format!("it is not an OperationSpec: {error}"))?;
        let name = spec.operation().map_err(|error| error.to_string())?;
        if name.is_reserved() {
            return Err("the namespace `hub` is the hub's own: choose another one".to_owned());
        }
        if let Some(policy) = identity.policy.as_ref().filter(|policy| !policy.allows(&name)) {
            let allowed = if policy.operations.is_empty() {
                format!("{}.*", policy.name)
            } else {
                policy.operations.join("`, `")
            };
            return Err(format!("spoke `{}` may offer `{allowed}` only", policy.name));
        }
        let operation = self
            .specs
            .compile(&identity.spoke, spec)
            .await
            .map_err(|error| error.to_string())?;
        let own = (identity.spoke.clone(), identity.instance.clone());
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
        self.results.push(self.answer.tell(result));
    }
}

/// The answer to a registration whose connection ended, or was replaced, before the directory had it.
fn connection_ended() -> CallError {
    CallError::new(
        Code::Aborted,
        "the connection ended before its registration was entered",
    )
    .retryable()
}

/// Settles who registers: the key says which spoke.
fn spoke_of(caller: &Caller, input: &RegisterInput) -> Result<SpokeName, CallError> {
    let denied = |message: String| Err(CallError::new(Code::AccessDenied, message));
    match (&caller.spoke, &input.name) {
        (Some(policy), Some(name)) if policy.name != *name => {
            denied(format!("the key is of spoke `{}`, not of `{name}`", policy.name))
        }
        (Some(policy), _) if policy.suspended => denied(format!("spoke `{}` is suspended", policy.name)),
        (Some(policy), _) => Ok(policy.name.clone()),
        (None, _) if !caller.scopes.allows(scope::ADMIN) => {
            let message = "the key is of no spoke: use one that is, or one with the scope `admin`";
            denied(message.to_owned())
        }
        (None, Some(name)) => Ok(name.clone()),
        (None, None) => {
            let message = "`name` is missing: the key is of no spoke, so the registration must name one";
            Err(CallError::new(Code::BadRequest, message))
        }
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
