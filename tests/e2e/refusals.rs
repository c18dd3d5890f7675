//! Invalid specs, and what reports them.

use std::time::Duration;

use alkhub_tests::kube::condition;
use anyhow::{Result, ensure};

use crate::world::{DEMO, World};

fn hub(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: alkhub.dev/v1alpha1\nkind: Hub\nmetadata: {{name: {name}}}\nspec: {{redis: {{managed: true}}, postgres: {{managed: true}}, {spec}}}\n"
    )
}

/// CEL rules and ranges, each with the field in the answer.
pub(crate) async fn the_api_server_refuses_a_hub_out_of_range(world: &mut World) -> Result<()> {
    for (spec, field) in [
        ("replicas: 101", "spec.replicas"),
        ("replicas: -1", "spec.replicas"),
        ("channelPrefix: 'no-colon'", "spec.channelPrefix"),
        ("channelPrefix: 'a*:'", "spec.channelPrefix"),
        ("image: a, version: '1'", "spec.version"),
    ] {
        let answer = world.kube.apply(DEMO, &hub("wrong", spec)).await;
        let Err(error) = answer else {
            anyhow::bail!("{spec} was accepted")
        };
        ensure!(
            format!("{error:#}").contains(field),
            "{spec} was refused without naming {field}: {error:#}"
        );
    }
    Ok(())
}

/// The hub's own settings are checked by the operator.
pub(crate) async fn an_unknown_setting_becomes_a_condition(world: &mut World) -> Result<()> {
    world
        .kube
        .apply(DEMO, &hub("typo", "config: {calls: {default-timout: 10s}}"))
        .await?;
    let reason = world
        .kube
        .wait(
            "the Hub is refused",
            (DEMO, &["hub", "typo"]),
            Duration::from_secs(60),
            |hub| {
                condition(hub, "Accepted")
                    .filter(|(status, _)| *status == "False")
                    .map(|(_, reason)| {
                        let conditions = hub["status"]["conditions"].to_string();
                        (reason.to_owned(), conditions)
                    })
            },
        )
        .await;
    ensure!(
        reason.1.contains("default-timout"),
        "the condition does not name the setting: {reason:?}"
    );
    let pods = world
        .kube
        .get(DEMO, &["pods", "-l", "app.kubernetes.io/instance=typo"])
        .await?;
    ensure!(
        pods["items"].as_array().is_some_and(Vec::is_empty),
        "a refused Hub has pods: {pods}"
    );
    world.kube.kubectl(&["delete", "-n", DEMO, "hub", "typo"]).await?;
    Ok(())
}
