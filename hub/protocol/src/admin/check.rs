//! What a declaration of a spoke and a request for a key may contain: one rule for the hub, the commands and the
//! operator.
//!
//! The kind Spoke has the same bounds in its schema; a test of the operator compares the two.

use schemars::{Schema, SchemaGenerator, json_schema};

use super::{
    CONCURRENCY_LIMIT, KEY_NAME_LIMIT, KEY_SCOPES, KeyCreate, LABEL_LIMIT, PATTERN_LIMIT, SECONDS_LIMIT, SPOKE_LABELS,
    SPOKE_OPERATIONS, SPOKE_SCOPES, SpokePut, UID_LIMIT,
};
use crate::scope::{ADMIN, SPOKE};
use crate::{OperationName, Scopes};

/// A field of a request that breaks its rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{field}`: {rule}")]
pub struct InvalidField {
    /// The field, as JSON spells it.
    pub field: &'static str,
    /// The rule, as an instruction.
    pub rule: String,
}

// === impl KeyCreate ===

impl KeyCreate {
    /// Checks what a single field's type cannot express.
    ///
    /// # Errors
    /// [`InvalidField`]: the first field that is wrong, with the remedy.
    pub fn check(&self) -> Result<(), InvalidField> {
        text("name", &self.name, KEY_NAME_LIMIT)?;
        scopes(&self.scopes, KEY_SCOPES)?;
        let names_none = self.spoke.is_none() && !self.scopes.iter().any(|scope| scope == ADMIN);
        if names_none && self.scopes.allows(SPOKE) {
            return wrong(
                "scopes",
                "`spoke` alone cannot register: name the spoke that the key is of (`spoke`; `--spoke NAME`)",
            );
        }
        match self.expires_in_seconds {
            Some(seconds) if !(1..=SECONDS_LIMIT).contains(&seconds) => {
                wrong("expiresInSeconds", format!("must be 1 to {SECONDS_LIMIT}"))
            }
            Some(_) | None => Ok(()),
        }
    }
}

// === impl SpokePut ===

impl SpokePut {
    /// Checks what a single field's type cannot express.
    ///
    /// # Errors
    /// [`InvalidField`]: the first field that is wrong, with the remedy.
    pub fn check(&self) -> Result<(), InvalidField> {
        text("uid", &self.uid, UID_LIMIT)?;
        if self.overlap_seconds > SECONDS_LIMIT {
            return wrong("overlapSeconds", format!("must be {SECONDS_LIMIT} at most"));
        }
        most("operations", self.operations.len(), SPOKE_OPERATIONS)?;
        self.operations.iter().try_for_each(|pattern| operation(pattern))?;
        scopes(&self.scopes, SPOKE_SCOPES)?;
        if self.scopes.iter().any(|scope| scope == ADMIN) {
            return wrong(
                "scopes",
                "a spoke's key cannot hold the scope `admin`: it is handed out",
            );
        }
        most("labels", self.labels.len(), SPOKE_LABELS)?;
        for (name, value) in &self.labels {
            text("labels", name, LABEL_LIMIT)?;
            if value.chars().count() > LABEL_LIMIT || value.chars().any(char::is_control) {
                return wrong(
                    "labels",
                    format!("the value of `{name}` must have {LABEL_LIMIT} characters at most, none of them a control"),
                );
            }
        }
        match self.concurrency {
            Some(calls) if !(1..=CONCURRENCY_LIMIT).contains(&calls) => wrong(
                "concurrency",
                format!("must be 1 to {CONCURRENCY_LIMIT}; leave it out for no limit"),
            ),
            Some(_) | None => Ok(()),
        }
    }
}

// === impl SpokePut, its key ===

impl SpokePut {
    /// Checks that a declaration without a key sets nothing about a key: the declaration waits for its key.
    ///
    /// # Errors
    /// [`InvalidField`]: the field that would have no effect.
    pub fn check_key(&self) -> Result<(), InvalidField> {
        const ALONE: &str = "says something of `key`, which is not there: give the key with it, or leave it out";
        if self.key.is_some() {
            return Ok(());
        }
        if self.overlap_seconds > 0 {
            return wrong("overlapSeconds", ALONE);
        }
        match self.key_expires_at {
            Some(_) => wrong("keyExpiresAt", ALONE),
            None => Ok(()),
        }
    }
}

/// The schema of labels, with the bounds of the check.
pub(super) fn labels_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": SPOKE_LABELS,
        "propertyNames": { "minLength": 1, "maxLength": LABEL_LIMIT, "pattern": super::ONE_LINE },
        "additionalProperties": { "type": "string", "maxLength": LABEL_LIMIT, "pattern": super::ONE_LINE },
    })
}

/// Adds the rule that the scope `spoke` needs a spoke to the schema of a request for a key.
pub(super) fn scope_spoke_needs_a_spoke(schema: &mut Schema) {
    schema.insert(
        "anyOf".to_owned(),
        serde_json::json!([
            { "properties": { "scopes": { "not": { "contains": { "const": SPOKE } } } } },
            { "properties": { "spoke": { "type": "string" } }, "required": ["spoke"] },
            { "properties": { "scopes": { "contains": { "const": ADMIN } } } },
        ]),
    );
}

