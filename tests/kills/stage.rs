//! Hubs, spokes and calls as processes and tasks, which the tests of this program set up.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use alkhub_protocol::Delivered;
use alkhub_test_support::{until, until_within};
use alkhub_tests::http::Answer;
use alkhub_tests::hubs::{Hubs, Plan};
use alkhub_tests::promise;
use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;

/// The limit for what is known without waiting for anything: long before any deadline of a call, a lease or a session.
/// A machine that is compiling at the same time needs part of it.
pub(crate) const AT_ONCE: Duration = Duration::from_secs(3);

/// A hub that is not heard of for this long is gone.
pub(crate) const LEASE: Duration = Duration::from_secs(4);

/// The same with the hubs' default settings.
pub(crate) const USUAL_LEASE: Duration = Duration::from_secs(10);

/// How long a session waits for its peer.
pub(crate) const RESUME: Duration = Duration::from_secs(8);

/// A connection that is silent for this long is dead.
pub(crate) const DEAD: Duration = Duration::from_secs(3);

/// The most time that a hub which stands still may cost (issue 8).
pub(crate) const HUNG: Duration = Duration::from_secs(10);

const SETTINGS: [(&str, &str); 8] = [
    ("ALKHUB_SERVER__RESUME", "8s"),
    ("ALKHUB_SERVER__PING_INTERVAL", "1s"),
    ("ALKHUB_SERVER__DEAD_AFTER", "3s"),
    ("ALKHUB_STORE__MAX_CONNECTIONS", "4"),
    // Each test decides on which hub a peer is.
    ("ALKHUB_SERVER__REBALANCE", "false"),
    // Lets a hub name itself as one to which a peer may move.
    ("ALKHUB_POD__IP", "127.0.0.1"),
    // The settings behind `LEASE`; they come last so that they can be left out.
    ("ALKHUB_EVENTS__LEASE_TTL", "4s"),
    ("ALKHUB_EVENTS__LEASE_INTERVAL", "1s"),
];

/// What `alkhub offer` runs for a call, equivalent to the plain spoke (`tests/src/bin/plain_spoke.rs`).
const SCRIPT: &str = r#"
# Nobody reads it when the call has been aborted.
exec 2> /dev/null
dir=$1
read -r word || :
word=${word#\"}; word=${word%\"}
echo "$word" >> "$dir/runs"
trap 'echo "$word" >> "$dir/stops"; exit 1' TERM
case $word in
    hold*) while [ -d "$dir" ] && [ ! -e "$dir/go-$word" ]; do sleep 0.05; done ;;
esac
echo "$word" >> "$dir/dones"
printf %s "$word"
"#;

/// The hubs of a test.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) hubs: Hubs,
    /// Every call that was begun, by its word: whether it is a query, and what its caller knows about it.
    calls: parking_lot::Mutex<BTreeMap<String, (bool, Delivered)>>,
}

/// The process of a spoke, which is killed when this value is dropped.
#[derive(Debug)]
pub(crate) struct Spoke {
    name: String,
    process: Child,
    folder: TempDir,
}

/// A call that was begun.
#[derive(Debug)]
pub(crate) struct Call {
    word: String,
    answer: JoinHandle<Result<Answer>>,
}

/// What a caller was told.
#[derive(Debug)]
pub(crate) struct Told {
    word: String,
    /// `None` if the connection broke.
    pub(crate) answer: Option<Answer>,
}

/// The `alkhub` binary, which is beside those of this crate.
fn alkhub() -> Result<PathBuf> {
    let program = Path::new(env!("CARGO_BIN_EXE_alkhub-plain-spoke")).with_file_name("alkhub");
    ensure!(
        program.is_file(),
        "{} is not there: `cargo build -p alkhub-cli` first, or `cargo test --workspace`",
        program.display()
    );
    Ok(program)
}

// === impl Stage ===

impl Stage {
    pub(crate) async fn linked(count: usize) -> Result<Self> {
        Self::start(count, true, false, &SETTINGS).await
    }

    /// Linked hubs whose leases are [`USUAL_LEASE`].
    pub(crate) async fn with_usual_leases(count: usize) -> Result<Self> {
        Self::start(count, true, false, &SETTINGS[..SETTINGS.len() - 2]).await
    }

    /// Hubs that are connected only through Redis.
    pub(crate) async fn over_redis(count: usize) -> Result<Self> {
        Self::start(count, false, false, &SETTINGS).await
    }

    /// Linked hubs on a Postgres that may be killed.
    pub(crate) async fn with_own_postgres(count: usize) -> Result<Self> {
        Self::start(count, true, true, &SETTINGS).await
    }

    async fn start(count: usize, linked: bool, own_postgres: bool, settings: &[(&str, &str)]) -> Result<Self> {
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let program = alkhub()?;
        let plan = Plan {
            program: &program,
            count,
            linked,
            own_postgres,
            settings,
        };
        let hubs = Box::pin(Hubs::start(plan)).await?;
        Ok(Self {
            hubs,
            calls: parking_lot::Mutex::default(),
        })
    }

