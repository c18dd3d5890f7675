//! How the programs of the control plane are started: only texts, nothing is run here.
//!
//! Times are shortened (a dead node is noticed after 8 s, its pods are elsewhere 2 s later), so that tests need not
//! wait for the minutes of Kubernetes' own defaults.

use crate::plan;
use crate::work::Work;

const ETCD: &str = "http://127.0.0.1:2379";

/// etcd, without protection against power loss: nothing of a test cluster outlives it.
pub(crate) fn etcd(work: &Work) -> Vec<String> {
    let data = work.text("etcd");
    flags(&[
        ("data-dir", &data),
        ("listen-client-urls", ETCD),
        ("advertise-client-urls", ETCD),
        ("listen-peer-urls", "http://127.0.0.1:2380"),
        ("unsafe-no-fsync", "true"),
    ])
}

/// The API server. Without the kubelet certificate flags `kubectl exec` and `logs` fail.
pub(crate) fn apiserver(work: &Work) -> Vec<String> {
    let pki = |file: &str| work.text(&format!("pki/{file}"));
    flags(&[
        ("etcd-servers", ETCD),
        ("advertise-address", plan::CONTROL),
        ("bind-address", plan::CONTROL),
        ("secure-port", "6443"),
        ("tls-cert-file", &pki("apiserver.crt")),
        ("tls-private-key-file", &pki("apiserver.key")),
        ("client-ca-file", &pki("ca.crt")),
        ("service-account-issuer", "https://kubernetes.default.svc"),
        ("service-account-key-file", &pki("sa.pub")),
        ("service-account-signing-key-file", &pki("sa.key")),
        ("service-cluster-ip-range", plan::SERVICES),
        ("authorization-mode", "Node,RBAC"),
        ("enable-admission-plugins", "NodeRestriction"),
        ("allow-privileged", "true"),
        ("kubelet-client-certificate", &pki("admin.crt")),
        ("kubelet-client-key", &pki("admin.key")),
        ("kubelet-certificate-authority", &pki("ca.crt")),
        ("kubelet-preferred-address-types", "InternalIP"),
        ("default-not-ready-toleration-seconds", "2"),
        ("default-unreachable-toleration-seconds", "2"),
        ("audit-policy-file", &work.text("audit-policy.yaml")),
        ("audit-log-path", &work.text("log/audit.log")),
    ])
}

/// What the API server logs about requests: who asked for what and whether it was granted, for the service accounts of
/// the programs on the cluster. A request is logged when it is answered; a watch also when it begins, since its end
/// comes late or never.
pub(crate) const AUDIT_POLICY: &str = "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - {level: None, userGroups: ['system:serviceaccounts:kube-system']}
  - {level: Metadata, userGroups: ['system:serviceaccounts']}
  - {level: None}
";

/// The controllers; there is one set of them, so no leader is elected.
pub(crate) fn controllers(work: &Work) -> Vec<String> {
    let pki = |file: &str| work.text(&format!("pki/{file}"));
    flags(&[
        ("kubeconfig", &work.text("controllers.kubeconfig")),
        ("use-service-account-credentials", "true"),
        ("service-account-private-key-file", &pki("sa.key")),
        ("root-ca-file", &pki("ca.crt")),
        ("cluster-signing-cert-file", &pki("ca.crt")),
        ("cluster-signing-key-file", &pki("ca.key")),
        ("leader-elect", "false"),
        // Each controller asks for its own credentials at start; at the default rate that alone takes 4 s.
        ("kube-api-qps", "500"),
        ("kube-api-burst", "1000"),
        ("node-monitor-period", "1s"),
        ("node-monitor-grace-period", "8s"),
        ("pvclaimbinder-sync-period", "1s"),
        // How often a HorizontalPodAutoscaler looks at its metrics, and how long an API of metrics may stay unknown.
        ("horizontal-pod-autoscaler-sync-period", "1s"),
    ])
}

/// The scheduler.
pub(crate) fn scheduler(work: &Work) -> Vec<String> {
    flags(&[
        ("kubeconfig", &work.text("scheduler.kubeconfig")),
        ("leader-elect", "false"),
    ])
}

/// The proxy of the control plane's namespace, through which host processes reach Services.
///
/// It uses the name of the first node: a proxy needs a node object, and the control plane has none.
pub(crate) fn proxy(work: &Work) -> Vec<String> {
    proxy_as(work, "n1")
}

/// The proxy of one node.
pub(crate) fn proxy_as(work: &Work, node: &str) -> Vec<String> {
    flags(&[
        ("kubeconfig", &work.text("proxy.kubeconfig")),
        ("hostname-override", node),
        ("cluster-cidr", plan::PODS),
        ("proxy-mode", "iptables"),
        ("iptables-min-sync-period", "50ms"),
        ("conntrack-max-per-core", "0"),
        ("conntrack-tcp-timeout-established", "0"),
        ("conntrack-tcp-timeout-close-wait", "0"),
    ])
}

/// CoreDNS, next to the control plane.
pub(crate) fn dns(work: &Work) -> Vec<String> {
    vec!["-conf".to_owned(), work.text("Corefile")]
}

/// The configuration of CoreDNS. Answers are cached for only a second: tests ask again soon after a Service appears.
pub(crate) fn corefile(work: &Work) -> String {
    format!(
        ".:53 {{
  bind {address}
  errors
  kubernetes {domain} in-addr.arpa {{
    kubeconfig {kubeconfig}
    pods insecure
    ttl 1
  }}
  cache 1
}}
",
        address = plan::CONTROL,
        domain = plan::DOMAIN,
        kubeconfig = work.text("dns.kubeconfig")
    )
}

fn flags(pairs: &[(&str, &str)]) -> Vec<String> {
    pairs.iter().map(|(name, value)| format!("--{name}={value}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work() -> (tempfile::TempDir, Work) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let work = Work::at(folder.path()).expect("work");
        (folder, work)
    }

    #[test]
    fn the_api_server_can_verify_kubelets() {
        let (_folder, work) = work();

        let arguments = apiserver(&work);

        let authority = format!("--kubelet-certificate-authority={}", work.text("pki/ca.crt"));
        assert!(arguments.contains(&authority), "{arguments:?}");
    }

    #[test]
    fn names_are_served_on_the_control_plane_only() {
        let (_folder, work) = work();

        let text = corefile(&work);

        assert!(
            text.contains("bind 10.90.0.1\n") && text.contains("kubernetes cluster.local"),
            "{text}"
        );
        assert_eq!(text.matches('{').count(), text.matches('}').count());
    }
}
