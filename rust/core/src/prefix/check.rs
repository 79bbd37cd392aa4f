//! The full walk: what the index says in several places is compared.

use std::cmp::Ordering;
use std::collections::HashMap;

use crate::books::Books;
use crate::error::Error;
use crate::id::SlotIndex;
use crate::prefix::agents::AgentId;
use crate::prefix::end::{End, EndId};
use crate::prefix::node::{NodeId, Owner};
use crate::prefix::uses::UseId;
use crate::prefix::wishes::SUPERSEDED;
use crate::prefix::{Index, Root};
use crate::slot::State;

impl Index {
    /// Check every invariant of the index.
    pub(crate) fn check(&self, books: &Books<'_>) -> Result<(), Error> {
        let mut found: HashMap<SlotIndex, NodeId> = HashMap::new();
        let mut n_nodes = 0;
        for (root, space) in (0..).map(Root).zip(&self.namespaces) {
            let Some(space) = space else { continue };
            for id in self.behind(space.top) {
                n_nodes += 1;
                agree(self.nodes[id].root == root, "the root of a node")?;
                self.check_place(books, id)?;
                self.check_pieces(books, id)?;
                for slot in self.nodes.slots(id) {
                    let is_new = found.insert(slot, id).is_none();
                    agree(is_new, "a block that is in two nodes")?;
                }
            }
        }
        agree(n_nodes <= self.nodes.len(), "the number of nodes")?;
        self.check_ends(&found)?;
        self.check_agents()?;
        self.check_orders(books)?;
        for (slot, entry) in books.blocks.slots.iter() {
            if let State::Indexed { node, leases } = entry.state {
                agree(node.is_some() || leases > 0, "a block that nobody can find or holds")?;
                let is_open = node.is_some_and(|id| self.space(self.nodes[id].root).is_some());
                agree(!is_open || found.get(&slot) == node.as_ref(), "the node of a block")?;
            }
        }
        Ok(())
    }

    fn check_place(&self, books: &Books<'_>, id: NodeId) -> Result<(), Error> {
        let node = &self.nodes[id];
        for child in self.nodes.children(id).iter() {
            let below = &self.nodes[child];
            agree(below.parent == Some(id) && below.start() == node.end(), "parent and child")?;
            agree(self.nodes.key(child) == self.key(id, self.nodes.tokens(child)), "a key")?;
        }
        let children = self.nodes.children(id);
        for (left, right) in children.iter().zip(children.iter().skip(1)) {
            let (left, right) = (self.nodes.tokens(left), self.nodes.tokens(right));
            let (order, common) = left.compare(right);
            agree(order == Ordering::Less && common < left.len(), "the order of siblings")?;
        }
        if node.parent.is_none() {
            return Ok(());
        }
        let is_partial = node.end() > node.start() && !node.has_children();
        agree(node.is_full() || is_partial, "a full node")?;
        let leads_on = node.has_children() || node.has_ends();
        agree(leads_on || self.is_leased(books, id), "a node that leads to an end")
    }

    fn check_pieces(&self, books: &Books<'_>, id: NodeId) -> Result<(), Error> {
        let node = &self.nodes[id];
        let wanted = if node.parent.is_none() { 0 } else { self.unbounded.len() };
        agree(self.nodes.whole(id).len() == wanted, "the blocks of a node")?;
        for (whole, group) in self.nodes.whole(id).iter().zip(&self.unbounded) {
            let slot = &books.blocks.slots[whole.slot];
            agree(
                (slot.group, slot.generation) == (*group, whole.generation),
                "the groups of a node's blocks",
            )?;
        }
        for piece in self.nodes.parts(id) {
            let within = node.start() <= piece.lo && piece.lo < piece.hi && piece.hi <= node.end();
            let reads = self.ends.iter().filter(|(_, end)| end.reads.contains(&piece.slot));
            agree(within && reads.count() == piece.readers as usize, "the readers of a block")?;
            let is_needed = piece.readers > 0 || books.leases(piece.slot) > 0;
            agree(is_needed, "a block that completes no hit")?;
        }
        agree(self.nodes.slots(id).all(|slot| books.node(slot) == Some(id)), "the node of a block")
    }

