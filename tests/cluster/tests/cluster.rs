//! Real clusters: they need root, the packages of `deps.txt` and the built binaries, so they run only when asked for:
//! `cargo test -p alkhub-cluster --test cluster -- --ignored --test-threads=1`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/stores.yaml");

/// A folder for one cluster's work.
struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    fn work(&self) -> PathBuf {
        self.0.path().join("work")
    }

    fn ready(&self) -> PathBuf {
        self.0.path().join("ready")
    }

    /// This program with a subcommand, in the root of the project.
    fn program(&self, subcommand: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_alkhub-cluster"));
        command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
        command.args([subcommand, "--work"]).arg(self.work());
        command
    }

    /// A cluster of one node that stays until it is ended.
    fn up(&self) -> Child {
        let mut command = self.program("up");
        command
            .args(["--nodes", "1", "--ready-file"])
            .arg(self.ready())
            .args(["--", "sleep", "600"]);
        let mut child = command.stdin(Stdio::null()).spawn().expect("the program starts");
        eventually("the cluster is ready", || {
            assert!(
                child.try_wait().expect("a status").is_none(),
                "the cluster ended while it booted"
            );
            self.ready().exists()
        });
        child
    }

    /// Runs a shell script in the running cluster.
    fn shell(&self, script: &str) -> Output {
        self.program("exec")
            .args(["--", "sh", "-euc", script])
            .output()
            .expect("the program starts")
    }

    fn groups(&self) -> usize {
        let id = fs::read_to_string(self.0.path().join("group")).unwrap_or_default();
        let trees = fs::read_dir("/sys/fs/cgroup").expect("control groups");
        trees
            .flatten()
            .filter(|tree| !id.is_empty() && tree.path().join(&id).exists())
            .count()
    }

    /// Remembers the control group of the running cluster.
    fn remember_group(&self) {
        let said = self.shell("grep -h cgroupRoot \"$ALKHUB_CLUSTER_WORK\"/n1/kubelet.yaml");
        let text = String::from_utf8_lossy(&said.stdout);
        let id = text
            .trim()
            .trim_start_matches("cgroupRoot: /")
            .split('/')
            .next()
            .unwrap_or_default()
            .to_owned();
        fs::write(self.0.path().join("group"), id).expect("written");
        assert!(self.groups() > 0, "the running cluster has control groups");
    }
}

/// Waits for a condition: the only place in this file that lets time pass.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..1200 {
        if holds() {
            return;
        }
        thread::park_timeout(Duration::from_millis(100));
    }
    panic!("{what}: not after two minutes");
}

