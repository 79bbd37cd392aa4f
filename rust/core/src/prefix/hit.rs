//! Which length of a matched prefix every group can serve, and from which rows (law 4).
//!
//! Unbounded groups serve every position of a path; a bounded group serves `p` when its blocks cover
//! what a hit at `p` [reads](Reach::spans_needed). Each group answers with the longest length that
//! it serves below a limit. The hit is where all agree: the limit is lowered by one group after the
//! other until none lowers it, so the order of the groups does not matter.

use crate::group::GroupId;
use crate::id::{BlockId, SlotIndex};
use crate::prefix::node::{NodeId, Piece};
use crate::prefix::nodes::Nodes;
use crate::reach::{Reach, Span};

/// Positions `[lo, hi)` that one block contributes to a restore.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RowSpan {
    /// The block.
    pub block: BlockId,
    /// The first position.
    pub lo: u64,
    /// The end of the positions.
    pub hi: u64,
}

/// One length that is valid for every group, and where its rows are.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HitPlan {
    /// The length of the hit in tokens; 0 is a miss.
    pub n_tokens: u64,
    /// For each group, the spans of its blocks in the order of positions.
    pub spans: Vec<(GroupId, Vec<RowSpan>)>,
    /// How many tokens of the request are here in some way, whether or not they can be restored.
    pub matched: u64,
    pub(crate) path: Vec<NodeId>,
}

impl HitPlan {
    /// The block of an unbounded group that a token block of the path had.
    pub(crate) fn block(&self, group: GroupId, number: usize) -> Option<BlockId> {
        let (_, rows) = self.spans.iter().find(|(other, _)| *other == group)?;
        rows.get(number).map(|row| row.block)
    }

    /// Every block that the hit reads, once.
    #[must_use]
    pub fn blocks(&self) -> Vec<BlockId> {
        let spans = self.spans.iter().flat_map(|(_, spans)| spans);
        let mut blocks: Vec<BlockId> = spans.map(|span| span.block).collect();
        // A kept front and a window may both read one block: the last of the one, the first of the
        // other.
        blocks.dedup();
        blocks
    }
}

/// Positions `[lo, hi)` in a slot.
type SlotRows = (SlotIndex, u64, u64);

/// The bounded groups of a tree, and what they have along one path.
pub(crate) struct Bounded<'t> {
    reaches: &'t [(GroupId, Reach)],
    /// The pieces of each group, by position.
    pieces: Vec<Vec<Piece>>,
}

impl<'t> Bounded<'t> {
    pub(crate) fn along(
        path: impl Iterator<Item = NodeId>,
        nodes: &Nodes,
        reaches: &'t [(GroupId, Reach)],
    ) -> Self {
        let mut pieces: Vec<Vec<Piece>> = vec![Vec::new(); reaches.len()];
        if !reaches.is_empty() {
            for piece in path.flat_map(|id| nodes.parts(id)) {
                if let Some(at) = reaches.iter().position(|(group, _)| *group == piece.group) {
                    pieces[at].push(*piece);
                }
            }
        }
        for pieces in &mut pieces {
            pieces.sort_unstable_by_key(|piece| (piece.lo, piece.hi));
        }
        Self { reaches, pieces }
    }

    /// The fixed point: the longest length that every group serves and that is not above `limit`.
    pub(crate) fn agreed(&self, mut limit: u64) -> u64 {
        let stretches: Vec<_> = self.pieces.iter().map(|pieces| stretches(pieces)).collect();
        loop {
            let mut lowered = limit;
            for (at, &(_, reach)) in self.reaches.iter().enumerate() {
                lowered = longest(reach, &self.pieces[at], &stretches[at], lowered);
            }
            if lowered == limit {
                return limit;
            }
            limit = lowered;
        }
    }

    /// The rows that a hit at `end` reads of each group, from the piece that reaches furthest.
    pub(crate) fn rows(&self, end: u64) -> impl Iterator<Item = (GroupId, Vec<SlotRows>)> {
        let rows = move |(at, &(group, reach)): (usize, &(GroupId, Reach))| {
            let mut rows = Vec::new();
            for (mut position, stop) in reach.spans_needed(end) {
                while position < stop {
                    let here = |piece: &&Piece| piece.lo <= position && position < piece.hi;
                    let pieces = self.pieces[at].iter().filter(here);
                    let Some(best) = pieces.max_by_key(|piece| piece.hi) else { break };
                    rows.push((best.slot, position, best.hi.min(stop)));
                    position = best.hi;
                }
            }
            (group, rows)
        };
        self.reaches.iter().enumerate().map(rows)
    }
}

/// The gapless stretches of valid positions, in order.
fn stretches(pieces: &[Piece]) -> Vec<Span> {
    let mut stretches: Vec<Span> = Vec::new();
    for piece in pieces {
        match stretches.last_mut() {
            Some((_, hi)) if piece.lo <= *hi => *hi = piece.hi.max(*hi),
            _ => stretches.push((piece.lo, piece.hi)),
        }
    }
    stretches
}

/// The longest length that a group serves and that is not above `limit`; 0 for none.
fn longest(reach: Reach, pieces: &[Piece], stretches: &[Span], limit: u64) -> u64 {
    match reach {
        Reach::All => limit,
        Reach::State => {
            let ends = pieces.iter().map(|piece| piece.hi);
            ends.filter(|&end| end <= limit).max().unwrap_or(0)
        }
        Reach::Chunk { size } => {
            let start = limit - limit % size;
            let reaching = stretches.iter().filter(|&&(lo, hi)| lo <= start && start < hi);
            reaching.map(|&(_, hi)| hi.min(limit)).max().unwrap_or(start)
        }
        Reach::Window { size, keep } => {
            let front = stretches.first().filter(|&&(lo, _)| lo == 0).map_or(0, |&(_, hi)| hi);
            let served = stretches.iter().filter_map(|&(lo, hi)| match lo {
                0 => Some((1, hi)),
                // The window of the first length that reaches back to `lo`, and not before it.
                _ => Some((lo + size - keep - 1, hi))
                    .filter(|&(first, _)| front >= keep && first <= hi),
            });
            let below = served.filter(|&(first, _)| first <= limit);
            below.map(|(_, last)| last.min(limit)).max().unwrap_or(0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(lo: u64, hi: u64) -> Piece {
        Piece { group: GroupId(0), slot: SlotIndex(0), lo, hi, kind: 0, readers: 1 }
    }

    /// The longest length that a window of 100 positions serves, the first four of them kept.
    fn served(pieces: &[Piece], limit: u64) -> u64 {
        let window = Reach::Window { size: 100, keep: 4 };
        longest(window, pieces, &stretches(pieces), limit)
    }

    #[test]
    fn a_window_that_keeps_its_front_is_served_with_its_front_only() {
        let (front, rows) = (piece(0, 4), piece(300, 400));
        assert_eq!(served(&[front, rows], 500), 400);
        assert_eq!(served(&[rows], 500), 0);
        assert_eq!(served(&[piece(0, 3), rows], 500), 3);
        // The window of the first length that reaches back to position 300.
        assert_eq!(served(&[front, rows], 395), 395);
        assert_eq!(served(&[front, rows], 394), 4);
    }
}
