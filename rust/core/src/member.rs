//! One pool as its budget sees it: its share, its blocks, and what it would give for others.

use crate::blocks::{Blocks, Cost};
use crate::books::Books;
use crate::budget::{Budget, Share};
use crate::prefix::Index;
use crate::prefix::order::Dispensable;

/// How little a pool's next victim is worth: the larger goes first. What nobody indexes goes before
/// everything else.
pub(crate) type Worth = (bool, Option<Dispensable>);

#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) key: u64,
    pub(crate) share: Share,
    pub(crate) blocks: Blocks,
    pub(crate) index: Index,
}

impl Member {
    /// Let go of what goes next, up to so many bytes; false when nothing may go.
    pub(crate) fn evict(&mut self, budget: &mut Budget, bytes: u64) -> bool {
        let Self { share, blocks, index, .. } = self;
        Books { budget, share, blocks }.evict(index, Cost { bytes, arrays: 0 })
    }

    /// What its next victim is worth; None when nothing may go.
    pub(crate) fn least_wanted(&mut self, now: u64) -> Option<Worth> {
        least_wanted(&self.blocks, &mut self.index, now)
    }
}

/// What the next victim of these blocks is worth; None when nothing may go.
pub(crate) fn least_wanted(blocks: &Blocks, index: &mut Index, now: u64) -> Option<Worth> {
    let is_unindexed = blocks.eviction.first().is_some();
    let indexed = index.least_wanted(now);
    (is_unindexed || indexed.is_some()).then_some((is_unindexed, indexed))
}
