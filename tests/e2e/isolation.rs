//! Two Hubs in two namespaces on one Redis and one Postgres server.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use alkhub_test_support::until;
use alkhub_tests::http::Http;
use alkhub_tests::kube::{Kube, condition};
use alkhub_tests::reach::Reach;
use alkhub_tests::wire::{Peer, operation};
use anyhow::{Context as _, Result, ensure};
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::task::AbortHandle;
use tokio_util::task::TaskTracker;

use crate::hubs::{PORT, admin_key, ready_pods};
use crate::say;
use crate::world::{Spoke, World};

/// The servers that both Hubs use, in a namespace of their own.
const SERVERS: &str = include_str!("servers.yaml");
const NAMESPACES: [&str; 2] = ["team-a", "team-b"];
const REDIS: &str = "redis://:secret@redis.shared.svc:6379";
const POSTGRES: &str = "postgres://postgres:secret@postgres.shared.svc:5432/alkhub";

fn hub(name: &str, prefix: Option<&str>) -> String {
    let prefix = prefix
        .map(|prefix| format!(", channelPrefix: '{prefix}'"))
        .unwrap_or_default();
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: servers}}\nstringData: {{redis: '{REDIS}', postgres: '{POSTGRES}'}}\n---\n\
         apiVersion: alkhub.dev/v1alpha1\nkind: Hub\nmetadata: {{name: {name}}}\n\
         spec: {{replicas: 2, redis: {{secretRef: {{name: servers, key: redis}}}}, postgres: {{secretRef: {{name: servers, key: postgres}}}}{prefix}}}\n"
    )
}

async fn ready(world: &World, namespace: &str, name: &str) {
    world
        .kube
        .wait(
            &format!("{namespace}/{name} is ready"),
            (namespace, &["hub", name]),
            Duration::from_secs(300),
            |hub| {
                condition(hub, "Ready")
                    .filter(|(status, _)| *status == "True")
                    .map(|_| ())
            },
        )
        .await;
}

/// One Hub with two pods, and what its users have.
struct Team {
    namespace: &'static str,
    key: String,
    /// The pods' addresses.
    pods: Vec<Reach>,
    /// Reads `job:1` on the first pod.
    reader: Peer,
}

impl Team {
    async fn new(kube: &Kube, namespace: &'static str) -> Result<Self> {
        let key = admin_key(kube, namespace, "main").await?;
        let mut pods = Vec::new();
        let names = until(&format!("{namespace} has two ready pods"), || async {
            let ready = ready_pods(kube, namespace, "main").await;
            let ready = ready.map_err(|error| format!("{error:#}"))?;
            if ready.len() == 2 {
                Ok(ready)
            } else {
                Err(ready.join(", "))
            }
        })
        .await;
        for pod in names {
            pods.push(Reach::pod(kube, namespace, &pod, PORT).await?);
        }
        let mut reader = Peer::connect(&pods[0].url, &key).await?;
        reader.send("__subscribe", "", json!({ "topic": "job:1" })).await?;
        reader.next_of("__subscribed").await?;
        Ok(Self {
            namespace,
            key,
            pods,
            reader,
        })
    }

