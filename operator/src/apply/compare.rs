//! The part of a live object that covers the same fields as a wanted one; pure.

use serde_json::{Map, Value};

/// Fields that identify the items of a list; the first that an item has counts.
const KEYS: [&str; 5] = ["mountPath", "containerPort", "uid", "name", "key"];

/// The live object cut down to the fields that `wanted` has; what is missing is left out.
pub(super) fn projection(live: &Value, wanted: &Value) -> Value {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => {
            let fields = wanted
                .iter()
                .filter_map(|(key, wanted)| Some((key.clone(), projection(live.get(key)?, wanted))));
            Value::Object(fields.collect::<Map<_, _>>())
        }
        (Value::Array(live), Value::Array(wanted)) => Value::Array(items(live, wanted)),
        _ => live.clone(),
    }
}

/// Items that can be identified are compared with their namesakes, so that items from others (a sidecar that an
/// admission webhook added) do not matter; other lists are compared whole.
fn items(live: &[Value], wanted: &[Value]) -> Vec<Value> {
    let Some(key) = KEYS
        .into_iter()
        .find(|key| !wanted.is_empty() && wanted.iter().all(|item| !item[*key].is_null()))
    else {
        let shape = |index: usize| wanted.get(index).unwrap_or(&Value::Null);
        return live
            .iter()
            .enumerate()
            .map(|(index, item)| projection(item, shape(index)))
            .collect();
    };
    let namesake = |wanted: &Value| {
        live.iter()
            .find(|item| item[key] == wanted[key])
            .map(|item| projection(item, wanted))
    };
    wanted.iter().filter_map(namesake).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_that_others_set_do_not_matter() {
        let wanted = json!({"spec": {"containers": [{"name": "hub", "image": "a", "ports": [{"containerPort": 1}]}]}});
        let live = json!({"spec": {"dnsPolicy": "ClusterFirst", "containers": [
            {"name": "sidecar", "image": "x"},
            {"name": "hub", "image": "a", "ports": [{"containerPort": 1, "protocol": "TCP"}]}
        ]}, "status": {}});

        assert_eq!(projection(&live, &wanted), wanted);
    }

    #[test]
    fn a_changed_or_missing_field_shows() {
        let wanted = json!({"a": {"b": 1, "c": [1, 2]}});

        for live in [
            json!({"a": {"b": 2, "c": [1, 2]}}),
            json!({"a": {"c": [1, 2]}}),
            json!({"a": {"b": 1, "c": [1, 2, 3]}}),
            json!({}),
        ] {
            assert_ne!(projection(&live, &wanted), wanted, "{live}");
        }
    }
}
