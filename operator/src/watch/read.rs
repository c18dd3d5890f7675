//! One object of ours as the API server sent it: read, or the reason why it cannot be.
//!
//! Invariants
//! - Each object fails alone. A page of a list is parsed as a list of raw texts, and each text by itself: one that is
//!   nested too deeply, or has a number that is too large, does not cost us the others.
//! - No text can make this process recurse without bound: the parser of texts does not recurse, and that of objects has
//!   a limit.

use alkhub_crds::Condition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// An object, or what is known of one that cannot be read.
#[derive(Clone, Debug)]
pub(crate) struct Read<K>(pub(crate) Result<K, Box<Unreadable>>);

/// What is known of an object that cannot be read.
#[derive(Clone, Debug)]
pub(crate) struct Unreadable {
    /// Names, uid, version and generation; nothing else.
    pub(crate) meta: ObjectMeta,
    /// The path to the value and what is wrong with it.
    pub(crate) error: String,
    /// Which operator keeps it, as its status says.
    pub(crate) operator: Option<String>,
    pub(crate) conditions: Vec<Condition>,
}

/// The longest part of a path that is shown: the beginning of a path that is too deep says where it is.
const PATH_CHARS: usize = 100;

/// Everything that is not named here is skipped, whatever it looks like.
#[derive(Deserialize)]
struct Bare<'a> {
    #[serde(default)]
    metadata: Marks,
    #[serde(borrow)]
    status: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Marks {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    generation: Option<i64>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Known {
    operator: Option<String>,
    conditions: Vec<Condition>,
}

// === impl Read ===

impl<K: DeserializeOwned> Read<K> {
    fn of(text: &str) -> serde_json::Result<Self> {
        let mut object = serde_json::Deserializer::from_str(text);
        let error = match serde_path_to_error::deserialize::<_, K>(&mut object) {
            Ok(object) => return Ok(Self(Ok(object))),
            Err(error) => error,
        };
        let path: String = error.path().to_string().chars().take(PATH_CHARS).collect();
        let error = format!("{path}: {}", error.inner());
        let Bare { metadata, status } = serde_json::from_str(text)?;
        let known = status.and_then(|status| serde_json::from_str::<Known>(status.get()).ok());
        let known = known.unwrap_or_default();
        let meta = ObjectMeta {
            name: metadata.name,
            namespace: metadata.namespace,
            uid: metadata.uid,
            resource_version: metadata.resource_version,
            generation: metadata.generation,
            ..ObjectMeta::default()
        };
        Ok(Self(Err(Box::new(Unreadable {
            meta,
            error,
            operator: known.operator,
            conditions: known.conditions,
        }))))
    }
}

impl<'de, K: DeserializeOwned> Deserialize<'de> for Read<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Box::<RawValue>::deserialize(deserializer)?;
        Self::of(text.get()).map_err(D::Error::custom)
    }
}

impl<K: Resource> Resource for Read<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(of: &Self::DynamicType) -> std::borrow::Cow<'_, str> {
        K::kind(of)
    }

    fn group(of: &Self::DynamicType) -> std::borrow::Cow<'_, str> {
        K::group(of)
    }

    fn version(of: &Self::DynamicType) -> std::borrow::Cow<'_, str> {
        K::version(of)
    }

    fn plural(of: &Self::DynamicType) -> std::borrow::Cow<'_, str> {
        K::plural(of)
    }

    fn meta(&self) -> &ObjectMeta {
        self.0.as_ref().map_or_else(|unread| &unread.meta, K::meta)
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.0.as_mut().map_or_else(|unread| &mut unread.meta, K::meta_mut)
    }
}

/// The kinds as constants, for labels of metrics.
pub(super) fn kind_of(kind: &str) -> &'static str {
    const KINDS: [&str; 11] = [
        "Hub",
        "Spoke",
        "ControllerRevision",
        "ReplicaSet",
        "Pod",
        "StatefulSet",
        "Service",
        "ConfigMap",
        "ServiceAccount",
        "PodDisruptionBudget",
        "Secret",
    ];
    KINDS.into_iter().find(|known| *known == kind).unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use alkhub_crds::Hub;
    use kube::core::{ObjectList, WatchEvent};
    use serde_json::{Value, json};

    use super::*;

    fn hub(spec: &Value) -> Value {
        json!({
            "apiVersion": "alkhub.dev/v1alpha1", "kind": "Hub", "spec": spec,
            "metadata": {"name": "h", "namespace": "n", "uid": "u", "resourceVersion": "7", "generation": 3},
            "status": {"operator": "team/alkhub-operator"},
        })
    }

    /// A Hub with settings nested so deeply that no `Value` could be made of it, as text.
    fn deep(depth: usize) -> String {
        let settings = format!("{}1{}", r#"{"a":"#.repeat(depth), "}".repeat(depth));
        let plain = json!({"redis": {"managed": true}, "postgres": {"managed": true}, "config": {"calls": "DEEP"}});
        hub(&plain).to_string().replace("\"DEEP\"", &settings)
    }

    #[test]
    fn one_hub_that_is_nested_too_deeply_costs_no_other_of_a_list_or_of_a_watch() {
        let plain = hub(&json!({"redis": {"managed": true}, "postgres": {"managed": true}}));
        let list = format!(
            r#"{{"apiVersion":"v1","kind":"HubList","metadata":{{"resourceVersion":"9"}},"items":[{},{plain}]}}"#,
            deep(100_000)
        );
        let event = format!(r#"{{"type":"MODIFIED","object":{}}}"#, deep(140));

        let list: ObjectList<Read<Hub>> = serde_json::from_str(&list).expect("a list");
        let event: WatchEvent<Read<Hub>> = serde_json::from_str(&event).expect("an event");

        let unread = list.items[0].0.as_ref().expect_err("too deep");
        assert!(
            unread.error.contains("recursion limit") && unread.error.len() < 200,
            "{}",
            unread.error
        );
        assert_eq!(
            (unread.meta.name.as_deref(), unread.meta.generation),
            (Some("h"), Some(3))
        );
        assert!(list.items[1].0.is_ok());
        assert!(matches!(event, WatchEvent::Modified(Read(Err(_)))));
    }

    #[test]
    fn a_number_that_is_too_large_is_named_with_its_path() {
        let spread =
            json!([{"maxSkew": 99_999_999_999_i64, "topologyKey": "k", "whenUnsatisfiable": "ScheduleAnyway"}]);
        let spec = json!({"redis": {}, "postgres": {}, "template": {"topologySpreadConstraints": spread}});

        let read: Read<Hub> = serde_json::from_value(hub(&spec)).expect("a guard reads everything");

        let unread = read.0.expect_err("no i32");
        assert!(
            unread
                .error
                .starts_with("spec.template.topologySpreadConstraints[0].maxSkew: ")
                && unread.error.contains("99999999999"),
            "{}",
            unread.error
        );
        assert_eq!(unread.operator.as_deref(), Some("team/alkhub-operator"));
    }
}
