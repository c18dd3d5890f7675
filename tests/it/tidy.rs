//! The project's rules that can be checked in its text (docs/ARCHITECTURE.md, "Rules").

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

mod changelog;
mod circles;
mod dependencies;
mod headers;
mod pages;
mod words;

/// The most lines of production code in a file, and in a function.
const FILE_LIMIT: usize = 600;
const FUNCTION_LIMIT: usize = 80;

/// The alkhub crates that each crate may use (docs/ARCHITECTURE.md, the table of layers).
const EDGES: &[(&str, &[&str])] = &[
    ("hub/protocol", &[]),
    ("hub/config", &[]),
    ("crds", &["protocol"]),
    ("hub/tasks", &[]),
    ("hub/retry", &[]),
    ("hub/wire", &[]),
    ("hub/queue", &[]),
    ("hub/balance", &[]),
    ("hub/schema", &["protocol"]),
    ("hub/pipeline", &["protocol"]),
    ("hub/store", &["protocol", "config", "tasks", "retry"]),
    ("hub/redis", &["protocol", "config", "tasks", "retry"]),
    ("hub/peer", &["protocol", "tasks", "retry", "queue", "wire"]),
    ("hub/budget", &["protocol", "config"]),
    ("hub/events", &["protocol", "config", "queue", "redis"]),
    (
        "hub/cluster",
        &["protocol", "config", "tasks", "redis", "peer", "budget"],
    ),
    (
        "hub/calls",
        &[
            "protocol",
            "config",
            "queue",
            "tasks",
            "retry",
            "schema",
            "store",
            "hub-cluster",
            "budget",
        ],
    ),
    (
        "hub/edge",
        &[
            "protocol",
            "config",
            "tasks",
            "store",
            "redis",
            "events",
            "hub-cluster",
            "budget",
            "calls",
        ],
    ),
    (
        "hub/api",
        &["protocol", "store", "events", "hub-cluster", "budget", "calls", "edge"],
    ),
    (
        "hub/socket",
        &[
            "protocol", "config", "wire", "queue", "balance", "events", "budget", "calls", "edge",
        ],
    ),
    (
        "hub/server",
        &[
            "protocol",
            "config",
            "tasks",
            "store",
            "redis",
            "balance",
            "events",
            "hub-cluster",
            "budget",
            "calls",
            "edge",
            "api",
            "socket",
        ],
    ),
    ("hub/sdk", &["protocol", "queue", "retry"]),
    ("hub/devdb", &[]),
    (
        "hub/cli",
        &[
            "protocol", "config", "retry", "schema", "store", "server", "sdk", "devdb",
        ],
    ),
    ("operator", &["crds", "config", "protocol", "retry", "tasks"]),
    ("tests/cluster", &[]),
    ("tests/support", &[]),
];

struct Source {
    path: String,
    text: String,
}

impl Source {
    /// The lines before the file's own tests.
    fn production(&self) -> impl Iterator<Item = &str> {
        let lines: Vec<&str> = self.text.lines().collect();
        let tests = lines.windows(2).position(|pair| {
            pair[0].trim() == "#[cfg(test)]" && pair[1].trim_start().starts_with("mod ") && pair[1].ends_with('{')
        });
        let end = tests.unwrap_or(lines.len());
        lines.into_iter().take(end)
    }

