//! The little of the Kubernetes API that a boot needs, through `curl`.
//!
//! curl starts in 10 ms where kubectl takes 100 ms of a processor, and a boot asks dozens of times.

use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::plan;
use crate::process::{feed, output};
use crate::wait::Progress;
use crate::work::Work;

/// A client with the administrator's rights.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    pki: String,
}

// === impl Api ===

impl Api {
    /// The client of the cluster in a work folder.
    pub(crate) fn new(work: &Work) -> Self {
        Self { pki: work.text("pki") }
    }

    /// Whether the API server says that it is ready.
    pub(crate) fn ready(&self) -> Result<Progress<()>> {
        self.exists("/readyz")
    }

    /// Whether a path answers.
    #[expect(
        clippy::unnecessary_wraps,
        reason = "every check of a boot's condition may fail, this one does not"
    )]
    pub(crate) fn exists(&self, path: &str) -> Result<Progress<()>> {
        Ok(self
            .get(path)
            .map_or_else(|error| Progress::Pending(error.to_string()), |_| Progress::Done(())))
    }

    /// Whether `count` nodes are ready.
    pub(crate) fn nodes_ready(&self, count: u8) -> Result<Progress<()>> {
        let list: Value = match self.get("/api/v1/nodes") {
            Ok(text) => serde_json::from_str(&text).context("the API server did not answer with JSON")?,
            Err(error) => return Ok(Progress::Pending(error.to_string())),
        };
        let ready = ready_nodes(&list);
        Ok(if ready == usize::from(count) {
            Progress::Done(())
        } else {
            Progress::Pending(format!("{ready} ready"))
        })
    }

    /// Creates objects; each is given with the path of its collection.
    pub(crate) fn create(&self, objects: &[(String, Value)]) -> Result<()> {
        for (path, object) in objects {
            let mut command = self.curl(path);
            command.args(["-H", "content-type: application/json", "--data-binary", "@-"]);
            feed(&mut command, &object.to_string()).with_context(|| format!("cannot create {}", object["metadata"]))?;
        }
        Ok(())
    }

    /// Deletes one object.
    pub(crate) fn delete(&self, path: &str) -> Result<()> {
        output(self.curl(path).args(["-X", "DELETE"])).map(drop)
    }

    /// Follows a collection: the events come on the standard output of the value, until the server has enough.
    pub(crate) fn follow(&self, path: &str) -> Result<Child> {
        let mut command = self.curl(&format!("{path}?watch=1"));
        command
            .arg("--no-buffer")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        command.spawn().context("cannot start `curl`")
    }

    fn get(&self, path: &str) -> Result<String> {
        output(self.curl(path).args(["--max-time", "5"]))
    }

    fn curl(&self, path: &str) -> Command {
        let Self { pki } = self;
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--fail", "--noproxy", "*"]);
        command.args(["--cacert", &format!("{pki}/ca.crt")]);
        command.args([
            "--cert",
            &format!("{pki}/admin.crt"),
            "--key",
            &format!("{pki}/admin.key"),
        ]);
        command.arg(format!("https://{}:6443{path}", plan::CONTROL));
        command
    }
}

fn ready_nodes(list: &Value) -> usize {
    let ready = |node: &&Value| {
        let conditions = node["status"]["conditions"].as_array();
        conditions.is_some_and(|all| all.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"))
    };
    list["items"]
        .as_array()
        .map_or(0, |nodes| nodes.iter().filter(ready).count())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_nodes_that_say_so_are_ready() {
        let node = |status: &str| json!({"status": {"conditions": [{"type": "Ready", "status": status}]}});

        let list = json!({"items": [node("True"), node("False"), node("Unknown"), {"status": {}}]});

        assert_eq!(ready_nodes(&list), 1);
        assert_eq!(ready_nodes(&json!({})), 0);
    }
}
