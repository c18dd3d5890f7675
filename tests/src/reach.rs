//! How this process reaches pods and Services: directly if their addresses are routed to it, as in the test cluster's
//! own network namespace, otherwise through `kubectl port-forward`.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::Child;
use tokio::time::timeout;

use crate::kube::Kube;

/// A URL of something in the cluster, valid while this value lives.
#[derive(Debug)]
pub struct Reach {
    /// `http://HOST:PORT`.
    pub url: String,
    forward: Option<Child>,
}

// === impl Reach ===

impl Reach {
    /// The main port of a Service (its first).
    ///
    /// # Errors
    /// There is no such object, or `kubectl port-forward` does not reach it.
    pub async fn service(kube: &Kube, namespace: &str, name: &str) -> Result<Self> {
        let service = kube.get(namespace, &["service", name]).await?;
        let address = service["spec"]["clusterIP"].as_str().context("a cluster IP")?;
        let port = service["spec"]["ports"][0]["port"].as_u64().context("a port")?;
        Self::at(kube, namespace, &format!("service/{name}"), address, port).await
    }

    /// One port of a pod.
    ///
    /// # Errors
    /// There is no such object, or `kubectl port-forward` does not reach it.
    pub async fn pod(kube: &Kube, namespace: &str, name: &str, port: u64) -> Result<Self> {
        let pod = kube.get(namespace, &["pod", name]).await?;
        let address = pod["status"]["podIP"].as_str().context("a pod IP")?;
        Self::at(kube, namespace, &format!("pod/{name}"), address, port).await
    }

    /// Whether the connection is direct: a forwarded port leads to one pod, and ends with it.
    pub fn is_direct(&self) -> bool {
        self.forward.is_none()
    }

    async fn at(kube: &Kube, namespace: &str, object: &str, address: &str, port: u64) -> Result<Self> {
        let direct = timeout(Duration::from_secs(2), TcpStream::connect(format!("{address}:{port}"))).await;
        if matches!(direct, Ok(Ok(_))) {
            return Ok(Self {
                url: format!("http://{address}:{port}"),
                forward: None,
            });
        }
        let mut forward = kube
            .command(
                "kubectl",
                &["port-forward", "-n", namespace, object, &format!(":{port}")],
            )
            .stdout(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(forward.stdout.take().context("piped")?).lines();
        let line = timeout(Duration::from_secs(20), lines.next_line())
            .await
            .context("port-forward within 20 s")??;
        // "Forwarding from 127.0.0.1:PORT -> N"
        let line = line.with_context(|| format!("port-forward to {object} ended"))?;
        let local = line
            .split(" -> ")
            .next()
            .and_then(|text| text.rsplit(':').next())
            .context("a local port")?;
        Ok(Self {
            url: format!("http://127.0.0.1:{local}"),
            forward: Some(forward),
        })
    }
}
