//! Drafts: what a publication will add, staged, with what it builds upon held meanwhile.

use std::sync::Arc;

use crate::blocks::{Cost, Want};
use crate::books::Books;
use crate::error::Error;
use crate::group::{BLOCK, BLOCK_TOKENS, GroupId};
use crate::id::{BlockId, SlotIndex};
use crate::key::{Key, KeyWidth};
use crate::prefix::node::{NodeId, Piece};
use crate::prefix::order::Dispensable;
use crate::prefix::{Index, Root};
use crate::reach::Span;
use crate::tokens::{TokenSlice, Tokens};

/// A staged block, and the positions that are to be captured into it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StagedSpan {
    /// The staged block.
    pub block: BlockId,
    /// Its group.
    pub group: GroupId,
    /// The first position.
    pub lo: u64,
    /// The end of the positions.
    pub hi: u64,
}

/// A publication on its way: what it adds is staged, what it builds upon is held.
///
/// It has to be published or abandoned.
#[derive(Debug)]
pub struct Draft {
    /// What has to be captured, group by group.
    pub spans: Vec<StagedSpan>,
    /// The length that will be published, which is less than was asked for when memory is short.
    pub n_tokens: u64,
    /// Bytes that were missing for the whole.
    pub bytes_short: u64,
    pub(super) root: Root,
    pub(super) tokens: Arc<Tokens>,
    pub(super) base: Vec<Piece>,
    parent_key: Key,
    key_width: KeyWidth,
    /// The keys of the token blocks that are new, once they are computed, from this number on.
    keys: Vec<Key>,
    first_key: usize,
}

impl Draft {
    pub(super) fn tokens(&self) -> TokenSlice<'_> {
        self.tokens.all().slice(0, usize::try_from(self.n_tokens).unwrap_or(usize::MAX))
    }

    /// Compute the keys of what is new. Takes its time, and needs no lock.
    pub fn compute_keys(&mut self) {
        let new = self.tokens().slice(self.first_key * BLOCK, usize::MAX);
        self.keys = self.parent_key.chain(new, self.key_width);
    }

    /// The key of a token block that was new when the draft was made.
    pub(super) fn key(&self, number: usize) -> Option<Key> {
        self.keys.get(number.checked_sub(self.first_key)?).copied()
    }
}

/// Why nothing of a sequence can be published.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// No prefix fits: so many bytes were missing for the whole.
    Budget {
        /// Bytes beyond what is free or evictable.
        bytes_short: u64,
    },
    /// It is worth less than what would have to go for it.
    Declined,
    /// The live caches have lost rows that a hit would read.
    LostRows {
        /// The group.
        group: GroupId,
        /// The first position that is needed.
        lo: u64,
        /// The end of the positions.
        hi: u64,
    },
}

/// Rows that a publication needs and the index does not have.
#[derive(Clone, Copy, Debug)]
struct Missing {
    group: GroupId,
    lo: u64,
    hi: u64,
}

/// So little that any block that goes is enough.
const ONE_BLOCK: Cost = Cost { bytes: 1, arrays: 0 };

impl Index {
    /// Stage what is new of `tokens`, or of the longest prefix of them that fits.
    ///
    /// `known` has, for each group, the positions whose rows the live caches surely have. The
    /// inner result says why nothing can be published; the index is as it was then, but for what a
    /// policy that declines has found to be worth even less.
    pub(crate) fn draft(
        &mut self,
        books: &mut Books<'_>,
        root: Root,
        tokens: &Arc<Tokens>,
        known: &[Vec<Span>],
        agent: &str,
    ) -> Result<Result<Draft, Refusal>, Error> {
        let top = self.top(root)?;
        let all = tokens.all();
        let worth = self.policy.declines().then(|| self.standing(root, agent).when_used());
        let mut end = all.len();
        let mut bytes_short = 0;
        loop {
            let wanted = all.slice(0, end);
            let refused = match self.try_length(books, (root, top), tokens, wanted, known, worth) {
                Ok(draft) => return Ok(Ok(Draft { bytes_short, ..draft })),
                Err(refused) => refused,
            };
            if let Refusal::Budget { bytes_short: short } = refused {
                bytes_short = short;
            }
            let shorter = self.affordable_end(books, top, all.slice(0, end), known, &refused);
            if shorter == 0 || shorter >= end {
                return Ok(Err(refused));
            }
            end = shorter;
        }
    }

