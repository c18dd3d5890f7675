//! The addresses and names of a cluster: one plan for all of them, since every cluster has networks of its own.
//!
//! | range | what |
//! |---|---|
//! | `10.90.0.1` | the control plane: API server (port 6443), DNS, and every host process of the tests |
//! | `10.90.0.1N` | node `nN` |
//! | `10.96.0.0/16` | Services (`10.96.0.1` the API, `10.96.0.10` the DNS) |
//! | `10.97.N.0/24` | pods of node `nN` |

use std::fmt;

/// Address of the control plane, and the name server of the cluster.
pub(crate) const CONTROL: &str = "10.90.0.1";
/// Range of Service addresses.
pub(crate) const SERVICES: &str = "10.96.0.0/16";
/// Address of the Service `kubernetes`, which the API server's certificate must name.
pub(crate) const API_SERVICE: &str = "10.96.0.1";
/// Address of the Service `kube-dns`, which kubelet writes into every pod.
pub(crate) const DNS_SERVICE: &str = "10.96.0.10";
/// Range of all pod addresses.
pub(crate) const PODS: &str = "10.97.0.0/16";
/// Suffix of Service names.
pub(crate) const DOMAIN: &str = "cluster.local";
/// More nodes would leave the address plan (`10.90.0.1N`).
pub(crate) const MAX_NODES: u8 = 9;

/// One worker node, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Node(u8);

/// All nodes of a cluster of `count`.
pub(crate) fn nodes(count: u8) -> impl Iterator<Item = Node> {
    (1..=count).map(Node)
}

// === impl Node ===

impl Node {
    /// The node of this number, if the plan has room for it.
    pub(crate) fn new(number: u8) -> Option<Self> {
        (1..=MAX_NODES).contains(&number).then_some(Self(number))
    }

    /// Its number, from 1.
    pub(crate) fn number(self) -> u8 {
        self.0
    }

    /// Its address on the network of nodes.
    pub(crate) fn address(self) -> String {
        format!("10.90.0.1{}", self.0)
    }

    /// The range of its pods.
    pub(crate) fn pods(self) -> String {
        format!("10.97.{}.0/24", self.0)
    }

    /// The control plane's end of its network link.
    pub(crate) fn link(self) -> String {
        format!("v{}", self.0)
    }

    /// Its failure zone: every node is a zone of its own, so that spread constraints can be tested.
    pub(crate) fn zone(self) -> String {
        format!("z{}", self.0)
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_has_an_address_and_a_pod_range_of_its_own() {
        let plan: Vec<_> = nodes(2)
            .map(|node| (node.to_string(), node.address(), node.pods()))
            .collect();

        assert_eq!(
            plan,
            [
                ("n1".to_owned(), "10.90.0.11".to_owned(), "10.97.1.0/24".to_owned()),
                ("n2".to_owned(), "10.90.0.12".to_owned(), "10.97.2.0/24".to_owned()),
            ]
        );
    }

    #[test]
    fn a_number_outside_the_plan_is_no_node() {
        assert_eq!(Node::new(0), None);
        assert_eq!(Node::new(10), None);
        assert_eq!(Node::new(9).map(Node::number), Some(9));
    }
}
