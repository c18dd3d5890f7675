//! The server's process: started, watched until it is ready, ended.

use std::fs::{File, OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use tokio::time::Instant;

use crate::error::Error;
use crate::process::{MARK, pid_of};
use crate::settings::Settings;

/// A log larger than this is begun anew at the next start.
const LOG_LIMIT_BYTES: u64 = 8 * 1024 * 1024;

const POLL: Duration = Duration::from_millis(10);

/// A running server. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Postmaster {
    child: Child,
    durable: bool,
}

/// Ends a temporary server and removes its folder when our end of a pipe closes, which happens when it is dropped, or
/// when our process ends in whatever way.
#[derive(Debug)]
pub(crate) struct Watchdog {
    child: Child,
}

// === impl Postmaster ===

impl Postmaster {
    /// Starts the server and waits until it takes connections.
    pub(crate) fn start(settings: &Settings) -> Result<Self, Error> {
        let log = open_log(&settings.log)?;
        let errors = log.try_clone().map_err(Error::io("open", &settings.log))?;
        let mut command = settings.command("postgres");
        command.arg("-D").arg(&settings.data);
        command
            .arg("-k")
            .arg(&settings.socket)
            .arg("-p")
            .arg(settings.port.to_string());
        for setting in server_settings(settings) {
            command.arg("-c").arg(setting);
        }
        command.stdout(log).stderr(errors).process_group(0);
        let child = command
            .spawn()
            .map_err(Error::io("run", &settings.binaries.join("postgres")))?;
        let mut postmaster = Self {
            child,
            durable: settings.durable,
        };
        postmaster.wait_until_ready(settings)?;
        Ok(postmaster)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends the server: connections are broken, what was committed is written.
    pub(crate) fn stop(mut self) -> Result<(), Error> {
        self.end(Duration::from_secs(20))
    }

    fn wait_until_ready(&mut self, settings: &Settings) -> Result<(), Error> {
        let began = Instant::now();
        loop {
            if is_ready(&settings.data, self.pid()) {
                return Ok(());
            }
            let exited = self
                .child
                .try_wait()
                .map_err(Error::io("wait for", &settings.binaries))?;
            if exited.is_some() {
                return Err(Error::Exited {
                    line: last_reason(&settings.log),
                    log: settings.log.clone(),
                });
            }
            if began.elapsed() > settings.start_timeout {
                return Err(Error::NotReady {
                    seconds: settings.start_timeout.as_secs(),
                    line: last_reason(&settings.log),
                    log: settings.log.clone(),
                });
            }
            std::thread::sleep(POLL);
        }
    }

    /// Asks for a "fast" shutdown (everything is written) if there is `patience` for it; then for an "immediate" one,
    /// which loses what was not made durable; then kills.
    fn end(&mut self, patience: Duration) -> Result<(), Error> {
        let patience = [
            (Signal::SIGINT, patience),
            (Signal::SIGQUIT, Duration::from_secs(5)),
            (Signal::SIGKILL, Duration::from_secs(5)),
        ];
        for (signal, patience) in patience {
            if patience.is_zero() {
                continue;
            }
            if self.has_ended(Duration::ZERO) {
                return Ok(());
            }
            kill(pid_of(self.pid()), signal).ok();
            if self.has_ended(patience) {
                return Ok(());
            }
        }
        Err(Error::Stuck { pid: self.pid() })
    }

    fn has_ended(&mut self, patience: Duration) -> bool {
        let began = Instant::now();
        loop {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return true;
            }
            if began.elapsed() >= patience {
                return false;
            }
            std::thread::sleep(POLL);
        }
    }
}

impl Drop for Postmaster {
    fn drop(&mut self) {
        let patience = if self.durable {
            Duration::from_secs(20)
        } else {
            Duration::ZERO
        };
        if let Err(error) = self.end(patience) {
            tracing::error!(%error, "a private Postgres is left behind");
        }
    }
}

// === impl Watchdog ===

impl Watchdog {
    pub(crate) fn start(folder: &Path) -> Result<Self, Error> {
        const SCRIPT: &str = r#"
            read -r _
            if pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null) && kill -QUIT "$pid" 2>/dev/null; then
                for _ in $(seq 100); do [ -e "$1/data/postmaster.pid" ] || break; sleep 0.05; done
            fi
            for _ in $(seq 20); do rm -rf "$1" && break; sleep 0.05; done"#;
        let shell = Path::new("/bin/sh");
        let child = Command::new(shell)
            .args(["-c", SCRIPT, "alkhub-watchdog"])
            .arg(folder)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(Error::io("run", shell))?;
        Ok(Self { child })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        self.child.wait().ok();
    }
}

fn server_settings(settings: &Settings) -> Vec<String> {
    let mut all = vec![
        MARK.to_owned(),
        format!("listen_addresses={}", if settings.tcp { "127.0.0.1" } else { "" }),
        "unix_socket_permissions=0700".to_owned(),
        "shared_buffers=32MB".to_owned(),
        "logging_collector=off".to_owned(),
        format!("max_connections={}", settings.max_connections),
    ];
    if !settings.durable {
        all.extend(["fsync=off", "synchronous_commit=off", "full_page_writes=off"].map(str::to_owned));
    }
    all
}

/// What `pg_ctl` checks: the eighth line of `postmaster.pid`, if it belongs to this very process.
fn is_ready(data: &Path, pid: u32) -> bool {
    let Ok(text) = std::fs::read_to_string(data.join("postmaster.pid")) else {
        return false;
    };
    let mut lines = text.lines();
    let of_this_one = lines.next().is_some_and(|line| line.trim() == pid.to_string());
    of_this_one && lines.nth(6).is_some_and(|status| status.trim() == "ready")
}

fn open_log(path: &PathBuf) -> Result<File, Error> {
    let large = std::fs::metadata(path).is_ok_and(|log| log.len() > LOG_LIMIT_BYTES);
    let mut options = OpenOptions::new();
    options.create(true);
    if large {
        options.write(true).truncate(true);
    } else {
        options.append(true);
    }
    // It may contain what clients sent.
    options.mode(0o600);
    let log = options.open(path).map_err(Error::io("open", path))?;
    log.set_permissions(Permissions::from_mode(0o600))
        .map_err(Error::io("close", path))?;
    Ok(log)
}

/// The last line that reports a shutdown, or else the last line.
fn last_reason(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text[text.len().saturating_sub(16 * 1024)..]).into_owned();
    let mut lines = text.lines().rev();
    let reason = lines
        .clone()
        .find(|line| line.contains("FATAL") || line.contains("PANIC"));
    reason.or_else(|| lines.next()).unwrap_or("it wrote nothing").to_owned()
}
