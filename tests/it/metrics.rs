//! What a scraper sees of a hub.

use alkhub_tests::cluster::Cluster;
use alkhub_tests::http::Http;
use alkhub_tests::promtool;
use anyhow::Result;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn promtool_finds_no_fault_in_the_metrics_of_a_hub() -> Result<()> {
    let cluster = Cluster::start(1).await?;
    let http = Http::new(cluster.url(0), cluster.admin());
    http.call("hub.list", &json!({})).await?;
    http.send("POST", "/v1/events/a/1", Some(&json!(1))).await?;
    let text = reqwest::get(format!("{}/metrics", cluster.hubs[0].management_url()))
        .await?
        .text()
        .await?;

    let faults = promtool::check(&text).await?;

    assert_eq!(faults, "");
    assert!(text.contains("alkhub_calls_total"), "{text}");
    cluster.shutdown().await;
    Ok(())
}
