//! Hits: what of a request is cached, holding it, and remembering that it was used.

use crate::books::Books;
use crate::error::Error;
use crate::group::{BLOCK, BLOCK_TOKENS, GroupId};
use crate::id::SlotIndex;
use crate::prefix::end::EndId;
use crate::prefix::hit::{Bounded, HitPlan, RowSpan};
use crate::prefix::node::NodeId;
use crate::prefix::{Index, Root};
use crate::reach::Reach;
use crate::tokens::TokenSlice;

/// A path with a last node that may match in part, and the longest length that can be restored.
struct Best {
    n_tokens: u64,
    depth: usize,
    beside: Option<NodeId>,
}

impl Index {
    /// The longest hit of at most `limit` tokens. Changes nothing.
    pub(crate) fn plan(
        &self,
        books: &Books<'_>,
        root: Root,
        tokens: TokenSlice<'_>,
        limit: u64,
    ) -> Result<HitPlan, Error> {
        let top = self.top(root)?;
        let path = self.nodes.full_path(top, tokens);
        if self.goes_by_leaves() {
            return Ok(self.plan_anywhere(books, top, path, tokens, limit));
        }
        Ok(self.plan_at_ends(books, top, path, tokens, limit))
    }

    /// Every position is legal: all full blocks, and what the most alike child has of the next one.
    fn plan_anywhere(
        &self,
        books: &Books<'_>,
        top: NodeId,
        mut path: Vec<NodeId>,
        tokens: TokenSlice<'_>,
        limit: u64,
    ) -> HitPlan {
        let start = path.len() * BLOCK;
        let rest = tokens.slice(start, start + BLOCK);
        let parent = path.last().copied().unwrap_or(top);
        let beside = self.nodes.most_alike(parent, rest).filter(|&(_, common)| common > 0);
        let common = beside.map_or(0, |(_, common)| common);
        path.extend(beside.map(|(child, _)| child));
        let matched = ((start + common) as u64).min(limit);
        HitPlan { matched, ..self.rows(books, path, matched) }
    }

    /// The longest length that bounded groups serve.
    ///
    /// A partial block is looked for beside every full one: an end inside a token block lives in
    /// the one sibling that took it over.
    fn plan_at_ends(
        &self,
        books: &Books<'_>,
        top: NodeId,
        mut path: Vec<NodeId>,
        tokens: TokenSlice<'_>,
        limit: u64,
    ) -> HitPlan {
        let whole = ((path.len() * BLOCK) as u64).min(limit);
        let n_tokens = self.agreed(&path, None, whole);
        let mut best = Best { n_tokens, depth: path.len(), beside: None };
        let mut matched = whole;
        // Where a chunk is just over, it reads nothing.
        let is_chunked = |(_, reach): &(GroupId, Reach)| matches!(reach, Reach::Chunk { .. });
        let serves_without_rows = self.bounded.iter().any(is_chunked);
        for depth in (0..=path.len()).rev() {
            let start = (depth * BLOCK) as u64;
            if (start + BLOCK_TOKENS).min(limit) <= best.n_tokens {
                break;
            }
            let parent = if depth == 0 { top } else { path[depth - 1] };
            let rest = tokens.slice(depth * BLOCK, (depth + 1) * BLOCK);
            let floor = usize::try_from(best.n_tokens.saturating_sub(start)).unwrap_or(BLOCK);
            for (child, common) in self.nodes.alike(parent, rest, floor) {
                let end = (start + common as u64).min(limit);
                matched = matched.max(end);
                let may_serve = serves_without_rows || !self.nodes.parts(child).is_empty();
                if end > best.n_tokens && path.get(depth) != Some(&child) && may_serve {
                    let n_tokens = self.agreed(&path[..depth], Some(child), end);
                    if n_tokens > best.n_tokens {
                        best = Best { n_tokens, depth, beside: Some(child) };
                    }
                }
            }
        }
        path.truncate(best.depth);
        path.extend(best.beside);
        HitPlan { matched, ..self.rows(books, path, best.n_tokens) }
    }

    fn agreed(&self, path: &[NodeId], beside: Option<NodeId>, limit: u64) -> u64 {
        let nodes = path.iter().copied().chain(beside);
        Bounded::along(nodes, &self.nodes, &self.bounded).agreed(limit)
    }

