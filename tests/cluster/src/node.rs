//! One worker node: containerd, kubelet and kube-proxy in namespaces of their own.
//!
//! [`start`], [`kill`] and [`cut`] run in the control plane's namespaces; [`run`] is the node's first process. A node's
//! files are in memory that belongs to the control plane: they survive the node, as a disk survives a crash.

mod config;

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill as send};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::plan::Node;
use crate::spec::Spec;
use crate::wait::{self, Progress};
use crate::work::Work;
use crate::{cgroup, life, network, process, programs, say};

/// Where containerd listens: `/run` is the node's own, so no work folder can make the path too long for a socket.
pub(crate) const CONTAINERD: &str = "/run/containerd.sock";
/// How long a part of a node may take to come up.
const PATIENCE: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_millis(20);

/// Starts a node, or starts it again.
pub(crate) fn start(work: &Work, node: Node) -> Result<()> {
    let folder = work.node(node);
    if !folder.exists() {
        network::memory(&folder)?;
    }
    network::disconnect(node);
    let _ = fs::remove_file(imported(work, node));
    let mut command = Command::new("unshare");
    command.args(life::UNSHARE).arg(std::env::current_exe()?);
    command
        .args(["inside-node", "--work"])
        .arg(work.root())
        .arg(node.number().to_string());
    command.process_group(0);
    let child = process::beside(&mut command, &work.log(&node.to_string()))?;
    work.write(&format!("{node}.pid"), child.id().to_string())?;
    let ours = fs::read_link("/proc/self/ns/net")?;
    wait::until("the node's namespaces", PATIENCE, STEP, || {
        let theirs = fs::read_link(format!("/proc/{}/ns/net", child.id())).with_context(|| {
            format!(
                "{node} ended; the end of {}",
                process::log_end(&work.log(&node.to_string()))
            )
        })?;
        Ok(if theirs == ours {
            Progress::Pending("still ours".to_owned())
        } else {
            Progress::Done(())
        })
    })?;
    network::connect(node, child.id())
}

/// Kills a node with all its pods at once, as a power cut does.
pub(crate) fn kill(work: &Work, node: Node) -> Result<()> {
    let pid = work.pid(&format!("{node}.pid"))?;
    // Its first process follows (`unshare --kill-child`), and the kernel ends the rest.
    let _ = send(Pid::from_raw(pid), Signal::SIGKILL);
    Ok(())
}

/// Cuts a node's network link. Its pods keep running.
pub(crate) fn cut(node: Node) -> Result<()> {
    network::set_link(node, false)
}

/// Reconnects a cut node, and starts a killed one again.
pub(crate) fn heal(work: &Work, node: Node) -> Result<()> {
    if first_process(work, node).is_ok() {
        return network::set_link(node, true);
    }
    start(work, node)
}

/// The first process of a running node, by its number in the control plane's namespaces.
pub(crate) fn first_process(work: &Work, node: Node) -> Result<i32> {
    let pid = work.pid(&format!("{node}.pid"))?;
    life::first_process(Pid::from_raw(pid))
        .with_context(|| format!("{node} does not run: `alkhub-cluster node heal {}`", node.number()))
}

/// Whether all nodes have imported their images.
pub(crate) fn images_imported(work: &Work, spec: &Spec) -> Result<Progress<()>> {
    for node in spec.all_nodes() {
        match fs::read_to_string(imported(work, node)) {
            Ok(failure) if failure.is_empty() => {}
            Ok(failure) => anyhow::bail!("{node}: {failure}"),
            Err(_) => return Ok(Progress::Pending(format!("{node} imports"))),
        }
    }
    Ok(Progress::Done(()))
}

/// Imports one archive into the containerd of the node in whose namespaces this runs.
pub(crate) fn import(archive: &Path) -> Result<()> {
    let mut command = Command::new("ctr");
    command
        .args(["-a", CONTAINERD, "-n", "k8s.io", "images", "import"])
        .arg(archive);
    process::output(&mut command)
        .with_context(|| format!("cannot import {}", archive.display()))
        .map(drop)
}

