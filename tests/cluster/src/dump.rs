//! What is known about a cluster, in files: for the report of a failed test.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::spec::Spec;
use crate::work::Work;
use crate::{enter, process, say};

/// The questions to kubectl, and the files that get the answers.
const QUESTIONS: [(&str, &str); 7] = [
    ("nodes.txt", "describe nodes"),
    (
        "overview.txt",
        "get all,pvc,pv,configmaps,secrets,networkpolicies,pdb -A -o wide",
    ),
    ("pods.txt", "describe pods -A"),
    ("pods.yaml", "get pods -A -o yaml"),
    ("events.txt", "get events -A --sort-by=.lastTimestamp"),
    ("hubs.yaml", "get hubs,spokes -A -o yaml"),
    ("endpoints.txt", "get endpointslices,leases -A -o wide"),
];

/// Writes objects, events and the logs of all pods into `folder`; must run inside of the cluster.
pub(crate) fn write(work: &Work, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder.join("logs")).with_context(|| format!("cannot make {}", folder.display()))?;
    let spec = Spec::load(work)?;
    for (file, question) in QUESTIONS {
        let answer = kubectl(work, &spec, question).unwrap_or_else(|error| format!("{error:#}\n"));
        fs::write(folder.join(file), answer)?;
    }
    pod_logs(work, &spec, folder)?;
    programs(work, folder)?;
    say!("dumped to {}", folder.display());
    Ok(())
}

fn kubectl(work: &Work, spec: &Spec, question: &str) -> Result<String> {
    let mut command = Command::new(spec.program("kubectl"));
    command.args(question.split(' ')).arg("--request-timeout=20s");
    enter::environment(&mut command, work, &spec.bin);
    process::output(&mut command)
}

fn pod_logs(work: &Work, spec: &Spec, folder: &Path) -> Result<()> {
    let Ok(pods) = kubectl(work, spec, "get pods -A -o json") else {
        return Ok(());
    };
    for (namespace, pod, container) in containers(&serde_json::from_str(&pods)?) {
        for (suffix, flag) in [("", ""), (".before", " --previous")] {
            let question = format!("logs -n {namespace} {pod} -c {container}{flag}");
            if let Ok(text) = kubectl(work, spec, &question) {
                fs::write(
                    folder
                        .join("logs")
                        .join(format!("{namespace}.{pod}.{container}{suffix}.log")),
                    text,
                )?;
            }
        }
    }
    Ok(())
}

/// Namespace, pod and name of every container in a list of pods.
fn containers(pods: &Value) -> Vec<(String, String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let of_pod = |pod: Value| {
        let (namespace, name) = (text(&pod["metadata"]["namespace"]), text(&pod["metadata"]["name"]));
        let both = [all(&pod["spec"]["initContainers"]), all(&pod["spec"]["containers"])].concat();
        both.into_iter()
            .map(move |container| (namespace.clone(), name.clone(), text(&container["name"])))
    };
    all(&pods["items"]).into_iter().flat_map(of_pod).collect()
}

/// Copies the output of the cluster's programs.
fn programs(work: &Work, folder: &Path) -> Result<()> {
    let target = folder.join("programs");
    fs::create_dir_all(&target)?;
    for entry in fs::read_dir(work.path("log"))? {
        let entry = entry?;
        fs::copy(entry.path(), target.join(entry.file_name()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_container_of_every_pod_is_found() {
        let pod = json!({
            "metadata": {"namespace": "a", "name": "hub-0"},
            "spec": {"initContainers": [{"name": "prepare"}], "containers": [{"name": "hub"}]},
        });

        let names: Vec<_> = containers(&json!({"items": [pod]}))
            .into_iter()
            .map(|(_, _, name)| name)
            .collect();

        assert_eq!(names, ["prepare", "hub"]);
    }
}