/// Adds the rule that settings of a key need the key to the schema of a declaration.
pub(super) fn what_is_of_a_key_needs_one(schema: &mut Schema) {
    schema.insert(
        "anyOf".to_owned(),
        serde_json::json!([
            { "properties": { "overlapSeconds": { "const": 0 }, "keyExpiresAt": { "type": "null" } } },
            { "properties": { "key": { "type": "string" } }, "required": ["key"] },
        ]),
    );
}

fn wrong<T>(field: &'static str, rule: impl Into<String>) -> Result<T, InvalidField> {
    Err(InvalidField {
        field,
        rule: rule.into(),
    })
}

fn text(field: &'static str, text: &str, limit: usize) -> Result<(), InvalidField> {
    if !(1..=limit).contains(&text.chars().count()) {
        return wrong(field, format!("must have 1 to {limit} characters"));
    }
    if text.chars().any(char::is_control) {
        return wrong(field, "must not hold control characters");
    }
    Ok(())
}

fn most(field: &'static str, count: usize, limit: usize) -> Result<(), InvalidField> {
    if count > limit {
        return wrong(field, format!("must be {limit} at most"));
    }
    Ok(())
}

fn scopes(scopes: &Scopes, limit: usize) -> Result<(), InvalidField> {
    most("scopes", scopes.iter().count(), limit)?;
    scopes.check().or_else(|error| wrong("scopes", error.to_string()))
}

/// Accepts `namespace.operation`, `namespace.*` or `*`, but not the hub's own namespace.
fn operation(pattern: &str) -> Result<(), InvalidField> {
    let name = match pattern.strip_suffix(".*") {
        Some(namespace) => format!("{namespace}.x"),
        None => pattern.to_owned(),
    };
    let valid = |parsed: OperationName| parsed.as_str() == name && !parsed.is_reserved();
    if pattern == "*" || (pattern.chars().count() <= PATTERN_LIMIT && name.parse().is_ok_and(valid)) {
        return Ok(());
    }
    let shown: String = pattern.escape_debug().to_string().chars().take(80).collect();
    wrong(
        "operations",
        format!(
            "`{shown}` must be `namespace.operation`, `namespace.*` or `*`, of {PATTERN_LIMIT} characters at most, and \
             not in `hub`"
        ),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn put(change: &Value) -> Result<(), InvalidField> {
        let mut put = json!({ "uid": "u" });
        for (field, value) in change.as_object().expect("fields") {
            put[field] = value.clone();
        }
        serde_json::from_value::<SpokePut>(put).expect("typed").check()
    }

    #[test]
    fn a_declaration_that_the_kind_spoke_refuses_is_refused_here_too() {
        let many: Vec<String> = (0..65).map(|n| format!("s{n}")).collect();
        for (change, field) in [
            (json!({ "uid": "" }), "uid"),
            (json!({ "scopes": ["admin"] }), "scopes"),
            (json!({ "scopes": ["call:text*"] }), "scopes"),
            (json!({ "scopes": many }), "scopes"),
            (json!({ "concurrency": 0 }), "concurrency"),
            (json!({ "concurrency": 100_001 }), "concurrency"),
            (json!({ "operations": ["hub.*"] }), "operations"),
            (json!({ "operations": ["text*"] }), "operations"),
            (json!({ "operations": ["/text/upper"] }), "operations"),
            (json!({ "labels": { "a": "x".repeat(257) } }), "labels"),
            (json!({ "labels": { "a\n": "x" } }), "labels"),
        ] {
            let error = put(&change).expect_err("refused");
            assert_eq!(error.field, field, "{change}: {error}");
        }
        let whole = json!({ "operations": ["*", "a.b", "a.*"], "concurrency": 1, "scopes": ["call:a.b", "own"] });
        assert_eq!(put(&whole), Ok(()));
    }

    #[test]
    fn a_key_has_a_name_of_one_line_and_the_scope_spoke_only_with_a_spoke() {
        let key = |name: &str, scopes: &[&str], spoke: Option<&str>| {
            KeyCreate {
                name: name.to_owned(),
                scopes: Scopes::new(scopes.iter().copied()),
                spoke: spoke.map(|spoke| spoke.parse().expect("valid")),
                expires_in_seconds: None,
            }
            .check()
        };

        assert_eq!(key("ci", &["call:*"], None), Ok(()));
        assert_eq!(key("b", &["spoke"], Some("builder")), Ok(()));
        assert_eq!(key("a", &["spoke", "admin"], None), Ok(()));
        for name in ["", "two\nlines", "\u{1b}[2J", &"x".repeat(257)] {
            assert_eq!(key(name, &[], None).expect_err("refused").field, "name", "{name:?}");
        }
        let alone = key("b", &["spoke"], None).expect_err("refused").to_string();
        assert!(
            alone.contains("cannot register") && alone.contains("--spoke"),
            "{alone}"
        );
    }
}
