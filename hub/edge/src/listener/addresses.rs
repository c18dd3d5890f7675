//! Open connections by the address that they come from.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::limits::network;

/// Counts connections per address; for an IPv6 address, per /64.
#[derive(Clone, Debug)]
pub(crate) struct Addresses {
    most: usize,
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// One connection of an address, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    network: IpAddr,
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

// === impl Addresses ===

impl Addresses {
    /// At most `most` of each.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            open: Arc::default(),
        }
    }

    /// A place for one more; `None` if the address has as many as it may.
    pub(super) fn take(&self, address: IpAddr) -> Option<Place> {
        let network = network(address);
        let mut open = self.open.lock();
        let count = open.entry(network).or_insert(0);
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Place {
            network,
            open: self.open.clone(),
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.open.lock();
        if let Some(count) = open.get_mut(&self.network) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_places_again_when_they_are_free_and_its_neighbours_share_them() {
        let addresses = Addresses::new(2);
        let take = |address: &str| addresses.take(address.parse().expect("valid"));

        let first = take("2001:db8::1").expect("free");
        let _second = take("2001:db8::2").expect("free");
        assert!(take("2001:db8::3").is_none(), "one /64 is one client");
        assert!(take("2001:db8:0:1::1").is_some());
        assert!(take("192.0.2.1").is_some());

        drop(first);
        assert!(take("2001:db8::1").is_some());
        assert_eq!(addresses.open.lock().len(), 1, "nothing stays of those that went");
    }
}
