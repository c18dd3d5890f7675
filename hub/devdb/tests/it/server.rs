//! The private server: folders, locks, orphans.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use alkhub_devdb::testing::{execute, number, server};
use alkhub_devdb::{Error, FolderLock, Options, Server};
use alkhub_test_support::{skip, until, within};
use tempfile::TempDir;

/// Makes the test program, run again for one test, hold a server in a folder until it is killed.
const HOLD: &str = "ALKHUB_DEVDB_TEST_HOLD";

/// A folder that the user of Postgres can enter, wherever tempfile puts it.
fn folder() -> TempDir {
    let folder = tempfile::Builder::new().tempdir_in("/tmp").expect("a folder");
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o711)).expect("ours");
    folder
}

fn quick(folder: &Path) -> Options {
    Options {
        durable: false,
        ..Options::new(folder)
    }
}

fn runs(pid: u32) -> bool {
    // A process that has ended and was not waited for has no command line.
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

/// Another process that holds a server. Killed, as a hub is killed, by [`Holder::kill`] or when dropped.
struct Holder {
    child: Child,
    /// The server's process.
    server: u32,
    /// The folder of its socket.
    socket: PathBuf,
}

impl Holder {
    /// Holds a server in `folder`, or a temporary one for `""`.
    fn start(test: &str, folder: &OsStr) -> Self {
        let child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", test, "--nocapture"])
            .env(HOLD, folder)
            .stdout(Stdio::piped())
            .spawn()
            .expect("runs");
        let mut holder = Self {
            child,
            server: 0,
            socket: PathBuf::new(),
        };
        let lines = BufReader::new(holder.child.stdout.take().expect("piped")).lines();
        // The harness prints `test … ` before it on the same line.
        let report = lines
            .map_while(Result::ok)
            .find_map(|line| Some(line.split_once("holding ")?.1.to_owned()));
        let report = report.expect("the other process has a server");
        let (pid, socket) = report.split_once(' ').expect("two words");
        holder.server = pid.parse().expect("a pid");
        holder.socket = socket.into();
        holder
    }

    fn kill(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("gone");
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// In the other process: holds a server for ever.
async fn hold_if_asked() {
    let Some(folder) = std::env::var_os(HOLD) else { return };
    let server = if folder.is_empty() {
        Server::temporary().await
    } else {
        Server::start(quick(Path::new(&folder))).await
    };
    let server = server.expect("starts");
    let url = server.url();
    let (_, socket) = url.split_once("?host=").expect("a socket's folder");
    let pid = server.pid().await.expect("runs");
    writeln!(std::io::stdout(), "holding {pid} {socket}").expect("somebody listens");
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn data_stays_over_a_stop_and_a_start() {
    let folder = folder();
    let server = Server::start(Options::new(folder.path())).await.expect("starts");
    let url = server.create_database("hub").await.expect("a database");
    assert_eq!(server.create_database("hub").await.expect("is there"), url);
    execute(&url, "CREATE TABLE t AS SELECT 7::bigint AS n").await;
    let pid = server.pid().await.expect("runs");
    server.stop().await.expect("stops");
    server.stop().await.expect("again is the same");
    assert!(!runs(pid));
    drop(server);

    let server = Server::start(Options::new(folder.path())).await.expect("starts again");

    assert_eq!(server.url_of("hub"), url);
    assert_eq!(number(&url, "SELECT n FROM t").await, 7);
}

#[tokio::test]
async fn dropping_a_server_ends_it_and_a_temporary_one_leaves_nothing() {
    let server = Server::temporary().await.expect("starts");
    let pid = server.pid().await.expect("runs");
    let url = server.url();
    let socket = PathBuf::from(url.split_once("?host=").expect("a socket").1);
    let root = socket.parent().expect("the folder").to_owned();
    assert!(runs(pid) && root.exists());

    drop(server);

    assert!(!runs(pid));
    assert!(!root.exists());
}

#[tokio::test]
async fn a_server_is_reached_by_its_socket_alone() {
    let server = Server::temporary().await.expect("starts");

    let url = server.url();
    let tcp = number(
        &url,
        "SELECT count(*) FROM pg_settings WHERE name = 'listen_addresses' AND setting = ''",
    );

    assert_eq!(tcp.await, 1);
}

#[tokio::test]
async fn a_folder_in_use_names_its_process() {
    let folder = folder();
    let _first = FolderLock::take(folder.path()).expect("free");

    let second = Server::start(quick(folder.path())).await.expect_err("refused");

    assert!(
        matches!(second, Error::Locked { pid: Some(pid), .. } if pid == std::process::id()),
        "{second}"
    );
    let line = second.to_string();
    assert!(
        line.contains(&std::process::id().to_string()) && !line.contains('\n'),
        "{line}"
    );
}

#[tokio::test]
async fn the_orphan_of_a_killed_hub_is_ended_and_its_data_found() {
    hold_if_asked().await;
    let folder = folder();
    let name = "server::the_orphan_of_a_killed_hub_is_ended_and_its_data_found";
    let mut other = Holder::start(name, folder.path().as_os_str());
    let locked = Server::start(quick(folder.path()))
        .await
        .expect_err("the other process lives");
    assert!(
        matches!(locked, Error::Locked { pid: Some(pid), .. } if pid == other.child.id()),
        "{locked}"
    );
    other.kill();
    assert!(runs(other.server), "Postgres outlives its hub");

    let server = within("it starts", Server::start(quick(folder.path())))
        .await
        .expect("starts");

    assert!(!runs(other.server));
    assert_ne!(server.pid().await, Some(other.server));
    assert_eq!(number(&server.url(), "SELECT 1::bigint").await, 1);
}

#[tokio::test]
async fn what_is_left_of_a_killed_postmaster_is_no_obstacle() {
    hold_if_asked().await;
    let folder = folder();
    let name = "server::what_is_left_of_a_killed_postmaster_is_no_obstacle";
    let mut other = Holder::start(name, folder.path().as_os_str());
    other.kill();
    let pid = nix::unistd::Pid::from_raw(other.server.try_into().expect("fits"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("killed");

    let server = within("it starts", Server::start(quick(folder.path())))
        .await
        .expect("starts");

    assert_eq!(number(&server.url(), "SELECT 1::bigint").await, 1);
}

#[tokio::test]
async fn a_pid_file_that_names_some_other_process_is_stale() {
    let folder = folder();
    drop(Server::start(quick(folder.path())).await.expect("starts"));
    let file = folder.path().join("data/postmaster.pid");
    std::fs::write(
        &file,
        format!("{}\n{}\n", std::process::id(), folder.path().join("data").display()),
    )
    .expect("written");

    let server = within("it starts", Server::start(quick(folder.path()))).await;

    assert!(server.is_ok(), "{server:?}");
}

#[tokio::test]
async fn a_postgres_that_somebody_else_runs_there_is_left_alone() {
    let folder = folder();
    let server = Server::start(quick(folder.path())).await.expect("starts");
    drop(server);
    let data = folder.path().join("data");
    let foreign = foreign_postgres(&data);
    until("the other server is up", async || {
        match std::fs::read_to_string(data.join("postmaster.pid")) {
            Ok(text) if text.contains("ready") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;

    let refused = Server::start(quick(folder.path())).await.expect_err("refused");

    assert!(
        matches!(refused, Error::Foreign { pid, .. } if pid == foreign.0.id()),
        "{refused}"
    );
    assert!(runs(foreign.0.id()));
}

/// A server without our mark, ended when dropped.
struct Foreign(Child);

impl Drop for Foreign {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.0.id().try_into().expect("fits"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGQUIT).ok();
        self.0.wait().ok();
    }
}

fn foreign_postgres(data: &Path) -> Foreign {
    use std::os::unix::fs::MetadataExt as _;
    use std::os::unix::process::CommandExt as _;

    let owner = std::fs::metadata(data).expect("there");
    let version = std::fs::read_to_string(data.join("PG_VERSION")).expect("there");
    let mut command = Command::new(format!("/usr/lib/postgresql/{}/bin/postgres", version.trim()));
    command
        .arg("-D")
        .arg(data)
        .args(["-c", "listen_addresses=", "-k"])
        .arg(data);
    if nix::unistd::Uid::effective().is_root() {
        command.uid(owner.uid()).gid(owner.gid());
    }
    command.current_dir("/").stdout(Stdio::null()).stderr(Stdio::null());
    Foreign(command.spawn().expect("runs"))
}

#[tokio::test]
async fn a_temporary_server_goes_with_its_killed_process() {
    hold_if_asked().await;
    let name = "server::a_temporary_server_goes_with_its_killed_process";
    let mut other = Holder::start(name, OsStr::new(""));
    let pid = other.server;
    let root = other.socket.parent().expect("the folder").to_owned();
    assert!(runs(pid) && root.exists());

    other.kill();

    until("the server and its folder are gone", async || {
        let left = (runs(pid), root.exists());
        if left == (false, false) {
            Ok(())
        } else {
            Err(format!("runs, exists: {left:?}"))
        }
    })
    .await;
}

#[tokio::test]
async fn a_folder_that_postgres_cannot_enter_is_named() {
    if !nix::unistd::Uid::effective().is_root() {
        skip("only root runs Postgres as somebody else");
        return;
    }
    let closed = folder();
    std::fs::set_permissions(closed.path(), PermissionsExt::from_mode(0o700)).expect("ours");

    let refused = Server::start(quick(&closed.path().join("pg")))
        .await
        .expect_err("refused");

    assert!(
        matches!(&refused, Error::Unreachable { blocked, .. } if blocked == closed.path()),
        "{refused}"
    );
    assert!(refused.to_string().contains("chmod o+x"), "{refused}");
}

#[tokio::test]
async fn a_long_path_still_has_a_short_socket() {
    let folder = folder();
    let long = folder.path().join("x".repeat(120));

    let server = Server::start(quick(&long)).await.expect("starts");

    assert_eq!(number(&server.url(), "SELECT 1::bigint").await, 1);
    let socket = PathBuf::from(server.url().split_once("?host=").expect("a socket").1);
    drop(server);
    std::fs::remove_dir_all(socket).expect("only the test's");
}

#[tokio::test]
async fn a_server_that_does_not_start_says_why_in_a_line() {
    let folder = folder();
    drop(Server::start(quick(folder.path())).await.expect("starts"));
    std::fs::write(folder.path().join("data/postgresql.conf"), "no_such_setting = 1\n").expect("written");

    let refused = within("it ends", Server::start(quick(folder.path())))
        .await
        .expect_err("refused");

    let line = refused.to_string();
    assert!(matches!(refused, Error::Exited { .. }), "{line}");
    assert!(line.contains("postgresql.conf") && !line.contains('\n'), "{line}");
}

#[tokio::test]
async fn a_databases_name_is_plain() {
    let server = server().await;

    for name in ["", "a b", "a\"b", "A", &"a".repeat(64)] {
        assert!(
            matches!(server.create_database(name).await, Err(Error::DatabaseName(_))),
            "{name}"
        );
    }
}
