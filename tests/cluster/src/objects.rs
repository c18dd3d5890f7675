//! Objects that every cluster has: the Service of the DNS and the default storage class.

use serde_json::{Value, json};

use crate::plan;

/// Name of the default storage class.
pub(crate) const STORAGE_CLASS: &str = "standard";
/// The provisioner of its volumes, which is [`crate::volumes`].
pub(crate) const PROVISIONER: &str = "alkhub.dev/cluster-volumes";

/// All of them, each with the path of its collection.
pub(crate) fn system() -> Vec<(String, Value)> {
    vec![
        ("/api/v1/namespaces/kube-system/services".to_owned(), dns_service()),
        (
            "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices".to_owned(),
            dns_endpoint(),
        ),
        ("/apis/storage.k8s.io/v1/storageclasses".to_owned(), storage_class()),
    ]
}

/// No selector: the name server is a process of the control plane, not a pod.
fn dns_service() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": {"k8s-app": "kube-dns"}},
        "spec": {"clusterIP": plan::DNS_SERVICE, "ports": dns_ports()},
    })
}

fn dns_endpoint() -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "kube-dns-control-plane",
            "namespace": "kube-system",
            "labels": {"kubernetes.io/service-name": "kube-dns"},
        },
        "addressType": "IPv4",
        "ports": dns_ports(),
        "endpoints": [{"addresses": [plan::CONTROL], "conditions": {"ready": true}}],
    })
}

fn dns_ports() -> Value {
    json!([{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}])
}

fn storage_class() -> Value {
    json!({
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": STORAGE_CLASS,
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "Immediate",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_endpoint_belongs_to_the_service() {
        assert_eq!(
            dns_endpoint()["metadata"]["labels"]["kubernetes.io/service-name"],
            dns_service()["metadata"]["name"]
        );
    }
}
