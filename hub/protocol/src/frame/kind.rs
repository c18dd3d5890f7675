//! The types of frames, as the member `type` of an envelope has them. Anything else is the type of an event.

/// A call is asked for.
pub const REQUESTED: &str = "call.requested";

/// A call is answered; of a subscription, with one item.
pub const RESPONDED: &str = "call.responded";

/// A subscription has ended.
pub const COMPLETED: &str = "call.completed";

/// A call was given up, by whoever asked for it or by the hub.
pub const ABORTED: &str = "call.aborted";

/// A call has failed.
pub const FAILED: &str = "call.error";

/// A spoke registers; also the operation by which it does, where it calls.
pub const REGISTER: &str = "hub.register";

/// A spoke offers something more, or no more; also the operation by which it says so, where it calls.
pub const REGISTER_UPDATE: &str = "hub.register.update";

/// The same as the name of an operation, which has one dot.
pub const REGISTER_UPDATE_NAME: &str = "hub.register__2Eupdate";

/// A peer is asked to go on with its session on another hub.
pub const MIGRATE: &str = "hub.migrate";

/// A topic is to be subscribed to.
pub const SUBSCRIBE: &str = "__subscribe";

/// It is.
pub const SUBSCRIBED: &str = "__subscribed";

/// A subscription is to end.
pub const UNSUBSCRIBE: &str = "__unsubscribe";

/// It has.
pub const UNSUBSCRIBED: &str = "__unsubscribed";

/// Events were lost.
pub const GAP: &str = "__gap";

/// A frame that belongs to no call was refused.
pub const REFUSED: &str = "__error";

/// A peer asks for more than a plain one gets.
pub const HELLO: &str = "__hello";

/// What the hub grants it.
pub const WELCOME: &str = "__welcome";

/// How much of a session the hub has, told to a peer that has come back to it.
pub const RESUME: &str = "__resume";

/// How many messages have been received.
pub const ACK: &str = "__ack";

/// How many hubs there are.
pub const HUBS: &str = "__hubs";

/// A sign of life is asked for.
pub const PING: &str = "__ping";

/// It is given.
pub const PONG: &str = "__pong";

/// What the types of frames of calls begin with.
pub const OF_CALLS: &str = "call.";

/// What the types of frames begin with that belong to neither calls nor events.
pub const OF_CONTROL: &str = "__";