    /// `alkhub offer` of `NAME.get` and `NAME.set` with this many sessions, at an address that leads to a hub.
    pub(crate) async fn offer(&self, name: &str, url: &str, sessions: u8) -> Result<Spoke> {
        let folder = tempfile::tempdir()?;
        let at = folder.path();
        std::fs::write(at.join("run.sh"), SCRIPT)?;
        let operation = |operation: &str, kind: &str| {
            let command = json!(["sh", at.join("run.sh"), at]);
            json!({ "name": format!("{name}.{operation}"), "kind": kind, "command": command })
        };
        let operations = [operation("get", "query"), operation("set", "mutation")];
        // Every JSON document is also YAML.
        let file = at.join("offer.yaml");
        std::fs::write(&file, json!({ "spoke": name, "operations": operations }).to_string())?;
        let mut command = Command::new(alkhub()?);
        command.args(["offer", "--quiet", "--sessions", &sessions.to_string(), "--file"]);
        command
            .arg(&file)
            .env("ALKHUB_URL", url)
            .env("ALKHUB_TOKEN", self.hubs.key());
        let log = std::fs::File::create(at.join("offer.log"))?;
        let spoke = Spoke::start(name, command.stdout(log.try_clone()?).stderr(log), folder)?;
        let wanted = if sessions > 1 { "over two sessions" } else { "offering" };
        spoke.says("offer.log", wanted).await;
        Ok(spoke)
    }

    /// A spoke on a hub that speaks the origin's wire.
    pub(crate) async fn plain(&self, name: &str, hub: usize) -> Result<Spoke> {
        let folder = tempfile::tempdir()?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_alkhub-plain-spoke"));
        command.args(["--url", &self.hubs.url(hub), "--key", self.hubs.key(), "--name", name]);
        command.arg("--folder").arg(folder.path());
        let spoke = Spoke::start(name, &mut command, folder)?;
        spoke.says("registered", name).await;
        Ok(spoke)
    }

    /// Begins a call with a deadline of a minute and a word of its own.
    pub(crate) fn call(&self, hub: usize, operation: &str, word: &str) -> Call {
        let begun = (operation.ends_with(".get"), Delivered::Maybe);
        let before = self.calls.lock().insert(word.to_owned(), begun);
        assert!(before.is_none(), "{word} is the word of another call");
        let (http, path, input) = (self.hubs.http(hub), format!("/v1/call/{operation}"), json!(word));
        let answer = TaskTracker::new().spawn(async move {
            let limit = [("alkhub-timeout", "60000")];
            http.send_with("POST", &path, Some(&input), &limit).await
        });
        Call {
            word: word.to_owned(),
            answer,
        }
    }

    /// Waits for the end of a call, which must come within `limit` of `since`.
    pub(crate) async fn told(&self, call: Call, since: Instant, limit: Duration) -> Result<Told> {
        let word = call.word;
        let answer = timeout_at(since + limit, call.answer)
            .await
            .with_context(|| format!("{word} has not ended within {limit:?}"))??
            .ok();
        let said = answer.as_ref().map(|answer| match answer.status {
            200 => Delivered::Yes,
            _ => promise::delivered(answer.body["delivered"].as_str()),
        });
        if let Some((_, known)) = self.calls.lock().get_mut(&word) {
            *known = said.unwrap_or(Delivered::Maybe);
        }
        Ok(Told { word, answer })
    }

    /// Makes a call that must be answered at once.
    pub(crate) async fn answers(&self, hub: usize, operation: &str, word: &str) -> Result<()> {
        let call = self.call(hub, operation, word);
        self.told(call, Instant::now(), AT_ONCE).await?.is_answered()
    }

    /// Repeats a call until it is answered, within `limit` of `since`: failures in the meantime must be ones that the
    /// trouble explains.
    pub(crate) async fn answers_within(
        &self,
        hub: usize,
        operation: &str,
        since: Instant,
        limit: Duration,
    ) -> Result<()> {
        let mut failed = Vec::new();
        for number in 0.. {
            let word = format!("soon-{operation}-{hub}-{number}-{:?}", since.elapsed().as_millis());
            let call = self.call(hub, operation, &word);
            let told = self.told(call, since, limit).await;
            let told = told.with_context(|| format!("{failed:?}"))?;
            let answer = told
                .answer
                .with_context(|| format!("hub {hub} breaks its connection"))?;
            if answer.status == 200 {
                return Ok(());
            }
            let code = answer.body["code"].as_str().unwrap_or_default();
            ensure!(promise::TROUBLE.contains(&code), "{answer:?}");
            failed.push(answer.body);
            ensure!(
                since.elapsed() < limit,
                "{operation} through hub {hub}, after {limit:?}: {failed:?}"
            );
            alkhub_test_support::pause(Duration::from_millis(20)).await;
        }
        bail!("unreachable")
    }

