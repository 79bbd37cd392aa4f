//! Publication: what was staged and captured becomes findable, in one step.

use smallvec::smallvec;

use crate::books::Books;
use crate::error::Error;
use crate::group::BLOCK;
use crate::prefix::agents::AgentId;
use crate::prefix::draft::Draft;
use crate::prefix::end::{End, EndId};
use crate::prefix::node::{Kind, NodeId, Piece};
use crate::prefix::{Change, EndHandle, Index, Root};
use crate::tokens::TokenSlice;

/// Segments of this kind keep their place in the order: every conversation starts with them.
const SYSTEM: Kind = 0;

/// Recent ends of one conversation that keep their place in the order: the next turn continues from
/// the last one, or from the one before when the answer was tokenised differently.
const KEPT_TURN_ENDS: usize = 2;

/// What a publication led to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Published {
    /// The end of what was published.
    pub end: EndHandle,
    /// Whether nobody had published it before.
    pub is_new_end: bool,
    /// Whether this agent had not published it before.
    pub is_new_agent: bool,
}

impl Index {
    /// Make a draft findable, with what was captured into its staged blocks.
    pub(crate) fn publish(
        &mut self,
        books: &mut Books<'_>,
        draft: &Draft,
        agent: &str,
        kind: Kind,
    ) -> Result<Published, Error> {
        let top = self.top(draft.root)?;
        let tokens = draft.tokens();
        if tokens.is_empty() {
            return Err(Error::NoTokens);
        }
        let is_base = |id| draft.base.iter().any(|piece| books.node(piece.slot) == Some(id));
        let mut path = self.holders(top, tokens, is_base);
        let mut start = path.len() * BLOCK;
        while start < tokens.len() {
            let parent = path.last().copied().unwrap_or(top);
            path.push(self.add_node(books, parent, tokens.slice(start, start + BLOCK), draft));
            start += BLOCK;
        }
        for span in &draft.spans {
            let id = path[usize::try_from(span.lo).unwrap_or(usize::MAX) / BLOCK];
            let slot = span.block.slot();
            let piece =
                Piece { group: span.group, slot, lo: span.lo, hi: span.hi, kind, readers: 0 };
            if self.is_here(id, &piece) {
                // Another thread was faster.
                self.gone.push(span.block);
                books.vacate(slot);
            } else {
                self.attach(books, id, piece);
            }
        }
        // What the draft builds upon may have lost its place since; it is held, so it is as it was.
        for &piece in &draft.base {
            let id = path[usize::try_from(piece.lo).unwrap_or(usize::MAX) / BLOCK];
            if books.node(piece.slot).is_none() && !self.is_here(id, &piece) {
                self.adopt(books, id, piece);
            }
        }
        let agent = self.enter(draft.root, agent);
        self.own(&path, agent);
        let published = self.publish_end(books, draft, &path, agent, kind)?;
        if self.goes_by_leaves() {
            self.touch_path(&path);
        }
        self.supersede_old_ends(&path);
        self.release_base(books, draft);
        // Ends that were held in a shorter node may stand in a fuller one now, which nobody holds.
        self.restore_ends(books);
        self.renew_pins(books);
        Ok(published)
    }

    fn is_here(&self, id: NodeId, piece: &Piece) -> bool {
        self.nodes.whole_pieces(id).any(|other| other.group == piece.group)
            || self.nodes.part(id, piece.group, piece.lo, piece.hi).is_some()
    }

    fn add_node(
        &mut self,
        books: &mut Books<'_>,
        parent: NodeId,
        tokens: TokenSlice<'_>,
        draft: &Draft,
    ) -> NodeId {
        let shorter = self.nodes.shorter(parent, tokens);
        let number = usize::try_from(self.nodes[parent].end()).unwrap_or(usize::MAX) / BLOCK;
        let key = draft.key(number).unwrap_or_else(|| self.key(parent, tokens));
        if self.goes_by_leaves() {
            // It is a leaf no more.
            self.order.remove(parent.place());
        }
        let id = self.nodes.grow(parent, tokens, key);
        if let Some(shorter) = shorter {
            self.absorb(books, id, shorter);
        }
        id
    }

