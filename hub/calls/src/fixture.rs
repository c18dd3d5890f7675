//! Operations and registrations for the tests of this crate.

use std::sync::Arc;

use alkhub_budget::{Budget, Budgets, Kept};
use alkhub_config::BudgetConfig;
use alkhub_hub_cluster::{DirectoryEntry, OfferedOperation};
use alkhub_protocol::{Dialect, OperationSpec, RawJson};
use alkhub_schema::cache::Capacity;
use jiff::Timestamp;
use prometheus::Registry;

use crate::directory::Instance;
use crate::directory::compiled::Specs;
use crate::directory::operation::Operation;
use crate::leg::input::{CALL_BYTES, Input};
use crate::metrics::Metrics;
use crate::session::Session;
use crate::{Limits, Outgoing, outbox};

pub(crate) fn metrics() -> Arc<Metrics> {
    Arc::new(Metrics::register(&Registry::new()).expect("a fresh registry"))
}

/// The default budget of a key.
pub(crate) fn budget() -> Budget {
    let budgets = Budgets::new(&BudgetConfig::default(), &Registry::new()).expect("a fresh registry");
    budgets.key(&Arc::from("key"))
}

/// An arbitrary input.
pub(crate) fn input() -> Arc<Input> {
    let held = budget().take(Kept::Calls, CALL_BYTES).expect("room");
    Arc::new(Input::new(None, held))
}

pub(crate) fn specs() -> Arc<Specs> {
    let capacity = Capacity {
        total: 1 << 30,
        per_spoke: 1 << 30,
    };
    Arc::new(Specs::new(metrics(), capacity, &Registry::new()).expect("a fresh registry"))
}

/// A query `namespace.name` with the given input schema.
pub(crate) fn spec(name: &str, input_schema: &str) -> OperationSpec {
    let (namespace, name) = name.split_once('.').expect("dotted");
    let text = format!(
        r#"{{"namespace":"{namespace}","name":"{name}","type":"query","inputSchema":{input_schema},"outputSchema":true}}"#
    );
    RawJson::parse(text).expect("JSON").to().expect("a specification")
}

pub(crate) fn operation(specs: &Specs, name: &str, input_schema: &str) -> Arc<Operation> {
    compiled(specs, spec(name, input_schema))
}

pub(crate) fn compiled(specs: &Specs, spec: OperationSpec) -> Arc<Operation> {
    let hash = alkhub_protocol::SpecHash::of(&spec);
    if let Some(known) = specs.get(&hash) {
        return known;
    }
    let name = spec.operation().expect("valid");
    let spoke = "builder".parse().expect("valid");
    let series = metrics().series(&name, Some(&spoke));
    let operation = Operation::compile(name, spec, hash, series, usize::MAX);
    specs.keep(&spoke, operation.expect("compiles")).expect("fits")
}

/// A registration `spoke/instance@generation` on a hub that offers operations.
pub(crate) fn entry(text: &str, hub: &str, operations: &[&Arc<Operation>]) -> DirectoryEntry {
    let (spoke, rest) = text.split_once('/').expect("spoke/instance@generation");
    let (instance, generation) = rest.split_once('@').expect("instance@generation");
    DirectoryEntry {
        spoke: spoke.parse().expect("valid"),
        instance: instance.parse().expect("valid"),
        hub: hub.parse().expect("valid"),
        connection: format!("{hub}-c"),
        generation: generation.parse().expect("a number"),
        state: alkhub_protocol::admin::InstanceState::Connected,
        spoke_type: alkhub_protocol::register::SpokeType::default(),
        labels: std::collections::BTreeMap::new(),
        concurrency: None,
        connected_at: Timestamp::UNIX_EPOCH,
        host_info: None,
        operations: operations
            .iter()
            .map(|operation| OfferedOperation {
                name: operation.name.clone(),
                hash: operation.hash.to_string(),
            })
            .collect(),
    }
}

/// A registration on another hub.
pub(crate) fn remote(text: &str, operations: &[&Arc<Operation>]) -> Arc<Instance> {
    Arc::new(Instance::new(entry(text, "hub-b", operations), None))
}

/// A registration on this hub, with the reading end of its session.
pub(crate) fn local(text: &str, operations: &[&Arc<Operation>]) -> (Arc<Instance>, Outgoing) {
    let entry = entry(text, "hub-a", operations);
    let (outbox, outgoing) = outbox(
        entry.connection.as_str(),
        Limits {
            items: 100,
            bytes: 1 << 20,
        },
        &budget(),
    );
    outbox.speaks(Dialect::Payload);
    let session = Arc::new(Session::new(entry.spoke.clone(), entry.instance.clone(), outbox));
    session.set_generation(entry.generation);
    (Arc::new(Instance::new(entry, Some(session))), outgoing)
}
