//! Several pods of one Hub.

use std::time::Duration;

use alkhub_test_support::{until, until_within};
use alkhub_tests::http::Http;
use alkhub_tests::kube::Kube;
use alkhub_tests::reach::Reach;
use alkhub_tests::wire::Peer;
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::say;
use crate::world::{DEMO, SYSTEM, World};

/// Port of clients and spokes in a hub pod.
pub(crate) const PORT: u64 = 7420;
/// Port of metrics and probes in a hub pod.
pub(crate) const MANAGEMENT_PORT: u64 = 7421;
/// Port of metrics and probes in an operator pod.
pub(crate) const OPERATOR_PORT: u64 = 7430;

/// Names of a Hub's ready pods.
pub(crate) async fn ready_pods(kube: &Kube, namespace: &str, hub: &str) -> Result<Vec<String>> {
    let selector = format!("app.kubernetes.io/component=hub,app.kubernetes.io/instance={hub}");
    let pods = kube.get(namespace, &["pods", "-l", &selector]).await?;
    let ready = |pod: &&Value| {
        let conditions = pod["status"]["conditions"].as_array();
        pod["metadata"]["deletionTimestamp"].is_null()
            && conditions.is_some_and(|all| all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
    };
    let pods = pods["items"].as_array().context("a list")?;
    Ok(pods
        .iter()
        .filter(ready)
        .filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned))
        .collect())
}

/// Name of an operator's pod.
pub(crate) async fn operator_pod(kube: &Kube) -> Result<String> {
    let selector = "app.kubernetes.io/name=alkhub-operator";
    let pods = kube.get(SYSTEM, &["pods", "-l", selector]).await?;
    let name = pods["items"][0]["metadata"]["name"].as_str();
    Ok(name.context("an operator pod")?.to_owned())
}

/// The key with every scope of a Hub.
pub(crate) async fn admin_key(kube: &Kube, namespace: &str, hub: &str) -> Result<String> {
    kube.secret(namespace, &format!("{hub}-auth"), "admin-key").await
}

/// Sends calls to each pod; the one spoke is connected to one of them.
pub(crate) async fn a_call_sent_to_any_pod_reaches_a_spoke_on_any_other(world: &mut World) -> Result<()> {
    let pods = ready_pods(&world.kube, DEMO, "demo").await?;
    ensure!(pods.len() >= 2, "two pods are wanted, there are {pods:?}");
    let routed = call_each(world, &pods).await?;
    say(&format!(
        "{routed} routed calls through {} pods to a spoke on one of them",
        pods.len()
    ));
    Ok(())
}

async fn call_each(world: &World, pods: &[String]) -> Result<usize> {
    let key = admin_key(&world.kube, DEMO, "demo").await?;
    let mut routed = 0;
    for pod in pods {
        let reach = Reach::pod(&world.kube, DEMO, pod, PORT).await?;
        let http = Http::new(&reach.url, &key);
        until(&format!("{pod} knows the spoke"), || async {
            let answer = http
                .call("text.echo", &json!("first"))
                .await
                .map_err(|error| format!("{error:#}"))?;
            if answer.status == 200 {
                Ok(())
            } else {
                Err(format!("{answer:?}"))
            }
        })
        .await;
        for n in 0..50 {
            let answer = http.call("text.echo", &json!({ "n": n, "pod": pod })).await?;
            ensure!(
                answer.body["data"] == json!({ "n": n, "pod": pod }),
                "{pod} answered {answer:?}"
            );
            routed += 1;
        }
    }
    Ok(routed)
}

/// Subscribes on one pod and publishes on another.
pub(crate) async fn an_event_crosses_pods(world: &mut World) -> Result<()> {
    let pods = ready_pods(&world.kube, DEMO, "demo").await?;
    let key = admin_key(&world.kube, DEMO, "demo").await?;
    let here = Reach::pod(&world.kube, DEMO, &pods[0], PORT).await?;
    let there = Reach::pod(&world.kube, DEMO, &pods[1], PORT).await?;
    let mut reader = Peer::connect(&here.url, &key).await?;
    reader
        .send("__subscribe", "", json!({ "topic": "build.done:7" }))
        .await?;
    reader.next_of("__subscribed").await?;

    let published = Http::new(&there.url, &key)
        .send("POST", "/v1/events/build.done/7", Some(&json!({ "ok": true })))
        .await?;
    let event = reader.next_of("build.done").await?;

    ensure!(published.status < 300, "{published:?}");
    ensure!(event["payload"] == json!({ "ok": true }), "{event}");
    Ok(())
}

