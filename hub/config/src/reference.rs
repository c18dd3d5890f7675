//! The reference of all settings, generated from this crate's own source.

use toml::{Table, Value};

use crate::HubConfig;
use crate::ranges::Range;

/// The sections with the source that documents them.
const SOURCES: [(&str, &str, &str); 9] = [
    ("hub", "HubSection", include_str!("identity.rs")),
    ("pod", "PodSection", include_str!("identity.rs")),
    ("server", "ServerConfig", include_str!("server.rs")),
    ("auth", "AuthConfig", include_str!("auth.rs")),
    ("budget", "BudgetConfig", include_str!("budget.rs")),
    ("events", "EventsConfig", include_str!("events.rs")),
    ("store", "StoreConfig", include_str!("store.rs")),
    ("calls", "CallsConfig", include_str!("calls.rs")),
    ("telemetry", "TelemetryConfig", include_str!("telemetry.rs")),
];

/// The text above the tables. Both examples say the same, which a test checks.
const HEAD: &str = r#"# Settings

Generated from `hub/config` by `make generate`; do not edit.

A setting comes from the file given with `--config` (TOML), or from the
environment as `ALKHUB_<SECTION>__<KEY>` (in capitals, with `_` for `-`), which wins.

```toml
[server]
listen = "0.0.0.0:7420"
trusted-proxies = ["10.0.0.0/8", "fd00::/8"]
tls = { cert-file = "/tls/tls.crt", key-file = "/tls/tls.key" }
```

In a variable a text has no quotes, a list has commas between its items (and
is empty when the variable is), and a setting within a setting takes one more `__`:

```env
ALKHUB_SERVER__LISTEN=0.0.0.0:7420
ALKHUB_SERVER__TRUSTED_PROXIES=10.0.0.0/8,fd00::/8
ALKHUB_SERVER__TLS__CERT_FILE=/tls/tls.crt
ALKHUB_SERVER__TLS__KEY_FILE=/tls/tls.key
```
"#;

/// Every setting with its default, its variable and its meaning, as Markdown (`docs/generated/config.md`).
pub fn reference() -> String {
    let defaults = Table::try_from(HubConfig::default()).expect("the defaults have a TOML form");
    let mut out = HEAD.to_owned();
    for (section, name, source) in SOURCES {
        out.push_str(&format!(
            "\n## `[{section}]`\n\n| setting | default | range | what it does |\n|---|---|---|---|\n"
        ));
        for (field, meaning) in fields(name, source) {
            let key = field.replace('_', "-");
            let default = defaults
                .get(section)
                .and_then(|table| table.get(&key))
                .map_or_else(|| "none".to_owned(), show);
            let range = Range::of(&format!("{section}.{key}")).map_or_else(String::new, |range| range.to_string());
            out.push_str(&format!("| `{key}` | {default} | {range} | {meaning} |\n"));
        }
    }
    out
}

/// The name of every setting, `section.key`.
#[cfg(test)]
pub(crate) fn settings() -> Vec<String> {
    let sections = SOURCES.iter();
    let keys = sections.flat_map(|(section, name, source)| {
        let fields = fields(name, source).into_iter();
        fields.map(move |(field, _)| format!("{section}.{}", field.replace('_', "-")))
    });
    keys.collect()
}

fn show(value: &Value) -> String {
    match value {
        Value::String(text) if text.is_empty() => "empty".to_owned(),
        value => format!("`{value}`"),
    }
}

/// The fields of one struct with their doc comments, in order.
fn fields(name: &str, source: &str) -> Vec<(String, String)> {
    let start = format!("pub struct {name} {{");
    let body = source.split_once(&start).map_or("", |(_, rest)| rest);
    let body = body.split_once("\n}").map_or(body, |(body, _)| body);
    let (mut fields, mut doc) = (Vec::new(), Vec::new());
    for line in body.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("/// ") {
            doc.push(text);
        } else if let Some((field, _)) = line.strip_prefix("pub ").and_then(|rest| rest.split_once(':')) {
            fields.push((field.to_owned(), doc.join(" ")));
            doc.clear();
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    /// The lines of the reference's code block in a language.
    fn example(language: &str) -> String {
        let reference = reference();
        let block = reference.split(&format!("```{language}\n")).nth(1).expect("a block");
        block.split("```").next().expect("its lines").to_owned()
    }

    #[test]
    fn the_examples_of_the_reference_are_read_and_say_the_same() {
        let variables: Vec<(OsString, OsString)> = example("env")
            .lines()
            .map(|line| line.split_once('=').expect("NAME=value"))
            .map(|(name, value)| (name.into(), value.into()))
            .collect();

        let from_file = HubConfig::from_toml(&example("toml")).expect("it is read");
        let from_variables = HubConfig::load_from(None, variables).expect("they are read");

        assert_eq!(from_file.server.trusted_proxies.len(), 2);
        assert_eq!(from_variables, from_file);
        let empty = [("ALKHUB_SERVER__TRUSTED_PROXIES".into(), OsString::new())];
        let empty = HubConfig::load_from(None, empty).expect("it is read");
        assert!(empty.server.trusted_proxies.is_empty());
    }

    #[test]
    fn every_setting_with_a_default_is_in_the_reference_and_explained() {
        let reference = reference();
        let defaults = Table::try_from(HubConfig::default()).expect("has a TOML form");

        for (section, table) in &defaults {
            for key in table.as_table().expect("a section is a table").keys() {
                let row = reference.lines().find(|line| line.starts_with(&format!("| `{key}` |")));
                let row = row.unwrap_or_else(|| panic!("{section}.{key} is missing"));
                assert!(row.len() > key.len() + 30, "{section}.{key} is not explained: {row}");
            }
        }
    }
}
