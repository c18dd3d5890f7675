//! The first process of a cluster: boots the control plane and the nodes, runs the caller's command, ends them all.

use std::fs;
use std::io::{self, Write as _};
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::api::Api;
use crate::spec::Spec;
use crate::wait::{self, Clock, Progress};
use crate::work::Work;
use crate::{cgroup, dump, enter, life, network, node, objects, pki, process, programs, say};

/// How long each step of a boot may take; on a busy machine a boot takes five times as long as on a quiet one.
const PATIENCE: Duration = Duration::from_secs(180);
/// How often a boot checks its conditions.
const STEP: Duration = Duration::from_millis(100);

/// The programs of the control plane, watched while the cluster boots.
struct Programs<'a> {
    work: &'a Work,
    running: Vec<(&'static str, Child)>,
}

/// Boots the cluster of the work folder, runs `command` in it, and returns its exit code.
pub(crate) fn run(work: &Work, command: &[String]) -> Result<i32> {
    let spec = Spec::load(work)?;
    let ending = (work.clone(), spec.clone());
    life::watch(work, move || end(&ending.0, &ending.1))?;
    let outcome = boot(work, &spec).and_then(|()| run_command(work, &spec, command));
    end(work, &spec);
    outcome
}

fn boot(work: &Work, spec: &Spec) -> Result<()> {
    let clock = Clock::start();
    network::control(work)?;
    enter::mark(work)?;
    pki::write(work, spec.nodes)?;
    let mut programs = Programs {
        work,
        running: Vec::new(),
    };
    programs.start("etcd", spec, &programs::etcd(work))?;
    work.write("audit-policy.yaml", programs::AUDIT_POLICY)?;
    programs.start("kube-apiserver", spec, &programs::apiserver(work))?;
    for node in spec.all_nodes() {
        node::start(work, node)?;
    }
    let api = Api::new(work);
    programs.wait("the API server", || api.ready())?;
    say!("API server ready after {}", clock.seconds());
    programs.start("kube-controller-manager", spec, &programs::controllers(work))?;
    programs.start("kube-scheduler", spec, &programs::scheduler(work))?;
    work.write("Corefile", programs::corefile(work))?;
    programs.start("coredns", spec, &programs::dns(work))?;
    programs.wait("the namespace kube-system", || {
        api.exists("/api/v1/namespaces/kube-system")
    })?;
    api.create(&objects::system())?;
    start_volumes(work)?;
    programs.wait("the nodes", || api.nodes_ready(spec.nodes))?;
    say!("{} nodes ready after {}", spec.nodes, clock.seconds());
    programs.start("kube-proxy", spec, &programs::proxy(work))?;
    programs.wait("the images", || node::images_imported(work, spec))?;
    programs.wait("the service account of namespace default", || {
        api.exists("/api/v1/namespaces/default/serviceaccounts/default")
    })?;
    say!(
        "cluster ready after {} (images imported, kubeconfig {})",
        clock.seconds(),
        work.kubeconfig().display()
    );
    Ok(())
}

fn start_volumes(work: &Work) -> Result<()> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["inside-volumes", "--work"]).arg(work.root());
    process::beside(&mut command, &work.log("volumes")).map(drop)
}

fn run_command(work: &Work, spec: &Spec, command: &[String]) -> Result<i32> {
    if let Some(path) = &spec.ready_file {
        fs::write(path, work.kubeconfig().as_os_str().as_encoded_bytes())
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if spec.shell {
        say!("kubectl and helm are in PATH; `exit` ends the cluster; more terminals: `alkhub-cluster exec`");
    }
    let (program, arguments) = command.split_first().context("no command was given")?;
    let mut command = Command::new(program);
    command.args(arguments);
    enter::environment(&mut command, work, &spec.bin);
    let code = life::command(&mut command)?;
    if let Some(folder) = spec.dump.as_deref().filter(|_| code != 0) {
        say!(
            "the command failed with code {code}: what is known about the cluster goes to {}",
            folder.display()
        );
        dump::write(work, folder)?;
    }
    Ok(code)
}

/// Ends the nodes and removes their control groups; everything else ends with this process.
fn end(work: &Work, spec: &Spec) {
    for node in spec.all_nodes() {
        let _ = node::kill(work, node);
    }
    if let Some(path) = &spec.ready_file {
        let _ = fs::remove_file(path);
    }
    if let Err(error) = cgroup::remove(&work.cgroup()) {
        let _ = writeln!(io::stderr(), "alkhub-cluster: {error:#}");
    }
}

// === impl Programs ===

impl Programs<'_> {
    fn start(&mut self, name: &'static str, spec: &Spec, arguments: &[String]) -> Result<()> {
        let mut command = Command::new(spec.program(name));
        command.args(arguments).current_dir(self.work.root());
        let child = process::beside(&mut command, &self.work.log(name))?;
        self.running.push((name, child));
        Ok(())
    }

    /// Waits for a step of the boot, and fails at once when a program of the control plane has ended.
    fn wait(&mut self, what: &str, mut check: impl FnMut() -> Result<Progress<()>>) -> Result<()> {
        wait::until(what, PATIENCE, STEP, || {
            self.check()?;
            check()
        })
    }

    fn check(&mut self) -> Result<()> {
        for (name, child) in &mut self.running {
            if let Some(status) = child.try_wait()? {
                bail!(
                    "{name} ended ({status}); the end of {}",
                    process::log_end(&self.work.log(name))
                );
            }
        }
        Ok(())
    }
}