/// The scale subresource, up and down, as a person uses it and as the operator does.
pub(crate) async fn kubectl_scale_gives_as_many_pods_as_asked(world: &mut World) -> Result<()> {
    let kube = world.kube.clone();
    let bounds = json!({ "spec": { "autoscaling": { "min": 1, "max": 3, "connectionsPerPod": 1_000 } } });
    let none = json!({ "spec": { "autoscaling": null } });
    for wanted in [4_usize, 3, 2] {
        if wanted == 3 {
            // The bounds hold whatever the load is.
            autoscale(&kube, &bounds).await?;
        } else {
            autoscale(&kube, &none).await?;
            kube.kubectl(&["scale", "-n", DEMO, "hub/demo", &format!("--replicas={wanted}")])
                .await?;
        }
        let pods = until_within(
            &format!("{wanted} pods are ready"),
            Duration::from_secs(120),
            || async {
                let pods = ready_pods(&kube, DEMO, "demo")
                    .await
                    .map_err(|error| format!("{error:#}"))?;
                if pods.len() == wanted {
                    Ok(pods)
                } else {
                    Err(pods.join(", "))
                }
            },
        )
        .await;
        kube.wait(
            "the Hub says so",
            (DEMO, &["hub", "demo"]),
            Duration::from_secs(60),
            |hub| {
                let status = &hub["status"];
                (status["replicas"] == wanted && status["readyReplicas"] == wanted).then_some(())
            },
        )
        .await;
        if wanted == 4 {
            say(&format!(
                "{} routed calls through 4 pods",
                call_each(world, &pods).await?
            ));
        }
    }
    none_is_leaving(&kube).await;
    crate::spokes::back_when_let_go(world).await
}

async fn autoscale(kube: &Kube, fields: &Value) -> Result<()> {
    kube.kubectl(&[
        "patch",
        "-n",
        DEMO,
        "hub/demo",
        "--type=merge",
        "-p",
        &fields.to_string(),
    ])
    .await?;
    Ok(())
}

/// Waits until pods that were told to end are gone, since they keep their sockets until then.
pub(crate) async fn none_is_leaving(kube: &Kube) {
    let selector = "app.kubernetes.io/component=hub,app.kubernetes.io/instance=demo";
    until_within("no pod is leaving", Duration::from_secs(120), || async {
        let pods = kube.get(DEMO, &["pods", "-l", selector]).await;
        let pods = pods.map_err(|error| format!("{error:#}"))?;
        let metadata = pods["items"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|pod| &pod["metadata"]);
        let leaving: Vec<_> = metadata
            .filter(|metadata| !metadata["deletionTimestamp"].is_null())
            .map(|metadata| metadata["name"].to_string())
            .collect();
        if leaving.is_empty() {
            Ok(())
        } else {
            Err(leaving.join(", "))
        }
    })
    .await;
}

/// The tables that people look at, under the short names.
pub(crate) async fn kubectl_get_shows_what_is_there(world: &mut World) -> Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    let tables: [(&str, &[&str], &[&str]); 2] = [
        (
            "ahub",
            &[
                "NAME",
                "READY",
                "ACCEPTED",
                "PODS",
                "CONNECTIONS",
                "IMBALANCE",
                "SPOKES",
                "VERSION",
                "AGE",
            ],
            &["demo", "True", "True", "2/2", "1", "2", "1", version],
        ),
        (
            "spk",
            &["NAME", "PHASE", "HUB", "POD", "OPERATIONS", "AGE"],
            &["builder", "Connected", "demo", "demo-", "1"],
        ),
    ];
    for (kind, header, row) in tables {
        // Counts are written every 15 s, at a look, of which there is one every 10 s or so.
        let shows = format!("kubectl get {kind} shows what is there");
        until_within(&shows, Duration::from_secs(90), || async {
            let table = world.kube.kubectl(&["get", kind, "-n", DEMO]).await;
            let table = table.map_err(|error| format!("{error:#}"))?;
            let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
            let shown = lines.next().is_some_and(|shown| shown == header)
                && lines.next().is_some_and(|shown| {
                    shown.len() == header.len()
                        && shown.iter().zip(row).all(|(field, wanted)| field.starts_with(wanted))
                });
            if shown { Ok(()) } else { Err(table) }
        })
        .await;
    }
    Ok(())
}

/// Resident memory as the processes report it themselves, and the sizes of the images. The sizes are exact.
pub(crate) async fn an_idle_hub_and_an_idle_operator_are_small(world: &mut World) -> Result<()> {
    const MIB: f64 = 1024.0 * 1024.0;
    let hub = ready_pods(&world.kube, DEMO, "demo").await?.remove(0);
    let operator = operator_pod(&world.kube).await?;
    for (namespace, pod, port, limit) in [
        (DEMO, hub, MANAGEMENT_PORT, 48.0),
        (SYSTEM, operator, OPERATOR_PORT, 30.0),
    ] {
        let reach = Reach::pod(&world.kube, namespace, &pod, port).await?;
        let text = reqwest::get(format!("{}/metrics", reach.url)).await?.text().await?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("process_resident_memory_bytes "));
        let resident = line.context("process_resident_memory_bytes")?.parse::<f64>()? / MIB;
        say(&format!("{pod}: {resident:.1} MiB resident (limit {limit} MiB)"));
        ensure!(
            resident <= limit,
            "{pod} has {resident:.1} MiB resident; the limit is {limit} MiB"
        );
    }
    for (image, limit) in [("hub", 30_000_000), ("operator", 25_000_000)] {
        let path = world.file(&format!("target/images/{image}.tar"));
        let Ok(file) = std::fs::metadata(&path) else {
            ensure!(
                std::env::var_os("CI").is_none(),
                "{path} is missing: `make images` builds it"
            );
            say(&format!(
                "{path} is not there: the image came from elsewhere, its size is not checked"
            ));
            continue;
        };
        say(&format!(
            "image {image}: {:.1} MB (limit {} MB)",
            file.len() as f64 / 1e6,
            limit / 1_000_000
        ));
        ensure!(
            file.len() <= limit,
            "{path} has {} bytes; the limit is {limit}",
            file.len()
        );
    }
    Ok(())
}
