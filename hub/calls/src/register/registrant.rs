//! The registrant: which instance of which spoke a connection is to become, and what it may offer.

use std::sync::Arc;

use alkhub_protocol::register::RegisterInput;
use alkhub_protocol::{CallError, Code, InstanceId, OperationName, SpokeName, scope};

use crate::caller::{Caller, SpokePolicy};
use crate::leg::call_id::LegIds;
use crate::session::Session;
use crate::session::outbox::Outbox;

/// A registrant, once it is settled who registers.
pub(super) struct Registrant {
    /// The key that the request came with.
    pub(super) key: Arc<str>,
    pub(super) spoke: SpokeName,
    pub(super) instance: InstanceId,
    pub(super) policy: Option<Arc<SpokePolicy>>,
    /// Whether its peer names specifications by their hash.
    pub(super) is_by_hash: bool,
}

// === impl Registrant ===

impl Registrant {
    /// Settles who registers; a connection that names no instance is an instance of its own.
    pub(super) fn of(
        caller: &Caller,
        input: &RegisterInput,
        outbox: &Outbox,
        legs: &LegIds,
    ) -> Result<Self, CallError> {
        let spoke = spoke_of(caller, input.name.as_ref())?;
        if input.concurrency == Some(0) {
            let message =
                "`concurrency` is 0, so the instance would take no call: give at least 1, or none for no limit";
            return Err(CallError::new(Code::BadRequest, message));
        }
        let instance = match &input.instance_id {
            Some(instance) => instance.clone(),
            None => legs.instance(outbox.session()).map_err(|error| {
                let message = format!("`instanceId` is missing and none can be made: {error}");
                CallError::new(Code::BadRequest, message)
            })?,
        };
        Ok(Self {
            key: Arc::clone(&caller.key_id),
            spoke,
            instance,
            policy: caller.spoke.clone(),
            is_by_hash: outbox.is_by_hash(),
        })
    }

    /// The registrant of a session that has registered before.
    pub(super) fn again(caller: &Caller, session: &Session) -> Result<Self, CallError> {
        Ok(Self {
            key: Arc::clone(&caller.key_id),
            spoke: spoke_of(caller, Some(&session.spoke))?,
            instance: session.instance.clone(),
            policy: caller.spoke.clone(),
            is_by_hash: session.outbox.is_by_hash(),
        })
    }

    /// Whether the registrant may offer an operation of this name.
    pub(super) fn may_offer(&self, name: &OperationName) -> bool {
        !name.is_reserved() && self.policy.as_ref().is_none_or(|policy| policy.allows(name))
    }
}

/// The spoke that registers, as its key says.
fn spoke_of(caller: &Caller, name: Option<&SpokeName>) -> Result<SpokeName, CallError> {
    let denied = |message: String| Err(CallError::new(Code::AccessDenied, message));
    match (&caller.spoke, name) {
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
