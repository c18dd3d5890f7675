//! Runs the binary and waits for what it says.

use std::fs::Permissions;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::time::Instant;

/// Longer than anything here takes on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// How long the output of an ended program is still read.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// A running program and what it has written so far.
pub(crate) struct Program {
    name: String,
    child: Child,
    out: Output,
    err: Output,
}

/// One of its two outputs.
struct Output {
    text: Arc<Mutex<String>>,
    reader: JoinHandle<()>,
}

/// A development hub in folders of its own.
pub(crate) struct Dev {
    pub(crate) program: Program,
    pub(crate) world: World,
    pub(crate) url: String,
}

/// Shared by the starts of hubs; a test that measures one has it to itself.
static STARTS: RwLock<()> = RwLock::new(());

/// The folders in which commands find things.
pub(crate) struct World {
    folder: TempDir,
    /// The environment of its programs.
    environment: Vec<(String, String)>,
}

/// Waits until `look` finds something; panics with the last thing that it saw.
pub(crate) fn wait<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let end = Instant::now() + SOON;
    loop {
        match look() {
            Ok(found) => return found,
            Err(last) if Instant::now() > end => panic!("{what}: not within {SOON:?}; last: {last}"),
            Err(_) => std::thread::yield_now(),
        }
        pause();
    }
}

/// A poll's pause: what is waited for is a condition, with a deadline.
fn pause() {
    std::thread::park_timeout(Duration::from_millis(10));
}

// === impl World ===

impl World {
    pub(crate) fn new() -> Self {
        // Postgres runs as another user when the test runs as root, and must reach it.
        let folder = tempfile::Builder::new()
            .prefix("alkhub-cli-")
            .tempdir_in("/tmp")
            .expect("a folder");
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("ours");
        let environment = Vec::new();
        Self { folder, environment }
    }

    /// Sets a variable for all programs started from now on.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.environment.retain(|(other, _)| other != name);
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    /// The binary with these arguments, in this world and no other.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_alkhub"));
        command
            .args(arguments)
            .current_dir(self.path())
            .env("XDG_STATE_HOME", self.path().join("state"))
            .env_remove("ALKHUB_URL")
            .env_remove("ALKHUB_TOKEN")
            .env_remove("ALKHUB_CA_FILE")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let path = self.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    }

    /// Runs to the end.
    pub(crate) fn run(&self, arguments: &[&str]) -> process::Output {
        self.command(arguments).output().expect("the binary runs")
    }

    /// Runs to the end, which must be good, and gives standard output.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// The same with `--output json`.
    pub(crate) fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let text = self.ok(&[arguments, &["--output", "json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {text}"))
    }

    /// Runs to an end that must be this exit code, and gives the one line of standard error.
    pub(crate) fn fails(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let text = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        assert_eq!(
            text.trim_end().lines().count(),
            1,
            "{arguments:?}: not one line: {text}"
        );
        text
    }

    pub(crate) fn start(&self, arguments: &[&str]) -> Program {
        Program::start(arguments.join(" "), &mut self.command(arguments))
    }
}

// === impl Program ===

