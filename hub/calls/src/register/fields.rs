//! The fields of a specification that the hub does not act on. None of them is dropped silently.
//!
//! Invariants
//! - A field is refused by name if ignoring it would leave an operation open to callers whom its author meant to keep
//!   out.
//! - There is a warning, with the field's name, about each field that is kept but not enforced, each that is unknown
//!   and so not kept, and each declared error that can never occur as declared. The warnings are bounded, whatever was
//!   sent.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};

use alkhub_protocol::json::strict;
use alkhub_protocol::operation::SCOPES_LIMIT_BYTES;
use alkhub_protocol::{Code, OperationSpec, RawJson, scope};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::directory::operation::STATUSES;
use crate::session::spoken;

/// The fields of an OperationSpec, of its `accessControl` and of an entry of its `errorSchemas`.
const SPEC: &[&str] = &[
    "name",
    "namespace",
    "version",
    "type",
    "title",
    "description",
    "tags",
    "inputSchema",
    "outputSchema",
    "errorSchemas",
    "accessControl",
    "idempotent",
    "_meta",
];
const ACCESS: &[&str] = &["requiredScopes", "requiredScopesAny", "customAuth"];
const ERROR: &[&str] = &["code", "description", "schema", "httpStatus"];

/// The origin's checks by resource, which the hub does not make.
const REFUSED: &[&str] = &["resourceType", "resourceAction"];

/// The most warnings about one operation's fields; and the most characters of a name that are shown.
const MOST: usize = 8;
const SHOWN: usize = 80;

type Object<'a> = BTreeMap<Cow<'a, str>, &'a RawValue>;

#[derive(Deserialize)]
struct Parts<'a> {
    #[serde(borrow, rename = "accessControl", default)]
    access: Option<Object<'a>>,
    #[serde(borrow, rename = "errorSchemas", default)]
    errors: Vec<Object<'a>>,
}

/// The findings about a specification.
#[derive(Debug, PartialEq)]
pub(super) struct Looked {
    pub(super) warnings: Vec<String>,
    /// Whether everything that was sent is kept.
    pub(super) is_whole: bool,
}

/// Examines every field of a specification that has been read: returns the warnings about it, or why it is refused.
pub(super) fn look(raw: &RawJson, spec: &OperationSpec) -> Result<Looked, String> {
    // Both are objects, since the specification was read from them; if not, there is nothing to warn of.
    let all = strict::from_slice::<Object<'_>>(raw.as_bytes());
    let parts = strict::from_slice::<Parts<'_>>(raw.as_bytes());
    let is_read = all.is_ok() && parts.is_ok();
    let all = all.unwrap_or_default();
    let (access, errors) = parts.map_or_else(|_| (None, Vec::new()), |parts| (parts.access, parts.errors));
    let access = access.unwrap_or_default();
    let refused = REFUSED
        .iter()
        .find(|field| access.get(**field).is_some_and(|value| value.get() != "null"));
    if let Some(field) = refused {
        return Err(format!(
            "`accessControl.{field}` is not enforced by this hub, so the operation would be open to callers whom it \
             should refuse: use `requiredScopes`, or leave it out and check in the handler"
        ));
    }
    let mut warnings = Warnings::of(spec)?;
    warnings.unknown("", &all, SPEC);
    warnings.unknown("accessControl.", &access, &[ACCESS, REFUSED].concat());
    for error in &errors {
        warnings.unknown("errorSchemas.", error, ERROR);
    }
    Ok(Looked {
        is_whole: is_read && !warnings.has_unknown,
        warnings: warnings.finish(),
    })
}

/// The same for a specification that is known already: nothing in it is left out.
pub(super) fn look_at_known(spec: &OperationSpec) -> Result<Vec<String>, String> {
    Warnings::of(spec).map(Warnings::finish)
}

/// Checks that somebody can hold the scopes that a specification asks for.
fn check_scopes(spec: &OperationSpec) -> Result<(), String> {
    let scopes = &spec.access_control;
    let all_of = scopes.required_scopes.iter().map(|scope| ("requiredScopes", scope));
    let one_of = scopes
        .required_scopes_any
        .iter()
        .map(|scope| ("requiredScopesAny", scope));
    let named = all_of.chain(one_of);
    if named.clone().map(|(_, scope)| scope.len()).sum::<usize>() > SCOPES_LIMIT_BYTES {
        return Err(format!(
            "the scopes in `accessControl` have more than {SCOPES_LIMIT_BYTES} bytes together"
        ));
    }
    for (field, scope) in named {
        // No key with such a scope can be made, so nobody could call the operation.
        scope::check(scope).map_err(|error| format!("`accessControl.{field}`: {error}"))?;
    }
    Ok(())
}

