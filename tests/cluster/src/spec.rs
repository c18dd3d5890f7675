//! What a running cluster was started with, kept in its work folder for whoever joins later.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use serde::{Deserialize, Serialize};

use crate::plan::{self, Node};
use crate::work::Work;

/// One cluster, as asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Spec {
    /// The work folder.
    pub(crate) work: PathBuf,
    /// The folder of the Kubernetes binaries.
    pub(crate) bin: PathBuf,
    /// How many worker nodes.
    pub(crate) nodes: u8,
    /// Image archives that every node imports; the first is the pause image.
    pub(crate) images: Vec<PathBuf>,
    /// A file to write when the cluster is ready.
    pub(crate) ready_file: Option<PathBuf>,
    /// Where to put what is known about the cluster if the command fails.
    pub(crate) dump: Option<PathBuf>,
    /// Whether the command is a person's shell.
    pub(crate) shell: bool,
}

// === impl Spec ===

impl Spec {
    /// The specification of the cluster in a work folder.
    pub(crate) fn load(work: &Work) -> Result<Self> {
        let path = work.path("cluster.json");
        let text = fs::read_to_string(&path).map_err(|_| anyhow!(work.no_cluster()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is not a cluster's specification", path.display()))
    }

    /// Writes it into its work folder.
    pub(crate) fn store(&self, work: &Work) -> Result<()> {
        work.write("cluster.json", serde_json::to_string_pretty(self)?)
    }

    /// Its nodes.
    pub(crate) fn all_nodes(&self) -> impl Iterator<Item = Node> + use<> {
        plan::nodes(self.nodes)
    }

    /// One of the binaries.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }
}

/// Makes a path absolute, so that it holds in any working directory.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("cannot make {} absolute", path.display()))
}
