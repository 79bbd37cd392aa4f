//! Eviction where every position is legal: leaf after leaf, from the tails of sequences.
//!
//! Leaves that go one after the other are mostly one path's, so they go together: found first, while
//! nothing changes, then taken out of the order, off the tree and out of the books.

use smallvec::SmallVec;

use crate::blocks::{Cost, Want};
use crate::books::Books;
use crate::prefix::end::EndId;
use crate::prefix::node::{Node, NodeId};
use crate::prefix::{Change, Index, Root};

/// Token blocks of a long path.
const PATH_BLOCKS: usize = 1024;

/// A leaf, and nodes that become leaves when those before them go.
type Tail = SmallVec<[NodeId; 16]>;

impl Index {
    /// Let go of the least wanted leaves until so much has become free; False when none may go.
    pub(super) fn evict_leaves(&mut self, books: &mut Books<'_>, mut missing: Cost) -> bool {
        let mut has_gone = false;
        while missing != Cost::default()
            && let Some((place, _)) = self.next_victim(books)
        {
            let leaf = NodeId::at(place);
            let tail = self.next_tail(books, leaf, &mut missing);
            let root = self.nodes[leaf].root;
            let n = self.drop_tail(books, &tail);
            if let Some(space) = self.space_mut(root) {
                space.evicted_blocks += n;
            }
            has_gone = true;
        }
        has_gone
    }

    /// Leaves that were last used before that time go, and what becomes a leaf and was.
    pub(super) fn expire_leaves(&mut self, books: &mut Books<'_>, before: u64) {
        for place in self.order.due(before) {
            let mut next = Some(NodeId::at(place));
            while let Some(id) = next
                && self.order.used_at(id.place()).is_some_and(|at| at < before)
                && self.is_idle_leaf(books, id)
            {
                next = self.nodes[id].parent;
                self.drop_tail(books, &[id]);
            }
        }
    }

    pub(super) fn is_idle_leaf(&self, books: &Books<'_>, id: NodeId) -> bool {
        !self.nodes[id].has_children() && self.is_idle(books, id)
    }

    #[inline]
    fn is_idle(&self, books: &Books<'_>, id: NodeId) -> bool {
        self.nodes.whole(id).iter().all(|whole| books.leases(whole.slot) == 0)
    }

