//! [`SlotTable`]: the nodes of a cluster with their connections, and the node of each slot.

use std::sync::Arc;

use super::super::route::NodeAddress;
use super::super::supervisor::Supervised;
use super::SLOTS;
use super::view::View;

/// The known nodes, and which of them serves a slot. Empty until the cluster was asked.
pub(super) struct SlotTable {
    nodes: Vec<(NodeAddress, Arc<Supervised>)>,
    /// For each slot the place of its master among the nodes, or [`NOBODY`].
    owners: Box<[u16]>,
}

const NOBODY: u16 = u16::MAX;

impl SlotTable {
    pub(super) fn new() -> Self {
        Self { nodes: Vec::new(), owners: vec![NOBODY; usize::from(SLOTS)].into() }
    }

    pub(super) fn links(&self) -> impl Iterator<Item = &Arc<Supervised>> {
        self.nodes.iter().map(|(_, link)| link)
    }

    pub(super) fn link(&self, node: &NodeAddress) -> Option<&Arc<Supervised>> {
        self.nodes.iter().find(|(known, _)| known == node).map(|(_, link)| link)
    }

    /// Returns the master of a slot.
    pub(super) fn owner(&self, slot: u16) -> Option<&Arc<Supervised>> {
        let place = self.owners[usize::from(slot)];
        self.nodes.get(usize::from(place)).map(|(_, link)| link)
    }

    /// Returns the nodes that serve slots.
    pub(super) fn masters(&self) -> impl Iterator<Item = &(NodeAddress, Arc<Supervised>)> {
        let mut serves = vec![false; self.nodes.len()];
        for place in &self.owners {
            if let Some(serves) = serves.get_mut(usize::from(*place)) {
                *serves = true;
            }
        }
        self.nodes.iter().zip(serves).filter_map(|(node, serves)| serves.then_some(node))
    }

    /// Takes over what a node said. Nodes that it does not know are forgotten, and their connections
    /// closed.
    pub(super) fn replace(&mut self, view: &View, link: impl Fn(&NodeAddress) -> Arc<Supervised>) {
        let mut next = Self::new();
        for range in view.ranges() {
            let place = next.place(&range.master, |node| self.link(node).cloned(), &link);
            next.owners[usize::from(range.first)..=usize::from(range.last)].fill(place);
        }
        for replica in &view.replicas {
            next.place(replica, |node| self.link(node).cloned(), &link);
        }
        *self = next;
    }

    /// Notes that a slot is served by that node, as another has said.
    pub(super) fn note(
        &mut self,
        slot: u16,
        node: &NodeAddress,
        link: impl Fn(&NodeAddress) -> Arc<Supervised>,
    ) {
        let place = self.place(node, |_| None, link);
        if let Some(owner) = self.owners.get_mut(usize::from(slot)) {
            *owner = place;
        }
    }

    /// Adds a node unless it is known.
    pub(super) fn add(
        &mut self,
        node: &NodeAddress,
        link: impl Fn(&NodeAddress) -> Arc<Supervised>,
    ) -> Arc<Supervised> {
        let place = self.place(node, |_| None, link);
        Arc::clone(&self.nodes[usize::from(place)].1)
    }

    /// Returns a node's place, and adds the node if it has none.
    fn place(
        &mut self,
        node: &NodeAddress,
        known: impl Fn(&NodeAddress) -> Option<Arc<Supervised>>,
        link: impl Fn(&NodeAddress) -> Arc<Supervised>,
    ) -> u16 {
        let place = self.nodes.iter().position(|(other, _)| other == node).unwrap_or_else(|| {
            let link = known(node).unwrap_or_else(|| link(node));
            self.nodes.push((node.clone(), link));
            self.nodes.len() - 1
        });
        u16::try_from(place).expect("a cluster has fewer nodes than slots")
    }
}
