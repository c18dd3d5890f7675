//! The committed CRDs are what the types say, and keep to the rules that every CRD of ours follows.

use std::path::Path;

use serde_json::Value;

fn committed(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap_or_default()
}

fn schemas() -> Vec<(&'static str, Value)> {
    alkhub_crds::manifest::all()
        .into_iter()
        .map(|(name, crd)| {
            let crd = serde_json::to_value(crd).expect("plain data");
            (name, crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone())
        })
        .collect()
}

fn walk(path: &str, schema: &Value, visit: &mut impl FnMut(&str, &Value)) {
    visit(path, schema);
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        walk(&format!("{path}.{name}"), property, visit);
    }
    if schema["items"].is_object() {
        walk(&format!("{path}[]"), &schema["items"], visit);
    }
    if schema["additionalProperties"].is_object() {
        walk(&format!("{path}{{}}"), &schema["additionalProperties"], visit);
    }
}

#[test]
fn committed_crds_are_what_the_types_say() {
    for (name, crd) in alkhub_crds::manifest::all() {
        assert!(
            committed(name) == alkhub_crds::manifest::yaml(&crd),
            "crds/{name} is stale: run `cargo run -p alkhub-crds --bin crdgen`"
        );
    }
}

#[test]
fn every_rule_has_a_message_and_no_rule_is_empty() {
    let mut rules = 0;
    for (name, schema) in schemas() {
        walk("", &schema, &mut |path, node| {
            for rule in node["x-kubernetes-validations"].as_array().into_iter().flatten() {
                rules += 1;
                let message = rule["message"].as_str().unwrap_or_default();
                assert!(message.len() > 10, "{name} {path}: a rule without a message: {rule}");
                assert!(
                    node["properties"].is_null() || rule["fieldPath"].is_string(),
                    "{name} {path}: no fieldPath: {rule}"
                );
            }
        });
    }
    assert!(rules >= 10, "only {rules} rules");
}

#[test]
fn every_field_of_ours_is_explained() {
    for (name, schema) in schemas() {
        walk("", &schema, &mut |path, node| {
            let own = ["spec", "status"]
                .iter()
                .any(|part| path.starts_with(&format!(".{part}")));
            let leaf = path.rsplit(['.', '[', '{']).next().unwrap_or_default();
            let foreign = path.contains("affinity.") || path.contains("tolerations") || path.contains("topologySpread");
            if own && !foreign && !leaf.ends_with([']', '}']) {
                assert!(node["description"].is_string(), "{name} {path} has no description");
            }
        });
    }
}

#[test]
fn lists_and_texts_of_a_spec_are_bounded() {
    for (name, schema) in schemas() {
        walk("", &schema["properties"]["spec"], &mut |path, node| {
            let foreign = path.contains("affinity")
                || path.contains("tolerations[")
                || path.contains("topologySpread")
                || path.contains("resources")
                || path.contains("imagePullSecrets[");
            if foreign || node["enum"].is_array() {
                return;
            }
            match node["type"].as_str() {
                Some("array") => assert!(node["maxItems"].is_number(), "{name} spec{path} has no maxItems"),
                Some("string") => assert!(node["maxLength"].is_number(), "{name} spec{path} has no maxLength"),
                Some("integer") => assert!(node["maximum"].is_number(), "{name} spec{path} has no maximum"),
                _ => {}
            }
        });
    }
}

#[test]
fn no_number_of_a_spec_is_larger_than_its_type() {
    let mut numbers = 0;
    for (name, schema) in schemas() {
        walk("", &schema["properties"]["spec"], &mut |path, node| {
            let most = match node["format"].as_str() {
                Some("int32") => i64::from(i32::MAX),
                Some("uint32") => i64::from(u32::MAX),
                Some("int64") => 1 << 53,
                other => return assert_eq!(other, None, "{name} spec{path}"),
            };
            numbers += 1;
            let bound = |which: &str| {
                node[which]
                    .as_f64()
                    .unwrap_or_else(|| panic!("{name} spec{path} has no {which}"))
            };
            #[expect(clippy::cast_precision_loss, reason = "both are exact in a float")]
            let most = most as f64;
            assert!(
                bound("minimum") >= -most - 1.0 && bound("maximum") <= most,
                "{name} spec{path}"
            );
        });
    }
    assert!(numbers > 5, "{numbers}");
}

#[test]
fn settings_are_two_levels_and_lists_of_plain_values() {
    let [(_, hub), _] = <[_; 2]>::try_from(schemas()).expect("two kinds");

    let setting = &hub["properties"]["spec"]["properties"]["config"]["additionalProperties"]["additionalProperties"];

    for node in [setting, &setting["items"]] {
        assert_eq!(
            (&node["maxProperties"], &node["x-kubernetes-preserve-unknown-fields"]),
            (&0.into(), &true.into())
        );
    }
    assert_eq!(setting["items"]["maxItems"], 0);
}

#[test]
fn status_and_scale_are_subresources() {
    for (name, crd) in alkhub_crds::manifest::all() {
        let subresources = crd.spec.versions[0].subresources.clone().expect(name);
        assert!(subresources.status.is_some(), "{name}");
        assert_eq!(subresources.scale.is_some(), name == "hub.yaml");
    }
}

#[test]
fn no_description_breaks_a_sentence_and_every_quantity_has_its_pattern() {
    let mut quantities = 0;
    for (name, schema) in schemas() {
        walk("", &schema, &mut |path, node| {
            let text = node["description"].as_str().unwrap_or_default();
            for lines in text
                .split("\n\n")
                .map(|paragraph| paragraph.lines().collect::<Vec<_>>())
            {
                let broken = lines
                    .iter()
                    .skip(1)
                    .find(|line| !line.trim_start().starts_with(['-', '*', '|']));
                assert!(broken.is_none(), "{name} {path} breaks before `{broken:?}`");
            }
            if node["x-kubernetes-int-or-string"] == true {
                quantities += 1;
                assert!(node["pattern"].is_string(), "{name} {path} takes any text");
            }
        });
    }
    assert_eq!(quantities, 2, "limits and requests");
}
