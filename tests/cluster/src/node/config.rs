//! The configuration files of one node: only texts, nothing is run here.

use super::CONTAINERD;
use crate::image::catalog::PAUSE;
use crate::plan::{self, Node};

/// containerd's configuration. Without `restrict_oom_score_adj` no pod starts on machines that forbid negative scores
/// to root.
pub(super) fn containerd(folder: &str) -> String {
    format!(
        r#"version = 2
root = "{folder}/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper"]

[grpc]
address = "{CONTAINERD}"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "docker.io/{PAUSE}"
restrict_oom_score_adj = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{folder}/cni"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
"#
    )
}

/// The pods' network: a bridge on each node, without masquerading, so that pods see each other's addresses.
pub(super) fn network(node: Node) -> String {
    let bridge = serde_json::json!({
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": true,
        "ipMasq": false,
        "hairpinMode": true,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": node.pods()}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    });
    let ports = serde_json::json!({"type": "portmap", "capabilities": {"portMappings": true}});
    serde_json::json!({"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge, ports]}).to_string()
}

/// kubelet's configuration. It never evicts pods or collects images (which could not be pulled again), and reports
/// every two seconds.
pub(super) fn kubelet(node: Node, pki: &str, group: &str) -> String {
    format!(
        "apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {{enabled: false}}
  webhook: {{enabled: true}}
  x509: {{clientCAFile: {pki}/ca.crt}}
authorization: {{mode: Webhook}}
tlsCertFile: {pki}/{node}.crt
tlsPrivateKeyFile: {pki}/{node}.key
containerRuntimeEndpoint: unix://{CONTAINERD}
cgroupDriver: cgroupfs
cgroupRoot: /{group}
cgroupsPerQOS: true
enforceNodeAllocatable: []
failCgroupV1: false
failSwapOn: false
localStorageCapacityIsolation: false
clusterDNS: [{dns}]
clusterDomain: {domain}
resolvConf: /dev/null
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
evictionHard: {{nodefs.available: 0%, imagefs.available: 0%, memory.available: 0%}}
nodeStatusUpdateFrequency: 2s
nodeLeaseDurationSeconds: 8
syncFrequency: 10s
",
        dns = plan::DNS_SERVICE,
        domain = plan::DOMAIN
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> Node {
        Node::new(2).expect("in the plan")
    }

    #[test]
    fn the_kubelet_configuration_is_yaml_with_a_group_of_its_own() {
        let text = kubelet(node(), "/w/pki", "alkhub-1/n2");

        let value: serde_json::Value = serde_yaml::from_str(&text).expect("YAML");
        assert_eq!(value["cgroupRoot"], "/alkhub-1/n2");
        assert_eq!(value["clusterDNS"][0], "10.96.0.10");
        assert_eq!(value["failCgroupV1"], false);
        assert_eq!(value["evictionHard"]["nodefs.available"], "0%");
    }

    #[test]
    fn pods_get_addresses_of_their_node() {
        assert!(network(node()).contains("10.97.2.0/24"));
    }

    #[test]
    fn containerd_knows_the_pause_image() {
        assert!(containerd("/w/n2").contains(r#"sandbox_image = "docker.io/alkhub/pause:1""#));
    }
}