    /// Everything that goes through Redis: a registration and calls across pods, an event, a revoked key.
    async fn work(&self) -> Result<()> {
        let [here, there] = [0, 1].map(|pod| Http::new(&self.pods[pod].url, &self.key));
        let mut peer = Peer::connect(&self.pods[0].url, &self.key).await?;
        peer.register(self.namespace, json!([operation("text", "echo", "query")]))
            .await?;
        let spoke = Spoke::answering(peer);
        until("the other pod knows the spoke", || async {
            let answer = there.call("text.echo", &json!(self.namespace)).await;
            match answer {
                Ok(answer) if answer.body["data"] == json!(self.namespace) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        let made = here
            .send(
                "POST",
                "/v1/admin/keys",
                Some(&json!({ "name": "guest", "scopes": ["call:*"] })),
            )
            .await?;
        let (id, guest) = (&made.body["data"]["id"], &made.body["data"]["key"]);
        let guest = Http::new(&self.pods[1].url, guest.as_str().with_context(|| format!("{made:?}"))?);
        ensure!(
            guest.call("text.echo", &json!(1)).await?.status == 200,
            "a new key is not honoured"
        );
        let path = format!("/v1/admin/keys/{}", id.as_str().context("an id")?);
        here.send("DELETE", &path, None).await?;
        until("the other pod refuses the revoked key", || async {
            match guest.call("text.echo", &json!(1)).await {
                Ok(answer) if answer.status == 401 => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        there
            .send("POST", "/v1/events/job/1", Some(&json!(self.namespace)))
            .await?;
        ensure!(spoke.connected(), "the spoke lost its connection");
        Ok(())
    }

    /// What the reader got, up to the last event, which is published now.
    async fn read(&mut self) -> Result<Vec<Value>> {
        let last = json!({ "last of": self.namespace });
        Http::new(&self.pods[1].url, &self.key)
            .send("POST", "/v1/events/job/1", Some(&last))
            .await?;
        let mut read = Vec::new();
        loop {
            let event = self.reader.next_of("job").await?;
            if event["payload"] == last {
                return Ok(read);
            }
            read.push(event["payload"].clone());
        }
    }

    fn prefix(&self) -> String {
        format!("alk:{}:main:", self.namespace)
    }
}

/// Every channel on which something was published, with the number of messages, until it is dropped.
struct Listener {
    heard: Arc<Mutex<BTreeMap<String, usize>>>,
    listening: AbortHandle,
}

impl Listener {
    async fn start(redis: &redis::Client) -> Result<Self> {
        let mut everything = redis.get_async_pubsub().await?;
        everything.psubscribe("*").await?;
        let heard = Arc::new(Mutex::new(BTreeMap::new()));
        let into = Arc::clone(&heard);
        let listening = TaskTracker::new().spawn(async move {
            let mut messages = everything.into_on_message();
            while let Some(message) = messages.next().await {
                let channel = message.get_channel_name().to_owned();
                *into.lock().expect("nobody panics").entry(channel).or_insert(0) += 1;
            }
        });
        Ok(Self {
            heard,
            listening: listening.abort_handle(),
        })
    }

    fn channels(&self) -> Vec<String> {
        self.heard.lock().expect("nobody panics").keys().cloned().collect()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// A listener to everything in Redis hears each Hub only under its own prefix, and Postgres has a schema for each.
pub(crate) async fn two_namespaces_share_a_redis_and_a_postgres_and_nothing_else(world: &mut World) -> Result<()> {
    let kube = world.kube.clone();
    kube.kubectl(&["create", "namespace", "shared"]).await?;
    kube.apply("shared", SERVERS).await?;
    for namespace in NAMESPACES {
        kube.kubectl(&["create", "namespace", namespace]).await?;
        kube.apply(namespace, &hub("main", None)).await?;
    }
    for namespace in NAMESPACES {
        ready(world, namespace, "main").await;
    }
    let redis = Reach::service(&kube, "shared", "redis").await?;
    let redis = redis::Client::open(redis.url.replacen("http://", "redis://:secret@", 1).as_str())?;
    let listener = Listener::start(&redis).await?;
    let [a, b] = NAMESPACES;
    let mut teams = [Team::new(&kube, a).await?, Team::new(&kube, b).await?];

    // The second one works first: if the first one's reader got its events, they would come before its own.
    teams[1].work().await?;
    teams[0].work().await?;

    for team in &mut teams {
        let read = team.read().await?;
        ensure!(read == [json!(team.namespace)], "{} reads {read:?}", team.namespace);
    }
    let foreign = Http::new(&teams[0].pods[0].url, &teams[1].key)
        .send("GET", "/v1/operations", None)
        .await?;
    ensure!(foreign.status == 401, "a key of the other Hub is honoured: {foreign:?}");
    for team in &teams {
        hears_all_of(&listener, &team.prefix()).await;
    }
    let channels = listener.channels();
    let stray = strays(&channels);
    ensure!(stray.is_empty(), "channels outside both prefixes: {stray:?}");
    let mut connection = redis.get_multiplexed_async_connection().await?;
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut connection).await?;
    let stray = strays(&keys);
    ensure!(
        !keys.is_empty() && stray.is_empty(),
        "keys outside both prefixes: {stray:?} of {keys:?}"
    );
    say(&format!(
        "{} channels and {} keys in Redis, none outside both prefixes",
        channels.len(),
        keys.len()
    ));
    schemas_are_apart(&kube).await
}

/// Waits until all kinds of messages were heard under a prefix. Messages between pods go over their own links.
async fn hears_all_of(listener: &Listener, prefix: &str) {
    const KINDS: [&str; 3] = ["events:job:1", "directory:changes", "keys:changes"];
    until(&format!("each kind of message under {prefix}"), || async {
        let channels = listener.channels();
        let names: Vec<&str> = channels.iter().filter_map(|c| c.strip_prefix(prefix)).collect();
        if KINDS.iter().all(|kind| names.contains(kind)) {
            Ok(())
        } else {
            Err(format!("{names:?}"))
        }
    })
    .await;
}

fn strays(names: &[String]) -> Vec<&String> {
    let is_ours = |name: &&String| NAMESPACES.iter().any(|ns| name.starts_with(&format!("alk:{ns}:main:")));
    names.iter().filter(|name| !is_ours(name)).collect()
}

async fn schemas_are_apart(kube: &Kube) -> Result<()> {
    let tables = "select schemaname, count(*) from pg_tables \
                  where schemaname not in ('pg_catalog', 'information_schema') group by 1 order by 1";
    let psql = ["psql", "-U", "postgres", "-d", "alkhub", "-Atc", tables];
    let exec = [&["exec", "-n", "shared", "postgres-0", "--"][..], &psql].concat();
    let found = kube.kubectl(&exec).await?;
    let schemas: Vec<&str> = found.lines().collect();
    // A name with `-` gets a digest, so that no two Hubs can end up in one schema.
    ensure!(
        schemas.len() == 2 && schemas[0].starts_with("alk_team_a_main") && schemas[1].starts_with("alk_team_b_main"),
        "schemas with tables: {schemas:?}"
    );
    ensure!(
        schemas[0].rsplit('|').next() == schemas[1].rsplit('|').next(),
        "the Hubs have different tables: {schemas:?}"
    );
    Ok(())
}

/// Redis goes away and comes back empty; the Hubs on it report that and recover by themselves.
pub(crate) async fn a_lost_redis_degrades_every_hub_on_it_until_it_is_back(world: &mut World) -> Result<()> {
    let kube = world.kube.clone();
    let scale = async |replicas: &str| {
        kube.kubectl(&["scale", "-n", "shared", "statefulset/redis", replicas])
            .await
    };
    scale("--replicas=0").await?;
    for namespace in NAMESPACES {
        let message = degraded(&kube, namespace, "True").await;
        ensure!(message.contains("Redis"), "Redis is not named: {message}");
    }
    scale("--replicas=1").await?;
    for namespace in NAMESPACES {
        degraded(&kube, namespace, "False").await;
        Team::new(&kube, namespace).await?.work().await?;
    }
    Ok(())
}

fn message(hub: &Value, kind: &str) -> String {
    let conditions = hub["status"]["conditions"].as_array().into_iter().flatten();
    let mut of_kind = conditions.filter(|condition| condition["type"] == kind);
    of_kind.next().map_or_else(String::new, |c| c["message"].to_string())
}

/// Waits for the condition and returns its message.
async fn degraded(kube: &Kube, namespace: &str, wanted: &str) -> String {
    kube.wait(
        &format!("{namespace}/main is Degraded={wanted}"),
        (namespace, &["hub", "main"]),
        Duration::from_secs(120),
        |hub| {
            condition(hub, "Degraded")
                .filter(|(status, _)| *status == wanted)
                .map(|_| message(hub, "Degraded"))
        },
    )
    .await
}

/// The same prefix on the same Redis, in another namespace.
pub(crate) async fn the_younger_hub_of_two_with_one_prefix_is_refused(world: &mut World) -> Result<()> {
    let kube = world.kube.clone();
    kube.apply("team-b", &hub("thief", Some("alk:team-a:main:"))).await?;
    let thief = kube
        .wait(
            "the younger is refused",
            ("team-b", &["hub", "thief"]),
            Duration::from_secs(60),
            |hub| {
                condition(hub, "PrefixConflict")
                    .filter(|(status, _)| *status == "True")
                    .map(|_| hub.clone())
            },
        )
        .await;
    ensure!(
        thief["status"].to_string().contains("team-a/main"),
        "the other Hub is not named: {}",
        thief["status"]
    );
    ensure!(
        condition(&thief, "Ready").is_some_and(|(status, _)| status == "False"),
        "{}",
        thief["status"]
    );
    let pods: Value = kube
        .get("team-b", &["pods", "-l", "app.kubernetes.io/instance=thief"])
        .await?;
    ensure!(
        pods["items"].as_array().is_some_and(Vec::is_empty),
        "a refused Hub has pods"
    );
    ready(world, "team-a", "main").await;
    for namespace in ["team-a", "team-b", "shared"] {
        kube.kubectl(&["delete", "namespace", namespace, "--wait=false"])
            .await?;
    }
    Ok(())
}
