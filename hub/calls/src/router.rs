//! Decides whether a caller may call, and which instance gets the call.

use std::collections::HashSet;
use std::sync::Arc;

use alkhub_protocol::{CallError, Code, HubId, OperationName, Scopes, SpokeName};

use crate::directory::{Group, Instance, Pool, PoolMembers};
use crate::operation::Operation;

/// Random picks from a large pool before all of it is looked at.
const PICKS: usize = 8;

/// Which instances may get a call.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wanted<'a> {
    /// Only instances of this spoke.
    pub(crate) target: Option<&'a SpokeName>,
    /// Not this registration: the call came back from it.
    pub(crate) not: Option<&'a Instance>,
    /// Only instances that are connected to this hub: the others cannot be reached now.
    pub(crate) only_here: bool,
    /// Instances on these hubs only when nobody else can take the call: the hubs go away.
    pub(crate) draining: Option<&'a HashSet<HubId>>,
}

/// Checks the key's own scopes.
pub(crate) fn allow_call(scopes: &Scopes, operation: &OperationName) -> Result<(), CallError> {
    if scopes.allows("call:*") {
        return Ok(());
    }
    scopes.require_call(operation).map_err(|scope| denied(&scope))
}

/// Checks what the operation demands besides, literally.
pub(crate) fn allow_operation(scopes: &Scopes, operation: &Operation) -> Result<(), CallError> {
    let access = &operation.spec.access_control;
    if let Some(missing) = access.required_scopes.iter().find(|scope| !scopes.allows(scope)) {
        return Err(denied(missing));
    }
    let any = &access.required_scopes_any;
    if any.is_empty() || any.iter().any(|scope| scopes.allows(scope)) {
        return Ok(());
    }
    Err(denied(&any.join("` or `")))
}

/// Whether the caller may call an operation.
pub(crate) fn allow(scopes: &Scopes, operation: &Operation) -> Result<(), CallError> {
    allow_call(scopes, &operation.name)?;
    allow_operation(scopes, operation)
}

/// The answer to a missing scope.
pub(crate) fn denied(scope: &str) -> CallError {
    CallError::new(Code::AccessDenied, format!("the key lacks the scope `{scope}`"))
}

/// Chooses an instance and takes one of its slots.
///
/// Of two that are picked by chance the less busy one; one on this hub unless it is twice as busy. One on a hub that goes
/// away only where nobody else has a slot.
pub(crate) fn choose(pool: &Pool, wanted: Wanted<'_>) -> Result<Arc<Instance>, CallError> {
    // Between the look and the reservation another call may take the slot.
    for _ in 0..4 {
        let members = pool.members();
        let picked = pick(&members, wanted).or_else(|| wanted.draining.and_then(|_| pick(&members, wanted.anywhere())));
        let Some(instance) = picked else { break };
        if instance.load.reserve(instance.slots()) {
            return Ok(Arc::clone(instance));
        }
    }
    Err(refusal(pool, wanted))
}

fn pick<'a>(members: &'a PoolMembers, wanted: Wanted<'_>) -> Option<&'a Arc<Instance>> {
    nearer(less_busy(&members.here, wanted), less_busy(&members.elsewhere, wanted))
}

fn nearer<'a>(here: Option<&'a Arc<Instance>>, elsewhere: Option<&'a Arc<Instance>>) -> Option<&'a Arc<Instance>> {
    match (here, elsewhere) {
        (Some(here), Some(elsewhere)) => {
            let twice_as_busy = here.load.get() + 1 > 2 * (elsewhere.load.get() + 1);
            Some(if twice_as_busy { elsewhere } else { here })
        }
        (one, other) => one.or(other),
    }
}

fn less_busy<'a>(instances: &'a Group, wanted: Wanted<'_>) -> Option<&'a Arc<Instance>> {
    let usable = |instance: &&Arc<Instance>| wanted.allows(instance) && instance.has_slot();
    if instances.len() <= PICKS {
        return two_of(instances.iter().filter(usable));
    }
    let pick = || instances.get(fastrand::usize(..instances.len()));
    let mut picks = (0..PICKS).filter_map(|_| pick()).filter(usable);
    match (picks.next(), picks.next()) {
        (Some(one), Some(other)) => Some(lighter(one, other)),
        (Some(one), None) => Some(one),
        (None, _) => two_of(instances.iter().filter(usable)),
    }
}

/// Two by chance from all, then the less busy one.
fn two_of<'a>(instances: impl Iterator<Item = &'a Arc<Instance>>) -> Option<&'a Arc<Instance>> {
    let (mut one, mut other) = (None, None);
    for (seen, instance) in instances.enumerate() {
        match seen {
            0 => one = Some(instance),
            1 => other = Some(instance),
            _ => match fastrand::usize(..=seen) {
                0 => one = Some(instance),
                1 => other = Some(instance),
                _ => {}
            },
        }
    }
    match (one, other) {
        (Some(one), Some(other)) => Some(lighter(one, other)),
        (one, other) => one.or(other),
    }
}

fn lighter<'a>(one: &'a Arc<Instance>, other: &'a Arc<Instance>) -> &'a Arc<Instance> {
    match one.load.get().cmp(&other.load.get()) {
        std::cmp::Ordering::Less => one,
        std::cmp::Ordering::Greater => other,
        std::cmp::Ordering::Equal if fastrand::bool() => one,
        std::cmp::Ordering::Equal => other,
    }
}

/// Why nobody can be chosen.
pub(crate) fn refusal(pool: &Pool, wanted: Wanted<'_>) -> CallError {
    let (name, wanted) = (&pool.name, wanted.anywhere());
    let members = pool.members();
    if members.all().any(|instance| wanted.allows(instance)) {
        let message = format!("every instance that offers `{name}` runs as many calls as it takes at once");
        return CallError::new(Code::Overloaded, message).retryable();
    }
    if wanted.only_here && !members.elsewhere.is_empty() {
        let message = format!("`{name}` is offered on other hubs, and the link to them is down");
        return CallError::new(Code::Unavailable, message).retryable();
    }
    if pool.waits_for_spec {
        let message = format!("the specification of `{name}` is not loaded yet");
        return CallError::new(Code::Unavailable, message).retryable();
    }
    let message = match wanted.target {
        Some(target) => format!("spoke `{target}` does not offer `{name}` now"),
        None => format!("no spoke offers `{name}` now"),
    };
    CallError::new(Code::NoProvider, message).retryable()
}

/// The answer to a name that nobody has offered.
pub(crate) fn not_found(operation: &OperationName) -> CallError {
    let message = format!("operation `{operation}` is not registered");
    CallError::new(Code::OperationNotFound, message)
}

// === impl Wanted ===

impl Wanted<'_> {
    /// The same, from hubs that go away too.
    fn anywhere(self) -> Self {
        Self { draining: None, ..self }
    }

    fn allows(&self, instance: &Instance) -> bool {
        self.target.is_none_or(|target| instance.entry.spoke == *target)
            && self.draining.is_none_or(|hubs| !hubs.contains(&instance.entry.hub))
            && self.not.is_none_or(|not| !instance.is_same_registration(not))
            && instance
                .session
                .as_ref()
                .map_or(!self.only_here, |session| session.is_open())
    }
}

#[cfg(test)]
mod tests;