impl Program {
    pub(crate) fn start(name: String, command: &mut Command) -> Self {
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{name}: {e}"));
        let out = Output::collect(child.stdout.take().expect("piped"));
        let err = Output::collect(child.stderr.take().expect("piped"));
        Self { name, child, out, err }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn out(&self) -> String {
        self.out.text()
    }

    pub(crate) fn err(&self) -> String {
        self.err.text()
    }

    /// Waits until standard output has a text.
    pub(crate) fn says(&mut self, text: &str) -> String {
        self.until(text, |program| program.out())
    }

    /// Waits until standard error has a text.
    pub(crate) fn notes(&mut self, text: &str) -> String {
        self.until(text, |program| program.err())
    }

    fn until(&mut self, text: &str, read: impl Fn(&Self) -> String) -> String {
        let what = format!("`{}` to write `{text}`", self.name);
        wait(&what, || {
            let ended = self.child.try_wait().expect("ours").is_some();
            if ended {
                self.read_to_the_end();
            }
            let now = read(self);
            match now.contains(text) {
                true => Ok(now),
                false if ended => panic!("{what}: it ended; out: {}; err: {}", self.out(), self.err()),
                false => Err(format!("out: {}; err: {}", self.out(), self.err())),
            }
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a process id");
        kill(Pid::from_raw(pid), signal).expect("it runs");
    }

    pub(crate) fn ended(&mut self) -> ExitStatus {
        let what = format!("`{}` to end", self.name);
        let status = wait(&what, || {
            let status = self.child.try_wait().expect("ours");
            status.ok_or_else(|| format!("out: {}; err: {}", self.out(), self.err()))
        });
        self.read_to_the_end();
        status
    }

    /// Waits until everything that an ended program wrote has been read; but not for ever, since programs that it
    /// started may still have its outputs open.
    fn read_to_the_end(&self) {
        let end = Instant::now() + LAST_WORDS;
        while !(self.out.is_read() && self.err.is_read()) && Instant::now() < end {
            pause();
        }
    }

    /// Ctrl-C, and its end.
    pub(crate) fn interrupt(&mut self) -> ExitStatus {
        self.signal(Signal::SIGINT);
        self.ended()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // The graceful way first: a killed hub leaves its database behind.
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(Signal::SIGTERM);
            let end = Instant::now() + SOON;
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < end {
                pause();
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

// === impl Output ===

impl Output {
    fn collect(pipe: impl std::io::Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(String::new()));
        let shared = text.clone();
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                let mut text = shared.lock().expect("not poisoned");
                text.push_str(&line);
                text.push('\n');
            }
        });
        Self { text, reader }
    }

    fn text(&self) -> String {
        self.text.lock().expect("not poisoned").clone()
    }

    fn is_read(&self) -> bool {
        self.reader.is_finished()
    }
}

// === impl Dev ===

impl Dev {
    pub(crate) fn start() -> Self {
        Self::start_in(World::new(), &[])
    }

    pub(crate) fn start_in(world: World, more: &[&str]) -> Self {
        Self::start_at(world, "127.0.0.1:0", more)
    }

    pub(crate) fn start_at(world: World, listen: &str, more: &[&str]) -> Self {
        let _shared = STARTS.read().unwrap_or_else(PoisonError::into_inner);
        Self::start_now(world, listen, more)
    }

    /// How long a new hub takes to be ready while no other test of this program starts one, since each creates a
    /// database.
    pub(crate) fn start_alone() -> (Self, Duration) {
        let _alone = STARTS.write().unwrap_or_else(PoisonError::into_inner);
        let begin = Instant::now();
        let dev = Self::start_now(World::new(), "127.0.0.1:0", &[]);
        (dev, begin.elapsed())
    }

    fn start_now(world: World, listen: &str, more: &[&str]) -> Self {
        let data = world.data().display().to_string();
        let arguments = [&["dev", "--data", &data, "--listen", listen], more].concat();
        let mut program = world.start(&arguments);
        let text = program.says("Ctrl-C stops");
        let url = text
            .lines()
            .find_map(|line| line.strip_prefix("alkhub is ready at "))
            .expect("the URL")
            .to_owned();
        Self { program, world, url }
    }

    pub(crate) fn key(&self) -> String {
        std::fs::read_to_string(self.world.data().join("admin.key"))
            .expect("the key")
            .trim()
            .to_owned()
    }

    /// Offers a command and waits until it is registered.
    pub(crate) fn offer(&self, arguments: &[&str]) -> Program {
        let mut program = self.world.start(&[&["offer"], arguments].concat());
        program.notes("offering");
        program
    }

    /// Ends the hub, which must end well, and gives back its folders.
    pub(crate) fn stop(self) -> World {
        let Self { mut program, world, .. } = self;
        let status = program.interrupt();
        assert!(status.success(), "{status}: {}", program.err());
        world
    }
}

/// Feeds a program's standard input.
pub(crate) fn run_with_input(command: &mut Command, input: &str) -> process::Output {
    let command = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("it runs");
    child
        .stdin
        .take()
        .expect("piped")
        .write_all(input.as_bytes())
        .expect("it reads");
    child.wait_with_output().expect("it ends")
}