#[derive(Default)]
struct Warnings {
    texts: Vec<String>,
    more: usize,
    /// Whether there is a field that is not kept.
    has_unknown: bool,
}

// === impl Warnings ===

impl Warnings {
    /// Examines a specification for fields that the hub does not act on.
    fn of(spec: &OperationSpec) -> Result<Self, String> {
        check_scopes(spec)?;
        let mut warnings = Self::default();
        if spec.access_control.custom_auth.is_some() {
            let text = "`accessControl.customAuth` is kept and not enforced by the hub: the spoke has to check it";
            warnings.add(text.to_owned());
        }
        warnings.errors(spec);
        Ok(warnings)
    }

    /// Warns of the declared errors that no caller will get as they are declared.
    fn errors(&mut self, spec: &OperationSpec) {
        let declared = &spec.error_schemas;
        let mut codes = HashSet::new();
        for error in declared {
            let code = shown(&error.code);
            if !codes.insert(error.code.as_str()) {
                self.add(format!(
                    "`errorSchemas.code`: `{code}` is declared twice, and the first one counts"
                ));
                continue;
            }
            let parsed: Option<Code> = error.code.parse().ok();
            if let Some(instead) = parsed.and_then(|code| spoken::replacement(&code, declared)) {
                self.add(format!(
                    "`errorSchemas.code`: `{code}` is no code that a spoke may answer: callers get `{instead}` in its \
                     place"
                ));
            }
            if let Some(status) = error.http_status.filter(|status| !STATUSES.contains(status)) {
                self.add(format!(
                    "`errorSchemas.httpStatus`: {status} of `{code}` is no status of an error, {} to {}, and not used",
                    STATUSES.start(),
                    STATUSES.end()
                ));
            }
        }
    }

    fn unknown(&mut self, place: &str, object: &Object<'_>, known: &[&str]) {
        for name in object.keys().filter(|name| !known.contains(&name.as_ref())) {
            self.has_unknown = true;
            let name = shown(name);
            self.add(format!("`{place}{name}` is not known to this hub and not kept"));
        }
    }

    fn add(&mut self, text: String) {
        if self.texts.contains(&text) {
            return;
        }
        if self.texts.len() < MOST {
            self.texts.push(text);
        } else {
            self.more += 1;
        }
    }

    fn finish(mut self) -> Vec<String> {
        if self.more > 0 {
            self.texts.push(format!(
                "{} more fields are not known to this hub, or not used as they are declared",
                self.more
            ));
        }
        self.texts
    }
}

