//! Turns a plan into objects; pure. A value that no object can hold is an error, not a panic: it may come from a user.

mod account;
mod config;
mod disruption;
mod managed;
mod replica_set;
mod service;
mod template;
mod volume;

use alkhub_config::address::{POSTGRES_PORT, REDIS_PORT};
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::error::Error;
use crate::hub::generated::Generated;
use crate::hub::revision::{Inputs, Made, Revision};
use crate::hub::validate::{Plan, Wiring};
use crate::names::Part;

/// All that a Hub owns, except Secrets.
#[derive(Clone, Debug)]
pub(crate) struct DesiredObjects {
    pub(crate) account: ServiceAccount,
    /// One for each revision that is kept.
    pub(crate) configs: Vec<ConfigMap>,
    pub(crate) services: Vec<Service>,
    pub(crate) sets: Vec<StatefulSet>,
    pub(crate) disruption: Option<PodDisruptionBudget>,
    /// One for each revision that is kept, the newest first.
    pub(crate) replica_sets: Vec<ReplicaSet>,
}

/// What a plan makes of a revision with these inputs. `count` is what its pods tell the other hubs as their revision.
pub(crate) fn made(plan: &Plan, inputs: &Inputs, count: i64) -> Result<Made, Error> {
    Ok(Made {
        count,
        template: template::build(plan, &inputs.name, count)?,
        settings: config::text(plan),
        secrets: inputs.secrets.clone(),
    })
}

/// The objects of a plan; those of its revisions as they were kept.
pub(crate) fn build(plan: &Plan, generated: &Generated, revisions: &[Revision]) -> Result<DesiredObjects, Error> {
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
        configs: revisions
            .iter()
            .map(|revision| config::build(&plan.names, revision))
            .collect(),
        services,
        sets,
        disruption: disruption::build(plan)?,
        replica_sets: revisions
            .iter()
            .map(|revision| replica_set::build(&plan.names, revision))
            .collect(),
    })
}

/// The security context of a pod whose processes run as this user and group.
fn unprivileged(user: i64) -> Value {
    json!({
        "runAsNonRoot": true,
        "runAsUser": user,
        "runAsGroup": user,
        "fsGroup": user,
        "seccompProfile": { "type": "RuntimeDefault" },
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
