//! The pages, followed to the letter: the commands of OPERATIONS, the runbook and the related pages are run exactly as
//! they are written.
//!
//! There is one bash for each walk, so that what a reader set earlier is still set later. Whatever a reader must fill
//! in (addresses and passwords of servers) is replaced with the servers of this cluster; nothing else is changed.

use std::time::Duration;

use alkhub_test_support::pages::{self as read, Place};
use alkhub_test_support::until_within;
use alkhub_tests::kube::Kube;
use alkhub_tests::pages;
use anyhow::{Result, anyhow, ensure};

use crate::say;
use crate::world::{DEMO, World, root};

/// The servers that a reader provides.
const SERVERS: &str = include_str!("servers.yaml");
const REDIS: &str = "redis://:secret@redis.shared.svc:6379";
const POSTGRES: &str = "postgres://postgres:secret@postgres.shared.svc:5432/alkhub";
/// The placeholders for them in the pages.
const PLACEHOLDERS: [(&str, &str); 2] = [
    ("rediss://hub:PASSWORD@redis.example:6379", REDIS),
    (
        "postgres://hub:PASSWORD@pg.example:5432/alkhub?sslmode=verify-full",
        POSTGRES,
    ),
];

/// Where commands are written, and the commands.
type Text = (String, String);

/// From installation to removal: the pages in the order in which one needs them, each with the name of its part.
const WALK: &[(&str, &str)] = &[
    ("docs/OPERATIONS.md", ""),
    ("docs/operations/sizing.md", ""),
    ("docs/operations/network.md", ""),
    ("docs/operations/autoscaling.md", ""),
    ("docs/operations/kubectl.md", ""),
    ("docs/operations/high-availability.md", ""),
    ("docs/operations/recovery.md", ""),
    ("docs/OPERATIONS.md", "monitoring"),
    ("docs/operations/roll-back.md", ""),
    ("docs/runbook/README.md", ""),
    ("docs/runbook/AlkhubHubDown.md", ""),
    ("docs/runbook/AlkhubHubNotReady.md", ""),
    ("docs/runbook/AlkhubHubUnbalanced.md", ""),
    ("docs/runbook/AlkhubRolloutPaused.md", ""),
    ("docs/runbook/AlkhubRedisLinkLost.md", ""),
    ("docs/runbook/AlkhubPostgresLost.md", ""),
    ("docs/runbook/AlkhubCallsFailing.md", ""),
    ("docs/runbook/AlkhubLoopLost.md", ""),
    ("docs/runbook/AlkhubBudgetExhausted.md", ""),
    ("docs/runbook/AlkhubReconcilesFailing.md", ""),
    ("docs/runbook/AlkhubOperatorDown.md", ""),
    ("docs/OPERATIONS.md", "rotate"),
];

/// Installs as OPERATIONS says, follows its sections and the related pages, and then each alert's page.
pub(crate) async fn every_command_of_operations_and_of_the_runbook_works(world: &mut World) -> Result<()> {
    servers(&world.kube).await?;
    let ran = walk(world, WALK).await?;
    say(&format!("{ran} blocks of commands ran as they stand"));
    Ok(())
}

/// What the runbook says about the servers of a Hub with `managed: true`, for such a Hub.
pub(crate) async fn a_managed_server_is_replaced_as_the_runbook_says(world: &mut World) -> Result<()> {
    let pages = [
        ("docs/runbook/AlkhubRedisLinkLost.md", "managed"),
        ("docs/runbook/AlkhubPostgresLost.md", "managed"),
    ];
    let mut blocks = vec![ours(&format!("NS={DEMO} HUB=demo\n"))];
    blocks.extend(of(&pages)?);
    blocks.push(ours(
        "for server in redis postgres; do kubectl -n $NS rollout status statefulset/$HUB-$server --timeout=2m; done\n\
         kubectl -n $NS wait --for=condition=Ready hub/$HUB --timeout=2m\n",
    ));
    run(world, &blocks).await
}

/// Commands of the test's own, between those of a page.
fn ours(text: &str) -> Text {
    ("tests/e2e/pages.rs".to_owned(), text.to_owned())
}

/// The five commands of the first page, on a cluster that has nothing of alkhub.
pub(crate) async fn the_readmes_five_commands_lead_to_four_pods(world: &mut World) -> Result<()> {
    run(world, &of(&[("README.md", "quickstart")])?).await?;
    world
        .kube
        .wait(
            "four pods are ready",
            ("default", &["hub", "demo"]),
            Duration::from_secs(180),
            |hub| (hub["status"]["readyReplicas"] == 4).then_some(()),
        )
        .await;
    Ok(())
}