/// The part of a spoke's own text that is repeated.
fn shown(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn looked(more: &Value) -> Result<Vec<String>, String> {
        let mut spec =
            json!({"name": "a", "namespace": "b", "type": "query", "inputSchema": true, "outputSchema": true});
        let fields = spec.as_object_mut().expect("an object");
        fields.extend(more.as_object().expect("an object").clone());
        let raw = RawJson::from(spec);
        let looked = look(&raw, &raw.to().expect("a specification"))?;
        let has_unknown = looked.warnings.iter().any(|warning| warning.contains("not kept"));
        assert_eq!(looked.is_whole, !has_unknown, "{looked:?}");
        Ok(looked.warnings)
    }

    /// A field that is added to the type but not here would be reported as unknown.
    #[test]
    fn every_field_of_a_specification_is_known() {
        let all = json!({
            "version": "1.0.0", "title": "t", "description": "d", "tags": ["t"], "idempotent": true, "_meta": {},
            "errorSchemas": [{"code": "A", "description": "d", "schema": true, "httpStatus": 404}],
            "accessControl": {"requiredScopes": ["x"], "requiredScopesAny": ["y"]},
        });
        assert_eq!(looked(&all), Ok(Vec::new()));
        let mut whole = all;
        for (field, value) in [("name", "a"), ("namespace", "b"), ("type", "query")] {
            whole[field] = json!(value);
        }
        (whole["inputSchema"], whole["outputSchema"]) = (json!(true), json!(true));
        whole["accessControl"]["customAuth"] = json!("ownsProject");
        let spec: OperationSpec = serde_json::from_value(whole).expect("a specification");

        // Every field has a value here, so nothing is left out of what is written.
        let written = serde_json::to_value(&spec).expect("JSON");
        let fields = |of: &Value| of.as_object().map(|p| p.keys().cloned().collect::<Vec<_>>());
        let sorted = |known: &[&str]| {
            let mut known: Vec<String> = known.iter().map(|&field| field.to_owned()).collect();
            known.sort();
            Some(known)
        };
        assert_eq!(fields(&written), sorted(SPEC));
        assert_eq!(fields(&written["accessControl"]), sorted(ACCESS));
        assert_eq!(fields(&written["errorSchemas"][0]), sorted(ERROR));
    }

    #[test]
    fn what_is_not_enforced_is_refused_or_told_by_name() {
        for field in REFUSED {
            let refused = looked(&json!({"accessControl": {*field: "project"}})).expect_err("not enforced");
            assert!(refused.contains(&format!("`accessControl.{field}`")), "{refused}");
            assert_eq!(looked(&json!({"accessControl": {*field: null}})), Ok(Vec::new()));
        }
        let warnings = looked(&json!({"accessControl": {"customAuth": "ownsProject"}})).expect("accepted");
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(
            warnings[0].contains("`accessControl.customAuth`") && warnings[0].contains("not enforced"),
            "{warnings:?}"
        );
        let long = "x".repeat(SCOPES_LIMIT_BYTES + 1);
        assert!(looked(&json!({"accessControl": {"requiredScopes": [long]}})).is_err());
    }

    #[test]
    fn a_scope_that_no_key_can_hold_is_refused_by_its_field() {
        for (field, scope, right) in [
            ("requiredScopes", "*", "`admin`"),
            ("requiredScopes", "Admin", "`admin`"),
            ("requiredScopesAny", "call:text*", "`call:text.*`"),
            ("requiredScopesAny", "two words", "visible ASCII"),
        ] {
            let refused = looked(&json!({"accessControl": {field: ["task:read", scope]}}));
            let refused = refused.expect_err("nobody could call it");
            assert!(
                refused.contains(&format!("`accessControl.{field}`")) && refused.contains(right),
                "{refused}"
            );
        }
        let own = json!({"requiredScopes": ["task:read", "git:*", "admin", "call:a.b"], "requiredScopesAny": ["x"]});
        assert_eq!(looked(&json!({"accessControl": own})), Ok(Vec::new()));
    }

    #[test]
    fn an_error_that_can_never_come_about_as_it_is_declared_is_told() {
        for (errors, wanted) in [
            (
                json!([{"code": "A", "httpStatus": 200}]),
                "`errorSchemas.httpStatus`: 200 of `A`",
            ),
            (
                json!([{"code": "A", "httpStatus": 600}]),
                "`errorSchemas.httpStatus`: 600 of `A`",
            ),
            (
                json!([{"code": "not a code!"}]),
                "`errorSchemas.code`: `not a code!` is no code",
            ),
            (json!([{"code": ""}]), "`errorSchemas.code`: `` is no code"),
            (json!([{"code": "UNAUTHENTICATED"}]), "callers get `EXECUTION_ERROR`"),
            (
                json!([{"code": "A", "httpStatus": 404}, {"code": "A"}]),
                "`A` is declared twice",
            ),
        ] {
            let warnings = looked(&json!({"errorSchemas": errors})).expect("accepted");
            assert_eq!(warnings.len(), 1, "{warnings:?}");
            assert!(warnings[0].contains(wanted), "{warnings:?} for {wanted}");
        }
        let right = json!([{"code": "SPOKE_LOST"}, {"code": "NOT_FOUND", "httpStatus": 404.0}, {"code": "a.b-c_1"}]);
        assert_eq!(looked(&json!({"errorSchemas": right})), Ok(Vec::new()));
    }

    #[test]
    fn an_unknown_field_is_told_and_many_are_counted() {
        let warnings = looked(&json!({
            "rateLimit": 5, "accessControl": {"roles": []},
            "errorSchemas": [{"code": "A", "retry": 1}, {"code": "B", "retry": 1}],
        }));
        assert_eq!(
            warnings.expect("accepted"),
            ["rateLimit", "accessControl.roles", "errorSchemas.retry"]
                .map(|field| format!("`{field}` is not known to this hub and not kept"))
        );
        let many: serde_json::Map<String, Value> = (0..1000).map(|i| (format!("f{i:04}"), json!(1))).collect();
        let warnings = looked(&many.into()).expect("accepted");
        assert_eq!(warnings.len(), MOST + 1);
        assert!(warnings[MOST].starts_with("992 more fields"), "{warnings:?}");
    }
}
