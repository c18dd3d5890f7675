//! The types of frames, as they appear in the member `type` of an envelope. Anything else is the type of an event.

/// Asks for a call.
pub const REQUESTED: &str = "call.requested";

/// Answers a call; for a subscription, with one item.
pub const RESPONDED: &str = "call.responded";

/// A subscription has ended.
pub const COMPLETED: &str = "call.completed";

/// A call was given up, by whoever asked for it or by the hub.
pub const ABORTED: &str = "call.aborted";

/// A call has failed.
pub const FAILED: &str = "call.error";

/// Registers a spoke; also the name of the operation, for spokes that register by a call.
pub const REGISTER: &str = "hub.register";

/// Changes what a spoke offers; also the operation, for spokes that do so by a call.
pub const REGISTER_UPDATE: &str = "hub.register.update";

/// The same as an operation's name, which has exactly one dot.
pub const REGISTER_UPDATE_NAME: &str = "hub.register__2Eupdate";

/// Asks a peer to move its session to another hub.
pub const MIGRATE: &str = "hub.migrate";

/// Asks to subscribe to a topic.
pub const SUBSCRIBE: &str = "__subscribe";

/// Confirms a subscription.
pub const SUBSCRIBED: &str = "__subscribed";

/// Asks to end a subscription.
pub const UNSUBSCRIBE: &str = "__unsubscribe";

/// Confirms the end of a subscription.
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

/// How many hubs take connections.
pub const HUBS: &str = "__hubs";

/// Asks for a sign of life.
pub const PING: &str = "__ping";

/// The sign of life.
pub const PONG: &str = "__pong";

/// The prefix of all types that belong to calls.
pub const OF_CALLS: &str = "call.";

/// The prefix of all types that belong to neither calls nor events.
pub const OF_CONTROL: &str = "__";
