//! Builds the Prometheus operator with its CRDs, and a program that gives Debian's Prometheus its targets.
//!
//! With them a test installs the chart's monitors as a user does, and runs the very configuration that results.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::binaries::{go, go_build, sources};
use crate::say;
use crate::wait::Clock;

/// The Go module that pins the Prometheus operator. It contains no code: the program is the operator itself.
const OPERATOR_MODULE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/prometheus/operator");
/// The Go module of `prometheus-targets`: a separate one, since the two need different versions of Prometheus's
/// packages.
const TARGETS_MODULE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/prometheus/targets");
/// The module that contains the program and the CRDs.
const OPERATOR: &str = "github.com/prometheus-operator/prometheus-operator";
const LINK_FLAGS: &str = "-s -w";

/// Builds `prometheus-operator` and `prometheus-targets` into `folder`, and puts the CRDs into its `prometheus-crds`,
/// unless its contents were built from the same sources.
pub(crate) fn ensure(folder: &Path) -> Result<()> {
    let mark = folder.join("prometheus-built-from");
    let sources = sources(OPERATOR_MODULE, LINK_FLAGS)? + &sources(TARGETS_MODULE, LINK_FLAGS)?;
    if fs::read_to_string(&mark).is_ok_and(|built| built == sources) && folder.join("prometheus-crds").exists() {
        return Ok(());
    }
    let clock = Clock::start();
    say!("building the Prometheus operator: 2 minutes on 2 cores the first time");
    go_build(TARGETS_MODULE, ".", LINK_FLAGS, &folder.join("prometheus-targets"))?;
    let program = format!("{OPERATOR}/cmd/operator");
    go_build(
        OPERATOR_MODULE,
        &program,
        LINK_FLAGS,
        &folder.join("prometheus-operator"),
    )?;
    copy_crds(&folder.join("prometheus-crds"))?;
    fs::write(&mark, sources)?;
    say!("built in {}", clock.seconds());
    Ok(())
}

/// Copies the CRDs of the version that was built.
fn copy_crds(folder: &Path) -> Result<()> {
    let output = Command::new(go()?)
        .args(["list", "-m", "-f", "{{.Dir}}", OPERATOR])
        .current_dir(OPERATOR_MODULE)
        .output()
        .context("cannot start go")?;
    if !output.status.success() {
        bail!("go list failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    let module = String::from_utf8(output.stdout)?;
    let crds = Path::new(module.trim()).join("example/prometheus-operator-crd");
    fs::create_dir_all(folder)?;
    for entry in fs::read_dir(&crds).with_context(|| format!("cannot read {}", crds.display()))? {
        let entry = entry?;
        // The module cache is read-only, and a plain copy would be too.
        fs::write(folder.join(entry.file_name()), fs::read(entry.path())?)?;
    }
    Ok(())
}