    fn is_test(&self) -> bool {
        self.path.starts_with("tests/") && !self.path.starts_with("tests/cluster/src/")
            || self.path.contains("/tests/")
            || self.path.contains("/examples/")
            || self.path.ends_with("tests.rs")
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests lie in the workspace")
        .to_owned()
}

/// Every Rust file of the project.
fn sources() -> Vec<Source> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).expect("a folder of the workspace").flatten() {
            let path = entry.path();
            let name = entry.file_name();
            let built = path == root().join("target") || name == "node_modules";
            if path.is_dir() && !built && !name.to_string_lossy().starts_with('.') {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let root = root();
    let mut found = Vec::new();
    walk(&root, &mut found);
    found.sort();
    let sources: Vec<Source> = found
        .into_iter()
        .map(|path| Source {
            text: fs::read_to_string(&path).expect("a source is UTF-8"),
            path: path
                .strip_prefix(&root)
                .expect("below the root")
                .to_string_lossy()
                .into_owned(),
        })
        .collect();
    assert!(
        sources.len() > 50,
        "only {} files found: is the root right?",
        sources.len()
    );
    sources
}

fn none(faults: &[String], rule: &str) {
    assert!(faults.is_empty(), "{rule}:\n  {}", faults.join("\n  "));
}

#[test]
fn every_file_says_what_it_is_for() {
    let faults: Vec<String> = sources()
        .iter()
        .filter(|s| !s.text.starts_with("//!"))
        .map(|s| s.path.clone())
        .collect();

    none(&faults, "a file opens with `//!`");
}

#[test]
fn no_file_is_two_ideas_long() {
    let faults: Vec<String> = sources()
        .iter()
        .filter(|s| !s.is_test())
        .map(|s| (s, s.production().count()))
        .filter(|(_, lines)| *lines > FILE_LIMIT)
        .map(|(s, lines)| format!("{} has {lines} lines", s.path))
        .collect();

    none(
        &faults,
        "a file has at most 600 lines of production code: split it by idea",
    );
}

#[test]
fn no_function_is_longer_than_a_screen() {
    let mut faults = Vec::new();
    for source in sources().iter().filter(|s| !s.is_test()) {
        let mut open: Option<(usize, usize, String)> = None;
        for (number, line) in source.text.lines().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let text = line.trim_start();
            let starts = text
                .strip_prefix("pub ")
                .or_else(|| text.strip_prefix("pub(crate) "))
                .unwrap_or(text);
            let starts = starts.strip_prefix("const ").unwrap_or(starts);
            let starts = starts.strip_prefix("async ").unwrap_or(starts);
            if open.is_none() && starts.starts_with("fn ") && !line.ends_with(';') && !line.ends_with('}') {
                open = Some((number, indent, starts.split('(').next().unwrap_or("").to_owned()));
            } else if let Some((start, depth, name)) = &open
                && indent == *depth
                && (text == "}" || text.ends_with(");"))
            {
                let length = number - start + 1;
                if length > FUNCTION_LIMIT {
                    faults.push(format!("{}: {name} has {length} lines", source.path));
                }
                open = None;
            }
        }
    }

    none(&faults, "a function has at most 80 lines");
}

#[test]
fn crates_use_only_the_layers_below() {
    let mut faults = Vec::new();
    for (folder, allowed) in EDGES {
        let manifest = fs::read_to_string(root().join(folder).join("Cargo.toml")).expect("a crate has a manifest");
        let dependencies = manifest.split("[dev-dependencies]").next().unwrap_or(&manifest);
        for line in dependencies.lines().filter(|line| line.starts_with("alkhub-")) {
            let name = line["alkhub-".len()..].split(['.', ' ', '=']).next().unwrap_or("");
            if !allowed.contains(&name) {
                faults.push(format!("{folder} uses alkhub-{name}"));
            }
        }
    }
    let members: Vec<&str> = EDGES.iter().map(|(folder, _)| *folder).collect();
    for entry in fs::read_dir(root().join("hub")).expect("the hub's crates").flatten() {
        let folder = format!("hub/{}", entry.file_name().to_string_lossy());
        if !members.contains(&folder.as_str()) {
            faults.push(format!("{folder} is not in the table of layers"));
        }
    }

    none(&faults, "crate edges are those of the table in docs/ARCHITECTURE.md");
}

#[test]
fn only_the_config_crate_reads_settings_from_the_environment() {
    let faults: Vec<String> = sources()
        .iter()
        .filter(|s| !s.is_test() && !s.path.starts_with("hub/config/") && !s.path.starts_with("tests/cluster/"))
        .filter(|s| {
            s.production()
                .any(|line| line.contains("env::var") && line.contains("ALKHUB_"))
        })
        .map(|s| s.path.clone())
        .collect();

    none(&faults, "only hub/config reads alkhub's settings from the environment");
}

/// serde also reads a struct from an array, with the items as the fields in order. So what a peer, a caller, Redis or
/// Postgres says is read through `alkhub_protocol::json::strict`, or into a type that is not a struct.
#[test]
fn json_from_outside_is_read_into_structs_from_objects_only() {
    const CRATES: &[&str] = &[
        "protocol", "schema", "calls", "edge", "api", "socket", "server", "redis", "events", "cluster", "store", "sdk",
    ];
    // The last two types enforce this themselves, because every frame is read into them.
    const PLAIN: &[&str] = &["RawValue", "IgnoredAny", "String", "CallPayload<'_>", "Head<'_>"];
    let faults: Vec<String> = sources()
        .iter()
        .filter(|s| {
            CRATES
                .iter()
                .any(|name| s.path.starts_with(&format!("hub/{name}/src/")))
                && !s.is_test()
        })
        .flat_map(|s| {
            s.production()
                .enumerate()
                .filter(|(_, line)| line.contains("serde_json::from_s") || line.contains("serde_json::from_reader"))
                .filter(|(_, line)| !PLAIN.iter().any(|plain| line.contains(plain)))
                .map(|(number, _)| format!("{}:{}", s.path, number + 1))
                .collect::<Vec<_>>()
        })
        .collect();

    none(&faults, "structs are read through alkhub_protocol::json::strict");
}