    /// Evict what is worth no more than something new, until that fits; False when it cannot.
    fn evict_for(&mut self, books: &mut Books<'_>, wants: &[Want], worth: Dispensable) -> bool {
        while books.bytes_short(wants) == 0 && !books.fits_free(wants) {
            match self.next_victim(books) {
                Some((_, other)) if other >= worth => {
                    if !self.evict(books, ONE_BLOCK) {
                        return true;
                    }
                }
                _ => return false,
            }
        }
        true
    }

    fn try_length(
        &mut self,
        books: &mut Books<'_>,
        (root, top): (Root, NodeId),
        tokens: &Arc<Tokens>,
        wanted: TokenSlice<'_>,
        known: &[Vec<Span>],
        worth: Option<Dispensable>,
    ) -> Result<Draft, Refusal> {
        let holders = self.holders(top, wanted, |_| false);
        let end = wanted.len() as u64;
        let missing = self.missing(&holders, end);
        if let Some(lost) = missing.iter().find(|missing| !is_known(missing, known)) {
            let &Missing { group, lo, hi } = lost;
            return Err(Refusal::LostRows { group, lo, hi });
        }
        let base = self.base_of(&holders, end);
        let leased: Vec<SlotIndex> = base.iter().map(|piece| piece.slot).collect();
        books.lease(&leased);
        let mut wants: Vec<(GroupId, u64)> = Vec::new();
        for missing in &missing {
            match wants.last_mut() {
                Some((group, n)) if *group == missing.group => *n += 1,
                _ => wants.push((missing.group, 1)),
            }
        }
        if worth.is_some_and(|worth| !self.evict_for(books, &wants, worth)) {
            self.release(books, &leased);
            return Err(Refusal::Declined);
        }
        let Ok(blocks) = books.stage(self, &wants) else {
            let bytes_short = books.bytes_short(&wants);
            self.release(books, &leased);
            return Err(Refusal::Budget { bytes_short });
        };
        let staged = missing.iter().zip(blocks).map(|(missing, block)| {
            let &Missing { group, lo, hi } = missing;
            StagedSpan { block, group, lo, hi }
        });
        let full = holders.iter().take_while(|&&id| self.nodes[id].is_full()).count();
        let parent = if full == 0 { top } else { holders[full - 1] };
        Ok(Draft {
            spans: staged.collect(),
            n_tokens: end,
            bytes_short: 0,
            root,
            tokens: Arc::clone(tokens),
            base,
            parent_key: self.nodes.key(parent),
            key_width: self.space(root).map(|space| space.key_width).unwrap_or_default(),
            keys: Vec::new(),
            first_key: full,
        })
    }

    /// Give back a draft: nothing was published.
    pub(crate) fn abandon(&mut self, books: &mut Books<'_>, draft: &Draft) {
        for span in &draft.spans {
            books.vacate(span.block.slot());
        }
        self.release_base(books, draft);
    }

    pub(super) fn release_base(&mut self, books: &mut Books<'_>, draft: &Draft) {
        let leased: Vec<SlotIndex> = draft.base.iter().map(|piece| piece.slot).collect();
        self.release(books, &leased);
    }

    /// The nodes that hold `tokens` already, from the first on; the last may hold more: then it is
    /// one that has this end, or one that is `preferred`, if there is any.
    pub(super) fn holders(
        &self,
        top: NodeId,
        tokens: TokenSlice<'_>,
        preferred: impl Fn(NodeId) -> bool,
    ) -> Vec<NodeId> {
        let mut path = self.nodes.full_path(top, tokens);
        let start = path.len() * BLOCK;
        let rest = tokens.slice(start, tokens.len());
        if !rest.is_empty() && rest.len() < BLOCK {
            let parent = path.last().copied().unwrap_or(top);
            let ends_here = |&id: &NodeId| {
                let mut ends = self.nodes.ends(id).iter();
                ends.any(|&end| self.ends.get(end).is_some_and(|e| e.at == tokens.len() as u64))
            };
            let longer = || self.nodes.longer(parent, rest);
            let preferred = || longer().find(|&id| preferred(id)).or(longer().next());
            path.extend(longer().find(ends_here).or_else(preferred));
        }
        path
    }

