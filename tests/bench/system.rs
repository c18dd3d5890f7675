//! The two systems: how each is started, and what each says on the wire.

use std::path::Path;
use std::time::Duration;

use alkhub_test_support::{Port, RedisServer, try_until_within, until};
use anyhow::{Context as _, Result, anyhow, ensure};

use crate::nats;
use crate::process::Server;
use crate::ws::{self, Reader, Writer};

/// Which server is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Alkhub,
    /// nats-server over its WebSocket listener.
    Nats,
}

/// One or two servers that work together, and what they need.
#[derive(Debug)]
pub(crate) struct Servers {
    kind: Kind,
    nodes: Vec<Server>,
    addresses: Vec<String>,
    /// Where hubs serve `/metrics`.
    management: Vec<String>,
    token: String,
    redis: Option<RedisServer>,
    _postgres: Option<alkhub_devdb::Server>,
    _folder: tempfile::TempDir,
}

/// What a hub keeps in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kept {
    /// Resident, in bytes.
    pub(crate) resident: u64,
    /// How many bytes are charged to its budget, and how many may be.
    pub(crate) budget: usize,
    pub(crate) limit: usize,
    /// What it did not keep because a budget was full.
    pub(crate) refused: usize,
}

// === impl Servers ===

impl Servers {
    /// Starts the servers and waits until they serve; two hubs have a link from pod to pod if they should be linked.
    pub(crate) async fn start(kind: Kind, (program, is_linked): (&Path, bool), count: usize) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        match kind {
            Kind::Alkhub => Self::alkhub((program, is_linked), count, folder).await,
            Kind::Nats => Self::nats(program, count, folder).await,
        }
    }

    async fn alkhub((program, is_linked): (&Path, bool), count: usize, folder: tempfile::TempDir) -> Result<Self> {
        let is_linked = is_linked && count > 1;
        let postgres = alkhub_devdb::Server::temporary().await?;
        let database = postgres.create_database("bench").await?;
        let redis = if count > 1 {
            Some(RedisServer::start().await)
        } else {
            None
        };
        let key = alkhub_tests::keys::write(folder.path())?;
        let file = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
        let (mut nodes, mut addresses, mut managements) = (Vec::new(), Vec::new(), Vec::new());
        // Reserved until the servers have bound them.
        let peer_ports: Vec<Port> = (0..count).map(|_| Port::free()).collect();
        for (node, peer_port) in peer_ports.iter().enumerate() {
            let (port, management) = (Port::free(), Port::free());
            let mut environment = vec![
                ("ALKHUB_SERVER__LISTEN", format!("127.0.0.1:{port}")),
                ("ALKHUB_SERVER__MANAGEMENT_LISTEN", format!("127.0.0.1:{management}")),
                ("ALKHUB_STORE__DATABASE_URL", database.clone()),
                ("ALKHUB_AUTH__HASH_KEY_FILE", file("hash.key")),
                ("ALKHUB_AUTH__ADMIN_KEY_FILE", file("admin.key")),
                ("ALKHUB_POD__NAME", format!("bench-{node}")),
                ("ALKHUB_TELEMETRY__LOG_FILTER", "warn".to_owned()),
                // A burst of calls beyond what Postgres accepts at once is queued and written, so that each has its
                // record.
                ("ALKHUB_CALLS__RECORD_QUEUE", "1000000".to_owned()),
                // A single key makes all requests here: their cost is measured, not how they are throttled.
                ("ALKHUB_SERVER__MESSAGES_PER_SECOND_PER_KEY", "1000000".to_owned()),
                // Nobody answers pings here.
                ("ALKHUB_SERVER__PING_INTERVAL", "60s".to_owned()),
                ("ALKHUB_SERVER__DEAD_AFTER", "120s".to_owned()),
            ];
            if let Some(redis) = &redis {
                environment.push(("ALKHUB_EVENTS__REDIS_URL", redis.url()));
            }
            if is_linked {
                environment.push(("ALKHUB_SERVER__PEER_LISTEN", format!("127.0.0.1:{peer_port}")));
                // What is measured must stay on its hub. A build without links does not know this setting.
                environment.push(("ALKHUB_SERVER__REBALANCE", "false".to_owned()));
            }
            let log = folder.path().join(format!("alkhub-{node}.log"));
            let mut server = Server::start(program, &["serve"], &environment, &log)?;
            let management = format!("http://127.0.0.1:{management}");
            serves(&mut server, &format!("{management}/readyz"), &log).await;
            managements.push(management);
            nodes.push(server);
            addresses.push(format!("127.0.0.1:{port}"));
        }
        if is_linked {
            for management in &managements {
                linked(&format!("{management}/metrics")).await;
            }
        }
        let token = key.expose().to_owned();
        Ok(Self {
            kind: Kind::Alkhub,
            nodes,
            addresses,
            management: managements,
            token,
            redis,
            _postgres: Some(postgres),
            _folder: folder,
        })
    }

    async fn nats(program: &Path, count: usize, folder: tempfile::TempDir) -> Result<Self> {
        let routes: Vec<Port> = (0..count).map(|_| Port::free()).collect();
        let (mut nodes, mut addresses) = (Vec::new(), Vec::new());
        for (node, route) in routes.iter().enumerate() {
            let (port, client, monitor) = (Port::free(), Port::free(), Port::free());
            let urls: Vec<String> = routes.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
            let cluster = if count > 1 {
                format!(
                    "cluster {{ name: bench, listen: \"127.0.0.1:{route}\", routes: [{}] }}",
                    urls.join(", ")
                )
            } else {
                String::new()
            };
            let config = format!(
                "server_name: n{node}\nlisten: \"127.0.0.1:{client}\"\nhttp: \"127.0.0.1:{monitor}\"\n\
                 websocket {{ listen: \"127.0.0.1:{port}\", no_tls: true }}\n{cluster}\n"
            );
            let path = folder.path().join(format!("nats-{node}.conf"));
            std::fs::write(&path, config)?;
            let log = folder.path().join(format!("nats-{node}.log"));
            let mut server = Server::start(program, &["-c", &path.to_string_lossy()], &[], &log)?;
            serves(&mut server, &format!("http://127.0.0.1:{monitor}/healthz"), &log).await;
            if node > 0 {
                routed(&format!("http://127.0.0.1:{monitor}/routez")).await;
            }
            nodes.push(server);
            addresses.push(format!("127.0.0.1:{port}"));
        }
        Ok(Self {
            kind: Kind::Nats,
            nodes,
            addresses,
            management: Vec::new(),
            token: String::new(),
            redis: None,
            _postgres: None,
            _folder: folder,
        })
    }

    /// CPU time that all servers have used, including the Redis between two hubs.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let mut total = Duration::ZERO;
        for node in &self.nodes {
            total += node.cpu()?;
        }
        if let Some(redis) = &self.redis {
            total += redis.cpu()?;
        }
        Ok(total)
    }

    /// Waits until the hubs have written the records of all `calls` calls; none may be dropped.
    pub(crate) async fn recorded(&self, calls: usize) -> Result<()> {
        if self.kind == Kind::Nats {
            return Ok(());
        }
        let client = reqwest::Client::new();
        let written = || async {
            let (written, dropped) = self.records(&client).await.map_err(|error| error.to_string())?;
            match written {
                _ if dropped > 0 => Ok(Err(anyhow!("{dropped} of {calls} call records were dropped"))),
                written if written < calls => Err(format!("{written} of {calls}")),
                _ => Ok(Ok(())),
            }
        };
        let limit = Duration::from_secs(20);
        let written = try_until_within("all call records are written", limit, written).await;
        written.map_err(|late| anyhow!(late))?
    }

    /// How many call records the hubs have written, and how many they have dropped.
    async fn records(&self, client: &reqwest::Client) -> Result<(usize, usize)> {
        let (mut written, mut dropped) = (0, 0);
        for url in &self.management {
            let text = client.get(format!("{url}/metrics")).send().await?.text().await?;
            written += sample(&text, "alkhub_call_records_written_total")?;
            dropped += sample(&text, "alkhub_call_records_dropped_total")?;
        }
        Ok((written, dropped))
    }

    /// Resident memory of the first server in bytes.
    pub(crate) fn resident_bytes(&self) -> Result<u64> {
        self.nodes[0].resident_bytes()
    }

    /// Resident memory of all of them in bytes.
    pub(crate) fn all_resident_bytes(&self) -> Result<u64> {
        self.nodes.iter().map(Server::resident_bytes).sum()
    }

    /// What a running hub keeps.
    pub(crate) async fn kept(&self, node: usize) -> Result<Kept> {
        let text = reqwest::get(format!("{}/metrics", self.management[node])).await?;
        let text = text.text().await?;
        Ok(Kept {
            resident: self.nodes[node].resident_bytes()?,
            budget: sum(&text, "alkhub_budget_bytes")?,
            limit: sample(&text, "alkhub_budget_limit_bytes")?,
            refused: sum(&text, "alkhub_budget_refused_total")?,
        })
    }

    /// Kills one server without a word.
    pub(crate) fn kill(&self, node: usize) -> Result<()> {
        self.nodes[node].kill()
    }

    /// The address of a hub for HTTP.
    pub(crate) fn url(&self, node: usize) -> String {
        format!("http://{}", self.addresses[node])
    }

    /// A key that may do everything.
    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// A WebSocket to one hub, with a key.
    pub(crate) async fn connect_as(&self, node: usize, key: &str) -> Result<(Reader, Writer)> {
        let header = format!("Authorization: Bearer {key}\r\n");
        ws::connect(&self.addresses[node], "/v1/ws", &header).await
    }

    /// A WebSocket to one node, greeted in the way that the system expects.
    pub(crate) async fn connect(&self, node: usize) -> Result<(Reader, Writer)> {
        match self.kind {
            Kind::Alkhub => self.connect_as(node.min(self.addresses.len() - 1), &self.token).await,
            Kind::Nats => {
                let address = &self.addresses[node.min(self.addresses.len() - 1)];
                let (mut reader, mut writer) = ws::connect(address, "/", "").await?;
                let info = reader.next().await?;
                ensure!(info.starts_with(b"INFO "), "unexpected greeting {info:?}");
                writer
                    .send(b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\nPING\r\n", true)
                    .await?;
                nats::pong(&mut reader).await?;
                Ok((reader, writer))
            }
        }
    }

    /// Subscribes to a topic and waits until the server has confirmed that.
    pub(crate) async fn subscribe(&self, reader: &mut Reader, writer: &mut Writer, topic: &str) -> Result<()> {
        match self.kind {
            Kind::Alkhub => {
                let frame = format!(r#"{{"type":"__subscribe","id":"","payload":{{"topic":"{topic}"}}}}"#);
                writer.send(frame.as_bytes(), false).await?;
                let answer = reader.next().await?;
                ensure!(contains(&answer, b"__subscribed"), "not subscribed: {answer:?}");
            }
            Kind::Nats => {
                writer
                    .send(
                        format!("SUB {} 1\r\nPING\r\n", topic.replace(':', ".")).as_bytes(),
                        true,
                    )
                    .await?;
                nats::pong(reader).await?;
            }
        }
        Ok(())
    }

    /// The text of one event.
    pub(crate) fn publication(&self, topic: &str, payload: &str) -> Vec<u8> {
        match self.kind {
            Kind::Alkhub => {
                let (kind, id) = topic.split_once(':').unwrap_or((topic, ""));
                format!(r#"{{"type":"{kind}","id":"{id}","payload":"{payload}"}}"#).into_bytes()
            }
            Kind::Nats => format!("PUB {} {}\r\n{payload}\r\n", topic.replace(':', "."), payload.len()).into_bytes(),
        }
    }
}

pub(crate) fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

fn sample(metrics: &str, name: &str) -> Result<usize> {
    let value = metrics
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(value.with_context(|| format!("no sample of {name}"))?.parse()?)
}

/// The sum of a family's samples.
fn sum(metrics: &str, name: &str) -> Result<usize> {
    let family = metrics
        .lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{')));
    let values = family.filter_map(|line| line.rsplit_once(' '));
    let values: Vec<usize> = values.map(|(_, value)| value.parse()).collect::<Result<_, _>>()?;
    ensure!(!values.is_empty(), "no sample of {name}");
    Ok(values.into_iter().sum())
}

async fn serves(server: &mut Server, url: &str, log: &Path) {
    let client = reqwest::Client::new();
    let ended = std::cell::Cell::new(server.ended());
    until(&format!("{url} answers"), || {
        ended.set(server.ended());
        let request = client.get(url);
        let ended = ended.get();
        async move {
            let said = || std::fs::read_to_string(log).unwrap_or_default();
            if ended {
                panic!("the server ended: {}", said());
            }
            let status = request.send().await.map_err(|e| e.to_string())?.status();
            if status.is_success() {
                Ok(())
            } else {
                Err(format!("{status}: {}", said()))
            }
        }
    })
    .await;
}

/// Waits until a hub has its link to the other pod.
async fn linked(url: &str) {
    let client = reqwest::Client::new();
    until("a link from pod to pod", || {
        let request = client.get(url);
        async move {
            let text = request.send().await.map_err(|e| e.to_string())?.text().await;
            match sample(&text.map_err(|e| e.to_string())?, "alkhub_peer_links") {
                Ok(1) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        }
    })
    .await;
}

/// Waits until a nats-server has a route to another.
async fn routed(url: &str) {
    let client = reqwest::Client::new();
    until("a route between the servers", || {
        let request = client.get(url);
        async move {
            let text = request.send().await.map_err(|e| e.to_string())?.text().await;
            let text = text.map_err(|e| e.to_string())?;
            if text.contains("\"rid\"") { Ok(()) } else { Err(text) }
        }
    })
    .await;
}

/// A payload of 128 bytes.
pub(crate) const PAYLOAD: &[u8] = &[b'x'; 128];

/// Applies an overall time limit, so that a lost delivery fails the run instead of hanging it.
pub(crate) async fn limited<T>(what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(Duration::from_secs(60), work)
        .await
        .with_context(|| format!("{what}: not done in 60 s"))?
}