    /// The plan of a hit at `end`, which every group serves along `path`.
    fn rows(&self, books: &Books<'_>, mut path: Vec<NodeId>, end: u64) -> HitPlan {
        if end == 0 {
            return HitPlan::default();
        }
        let named = |(slot, lo, hi): (SlotIndex, u64, u64)| {
            let block = books.blocks.id(slot);
            RowSpan { block, lo, hi }
        };
        let bounded = Bounded::along(path.iter().copied(), &self.nodes, &self.bounded);
        let bounded =
            bounded.rows(end).map(|(group, rows)| (group, rows.into_iter().map(named).collect()));
        path.truncate(usize::try_from(end.div_ceil(BLOCK_TOKENS)).unwrap_or(usize::MAX));
        let unbounded = self.unbounded.iter().enumerate().map(|(at, &group)| {
            let starts = (0..end).step_by(BLOCK);
            let row = |(lo, &id): (u64, &NodeId)| {
                let hi = (lo + BLOCK_TOKENS).min(end);
                RowSpan { block: self.nodes.whole(id)[at].id(books.blocks.number), lo, hi }
            };
            (group, starts.zip(&path).map(row).collect())
        });
        let mut spans: Vec<_> = unbounded.chain(bounded).collect();
        spans.sort_by_key(|(group, _)| group.0);
        HitPlan { n_tokens: end, spans, matched: 0, path }
    }

    /// A hit was used by an agent: what it read goes last from now on.
    pub(crate) fn used(&mut self, books: &Books<'_>, root: Root, plan: &HitPlan, agent: &str) {
        let agent = self.arrive(root, agent);
        let path = self.remaining(books, root, plan);
        self.own(&path, agent);
        if self.goes_by_leaves() {
            self.touch_path(&path);
        }
        for id in self.serving(plan, &path) {
            self.touch_end(id);
        }
    }

    /// The path of a plan, as far as it is there: a fuller block may have come in the place of the last
    /// one, and its node may be another conversation's by now.
    fn remaining(&self, books: &Books<'_>, root: Root, plan: &HitPlan) -> Vec<NodeId> {
        let Ok(top) = self.top(root) else { return Vec::new() };
        let before = std::iter::once(top).chain(plan.path.iter().copied());
        let path = before.zip(plan.path.iter().copied()).enumerate();
        let is_here = |&(number, (parent, id)): &(usize, (NodeId, NodeId))| {
            self.nodes.get(id).is_some_and(|node| node.is_here && node.parent == Some(parent))
                && self.unbounded.iter().enumerate().all(|(at, &group)| {
                    let block = self.nodes.whole(id)[at].id(books.blocks.number);
                    plan.block(group, number) == Some(block)
                })
        };
        path.take_while(is_here).map(|(_, (_, id))| id).collect()
    }

    /// The ends that keep what a hit read: the one at its length, or else those behind it.
    fn serving(&self, plan: &HitPlan, path: &[NodeId]) -> Vec<EndId> {
        let end_at = |id: &EndId| self.ends.get(*id).map_or(0, |end| end.at);
        let behind = path.iter().flat_map(|&id| self.nodes.ends(id).iter().copied());
        let behind: Vec<EndId> = behind.filter(|id| end_at(id) >= plan.n_tokens).collect();
        let exact = |id: &&EndId| end_at(id) == plan.n_tokens;
        if let Some(&exact) = behind.iter().find(exact) {
            return vec![exact];
        }
        if self.goes_by_leaves() {
            return behind;
        }
        let read = plan.blocks();
        let reads = |id: &EndId| {
            let end = self.ends.get(*id);
            end.is_some_and(|end| {
                end.reads.iter().any(|slot| read.iter().any(|b| b.slot() == *slot))
            })
        };
        behind.into_iter().filter(reads).collect()
    }

    /// End a hold: what nothing needs any more goes.
    pub(crate) fn release(&mut self, books: &mut Books<'_>, slots: &[SlotIndex]) {
        // Tails first, so that they also go first.
        let mut at_rest = books.unlease(slots.iter().rev().copied());
        at_rest.retain(|&(slot, node)| {
            if node.is_none() {
                // Let go of while it was held: nobody can find it, so nobody needs it now.
                self.gone.push(books.blocks.id(slot));
                books.vacate(slot);
            }
            node.is_some()
        });
        let has_rested = !at_rest.is_empty();
        for (slot, node) in at_rest {
            let Some(node) = node else { continue };
            if self.goes_by_leaves() {
                self.list_leaf(books, node);
            }
            self.settle_piece(books, node, slot);
        }
        if has_rested {
            self.restore_ends(books);
        }
    }
}