    /// Repeats a call until a hub says that nobody offers the operation; until then the calls must be answered.
    pub(crate) async fn is_withdrawn(&self, hub: usize, operation: &str) {
        let began = Instant::now();
        until_within(&format!("{operation} is withdrawn"), AT_ONCE, || async {
            let word = format!("withdrawn-{hub}-{:?}", began.elapsed());
            let told = self.told(self.call(hub, operation, &word), began, AT_ONCE).await;
            let told = told.map_err(|error| format!("{error:#}"))?;
            match told.is(503, "NO_PROVIDER", "no") {
                Ok(()) => Ok(()),
                Err(_) => match told.is_answered() {
                    Ok(()) => Err(format!("{word} was answered")),
                    Err(error) => panic!("{error:#}"),
                },
            }
        })
        .await;
    }

    /// Waits until hubs know this many instances.
    pub(crate) async fn know(&self, hubs: &[usize], instances: usize, limit: Duration) {
        for hub in hubs {
            let line = format!("\nalkhub_spoke_instances_known {instances}\n");
            self.hubs.shows(*hub, &line, limit).await;
        }
    }

    /// Checks that each call ran as its caller was told, over all spokes, and that none ran twice except queries whose
    /// spokes were lost.
    pub(crate) fn ran_as_told(&self, spokes: &[&Spoke]) -> Result<()> {
        for (word, (is_query, delivered)) in &*self.calls.lock() {
            let runs: usize = spokes.iter().map(|spoke| spoke.lines("runs", word)).sum();
            let holds = if *is_query {
                promise::holds_of_query
            } else {
                promise::holds
            };
            ensure!(
                holds(*delivered, runs),
                "{word} ran {runs} times, and its caller knows of it: {delivered:?}"
            );
        }
        Ok(())
    }
}

// === impl Spoke ===

impl Spoke {
    fn start(name: &str, command: &mut Command, folder: TempDir) -> Result<Self> {
        let process = command.stdin(Stdio::null()).kill_on_drop(true).spawn()?;
        Ok(Self {
            name: name.to_owned(),
            process,
            folder,
        })
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let id = self.process.id().context("the spoke runs")?;
        Ok(kill(Pid::from_raw(id.try_into()?), signal)?)
    }

    /// Sends it a signal and waits until it has ended.
    pub(crate) async fn end(&mut self, signal: Signal) -> Result<()> {
        self.signal(signal)?;
        self.ended().await
    }

    pub(crate) async fn ended(&mut self) -> Result<()> {
        let what = format!("the spoke {} ends", self.name);
        alkhub_test_support::within(&what, self.process.wait()).await?;
        Ok(())
    }

    /// Lets a held call end.
    pub(crate) fn release(&self, word: &str) -> Result<()> {
        Ok(std::fs::write(self.folder.path().join(format!("go-{word}")), "")?)
    }

    /// Waits until these calls run, once each.
    pub(crate) async fn runs(&self, words: &[&str]) {
        self.has("runs", words, alkhub_test_support::PATIENCE).await;
    }

    /// Lets held calls end, and waits until they have.
    pub(crate) async fn finishes(&self, words: &[&str]) -> Result<()> {
        for word in words {
            self.release(word)?;
        }
        self.has("dones", words, alkhub_test_support::PATIENCE).await;
        Ok(())
    }

    /// Waits until these calls were told to stop, but no longer than `limit`.
    pub(crate) async fn stops(&self, words: &[&str], limit: Duration) {
        self.has("stops", words, limit).await;
    }

    /// How many lines of a file consist of a word.
    pub(crate) fn lines(&self, file: &str, word: &str) -> usize {
        self.read(file).lines().filter(|line| *line == word).count()
    }

    /// Waits until it has run this many calls in total.
    pub(crate) async fn has_run(&self, count: usize) {
        until(&format!("{} has run {count} calls", self.name), || async {
            let runs = self.read("runs").lines().count();
            if runs >= count { Ok(()) } else { Err(runs) }
        })
        .await;
    }

    async fn has(&self, file: &str, words: &[&str], limit: Duration) {
        let what = format!("{} has {words:?} in `{file}`", self.name);
        until_within(&what, limit, || async {
            if words.iter().all(|word| self.lines(file, word) == 1) {
                Ok(())
            } else {
                Err(self.read(file))
            }
        })
        .await;
    }

    async fn says(&self, file: &str, text: &str) {
        until(&format!("{} says `{text}`", self.name), || async {
            let said = self.read(file);
            if said.contains(text) { Ok(()) } else { Err(said) }
        })
        .await;
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(file)).unwrap_or_default()
    }
}

// === impl Told ===

impl Told {
    pub(crate) fn is_answered(&self) -> Result<()> {
        let answer = self.answer()?;
        let is_own = answer.status == 200 && answer.body["data"] == self.word.as_str();
        ensure!(is_own, "{} is not answered: {answer:?}", self.word);
        Ok(())
    }

    pub(crate) fn is(&self, status: u16, code: &str, delivered: &str) -> Result<()> {
        let answer = self.answer()?;
        let told = (answer.status, &answer.body["code"], &answer.body["delivered"]);
        let wanted: (u16, &Value, &Value) = (status, &json!(code), &json!(delivered));
        ensure!(told == wanted, "{} was told: {answer:?}", self.word);
        Ok(())
    }

    fn answer(&self) -> Result<&Answer> {
        self.answer
            .as_ref()
            .with_context(|| format!("the connection of {} broke", self.word))
    }
}