/// The backup from the previous walk is all that is left of the Hub; a key that was made before is valid again.
pub(crate) async fn a_backup_is_restored_as_the_page_says(world: &mut World) -> Result<()> {
    let kube = &world.kube;
    let lost = "for kind in spokes hubs; do kubectl -n team-a delete $kind --all --timeout=2m; done
kubectl -n team-a delete secret demo-auth --ignore-not-found
kubectl -n team-a wait --for=delete pod -l app.kubernetes.io/instance=demo --timeout=2m
schema=$(psql -Atc \"select nspname from pg_namespace where nspname like 'alk_team_a_demo%'\" $DATABASE_URL)
test -n \"$schema\"
psql -q -c \"drop schema \\\"$schema\\\" cascade\" $DATABASE_URL\n";
    let mut blocks = vec![ours(lost)];
    blocks.extend(of(&[("docs/OPERATIONS.md", "restore")])?);
    run(world, &blocks).await?;
    let phase = kube.get("team-a", &["spoke", "builder"]).await?;
    ensure!(phase["metadata"]["name"] == "builder", "{phase}");
    Ok(())
}

/// After the last of its commands nothing is left, not even the CRDs.
pub(crate) async fn an_uninstallation_as_the_page_says_leaves_nothing(world: &mut World) -> Result<()> {
    let blocks = of(&[("docs/OPERATIONS.md", "uninstall")])?;
    run(world, &blocks).await?;
    let kube = &world.kube;
    let crds = kube.kubectl(&["get", "crds", "-o", "name"]).await?;
    ensure!(!crds.contains("alkhub.dev"), "a CRD is left: {crds}");
    let kinds = "deployments,replicasets,controllerrevisions,statefulsets,services,configmaps,serviceaccounts,poddisruptionbudgets,pods";
    until_within("nothing of alkhub is left", Duration::from_secs(120), || async {
        let left = kube
            .kubectl(&[
                "get",
                kinds,
                "-A",
                "-l",
                "app.kubernetes.io/part-of=alkhub",
                "-o",
                "name",
            ])
            .await
            .map_err(|error| format!("{error:#}"))?;
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
    .await;
    Ok(())
}

/// The reader's Redis and Postgres, in the namespace `shared`.
async fn servers(kube: &Kube) -> Result<()> {
    // The previous step may still be removing a namespace of this name.
    until_within(
        "the namespaces of earlier steps are gone",
        Duration::from_secs(120),
        || async {
            let left = kube.kubectl(&["get", "namespaces", "-o", "name"]).await;
            let left = left.map_err(|error| format!("{error:#}"))?;
            let busy = |line: &str| line == "namespace/shared" || line == "namespace/team-a";
            if left.lines().any(busy) { Err(left) } else { Ok(()) }
        },
    )
    .await;
    kube.kubectl(&["create", "namespace", "shared"]).await?;
    kube.apply("shared", SERVERS).await?;
    kube.wait(
        "the reader's Postgres is ready",
        ("shared", &["statefulset", "postgres"]),
        Duration::from_secs(120),
        |set| (set["status"]["readyReplicas"] == 1).then_some(()),
    )
    .await;
    Ok(())
}

async fn walk(world: &World, stations: &[(&str, &str)]) -> Result<usize> {
    let blocks = of(stations)?;
    run(world, &blocks).await?;
    Ok(blocks.len())
}

/// The blocks of pages, by their parts.
fn of(stations: &[(&str, &str)]) -> Result<Vec<Text>> {
    let mut found = Vec::new();
    for (page, when) in stations {
        let before = found.len();
        let blocks = read::blocks(root(), page.as_ref()).map_err(|faults| anyhow!(faults.join("\n")))?;
        let due = blocks
            .into_iter()
            .filter(|block| block.place == Place::Cluster && block.when == *when);
        found.extend(due.map(|block| (format!("{page}:{}", block.line), block.text)));
        ensure!(found.len() > before, "{page} has no block for `{when}`");
    }
    Ok(found)
}

async fn run(world: &World, blocks: &[Text]) -> Result<()> {
    let mut blocks = blocks.to_vec();
    for (_, text) in &mut blocks {
        for (stands, is) in PLACEHOLDERS {
            *text = text.replace(stands, is);
        }
    }
    let folder = world.folder.path().join("walk");
    std::fs::create_dir_all(&folder)?;
    for link in ["charts", "crds", "deploy", "docs"] {
        let link_path = folder.join(link);
        if !link_path.exists() {
            std::os::unix::fs::symlink(root().join(link), link_path)?;
        }
    }
    let mut bash = world.kube.command("bash", &[]);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let own = root().join("target/debug");
    bash.current_dir(&folder)
        .env("PATH", format!("{}:{}", own.display(), path.display()))
        .env("HOME", &folder)
        .env("DATABASE_URL", POSTGRES)
        .env("ALKHUB_URL", "http://demo.team-a.svc:7420");
    pages::run(&blocks, &mut bash).await.map(drop)
}
