//! Which keys may go together in one command: on a cluster those of one slot.

#[cfg(feature = "redis-cluster")]
use std::collections::HashMap;

/// The keys' indices in groups that one server can serve at once. Without keys there is no group.
#[cfg(feature = "redis-cluster")]
pub(super) fn group(keys: &[Vec<u8>], is_cluster: bool) -> Vec<Vec<usize>> {
    if !is_cluster {
        return together(keys);
    }
    let mut groups: HashMap<redis::cluster_routing::Slot, Vec<usize>> = HashMap::new();
    for (index, key) in keys.iter().enumerate() {
        groups.entry(redis::cluster_routing::Slot::for_key(key)).or_default().push(index);
    }
    groups.into_values().collect()
}

#[cfg(not(feature = "redis-cluster"))]
pub(super) fn group(keys: &[Vec<u8>], _is_cluster: bool) -> Vec<Vec<usize>> {
    together(keys)
}

fn together(keys: &[Vec<u8>]) -> Vec<Vec<usize>> {
    if keys.is_empty() { Vec::new() } else { vec![(0..keys.len()).collect()] }
}