    /// What a hit at `end` reads of bounded groups, token block by token block.
    pub(super) fn reads(&self, end: u64) -> impl Iterator<Item = (GroupId, usize, u64, u64)> {
        self.bounded.iter().flat_map(move |&(group, reach)| {
            reach.spans_needed(end).flat_map(move |(first, last)| {
                (first / BLOCK_TOKENS..last.div_ceil(BLOCK_TOKENS)).map(move |number| {
                    let start = number * BLOCK_TOKENS;
                    let (lo, hi) = (start.max(first), (start + BLOCK_TOKENS).min(last));
                    (group, usize::try_from(number).unwrap_or(usize::MAX), lo, hi)
                })
            })
        })
    }

    /// The bounded blocks along a path that a hit at `end` reads, as far as they are there.
    pub(super) fn read_slots(&self, path: &[NodeId], end: u64) -> Vec<SlotIndex> {
        let reads = self.reads(end).filter_map(|(group, number, lo, hi)| {
            Some(self.nodes.part(*path.get(number)?, group, lo, hi)?.slot)
        });
        let mut slots: Vec<SlotIndex> = reads.collect();
        slots.sort_unstable_by_key(|slot| slot.0);
        slots.dedup();
        slots
    }

    /// What has to be captured so that a hit at `end` becomes legal, group by group.
    fn missing(&self, holders: &[NodeId], end: u64) -> Vec<Missing> {
        let bounded = self.reads(end).filter_map(|(group, number, lo, hi)| {
            let holder = holders.get(number).and_then(|&id| self.nodes.part(id, group, lo, hi));
            holder.is_none().then_some(Missing { group, lo, hi })
        });
        let first = holders.len() as u64 * BLOCK_TOKENS;
        let unbounded = self.unbounded.iter().flat_map(move |&group| {
            let starts = (first..end).step_by(BLOCK);
            starts.map(move |lo| Missing { group, lo, hi: (lo + BLOCK_TOKENS).min(end) })
        });
        bounded.chain(unbounded).collect()
    }

    /// What a publication that ends at `end` builds upon; other ends' windows may go for it.
    fn base_of(&self, holders: &[NodeId], end: u64) -> Vec<Piece> {
        let read = self.read_slots(holders, end);
        let pieces = holders.iter().flat_map(|&id| {
            let is_read = |piece: &&Piece| read.contains(&piece.slot);
            let whole = self.nodes.whole_pieces(id);
            whole.chain(self.nodes.parts(id).iter().filter(is_read).copied())
        });
        pieces.collect()
    }

    /// The longest whole number of token blocks that fits beside what it builds upon, in tokens; 0 for
    /// none: into what can be evicted or, after it was declined, into what is free.
    ///
    /// Where a ring has moved on, and where there is a state, only the whole sequence can be
    /// restored.
    fn affordable_end(
        &self,
        books: &Books<'_>,
        top: NodeId,
        tokens: TokenSlice<'_>,
        known: &[Vec<Span>],
        refused: &Refusal,
    ) -> usize {
        let is_lost = matches!(refused, Refusal::LostRows { .. });
        let is_whole =
            |spans: &Vec<Span>| matches!(spans[..], [(0, end)] if end >= tokens.len() as u64);
        if is_lost || !known.iter().all(is_whole) {
            return 0;
        }
        let path = self.nodes.full_path(top, tokens);
        let fits = |blocks: usize| {
            let end = (blocks * BLOCK) as u64;
            let holders = &path[..path.len().min(blocks)];
            let missing = self.missing(holders, end);
            let wants: Vec<_> = missing.iter().map(|missing| (missing.group, 1)).collect();
            let room = match refused {
                Refusal::Budget { .. } => {
                    let base = self.base_of(holders, end).into_iter().map(|piece| piece.slot);
                    let cached = base.filter(|&slot| books.leases(slot) == 0);
                    books.available() - cached.map(|slot| books.bytes_of(slot)).sum::<u64>()
                }
                _ => books.free(),
            };
            books.blocks.cost(&wants).is_some_and(|cost| cost.bytes <= room)
        };
        let (mut low, mut high) = (0, tokens.len().saturating_sub(1) / BLOCK);
        while low < high {
            let middle = (low + high).div_ceil(2);
            if fits(middle) {
                low = middle;
            } else {
                high = middle - 1;
            }
        }
        low * BLOCK
    }
}

fn is_known(missing: &Missing, known: &[Vec<Span>]) -> bool {
    let spans = known.get(usize::from(missing.group.0));
    let mut spans = spans.into_iter().flatten();
    spans.any(|&(lo, hi)| lo <= missing.lo && missing.hi <= hi)
}
