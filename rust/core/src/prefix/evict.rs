//! What goes: victims when memory is short, and whatever nothing needs any more.

use smallvec::SmallVec;

use crate::blocks::Cost;
use crate::books::Books;
use crate::group::BLOCK;
use crate::id::SlotIndex;
use crate::prefix::end::{End, EndId};
use crate::prefix::node::{NodeId, Piece};
use crate::prefix::order::Dispensable;
use crate::prefix::{Change, EndHandle, Index, Root};

impl Index {
    /// Let go of the least wanted, until so much has become free or an end has gone; False when
    /// nothing may go.
    pub(crate) fn evict(&mut self, books: &mut Books<'_>, missing: Cost) -> bool {
        if self.goes_by_leaves() {
            self.evict_leaves(books, missing)
        } else {
            self.evict_end(books)
        }
    }

    /// How little the next to go is worth; None when nothing may go.
    pub(crate) fn least_wanted(&mut self, now: u64) -> Option<Dispensable> {
        self.order.first(now.max(self.now)).map(|(_, dispensable)| dispensable)
    }

    /// The time that the index was last told.
    pub(crate) fn now(&self) -> u64 {
        self.now
    }

    fn evict_end(&mut self, books: &mut Books<'_>) -> bool {
        let Some((place, _)) = self.next_victim(books) else { return false };
        self.drop_counted(books, EndId(place));
        true
    }

    /// What goes next, and how little it is worth; what may not go now is set aside on the way, and
    /// keeps its place in the order.
    pub(super) fn next_victim(&mut self, books: &Books<'_>) -> Option<(u32, Dispensable)> {
        loop {
            let next = self.order.first(self.now)?;
            if self.goes_by_leaves() {
                if self.is_idle_leaf(books, NodeId::at(next.0)) {
                    return Some(next);
                }
            } else {
                let id = EndId(next.0);
                if !self.ends.get(id).is_some_and(|end| self.is_held(books, end)) {
                    return Some(next);
                }
                self.passed_over.push(id);
            }
            self.order.set_aside(next.0);
        }
    }

    /// Ends that were passed over may go again when nothing holds them any more.
    pub(super) fn restore_ends(&mut self, books: &Books<'_>) {
        let mut still_held = std::mem::take(&mut self.passed_over);
        still_held.retain(|&id| {
            let is_aside = self.order.is_aside(id.0);
            let is_held = self.ends.get(id).is_some_and(|end| self.is_held(books, end));
            if is_aside && !is_held {
                self.order.restore(id.0);
            }
            is_aside && is_held
        });
        self.passed_over = still_held;
    }

    /// Whether all that a hit at an end needs last is leased, or the end is pinned: one that a
    /// running sequence holds whole frees nothing. Parts of it may be shared.
    fn is_held(&self, books: &Books<'_>, end: &End) -> bool {
        let whole = self.nodes.whole(end.node).iter().map(|whole| whole.slot);
        let mut needed = whole.chain(end.reads.iter().copied()).peekable();
        self.is_pinned(end)
            || (needed.peek().is_some() && needed.all(|slot| books.leases(slot) > 0))
    }

    fn drop_counted(&mut self, books: &mut Books<'_>, id: EndId) {
        let before = self.gone.len();
        let root = self.ends.get(id).map(|end| end.root);
        self.drop_end(books, id);
        let gone = (self.gone.len() - before) as u64;
        if let Some(space) = root.and_then(|root| self.space_mut(root)) {
            space.evicted_blocks += gone;
        }
    }

    /// The least recently used end of a namespace that no pin keeps goes; False when there is none.
    pub(crate) fn drop_oldest(&mut self, books: &mut Books<'_>, root: Root) -> bool {
        let may_go = |end: &End| end.root == root && !self.is_pinned(end);
        let here = self.ends.iter().filter(|(_, end)| may_go(end));
        let oldest = here.min_by_key(|(id, end)| (end.last_use, *id)).map(|(id, _)| id);
        oldest.is_some_and(|id| {
            self.drop_counted(books, id);
            true
        })
    }

    /// What was last used before that time goes, and what can be reached through it alone.
    pub(crate) fn expire(&mut self, books: &mut Books<'_>, before: u64) {
        if self.goes_by_leaves() {
            self.expire_leaves(books, before);
            return;
        }
        for id in self.order.due(before).into_iter().map(EndId) {
            if !self.ends.get(id).is_some_and(|end| self.is_held(books, end)) {
                self.drop_end(books, id);
            }
        }
    }

    /// One agent wants a published end no more; it goes when that was the last.
    pub(crate) fn withdraw(
        &mut self,
        books: &mut Books<'_>,
        root: Root,
        handle: EndHandle,
        agent: &str,
    ) {
        let (Some(id), Some(agent)) = (self.ends.find(handle), self.agents.find(root, agent))
        else {
            return;
        };
        if self.unclaim(id, agent) {
            self.drop_end(books, id);
        }
        self.renew_pin(books, agent);
    }

