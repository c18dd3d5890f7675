//! Whether a call may be made: rights, input, limits. The stage before a call is sent anywhere.

pub(crate) mod prepared;
pub(crate) mod quota;

use std::sync::Arc;
use std::time::Duration;

use alkhub_budget::{Budgets, Held, Kept};
use alkhub_config::CallsConfig;
use alkhub_protocol::{CallError, CallRequest, Code, PAYLOAD_LIMIT_BYTES};

use crate::admission::quota::{KeyPlace, Quota};
use crate::caller::Caller;
use crate::directory::operation::Operation;
use crate::directory::router;
use crate::directory::{Directory, Pool};
use crate::leg::call::TimeLimits;
use crate::leg::input::bare_bytes;
use crate::leg::table::CallTable;

/// Admits calls.
#[derive(Debug)]
pub(crate) struct Admission {
    directory: Arc<Directory>,
    table: Arc<CallTable>,
    budgets: Budgets,
    quota: Quota,
    limits: Limits,
}

/// A call that may be made.
#[derive(Debug)]
pub(crate) struct AdmittedCall {
    pub(crate) pool: Arc<Pool>,
    pub(crate) operation: Arc<Operation>,
    pub(crate) place: CallPlace,
}

/// What a running call takes from its key, a place and bytes, until this is dropped.
#[derive(Debug)]
pub(crate) struct CallPlace {
    /// The bytes that it makes the hub keep.
    pub(crate) held: Held,
    /// Its place among the running calls.
    pub(crate) running: KeyPlace,
}

#[derive(Debug)]
struct Limits {
    in_flight: usize,
    in_flight_per_key: usize,
    default_timeout: Duration,
    max_timeout: Duration,
}

// === impl Admission ===

impl Admission {
    pub(crate) fn new(
        directory: Arc<Directory>,
        table: Arc<CallTable>,
        budgets: Budgets,
        config: &CallsConfig,
    ) -> Self {
        Self {
            directory,
            table,
            budgets,
            quota: Quota::default(),
            limits: Limits {
                in_flight: config.max_in_flight,
                in_flight_per_key: config.max_in_flight_per_key,
                default_timeout: config.default_timeout,
                max_timeout: config.max_timeout,
            },
        }
    }

    /// Calls that one key may run at once.
    pub(crate) fn in_flight_per_key(&self) -> usize {
        self.limits.in_flight_per_key
    }

    /// The operation that a caller wants to call, if it may: a caller that may not call a name learns nothing about it.
    pub(crate) fn find(
        &self,
        caller: &Caller,
        request: &CallRequest,
    ) -> Result<(Arc<Pool>, Arc<Operation>), CallError> {
        router::allow_call(&caller.scopes, &request.operation)?;
        let pool = self.directory.pool(&request.operation);
        let pool = pool.ok_or_else(|| router::not_found(&request.operation))?;
        // Without a specification nobody is in the pool.
        let Some(operation) = pool.operation.clone() else {
            return Err(router::nobody(&pool, request.target.as_ref()));
        };
        router::allow_operation(&caller.scopes, &operation)?;
        Ok((pool, operation))
    }

    /// Makes every check that can refuse a call before it is sent.
    pub(crate) fn admit(&self, caller: &Caller, request: &CallRequest) -> Result<AdmittedCall, CallError> {
        let (pool, operation) = self.find(caller, request)?;
        let input = request.input_or_null();
        if input.len() > PAYLOAD_LIMIT_BYTES {
            let message = format!("the input is larger than {PAYLOAD_LIMIT_BYTES} bytes");
            return Err(CallError::new(Code::PayloadTooLarge, message));
        }
        operation.input.check(&input).map_err(|violation| {
            CallError::new(Code::ValidationError, format!("input {violation}")).details(violation.details())
        })?;
        if request.timeout.is_some_and(|timeout| timeout.is_zero()) {
            let message = "the deadline had passed when the call arrived";
            return Err(CallError::new(Code::Timeout, message));
        }
        if self.table.len() >= self.limits.in_flight {
            let message = "the hub runs as many calls as it may (`calls.max-in-flight`)";
            return Err(CallError::new(Code::Overloaded, message).retryable());
        }
        let place = self.charge(&caller.key_id, input.len() + bare_bytes(request))?;
        Ok(AdmittedCall { pool, operation, place })
    }

    /// Charges a call to a key: the bytes that it makes the hub keep, and its place among the key's running calls.
    pub(crate) fn charge(&self, key: &Arc<str>, bytes: usize) -> Result<CallPlace, CallError> {
        let held = self.budgets.key(key).take(Kept::Calls, bytes)?;
        let running = self.quota.take(key, self.limits.in_flight_per_key)?;
        Ok(CallPlace { held, running })
    }

    /// How long a call may take. It always has a deadline, except an endless subscription: that has one only if its
    /// caller sets it.
    pub(crate) fn limits(&self, request: &CallRequest, is_endless: bool) -> TimeLimits {
        if is_endless {
            return TimeLimits {
                timeout: request.timeout,
                idle: request.idle_timeout,
            };
        }
        let timeout = request.timeout.unwrap_or(self.limits.default_timeout);
        TimeLimits {
            timeout: Some(timeout.min(self.limits.max_timeout)),
            idle: None,
        }
    }
}