    /// Take over what a partial node has; fuller unbounded blocks will replace its own.
    fn absorb(&mut self, books: &mut Books<'_>, id: NodeId, shorter: NodeId) {
        if self.goes_by_leaves() {
            self.order.remove(shorter.place());
        }
        self.detach_whole(books, shorter);
        let parts = std::mem::take(self.nodes.parts_mut(shorter));
        for piece in &parts {
            self.record(books, Change::Removed, shorter, piece);
            self.record(books, Change::Stored, id, piece);
            books.move_to(piece.slot, id);
        }
        let ends = self.nodes.take_ends(shorter);
        for end_id in ends {
            if let Some(end) = self.ends.get_mut(end_id) {
                end.node = id;
            }
            self.nodes.add_end(id, end_id);
        }
        *self.nodes.parts_mut(id) = parts;
        self.nodes[id].lane = self.nodes[shorter].lane;
        self.forget_use(shorter);
        self.nodes.cut(shorter);
    }

    /// The agent's claim on the end of a path, which may be there already.
    fn publish_end(
        &mut self,
        books: &Books<'_>,
        draft: &Draft,
        path: &[NodeId],
        agent: AgentId,
        kind: Kind,
    ) -> Result<Published, Error> {
        let at = draft.n_tokens;
        let Some(&node) = path.last() else { return Err(Error::NoTokens) };
        let is_there = |id: &&EndId| self.ends.get(**id).is_some_and(|end| end.at == at);
        let existing = self.nodes.ends(node).iter().find(is_there).copied();
        let id = existing.unwrap_or_else(|| {
            let reads = self.read_slots(path, at);
            for &slot in &reads {
                let owner = books.node(slot).unwrap_or(node);
                let mut parts = self.nodes.parts_mut(owner).iter_mut();
                if let Some(piece) = parts.find(|piece| piece.slot == slot) {
                    piece.readers += 1;
                }
            }
            let end =
                End { root: draft.root, node, at, agents: smallvec![], kind, reads, last_use: 0 };
            let id = self.ends.enter(end);
            self.nodes.add_end(node, id);
            if let Some(space) = self.space_mut(draft.root) {
                space.n_ends += 1;
            }
            id
        });
        let is_new_agent = self.claim(id, agent);
        self.touch_end(id);
        let end = self.ends.handle(id);
        Ok(Published { end, is_new_end: existing.is_none(), is_new_agent })
    }

    fn supersede_old_ends(&mut self, path: &[NodeId]) {
        let ends = path.iter().flat_map(|&id| self.nodes.ends(id).iter().copied());
        let at = |id: EndId| self.ends.get(id).filter(|end| end.kind != SYSTEM).map(|end| end.at);
        let mut ends: Vec<(u64, EndId)> = ends.filter_map(|id| Some((at(id)?, id))).collect();
        ends.sort_unstable();
        let old = ends.len().saturating_sub(KEPT_TURN_ENDS);
        for &(_, id) in &ends[..old] {
            self.supersede(id);
        }
    }

    /// The turn that published this end is over: drop the agent's own shorter ends that it serves.
    ///
    /// Where every position is legal, a longer sequence serves all that a shorter one did.
    pub(crate) fn settle(
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
        let Some((node, at)) = self.ends.get(id).map(|end| (end.node, end.at)) else { return };
        if !self.goes_by_leaves() {
            return;
        }
        let path: Vec<NodeId> = self.nodes.ancestry(node).collect();
        let ends = path.iter().flat_map(|&id| self.nodes.ends(id).iter().copied());
        let is_covered = |id: &EndId| {
            let end = self.ends.get(*id);
            end.is_some_and(|end| end.at < at && end.agents.iter().all(|other| *other == agent))
        };
        let covered: Vec<EndId> = ends.filter(is_covered).collect();
        for id in covered {
            self.drop_end(books, id);
        }
        self.renew_pin(books, agent);
    }
}
