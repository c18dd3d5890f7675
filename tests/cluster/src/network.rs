//! Network links, addresses and mounts of the namespaces in which a cluster runs.
//!
//! No route leads out of them: the ranges of [`plan`] exist only inside, so any number of clusters may use them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::plan::{self, Node};
use crate::process::{feed, run};
use crate::work::Work;

/// Turns the namespaces of which this is the first process into a control plane.
pub(crate) fn control(work: &Work) -> Result<()> {
    run("mount", ["--make-rprivate", "/"])?;
    fresh_run_folder()?;
    for name in ["etcd", "volumes"] {
        memory(&work.path(name))?;
    }
    name_server(work)?;
    let control = plan::CONTROL;
    ip(&format!(
        "link set lo up
link add br0 type bridge
addr add {control}/24 dev br0
link set br0 up
route add default dev br0
"
    ))?;
    forward()
}

/// Turns the namespaces of which this is the first process into a node; its network link is `eth0`.
pub(crate) fn node(work: &Work, node: Node, nodes: u8) -> Result<()> {
    run("mount", ["--make-rprivate", "/"])?;
    run("mount", ["--make-rshared", "/"])?;
    fresh_run_folder()?;
    let logs = work.node(node).join("varlog");
    fs::create_dir_all(&logs)?;
    run("mount", ["--bind", &logs.display().to_string(), "/var/log"])?;
    memory(Path::new("/var/lib/cni"))?;
    let mut lines = format!(
        "link set lo up
addr add {}/24 dev eth0
link set eth0 up
route add default via {}
",
        node.address(),
        plan::CONTROL
    );
    for other in plan::nodes(nodes).filter(|other| *other != node) {
        lines += &format!("route add {} via {}\n", other.pods(), other.address());
    }
    ip(&lines)?;
    forward()
}

/// Connects a node's namespaces, found by one of their processes, to the control plane.
pub(crate) fn connect(node: Node, process: u32) -> Result<()> {
    let link = node.link();
    ip(&format!(
        "link add {link} type veth peer name eth0 netns {process}
link set {link} master br0 up
route replace {} via {}
",
        node.pods(),
        node.address()
    ))
}

/// Removes the network link of a node, if it is there.
pub(crate) fn disconnect(node: Node) {
    let _ = run("ip", ["link", "del", &node.link()]);
}

/// Takes a node's network link down or up.
pub(crate) fn set_link(node: Node, up: bool) -> Result<()> {
    ip(&format!(
        "link set {} {}\n",
        node.link(),
        if up { "up" } else { "down" }
    ))
}

/// Takes the loopback interface up.
pub(crate) fn loopback() -> Result<()> {
    ip("link set lo up\n")
}

/// Gives these namespaces an empty `/run`, which hides this machine's sockets and locks.
pub(crate) fn fresh_run_folder() -> Result<()> {
    memory(Path::new("/run"))
}

/// Mounts an empty in-memory file system, which disappears with the namespaces.
pub(crate) fn memory(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    run(
        "mount",
        ["-t", "tmpfs", "-o", "mode=0755", "tmpfs", &folder.display().to_string()],
    )?;
    Ok(())
}

/// Lets host processes of the control plane resolve Service names, full and short (`redis.alkhub`).
fn name_server(work: &Work) -> Result<()> {
    let domain = plan::DOMAIN;
    let text = format!(
        "search svc.{domain} {domain}\nnameserver {}\noptions ndots:5\n",
        plan::CONTROL
    );
    work.write("resolv.conf", text)?;
    let target = resolver_file()?;
    run(
        "mount",
        ["--bind", &work.text("resolv.conf"), &target.display().to_string()],
    )?;
    Ok(())
}

/// The file behind `/etc/resolv.conf`; on some machines it is in `/run`, which is a fresh one here.
fn resolver_file() -> Result<PathBuf> {
    let path = PathBuf::from("/etc/resolv.conf");
    let target = fs::read_link(&path).map_or_else(|_| path, |link| Path::new("/etc").join(link));
    if !target.exists() {
        fs::create_dir_all(target.parent().unwrap_or_else(|| Path::new("/")))?;
        fs::write(&target, "")?;
    }
    Ok(target)
}

fn ip(lines: &str) -> Result<()> {
    feed(Command::new("ip").args(["-batch", "-"]), lines)?;
    Ok(())
}

fn forward() -> Result<()> {
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("cannot let these namespaces forward packets")?;
    // Exists only if the kernel filters bridges; without it, Services behind a node's own bridge answer from the wrong
    // address.
    let _ = fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", "1");
    Ok(())
}
