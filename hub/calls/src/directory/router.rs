//! Decides whether a caller may call, and which instance gets the call.

use std::collections::HashSet;
use std::sync::Arc;

use alkhub_protocol::{CallError, Code, HubId, OperationName, Scopes, SpokeName};

use crate::directory::operation::Operation;
use crate::directory::{Group, Instance, Pool, PoolMembers};

/// How many instances of a large pool are picked by chance before all of it is looked at.
const PICKS: usize = 8;

/// The instances that may get a call.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wanted<'a> {
    /// Only instances of this spoke.
    pub(crate) target: Option<&'a SpokeName>,
    /// Those that do not get the call: it came back from there.
    pub(crate) not: Excluded<'a>,
    /// Only instances that are connected to this hub: the others cannot be reached at present.
    pub(crate) only_here: bool,
    /// Hubs that are going away: their instances get the call only if nobody else can take it.
    pub(crate) draining: Option<&'a HashSet<HubId>>,
    /// Whether instances that have lost their connection, and those of this hub that are about to go, get the call only
    /// if nobody else can take it.
    pub(crate) connected: bool,
}

/// The instances that do not get a call.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Excluded<'a> {
    /// Any instance may get it.
    #[default]
    Nobody,
    /// A registration that is gone, or that the call is to leave.
    Registration(&'a Instance),
    /// Everything on a hub that did not receive the call.
    Hub(&'a HubId),
}

/// Checks the key's own scopes.
pub(crate) fn allow_call(scopes: &Scopes, operation: &OperationName) -> Result<(), CallError> {
    if scopes.allows("call:*") {
        return Ok(());
    }
    scopes
        .require_call(operation)
        .map_err(|scope| CallError::missing_scope(&scope))
}

/// Checks what the operation demands in addition, literally.
pub(crate) fn allow_operation(scopes: &Scopes, operation: &Operation) -> Result<(), CallError> {
    let access = &operation.spec.access_control;
    if let Some(missing) = access.required_scopes.iter().find(|scope| !scopes.allows(scope)) {
        return Err(CallError::missing_scope(missing));
    }
    let any = &access.required_scopes_any;
    if any.is_empty() || any.iter().any(|scope| scopes.allows(scope)) {
        return Ok(());
    }
    Err(CallError::missing_scope(&any.join("` or `")))
}

/// Whether the caller may call an operation.
pub(crate) fn allow(scopes: &Scopes, operation: &Operation) -> Result<(), CallError> {
    allow_call(scopes, &operation.name)?;
    allow_operation(scopes, operation)
}

/// Chooses an instance and takes one of its slots.
///
/// Picks two by chance and takes the less busy one, preferring one on this hub unless it is twice as busy. An instance
/// on a hub that goes away, one whose connection is lost and one that is about to go are chosen only if nobody else has
/// a slot.
pub(crate) fn choose(pool: &Pool, wanted: Wanted<'_>) -> Result<Arc<Instance>, CallError> {
    for _ in 0..4 {
        // The guard makes the refusal fit what was seen: no instance comes or goes meanwhile.
        let members = pool.members();
        let second_choice = || wanted.is_choosy().then(|| pick(&members, wanted.anywhere())).flatten();
        let picked = pick(&members, wanted).or_else(second_choice);
        match picked {
            // Between the look and the reservation another call may take the slot ...
            Some(instance) if !instance.load.reserve(instance.slots()) => {}
            Some(instance) => return Ok(Arc::clone(instance)),
            // ... and between two looks a slot may come free.
            None => {
                if let Some(refusal) = why_nobody(pool, &members, wanted) {
                    return Err(refusal);
                }
            }
        }
    }
    Err(busy(pool))
}

/// Whether an instance of the first choice has a slot now.
pub(crate) fn has_one(pool: &Pool, wanted: Wanted<'_>) -> bool {
    pick(&pool.members(), wanted).is_some()
}

/// Takes a slot of an instance of the first choice, if one is free.
pub(crate) fn reserve(pool: &Pool, wanted: Wanted<'_>) -> Option<Arc<Instance>> {
    loop {
        let picked = pick(&pool.members(), wanted).map(Arc::clone)?;
        // Otherwise another call was faster, and the slot is taken.
        if picked.load.reserve(picked.slots()) {
            return Some(picked);
        }
    }
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

/// Picks two of them all by chance, and takes the less busy one.
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

/// Why nobody can be chosen; `None` if somebody can.
fn why_nobody(pool: &Pool, members: &PoolMembers, wanted: Wanted<'_>) -> Option<CallError> {
    let wanted = wanted.anywhere();
    let mut allowed = members.all().filter(|instance| wanted.allows(instance)).peekable();
    if allowed.peek().is_some() {
        return (!allowed.any(|instance| instance.has_slot())).then(|| busy(pool));
    }
    let anywhere = Wanted {
        only_here: false,
        ..wanted
    };
    if wanted.only_here && members.elsewhere.iter().any(|instance| anywhere.allows(instance)) {
        return Some(unreachable(pool));
    }
    Some(nobody(pool, wanted.target))
}

/// The refusal when nobody offers a name, or only by a specification that is not here.
pub(crate) fn nobody(pool: &Pool, target: Option<&SpokeName>) -> CallError {
    let name = &pool.name;
    if pool.waits_for_spec {
        let message = format!("the specification of `{name}` is not loaded yet");
        return CallError::new(Code::Unavailable, message).retryable();
    }
    let message = match target {
        Some(target) => format!("spoke `{target}` does not offer `{name}` now"),
        None => format!("no spoke offers `{name}` now"),
    };
    CallError::new(Code::NoProvider, message).retryable()
}

fn busy(pool: &Pool) -> CallError {
    let name = &pool.name;
    let message = format!("every instance that offers `{name}` runs as many calls as it takes at once");
    CallError::new(Code::Overloaded, message).retryable()
}

/// The refusal when the instances are on other hubs, none of which can be reached.
pub(crate) fn unreachable(pool: &Pool) -> CallError {
    let message = format!("`{}` is offered on other hubs, and the link to them is down", pool.name);
    CallError::new(Code::Unavailable, message).retryable()
}

/// The refusal for a name that nobody has offered.
pub(crate) fn not_found(operation: &OperationName) -> CallError {
    let message = format!("operation `{operation}` is not registered");
    CallError::new(Code::OperationNotFound, message)
}

// === impl Excluded ===

impl Excluded<'_> {
    fn has(self, instance: &Instance) -> bool {
        match self {
            Self::Nobody => false,
            Self::Registration(registration) => instance.is_same_registration(registration),
            Self::Hub(hub) => instance.entry.hub == *hub,
        }
    }
}

// === impl Wanted ===

impl Wanted<'_> {
    /// The same, but hubs that go away and instances that may come back count too.
    fn anywhere(self) -> Self {
        Self {
            draining: None,
            connected: false,
            ..self
        }
    }

    fn is_choosy(&self) -> bool {
        self.connected || self.draining.is_some()
    }

    fn allows(&self, instance: &Instance) -> bool {
        self.target.is_none_or(|target| instance.entry.spoke == *target)
            && self.draining.is_none_or(|hubs| !hubs.contains(&instance.entry.hub))
            && !self.not.has(instance)
            && !(self.connected && instance.is_reconnecting())
            && instance.session.as_ref().map_or(!self.only_here, |session| {
                session.is_open() && !(self.connected && session.outbox.is_leaving())
            })
    }
}

#[cfg(test)]
mod tests;