    /// A leaf that goes next and those that go right after it, until so much is free.
    fn next_tail(&self, books: &Books<'_>, leaf: NodeId, missing: &mut Cost) -> Tail {
        let one_each: SmallVec<[Want; 2]> = self.unbounded.iter().map(|&id| (id, 1)).collect();
        let one = books.blocks.cost(&one_each).unwrap_or_default();
        let n_bytes = missing.bytes.div_ceil(one.bytes.max(1));
        let n_missing = n_bytes.max(missing.arrays.div_ceil(one.arrays.max(1)));
        let n_missing = usize::try_from(n_missing).unwrap_or(usize::MAX);
        let mut tail = Tail::with_capacity(n_missing.min(PATH_BLOCKS));
        tail.push(leaf);
        let Node { lane, last_use, parent: mut next, .. } = self.nodes[leaf];
        'path: while let Some(nearest) = next {
            // Counted, where a parent is the place before: no load waits for the one before it.
            for (id, node) in self.nodes.downwards(nearest) {
                let is_alike = node.lane == lane && node.last_use == last_use;
                let leads_elsewhere = node.is_forked() || node.has_ends();
                if tail.len() >= n_missing
                    || leads_elsewhere
                    || !is_alike
                    || !self.is_idle(books, id)
                {
                    break 'path;
                }
                tail.push(id);
                next = node.parent;
                if next != id.before() {
                    break;
                }
            }
        }
        let n = tail.len() as u64;
        missing.bytes = missing.bytes.saturating_sub(one.bytes.saturating_mul(n));
        missing.arrays = missing.arrays.saturating_sub(one.arrays.saturating_mul(n));
        tail
    }

    /// Remove idle nodes that were last used together from the end of a path, the last one first, and
    /// say how many blocks that are; the sequences that ended in the last one end before the first
    /// one from now on.
    fn drop_tail(&mut self, books: &mut Books<'_>, tail: &[NodeId]) -> u64 {
        let (Some(&leaf), Some(&head)) = (tail.first(), tail.last()) else { return 0 };
        let (root, parent) = (self.nodes[leaf].root, self.nodes[head].parent);
        if self.space(root).is_some_and(|space| space.events.is_some()) {
            for &id in tail {
                self.rename(books, Change::Removed, id);
            }
        }
        let end = self.join_ends(leaf);
        let (lane, last_use) = (self.nodes[leaf].lane, self.nodes[leaf].last_use);
        let n = self.free_whole(books, root, tail);
        self.give_up(self.nodes[leaf].owner(), tail.len());
        self.node_uses.leave(last_use, tail.len());
        self.nodes.cut_tail(tail);
        let Some(parent) = parent else { return n };
        let node = &self.nodes[parent];
        if (node.lane, node.last_use) == (lane, last_use) && self.is_idle_leaf(books, parent) {
            self.order.succeed(leaf.place(), parent.place());
        } else {
            self.order.remove(leaf.place());
            self.list_leaf(books, parent);
        }
        if let Some(end) = end {
            self.move_end(end, parent);
        }
        n
    }

    /// Free the blocks of nodes that go, and say how many they are.
    fn free_whole(&mut self, books: &mut Books<'_>, root: Root, tail: &[NodeId]) -> u64 {
        let before = self.gone.len();
        self.gone.reserve(tail.len() * self.unbounded.len());
        for at in 0..self.unbounded.len() {
            let first = self.gone.len();
            let mut rest = tail;
            while let Some(&id) = rest.first() {
                let kind = self.nodes.whole(id)[at].kind;
                let mut n = 0;
                for &id in rest {
                    let whole = self.nodes.whole(id)[at];
                    if whole.kind != kind {
                        break;
                    }
                    self.gone.push(whole.id(books.blocks.number));
                    n += 1;
                }
                if let Some(blocks) = self.n_blocks(root, kind, self.unbounded[at]) {
                    *blocks -= n as u64;
                }
                rest = &rest[n..];
            }
            books.vacate_cached(self.unbounded[at], &self.gone[first..]);
        }
        (self.gone.len() - before) as u64
    }

    /// The sequences that end in a node become one, which is taken off it.
    fn join_ends(&mut self, id: NodeId) -> Option<EndId> {
        let ends = self.nodes.take_ends(id);
        let (&kept, others) = ends.split_last()?;
        for &other in others {
            self.merge_end(other, kept);
        }
        Some(kept)
    }

    /// What wants one end wants another one instead.
    fn merge_end(&mut self, id: EndId, into: EndId) {
        let agents = self.ends.get(id).map(|end| end.agents.clone()).unwrap_or_default();
        // First the new claim: an agent without any is forgotten.
        for agent in agents {
            self.claim(into, agent);
        }
        self.remove_end(id);
    }

    /// A sequence that has lost its last nodes ends here from now on.
    fn move_end(&mut self, id: EndId, to: NodeId) {
        if self.nodes[to].parent.is_none() {
            // Nothing is left of it.
            self.remove_end(id);
            return;
        }
        let at = self.nodes[to].end();
        let is_there = |other: &&EndId| self.ends.get(**other).is_some_and(|end| end.at == at);
        if let Some(&other) = self.nodes.ends(to).iter().find(is_there) {
            self.merge_end(id, other);
        } else if let Some(end) = self.ends.get_mut(id) {
            (end.node, end.at) = (to, at);
            self.nodes.add_end(to, id);
        }
    }

    /// A node that has become an idle leaf, or has been one, may go.
    #[inline]
    pub(super) fn list_leaf(&mut self, books: &Books<'_>, id: NodeId) {
        let node = &self.nodes[id];
        let is_leaf = node.parent.is_some() && !node.has_children();
        if !is_leaf || self.order.contains(id.place()) || self.is_leased(books, id) {
            return;
        }
        if self.order.is_aside(id.place()) {
            self.order.restore(id.place());
        } else if let Some(last_use) = node.last_use {
            self.order.enter(id.place(), node.lane, self.node_uses.get(last_use));
        } else {
            self.touch_path(&[id]);
        }
    }
}
