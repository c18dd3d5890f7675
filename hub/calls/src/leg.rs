//! The calls that run here: from admission to the spoke, and back to the caller.
//!
//! The files, in the order of their dependencies:
//!
//! | file | what |
//! |---|---|
//! | `call_id`, `input`, `outcome`, `reply`, `sink` | the identity of a call, its input, its end, and where its answers go |
//! | `wheel`, `pending`, `call` | deadlines, the pending table, and a running call |
//! | `missed`, `table` | the calls that wait for a look, and those that run |
//! | `ticket` | a running call in the hands of its caller |
//! | `placement` | the choice of an instance for a call, and sending it there |
//! | `envelope`, `answer` | the way back |
//! | `departure` | the end of many calls at once |
//! | `dispatch` | the way out |

pub(crate) mod answer;
pub(crate) mod call;
pub(crate) mod call_id;
pub(crate) mod departure;
pub(crate) mod dispatch;
pub(crate) mod envelope;
pub(crate) mod input;
pub(crate) mod missed;
pub(crate) mod outcome;
pub(crate) mod pending;
pub(crate) mod placement;
pub(crate) mod reply;
pub(crate) mod sink;
pub(crate) mod table;
pub(crate) mod ticket;
pub(crate) mod wheel;
