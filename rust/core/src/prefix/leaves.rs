//! Eviction where every position is legal: leaf after leaf, from the tails of sequences.
//!
//! Leaves that go one after the other are mostly one path's, so that much is done once for all of
//! them: their blocks are counted together, and an end moves to where the path ends at last instead
//! of one node at a time.

use crate::blocks::Cost;
use crate::books::Books;
use crate::group::GroupId;
use crate::prefix::end::EndId;
use crate::prefix::node::{Kind, NodeId, Whole};
use crate::prefix::{Change, Index, Root};

/// Blocks alike, which are counted together.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Alike {
    root: Root,
    kind: Kind,
    group: GroupId,
}

/// Leaves that have gone, one after the other, and what is left to do for all of them.
#[derive(Default)]
struct Run {
    /// So many of the blocks that went last are not yet counted; they are alike.
    last: Option<(Alike, usize)>,
    /// The end that the last leaf leaves to its parent.
    end: Option<EndId>,
    parent: Option<NodeId>,
    is_eviction: bool,
}

impl Index {
    /// Let go of the least wanted leaves until so much has become free; False when none may go.
    pub(super) fn evict_leaves(&mut self, books: &mut Books<'_>, mut missing: Cost) -> bool {
        let mut run = Run { is_eviction: true, ..Run::default() };
        let mut has_gone = false;
        while missing != Cost::default()
            && let Some(place) = self.order.take_first(self.now)
        {
            let id = NodeId::at(place);
            // What is no idle leaf is not looked at again: it comes back when it has become one.
            if self.is_idle_leaf(books, id) {
                let freed = self.drop_leaf(books, &mut run, id);
                missing.bytes = missing.bytes.saturating_sub(freed.bytes);
                missing.arrays = missing.arrays.saturating_sub(freed.arrays);
                has_gone = true;
            }
        }
        self.finish(books, run);
        has_gone
    }

    /// Leaves that were last used before that time go.
    pub(super) fn expire_leaves(&mut self, books: &mut Books<'_>, before: u64) {
        let mut run = Run::default();
        loop {
            let is_old = |&place: &u32| {
                self.order.used_at(place).is_some_and(|at| at < before)
                    && self.is_idle_leaf(books, NodeId::at(place))
            };
            let Some(place) = self.order.firsts().find(is_old) else { break };
            self.order.remove(place);
            self.drop_leaf(books, &mut run, NodeId::at(place));
        }
        self.finish(books, run);
    }

    #[inline]
    fn is_idle_leaf(&self, books: &Books<'_>, id: NodeId) -> bool {
        let node = &self.nodes[id];
        node.children.is_empty() && node.whole.iter().all(|whole| books.leases(whole.slot) == 0)
    }

    /// Remove an idle leaf that is out of the order; the sequences that ended in it end before it
    /// from now on.
    #[inline]
    fn drop_leaf(&mut self, books: &mut Books<'_>, run: &mut Run, id: NodeId) -> Cost {
        let node = &self.nodes[id];
        let (root, has_end) = (node.root, !node.ends.is_empty());
        if self.space(root).is_some_and(|space| space.events.is_some()) {
            self.rename(books, Change::Removed, id);
        }
        let mut freed = Cost::default();
        for at in 0..self.nodes[id].whole.len() {
            let Whole { slot, group, kind } = self.nodes[id].whole[at];
            let alike = Alike { root, kind, group };
            match &mut run.last {
                Some((last, n)) if *last == alike => *n += 1,
                _ => {
                    self.count_last(books, run);
                    run.last = Some((alike, 1));
                }
            }
            self.gone.push(books.blocks.id(slot));
            let spec = &books.blocks.groups.get_mut(group).spec;
            freed.bytes += spec.bytes_per_block;
            freed.arrays += u64::from(spec.arrays_per_block);
        }
        if run.parent != Some(id) || has_end {
            self.land(run);
            run.end = self.join_ends(id);
        }
        run.parent = self.nodes[id].parent;
        self.nodes[id].whole.clear();
        self.nodes.cut(id);
        if let Some(parent) = run.parent
            && !self.order.contains(parent.place())
        {
            self.list_leaf(books, parent);
        }
        freed
    }

    /// The sequences that end in a node become one, which is taken off it.
    fn join_ends(&mut self, id: NodeId) -> Option<EndId> {
        let ends = std::mem::take(&mut self.nodes[id].ends);
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

    /// The end that a run of leaves has left arrives where the path ends now.
    fn land(&mut self, run: &mut Run) {
        let (Some(id), Some(node)) = (run.end.take(), run.parent) else { return };
        if self.nodes[node].parent.is_none() {
            // Nothing is left of the sequence.
            self.remove_end(id);
            return;
        }
        let at = self.nodes[node].end();
        let is_there = |other: &&EndId| self.ends.get(**other).is_some_and(|end| end.at == at);
        if let Some(&other) = self.nodes[node].ends.iter().find(is_there) {
            self.merge_end(id, other);
        } else if let Some(end) = self.ends.get_mut(id) {
            (end.node, end.at) = (node, at);
            self.nodes[node].ends.push(id);
        }
    }

    /// Do what was left to do for a run of leaves.
    fn finish(&mut self, books: &mut Books<'_>, mut run: Run) {
        self.count_last(books, &mut run);
        self.land(&mut run);
    }

    /// Free the blocks that went last, and enter that in the books.
    fn count_last(&mut self, books: &mut Books<'_>, run: &mut Run) {
        let Some((Alike { root, kind, group }, n)) = run.last.take() else { return };
        books.vacate_cached(group, &self.gone[self.gone.len() - n..]);
        let n = n as u64;
        self.count(root, kind, group, n.cast_signed().wrapping_neg());
        if let Some(space) = self.space_mut(root).filter(|_| run.is_eviction) {
            space.evicted_blocks += n;
        }
    }

    /// A node that has become an idle leaf, or has been one, may go.
    #[inline]
    pub(super) fn list_leaf(&mut self, books: &Books<'_>, id: NodeId) {
        let node = &self.nodes[id];
        let is_leaf = node.parent.is_some() && node.children.is_empty();
        if is_leaf && !self.order.contains(id.place()) && !self.is_leased(books, id) {
            self.touch_node(id);
        }
    }
}