#[test]
fn only_one_file_spells_names_in_redis() {
    let faults: Vec<String> = sources()
        .iter()
        .filter(|s| s.path.starts_with("hub/") && !s.is_test() && s.path != "hub/redis/src/channel.rs")
        .flat_map(|s| {
            s.production()
                .enumerate()
                .filter(|(_, line)| !line.trim_start().starts_with("//"))
                .filter(|(_, line)| line.contains("{prefix}") || line.contains(".prefix.as_str()"))
                .map(|(number, _)| format!("{}:{}", s.path, number + 1))
                .collect::<Vec<_>>()
        })
        .collect();

    none(&faults, "only hub/redis/src/channel.rs spells a name in Redis");
}

#[test]
fn each_technology_has_one_home() {
    let homes: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("sqlx", &["hub/store", "hub/devdb"][..]),
        ("redis", &["hub/redis", "tests/support"]),
        ("jsonschema", &["hub/schema"]),
        ("axum", &["hub/edge", "hub/api", "hub/socket", "hub/server", "operator"]),
        ("kube", &["operator", "crds"]),
        ("k8s-openapi", &["operator", "crds"]),
    ]);
    let mut faults = Vec::new();
    for (folder, _) in EDGES {
        let manifest = fs::read_to_string(root().join(folder).join("Cargo.toml")).expect("a crate has a manifest");
        let dependencies = manifest.split("[dev-dependencies]").next().unwrap_or(&manifest);
        for (technology, home) in &homes {
            let used = dependencies
                .lines()
                .any(|line| line.starts_with(&format!("{technology}.workspace")));
            if used && !home.contains(folder) {
                faults.push(format!("{folder} uses {technology}"));
            }
        }
    }

    none(
        &faults,
        "SQL only in store and devdb, JSON Schema only in schema, Redis only in redis and in support of tests, HTTP serving only in the edge, in surfaces and in server, Kubernetes only in operator and crds",
    );
}

#[test]
fn domain_crates_name_no_status_and_no_custom_resource() {
    let faults: Vec<String> = sources()
        .iter()
        .filter(|s| {
            [
                "hub/calls/src",
                "hub/redis/src",
                "hub/events/src",
                "hub/cluster/src",
                "hub/schema/src",
                "hub/store/src",
            ]
            .iter()
            .any(|d| s.path.starts_with(d))
        })
        .filter(|s| {
            s.production()
                .any(|line| line.contains("StatusCode") || line.contains("HeaderMap"))
        })
        .map(|s| s.path.clone())
        .collect();

    none(&faults, "domain crates name no status code, header or custom resource");
}

#[test]
fn nothing_is_left_to_do_later() {
    let marks = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("unimple", "mented!"),
        concat!("#[al", "low("),
    ];
    let faults: Vec<String> = sources()
        .iter()
        .flat_map(|s| {
            let hits = s
                .text
                .lines()
                .enumerate()
                .filter(|(_, line)| marks.iter().any(|mark| line.contains(mark)));
            hits.map(|(number, _)| format!("{}:{}", s.path, number + 1))
                .collect::<Vec<_>>()
        })
        .collect();

    none(
        &faults,
        "fix it or open an issue; `#[expect(…, reason)]` instead of allow",
    );
}

#[test]
fn tests_wait_on_conditions_and_never_sleep() {
    let sleeps = [
        concat!("time::sl", "eep("),
        concat!("thread::sl", "eep("),
        concat!(" sl", "eep("),
    ];
    // The only place that may sleep is the loop that checks a condition until a deadline.
    let wait = "tests/support/src/wait.rs";
    let faults: Vec<String> = sources()
        .iter()
        .filter(|s| s.is_test() && !s.path.contains("/examples/") && !s.path.starts_with("tests/bench/"))
        .filter(|s| s.path != wait)
        .flat_map(|s| {
            let hits = s
                .text
                .lines()
                .enumerate()
                .filter(|(_, line)| sleeps.iter().any(|sleep| line.contains(sleep)));
            hits.map(|(number, _)| format!("{}:{}", s.path, number + 1))
                .collect::<Vec<_>>()
        })
        .collect();

    assert!(
        fs::read_to_string(root().join(wait)).is_ok_and(|text| sleeps.iter().any(|sleep| text.contains(sleep))),
        "{wait} is where tests pause"
    );
    none(
        &faults,
        "a test waits on a condition with a deadline: `alkhub_test_support::until`",
    );
}
