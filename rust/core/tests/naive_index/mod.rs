//! The prefix index once more, as plainly as possible: for each block the tokens it was captured
//! under, and for each law a loop over positions.
//!
//! It predicts no victim. It remembers what was captured into which block, which blocks the events
//! call findable, and which ids may still be used; the laws speak of these alone.

use std::collections::{HashMap, HashSet};

use semantic_core::{BlockId, Change, Event, GroupSpec, HitPlan, Reach, StagedSpan};

/// What was captured into a block.
#[derive(Clone, Debug)]
pub(crate) struct Captured {
    /// Which namespace of the test; a reopened one is another.
    pub(crate) space: usize,
    pub(crate) group: usize,
    /// Every token before the end of its rows.
    pub(crate) prefix: Vec<i64>,
    pub(crate) lo: u64,
    pub(crate) hi: u64,
}

#[derive(Debug, Default)]
pub(crate) struct NaiveIndex {
    /// Everything that was published and has not been reported gone.
    pub(crate) published: HashMap<BlockId, Captured>,
    /// The fold of the events: findable blocks.
    pub(crate) findable: HashMap<BlockId, Event>,
}

/// Whether the layers of a group read the row at `position` when they go on from `end`.
pub(crate) fn reads(reach: Reach, position: u64, end: u64) -> bool {
    position < end
        && match reach {
            Reach::All => true,
            Reach::State => position + 1 == end,
            Reach::Chunk { size } => position / size == end / size,
            // The ring has `size` rows: the kept ones, the latest, and one for the next token.
            Reach::Window { size, keep } => position < keep || position + (size - keep) > end,
        }
}

/// Every position that a group reads, one by one.
pub(crate) fn rows_read(group: &GroupSpec, end: u64) -> Vec<u64> {
    (0..end).filter(|&position| reads(group.reach, position, end)).collect()
}

impl NaiveIndex {
    pub(crate) fn capture(&mut self, space: usize, spans: &[StagedSpan], tokens: &[i64]) {
        for &StagedSpan { block, group, lo, hi } in spans {
            let prefix = tokens[..usize::try_from(hi).unwrap()].to_vec();
            let captured = Captured { space, group: group.index(), prefix, lo, hi };
            assert!(self.published.insert(block, captured).is_none(), "{block} came twice");
        }
    }

    pub(crate) fn fold(&mut self, space: usize, events: Vec<Event>) {
        for event in events {
            let Some(block) = event.block else {
                assert_eq!((event.change, event.key), (Change::Cleared, event.parent));
                self.findable.retain(|id, stored| {
                    stored.group != event.group || self.published[id].space != space
                });
                continue;
            };
            match event.change {
                Change::Cleared => panic!("one block was cleared: {event:?}"),
                Change::Stored => {
                    let captured = &self.published[&block];
                    assert!(captured.lo <= event.lo && event.hi <= captured.hi, "{event:?}");
                    assert_eq!(captured.group, event.group.index());
                    let before = self.findable.insert(block, event);
                    assert_eq!(before, None, "stored twice");
                }
                Change::Removed => {
                    let before = self.findable.remove(&block);
                    let stored = Event { change: Change::Stored, ..event };
                    assert_eq!(before, Some(stored), "removed as it was not stored");
                }
            }
        }
    }

    /// Blocks were reported gone: each for the first time, findable no more, and held by nobody.
    pub(crate) fn lose(&mut self, gone: &[BlockId], held: &HashSet<BlockId>) {
        for id in gone {
            assert!(self.published.remove(id).is_some(), "{id} is gone twice, or never was here");
            assert!(!self.findable.contains_key(id), "{id} is gone and can be found");
            assert!(!held.contains(id), "{id} went while it was held");
        }
    }

    /// The findable blocks of a namespace by group.
    pub(crate) fn counts(&self, space: usize, n_groups: usize) -> Vec<u64> {
        let mut counts = vec![0; n_groups];
        for id in self.findable.keys().filter(|id| self.published[id].space == space) {
            counts[self.published[id].group] += 1;
        }
        counts
    }

    /// A hit is a prefix of at most `limit` tokens whose rows every group has, each row from a block
    /// that was captured under this very prefix and can be found.
    pub(crate) fn check_plan(
        &self,
        groups: &[GroupSpec],
        space: usize,
        prompt: &[i64],
        limit: u64,
        plan: &HitPlan,
    ) {
        let n_tokens = plan.n_tokens;
        assert!(n_tokens <= plan.matched && plan.matched <= limit.min(prompt.len() as u64));
        if n_tokens == 0 {
            assert!(plan.spans.iter().all(|(_, spans)| spans.is_empty()));
            return;
        }
        assert_eq!(plan.spans.len(), groups.len());
        let mut distinct = HashSet::new();
        for (at, (group, spans)) in plan.spans.iter().enumerate() {
            assert_eq!(group.index(), at);
            let rows: Vec<u64> = spans.iter().flat_map(|span| span.lo..span.hi).collect();
            assert_eq!(rows, rows_read(&groups[at], n_tokens), "{:?}", groups[at].reach);
            for span in spans {
                distinct.insert(span.block);
                let captured = &self.published[&span.block];
                assert!(self.findable.contains_key(&span.block), "a row of a hidden block");
                assert_eq!((captured.space, captured.group), (space, at));
                assert!(captured.lo <= span.lo && span.hi <= captured.hi, "{span:?} {captured:?}");
                let hi = usize::try_from(span.hi).unwrap();
                assert_eq!(captured.prefix[..hi], prompt[..hi], "rows of another prefix");
            }
        }
        let blocks = plan.blocks();
        assert_eq!(blocks.len(), distinct.len());
        assert_eq!(blocks.into_iter().collect::<HashSet<_>>(), distinct);
    }
}

/// How many leading tokens two sequences have in common.
pub(crate) fn common(one: &[i64], other: &[i64]) -> u64 {
    one.iter().zip(other).take_while(|(a, b)| a == b).count() as u64
}