    fn check_ends(&self, found: &HashMap<SlotIndex, NodeId>) -> Result<(), Error> {
        for (id, end) in self.ends.iter() {
            let node = &self.nodes[end.node];
            agree(self.nodes.ends(end.node).contains(&id), "the node of an end")?;
            agree(node.start() < end.at && end.at <= node.end(), "where an end is")?;
            agree(end.root == node.root && !end.agents.is_empty(), "whose an end is")?;
            agree(end.reads.iter().all(|slot| found.contains_key(slot)), "what an end reads")?;
            for &agent in &end.agents {
                let claimer = self.agents.get(agent);
                agree(claimer.is_some_and(|a| a.ends.contains(&id)), "the claims of an agent")?;
            }
        }
        Ok(())
    }

    fn check_agents(&self) -> Result<(), Error> {
        let mut n_own: HashMap<AgentId, usize> = HashMap::new();
        let mut n_nodes: HashMap<u32, usize> = HashMap::new();
        for id in self.nodes.iter() {
            match self.nodes[id].owner() {
                Owner::Nobody => {}
                Owner::One(agent) => *n_own.entry(agent).or_default() += 1,
                Owner::Many(crowd) => *n_nodes.entry(crowd.number()).or_default() += 1,
            }
        }
        agree(n_nodes.len() == self.crowds.len(), "the number of crowds")?;
        let all = self.agents.iter().filter(|(_, agent)| agent.n_nodes > 0);
        agree(all.count() == n_own.len(), "whose the nodes are")?;
        for (id, agent) in self.agents.iter() {
            let n = n_own.get(&id).copied().unwrap_or_default();
            agree(n == agent.n_nodes, "the nodes of an agent")?;
            for &crowd in &agent.crowds {
                agree(self.crowds.members(crowd).contains(&id), "the crowds of an agent")?;
                let n = n_nodes.get(&crowd.number());
                agree(n == Some(&self.crowds.n_nodes(crowd)), "the nodes of a crowd")?;
            }
            let pinned = agent.pinned.as_ref();
            let holds = pinned.is_none_or(|slots| *slots == self.needed(agent));
            agree(holds, "what a pin holds")?;
        }
        Ok(())
    }

    fn check_orders(&self, books: &Books<'_>) -> Result<(), Error> {
        let (n_listed, is_sorted) = self.order.counted();
        agree(is_sorted, "the order of uses")?;
        let n_ends = self.ends.iter().count();
        let counted: usize = self.namespaces.iter().flatten().map(|space| space.n_ends).sum();
        agree(counted == n_ends, "the number of ends")?;
        if self.goes_by_leaves() {
            let leaves = self.nodes.iter().filter(|&id| {
                let node = &self.nodes[id];
                node.parent.is_some() && !node.has_children()
            });
            let mut n_leaves = 0;
            for id in leaves {
                let is_here = self.order.contains(id.place());
                agree(is_here || self.is_leased(books, id), "the order of leaves")?;
                if let Some(lane) = self.order.lane_of(id.place()) {
                    agree(lane == self.nodes[id].lane, "the lane of a leaf")?;
                    n_leaves += 1;
                }
            }
            agree(n_leaves == n_listed, "what is in the order")?;
            self.check_uses()
        } else {
            let lane = |(id, end): (EndId, &End)| {
                let lane = self.order.lane_of(id.0)?;
                (lane == SUPERSEDED || lane == self.nodes[end.node].lane).then_some(())
            };
            let is_listed = self.ends.iter().map(lane).all(|listed| listed.is_some());
            agree(is_listed && n_listed == n_ends, "the order of ends")
        }
    }

    fn check_uses(&self) -> Result<(), Error> {
        let mut n_nodes: HashMap<UseId, usize> = HashMap::new();
        for id in self.nodes.iter() {
            let node = &self.nodes[id];
            let Some(last_use) = node.last_use else { continue };
            *n_nodes.entry(last_use).or_default() += 1;
            let before = node.parent.and_then(|parent| self.nodes[parent].last_use);
            let is_later = |before| self.node_uses.get(before) >= self.node_uses.get(last_use);
            agree(before.is_none_or(is_later), "when a node was used that leads to others")?;
        }
        let counted: HashMap<UseId, usize> = self.node_uses.iter().collect();
        agree(counted == n_nodes, "the nodes of a use")
    }
}

fn agree(agrees: bool, what: &str) -> Result<(), Error> {
    if agrees {
        return Ok(());
    }
    Err(Error::Broken { detail: format!("{what} in the prefix index is wrong") })
}