/// The first process of a node: boots it, and restarts kubelet when it ends, as an init system would.
pub(crate) fn run(work: &Work, node: Node) -> Result<i32> {
    let spec = Spec::load(work)?;
    wait::until("the node's link", PATIENCE, STEP, || {
        Ok(if Path::new("/proc/sys/net/ipv4/conf/eth0").exists() {
            Progress::Done(())
        } else {
            Progress::Pending("no eth0".to_owned())
        })
    })?;
    network::node(work, node, spec.nodes)?;
    cgroup::make(&group(work, node))?;
    let files = Files::write(work, node)?;
    let containerd = files.start_containerd()?;
    let proxy = programs::proxy_as(work, &node.to_string());
    process::beside(
        Command::new(spec.program("kube-proxy")).args(proxy),
        &work.log(&format!("{node}-kube-proxy")),
    )?;
    let mut kubelet = files.start_kubelet(&spec)?;
    let outcome = spec.images.iter().try_for_each(|archive| import(archive));
    fs::write(
        imported(work, node),
        outcome.err().map(|error| format!("{error:#}")).unwrap_or_default(),
    )?;
    loop {
        match waitpid(None, None)? {
            WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, _, _) if pid == kubelet => {
                say!("kubelet ended and is started again");
                thread::sleep(Duration::from_millis(500));
                kubelet = files.start_kubelet(&spec)?;
            }
            WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, _, _) if pid == containerd => {
                anyhow::bail!(
                    "containerd ended; the end of {}",
                    process::log_end(&files.log("containerd"))
                );
            }
            _ => {}
        }
    }
}

/// A node's configuration files, written.
struct Files<'a> {
    work: &'a Work,
    node: Node,
    folder: PathBuf,
}

// === impl Files ===

impl<'a> Files<'a> {
    fn write(work: &'a Work, node: Node) -> Result<Self> {
        let folder = work.node(node);
        let text = folder.display().to_string();
        fs::create_dir_all(folder.join("cni"))?;
        fs::write(folder.join("containerd.toml"), config::containerd(&text))?;
        fs::write(folder.join("cni/10-bridge.conflist"), config::network(node))?;
        fs::write(
            folder.join("kubelet.yaml"),
            config::kubelet(node, &work.text("pki"), &group(work, node)),
        )?;
        Ok(Self { work, node, folder })
    }

    fn log(&self, program: &str) -> PathBuf {
        self.work.log(&format!("{}-{program}", self.node))
    }

    fn start_containerd(&self) -> Result<Pid> {
        let mut command = Command::new("containerd");
        command.arg("--config").arg(self.folder.join("containerd.toml"));
        let mut child = process::beside(&mut command, &self.log("containerd"))?;
        wait::until("containerd", PATIENCE, STEP, || {
            if let Some(status) = child.try_wait()? {
                anyhow::bail!(
                    "containerd ended ({status}); the end of {}",
                    process::log_end(&self.log("containerd"))
                );
            }
            Ok(if Path::new(CONTAINERD).exists() {
                Progress::Done(())
            } else {
                Progress::Pending("no socket".to_owned())
            })
        })?;
        Ok(Pid::from_raw(child.id().cast_signed()))
    }

    fn start_kubelet(&self, spec: &Spec) -> Result<Pid> {
        let Self { work, node, folder } = self;
        let folder = folder.display();
        let arguments = [
            format!("--config={folder}/kubelet.yaml"),
            format!("--kubeconfig={}", work.text(&format!("{node}.kubeconfig"))),
            format!("--hostname-override={node}"),
            format!("--node-ip={}", node.address()),
            format!("--root-dir={folder}/kubelet"),
            format!("--cert-dir={folder}/pki"),
            format!(
                "--node-labels=topology.kubernetes.io/zone={},topology.kubernetes.io/region=here",
                node.zone()
            ),
        ];
        let child = process::beside(
            Command::new(spec.program("kubelet")).args(arguments),
            &self.log("kubelet"),
        )?;
        Ok(Pid::from_raw(child.id().cast_signed()))
    }
}

/// The control group of a node.
fn group(work: &Work, node: Node) -> String {
    format!("{}/{node}", work.cgroup())
}

/// The file that is written when a node has imported its images: empty, or with what went wrong.
fn imported(work: &Work, node: Node) -> PathBuf {
    work.node(node).join("imported")
}
