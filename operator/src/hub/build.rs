//! Turns a plan into objects; pure. A value that no object can hold is an error, not a panic: it may be a user's.

mod account;
mod config;
pub(crate) mod deployment;
mod disruption;
mod managed;
mod service;
mod volume;

use alkhub_config::address::{POSTGRES_PORT, REDIS_PORT};
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::Error;
use crate::hub::generated::Generated;
use crate::hub::validate::{Plan, Wiring};
use crate::names::Part;

/// All that a Hub owns, Secrets aside.
#[derive(Clone, Debug)]
pub(crate) struct DesiredObjects {
    pub(crate) account: ServiceAccount,
    pub(crate) config: ConfigMap,
    pub(crate) services: Vec<Service>,
    pub(crate) sets: Vec<StatefulSet>,
    pub(crate) disruption: Option<PodDisruptionBudget>,
    pub(crate) deployment: Deployment,
}

pub(crate) fn build(plan: &Plan, generated: &Generated) -> Result<DesiredObjects, Error> {
    let mut services = service::of_hub(plan)?;
    let mut sets = Vec::new();
    if let (Wiring::Managed(storage), Some(password)) = (&plan.redis, &generated.redis) {
        services.push(service::of_server(&plan.names, Part::Redis, REDIS_PORT)?);
        sets.push(managed::redis(plan, storage, password)?);
    }
    if let (Wiring::Managed(storage), Some(_)) = (&plan.postgres, &generated.postgres) {
        services.push(service::of_server(&plan.names, Part::Postgres, POSTGRES_PORT)?);
        sets.push(managed::postgres(plan, storage)?);
    }
    Ok(DesiredObjects {
        account: account::build(&plan.names),
        config: config::build(plan),
        services,
        sets,
        disruption: disruption::build(plan)?,
        deployment: deployment::build(plan, generated)?,
    })
}

/// An object of Kubernetes from a literal; fields that are `null` or empty are left out.
fn object<T: DeserializeOwned>(kind: &'static str, mut literal: Value) -> Result<T, Error> {
    without_empty(&mut literal);
    serde_json::from_value(literal).map_err(|source| Error::Unmade { kind, source })
}

fn without_empty(value: &mut Value) {
    let empty = |value: &Value| match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        _ => false,
    };
    match value {
        Value::Object(fields) => {
            fields.values_mut().for_each(without_empty);
            fields.retain(|_, value| !empty(value));
        }
        Value::Array(items) => items.iter_mut().for_each(without_empty),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