    /// Forget everything of a namespace that no running sequence holds, what is pinned included.
    pub(crate) fn clear(&mut self, books: &mut Books<'_>, root: Root) {
        let here = self.ends.iter().filter(|(_, end)| end.root == root);
        let ends: Vec<EndId> = here.map(|(id, _)| id).collect();
        for id in ends {
            self.drop_end(books, id);
        }
        self.renew_pins(books);
    }

    /// Forget a published end and all that nothing else needs.
    pub(super) fn drop_end(&mut self, books: &mut Books<'_>, id: EndId) {
        let Some(end) = self.remove_end(id) else { return };
        for slot in end.reads {
            let piece = self.nodes_piece_mut(books, slot);
            if let Some(piece) = piece {
                piece.readers -= 1;
            }
            if let Some(node) = books.node(slot) {
                self.settle_piece(books, node, slot);
            }
        }
        self.prune(books, end.node);
    }

    /// Take an end off its node and away from those who claim it.
    pub(super) fn remove_end(&mut self, id: EndId) -> Option<End> {
        for agent in self.ends.get(id)?.agents.clone() {
            self.unclaim(id, agent);
        }
        let end = self.ends.remove(id)?;
        if !self.goes_by_leaves() {
            self.order.remove(id.0);
        }
        self.nodes.remove_end(end.node, id);
        if let Some(space) = self.space_mut(end.root) {
            space.n_ends -= 1;
        }
        Some(end)
    }

    fn nodes_piece_mut(&mut self, books: &Books<'_>, slot: SlotIndex) -> Option<&mut Piece> {
        let node = books.node(slot)?;
        self.nodes.parts_mut(node).iter_mut().find(|piece| piece.slot == slot)
    }

    /// After a lease or a reader of a block has gone: what nothing needs any more goes.
    pub(super) fn settle_piece(&mut self, books: &mut Books<'_>, id: NodeId, slot: SlotIndex) {
        if books.leases(slot) > 0 {
            return;
        }
        let unread = |piece: &Piece| piece.slot == slot && piece.readers == 0;
        if let Some(at) = self.nodes.parts(id).iter().position(unread) {
            let piece = self.nodes.parts_mut(id).remove(at);
            self.detach(books, id, &piece);
        }
        self.prune(books, id);
    }

    /// Remove a leaf that leads to no end, and so on towards the root.
    pub(super) fn prune(&mut self, books: &mut Books<'_>, id: NodeId) {
        let mut at = id;
        while let Some(parent) = self.nodes[at].parent {
            let is_leased = self.is_leased(books, at);
            let node = &self.nodes[at];
            if node.has_ends() && !is_leased && !node.has_children() {
                self.shrink(books, at);
            }
            // Who took a lease before a fuller block came has none on that one: it needs no node.
            let whole = self.nodes.whole(at);
            let is_passed = is_leased && whole.iter().all(|whole| books.leases(whole.slot) > 0);
            let node = &self.nodes[at];
            if is_passed || node.has_children() || node.has_ends() {
                return;
            }
            self.remove_node(books, at);
            at = parent;
        }
        // The last of a namespace that was closed while something of it was held. What was pruned
        // already has no parent either.
        let node = &self.nodes[at];
        if node.is_here && !node.has_children() && self.space(node.root).is_none() {
            self.nodes.cut(at);
        }
    }

    /// Forget the tokens of a leaf behind its last end: no published sequence reaches them.
    fn shrink(&mut self, books: &mut Books<'_>, id: NodeId) {
        let node = &self.nodes[id];
        let ends = self.nodes.ends(id).iter().filter_map(|&end| self.ends.get(end));
        let (Some(end), Some(parent)) = (ends.map(|end| end.at).max(), node.parent) else { return };
        if end == node.end() {
            return;
        }
        let len = usize::try_from(end - node.start()).unwrap_or(BLOCK);
        let tokens = self.nodes.tokens(id).slice(0, len);
        // A sibling that begins with them holds all that would be left.
        if self.nodes.longer(parent, tokens).any(|sibling| sibling != id) {
            return;
        }
        let key = self.key(parent, tokens);
        self.rename(books, Change::Removed, id);
        self.nodes.shorten(id, len, key);
        self.rename(books, Change::Stored, id);
    }

    pub(super) fn rename(&mut self, books: &Books<'_>, change: Change, id: NodeId) {
        let pieces: SmallVec<[Piece; 2]> = self.nodes.pieces(id).collect();
        for piece in &pieces {
            self.record(books, change, id, piece);
        }
    }

    /// Take a leaf without ends off the tree.
    fn remove_node(&mut self, books: &mut Books<'_>, id: NodeId) {
        if self.goes_by_leaves() {
            self.order.remove(id.place());
        }
        self.detach_whole(books, id);
        while let Some(piece) = self.nodes.parts_mut(id).pop() {
            self.detach(books, id, &piece);
        }
        let (parent, owner) = (self.nodes[id].parent, self.nodes[id].owner());
        self.give_up(owner, 1);
        self.forget_use(id);
        self.nodes.cut(id);
        if let Some(parent) = parent.filter(|_| self.goes_by_leaves()) {
            self.list_leaf(books, parent);
        }
    }
}
