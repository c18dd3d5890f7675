//! Two Hubs in two namespaces on one Redis and one Postgres server.

use std::collections::BTreeSet;
use std::time::Duration;

use alkhub_tests::http::Http;
use alkhub_tests::wire::Peer;
use anyhow::{Context as _, Result, ensure};
use futures::StreamExt as _;
use serde_json::{Value, json};

use crate::hubs::admin_key;
use crate::kube::condition;
use crate::reach::Reach;
use crate::world::World;

/// The servers that both Hubs are given, in a namespace of their own.
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
         spec: {{replicas: 1, redis: {{secretRef: {{name: servers, key: redis}}}}, postgres: {{secretRef: {{name: servers, key: postgres}}}}{prefix}}}\n"
    )
}

async fn ready(world: &World, namespace: &str, name: &str) {
    world
        .kube
        .wait(
            &format!("{namespace}/{name} is ready"),
            (namespace, &["hub", name]),
            Duration::from_secs(120),
            |hub| {
                condition(hub, "Ready")
                    .filter(|(status, _)| *status == "True")
                    .map(|_| ())
            },
        )
        .await;
}

/// A listener to everything in Redis sees each Hub's names under its own prefix, and Postgres has a schema for each.
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
    let url = redis.url.replacen("http://", "redis://:secret@", 1);
    let mut everything = redis::Client::open(url.as_str())?.get_async_pubsub().await?;
    everything.psubscribe("*").await?;
    let mut readers = Vec::new();
    for namespace in NAMESPACES {
        let reach = Reach::service(&kube, namespace, "main").await?;
        let key = admin_key(&kube, namespace, "main").await?;
        let mut reader = Peer::connect(&reach.url, &key).await?;
        reader.send("__subscribe", "", json!({ "topic": "job:1" })).await?;
        reader.next_of("__subscribed").await?;
        readers.push((reach, key, reader));
    }

    for (namespace, (reach, key, _)) in NAMESPACES.iter().zip(&readers) {
        Http::new(&reach.url, key)
            .send("POST", "/v1/events/job/1", Some(&json!(namespace)))
            .await?;
    }

    let keys: Vec<&String> = readers.iter().map(|(_, key, _)| key).collect();
    let foreign = Http::new(&readers[0].0.url, keys[1])
        .send("GET", "/v1/operations", None)
        .await?;
    ensure!(foreign.status == 401, "a key of the other Hub is honoured: {foreign:?}");
    for (namespace, (_, _, reader)) in NAMESPACES.iter().zip(&mut readers) {
        let event = reader.next_of("job").await?;
        ensure!(event["payload"] == json!(namespace), "{namespace} reads {event} first");
    }
    let wanted: BTreeSet<String> = NAMESPACES
        .iter()
        .map(|ns| format!("alk:{ns}:main:events:job:1"))
        .collect();
    let mut seen = BTreeSet::new();
    let mut messages = everything.on_message();
    while !wanted.is_subset(&seen) {
        let message = tokio::time::timeout(Duration::from_secs(20), messages.next())
            .await
            .context("both events")?;
        seen.insert(message.context("a message")?.get_channel_name().to_owned());
    }
    let stray: Vec<&String> = seen
        .iter()
        .filter(|c| !NAMESPACES.iter().any(|ns| c.starts_with(&format!("alk:{ns}:main:"))))
        .collect();
    ensure!(stray.is_empty(), "channels outside both prefixes: {stray:?}");
    let schemas = kube
        .kubectl(&[
            "exec",
            "-n",
            "shared",
            "postgres-0",
            "--",
            "psql",
            "-U",
            "postgres",
            "-d",
            "alkhub",
            "-Atc",
            "select nspname from pg_namespace where nspname like 'alk%' order by 1",
        ])
        .await?;
    let schemas: Vec<&str> = schemas.lines().collect();
    // A name with `-` gets a digest, so that no two Hubs can meet in one schema.
    ensure!(
        schemas.len() == 2 && schemas[0].starts_with("alk_team_a_main") && schemas[1].starts_with("alk_team_b_main"),
        "schemas: {schemas:?}"
    );
    Ok(())
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