fn end(child: &mut Child, signal: Signal) {
    kill(Pid::from_raw(child.id().cast_signed()), signal).expect("it runs");
    child.wait().expect("it ends");
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// The API server of a work folder is a process that has the folder in its arguments.
fn runs(work: &Path) -> bool {
    let processes = fs::read_dir("/proc").expect("processes");
    let arguments = |entry: fs::DirEntry| fs::read(entry.path().join("cmdline")).unwrap_or_default();
    let work = work.display().to_string();
    processes.flatten().map(arguments).any(|line| {
        let line = String::from_utf8_lossy(&line).into_owned();
        line.contains("kube-apiserver") && line.contains(&work)
    })
}

#[test]
#[ignore = "needs root and a built Kubernetes"]
fn stores_run_under_the_official_images_contract() {
    let scratch = Scratch::new();
    let mut cluster = scratch.up();

    let deployed = scratch.shell(&format!(
        "kubectl apply -f {FIXTURE} >/dev/null
         kubectl rollout status -n stores sts/postgres --timeout=90s
         kubectl rollout status -n stores deploy/redis --timeout=60s
         kubectl wait -n rooted --for=condition=Ready pod/redis --timeout=60s
         PGPASSWORD='it'\\''s $ecret' psql -h postgres.stores -U alk -d hub-db -tAc 'select 41 + 1'
         until redis-cli -h redis.stores --no-auth-warning -a hunter2 ping 2>/dev/null; do sleep 0.1; done
         kubectl exec -n rooted redis -- sh -c 'stat -c %u /proc/1'
         kubectl logs -n stores deploy/redis | grep -c 'Ready to accept connections'"
    ));
    end(&mut cluster, Signal::SIGTERM);

    let said = text(&deployed);
    assert!(deployed.status.success(), "{said}");
    assert!(said.contains("\n42\nPONG\n999\n1\n"), "{said}");
}

#[test]
#[ignore = "needs root and a built Kubernetes"]
fn a_volume_outlives_its_node_and_ends_with_its_claim() {
    let scratch = Scratch::new();
    let mut cluster = scratch.program("up");
    let outcome = cluster
        .args(["--nodes", "2", "--", "sh", "-euc"])
        .arg(format!(
            "kubectl apply -f {FIXTURE} >/dev/null
             kubectl rollout status -n stores sts/postgres --timeout=90s
             node=$(kubectl get pod -n stores postgres-0 -o jsonpath='{{.spec.nodeName}}')
             alkhub-cluster node kill \"${{node#n}}\"
             kubectl wait --for=condition=Ready=Unknown \"node/$node\" --timeout=60s
             kubectl delete pod -n stores postgres-0 --force
             kubectl rollout status -n stores sts/postgres --timeout=90s
             kubectl logs -n stores postgres-0 | grep -c 'init process complete' || echo kept
             alkhub-cluster node heal \"${{node#n}}\"
             kubectl wait --for=condition=Ready \"node/$node\" --timeout=60s
             kubectl delete namespace stores
             until [ -z \"$(kubectl get pv -o name)\" ]; do sleep 0.2; done"
        ))
        .output()
        .expect("the program starts");

    let said = text(&outcome);
    assert!(outcome.status.success(), "{said}");
    assert!(said.contains("0\nkept\n"), "{said}");
}

#[test]
#[ignore = "needs root and a built Kubernetes"]
fn nothing_is_left_of_a_cluster_that_is_killed() {
    for signal in [Signal::SIGKILL, Signal::SIGINT] {
        let scratch = Scratch::new();
        let mut cluster = scratch.up();
        scratch.remember_group();
        assert!(runs(&scratch.work()), "the cluster runs before it is ended");

        end(&mut cluster, signal);

        eventually("all processes are gone", || !runs(&scratch.work()));
        eventually("all control groups are gone", || scratch.groups() == 0);
        let mounts = fs::read_to_string("/proc/mounts").expect("mounts");
        assert!(!mounts.contains(&scratch.work().display().to_string()), "{mounts}");
    }
}

#[test]
#[ignore = "needs root and a built Kubernetes"]
fn two_clusters_run_at_once_and_one_folder_takes_one() {
    let (one, two) = (Scratch::new(), Scratch::new());
    let mut first = one.up();
    let mut second = two.up();

    let made = one.shell("kubectl create namespace only-here");
    let seen = two.shell("kubectl get namespaces -o name");
    let refused = one
        .program("up")
        .args(["--", "true"])
        .output()
        .expect("the program starts");

    end(&mut first, Signal::SIGTERM);
    end(&mut second, Signal::SIGTERM);
    assert!(made.status.success(), "{}", text(&made));
    assert!(
        seen.status.success() && !text(&seen).contains("only-here"),
        "{}",
        text(&seen)
    );
    assert!(
        !refused.status.success() && text(&refused).contains("runs in"),
        "{}",
        text(&refused)
    );
}

#[test]
#[ignore = "needs root and a built Kubernetes"]
fn the_exit_code_is_the_commands() {
    let scratch = Scratch::new();

    let outcome = scratch
        .program("up")
        .args(["--nodes", "1", "--", "sh", "-c", "exit 7"])
        .output()
        .expect("started");

    assert_eq!(outcome.status.code(), Some(7), "{}", text(&outcome));
}
