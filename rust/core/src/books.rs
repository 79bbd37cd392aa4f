//! The books of one pool: the states of its blocks, and the bytes that follow from them.
//!
//! All changes of a block's state pass through `turn`, `book` and `vacate` below, so that counts and
//! bytes follow the state and `free + held + live + staging + cached == total` cannot be forgotten
//! anywhere. Which block it is that goes, comes or stays is the pool's and the index's affair.

use crate::blocks::{Blocks, Cost, Want};
use crate::budget::{Budget, Share};
use crate::error::Error;
use crate::group::GroupId;
use crate::id::{BlockId, SlotIndex};
use crate::ledger::Account;
use crate::prefix::{Index, NodeId};
use crate::slot::{BlockClass, State};

/// A pool's share of the budget, and its blocks.
#[derive(Debug)]
pub(crate) struct Books<'m> {
    pub(crate) budget: &'m mut Budget,
    pub(crate) share: &'m mut Share,
    pub(crate) blocks: &'m mut Blocks,
}

impl Books<'_> {
    /// Bytes that could be taken without evicting.
    pub(crate) fn free(&self) -> u64 {
        self.share.free(self.budget)
    }

    /// Bytes that are free, or evictable here.
    pub(crate) fn available(&self) -> u64 {
        self.share.available(self.budget)
    }

    /// See that so many blocks, and so much beside them, could be taken, if need be by evicting.
    pub(crate) fn admit(
        &self,
        wants: &[Want],
        beside: Cost,
        bytes_available: u64,
    ) -> Result<Cost, Error> {
        let cost = self.blocks.cost(wants).and_then(|cost| cost.and(beside));
        let Some(cost) = cost.filter(|cost| cost.bytes <= bytes_available) else {
            let requested = cost.map_or(u64::MAX, |cost| cost.bytes);
            return Err(Error::BytesExhausted { requested, available: bytes_available });
        };
        let bytes_requested = cost.bytes;
        let available = self.blocks.arrays_available();
        if cost.arrays > available {
            let requested = cost.arrays;
            return Err(Error::ArraysExhausted {
                requested,
                available,
                bytes_requested,
                bytes_available,
            });
        }
        let (requested, available) =
            (self.blocks.new_slots(wants), self.blocks.slots.room() as u64);
        if requested > available {
            return Err(Error::SlotsExhausted {
                requested,
                available,
                bytes_requested,
                bytes_available,
            });
        }
        Ok(cost)
    }

    /// Whether so much is free as it stands, in slots that are there: the usual case, seen cheaply.
    #[inline]
    pub(crate) fn is_free(&self, wants: &[Want], beside: Cost) -> bool {
        let cost = self.blocks.cost(wants).and_then(|cost| cost.and(beside));
        cost.is_some_and(|Cost { bytes, arrays }| {
            bytes <= self.free() && arrays <= self.blocks.arrays_free()
        }) && self.blocks.new_slots(wants) == 0
    }

    /// Admit, and evict here until the request fits into what is free: first the blocks that nobody
    /// indexes, the least recently cached before the others, then what the index says.
    pub(crate) fn make_room(&mut self, index: &mut Index, wants: &[Want]) -> Result<(), Error> {
        if self.is_free(wants, Cost::default()) {
            return Ok(());
        }
        let cost = self.admit(wants, Cost::default(), self.available())?;
        loop {
            let missing = self.missing(cost);
            if missing == Cost::default() {
                return Ok(());
            }
            if !self.evict(index, missing) {
                // Everything cached can be evicted; if ever it could not, nothing is overdrawn.
                return Err(Error::BytesExhausted {
                    requested: cost.bytes,
                    available: self.free(),
                });
            }
        }
    }

    /// Let go of what goes next: a block that nobody indexes, else what the index says, up to so
    /// much; False when nothing may go.
    pub(crate) fn evict(&mut self, index: &mut Index, missing: Cost) -> bool {
        let Some(oldest) = self.blocks.eviction.first() else {
            return index.evict(self, missing);
        };
        let id = self.blocks.id(oldest);
        self.blocks.evicted.push(id);
        self.uncache(oldest);
        self.vacate(oldest);
        true
    }

    /// What is missing of so much as it stands.
    pub(crate) fn missing(&self, cost: Cost) -> Cost {
        Cost {
            bytes: cost.bytes.saturating_sub(self.free()),
            arrays: cost.arrays.saturating_sub(self.blocks.arrays_free()),
        }
    }

    /// Change the state of a slot, with everything that is counted by state.
    pub(crate) fn turn(&mut self, index: SlotIndex, state: State) {
        let slot = &mut self.blocks.slots[index];
        let (group, from, to) = (slot.group, slot.state.class(), state.class());
        slot.state = state;
        self.book(group, from, to, 1);
    }

    /// Enter in the books that `n` blocks of a group have gone from one class to another; None is
    /// no block.
    #[inline]
    pub(crate) fn book(
        &mut self,
        group: GroupId,
        from: Option<BlockClass>,
        to: Option<BlockClass>,
        n: u64,
    ) {
        let group = self.blocks.groups.get_mut(group);
        let bytes = group.spec.bytes_per_block * n;
        if let Some(from) = from {
            *group.counts.of(from) -= n;
        }
        if let Some(to) = to {
            *group.counts.of(to) += n;
        }
        match (from.map(Account::Block), to.map(Account::Block)) {
            (Some(from), Some(to)) => self.share.transfer(from, to, bytes),
            (None, Some(to)) => self.share.enter(self.budget, to, bytes),
            (Some(from), None) => self.share.leave(self.budget, from, bytes),
            (None, None) => {}
        }
    }

    /// Empty a slot that is in no list any more, and give it back to its group.
    #[inline]
    pub(crate) fn vacate(&mut self, index: SlotIndex) {
        let Blocks { groups, slots, .. } = &mut *self.blocks;
        let slot = &mut slots[index];
        let (group, from) = (slot.group, slot.state.class());
        groups.get_mut(group).free.push(slot, index);
        self.book(group, from, None, 1);
    }

    /// Empty the slots of cached blocks of one group.
    pub(crate) fn vacate_cached(&mut self, group: GroupId, ids: &[BlockId]) {
        let Blocks { groups, slots, .. } = &mut *self.blocks;
        let free = &mut groups.get_mut(group).free;
        for index in ids.iter().map(|id| id.slot()) {
            free.push(&mut slots[index], index);
        }
        self.book(group, Some(BlockClass::Cached), None, ids.len() as u64);
    }

    /// Take a block out of the order of eviction, if it is in it.
    pub(crate) fn uncache(&mut self, index: SlotIndex) {
        let Blocks { slots, eviction, .. } = &mut *self.blocks;
        if slots[index].state.class() == Some(BlockClass::Cached) {
            eviction.unlink(slots, index);
        }
    }

    /// Make blocks the last to be evicted; the list's own tail goes before its head.
    pub(crate) fn cache(&mut self, ids: impl DoubleEndedIterator<Item = BlockId>) {
        for index in ids.rev().map(BlockId::slot) {
            self.uncache(index);
            self.turn(index, State::Cached { links: crate::slot::Links::default() });
            let Blocks { slots, eviction, .. } = &mut *self.blocks;
            eviction.push(slots, index);
        }
    }

    /// Take blocks that are about to be filled; evicts when need be.
    pub(crate) fn stage(
        &mut self,
        index: &mut Index,
        wants: &[Want],
    ) -> Result<Vec<BlockId>, Error> {
        self.make_room(index, wants)?;
        let mut ids = Vec::new();
        for &(group, n) in wants {
            let Blocks { groups, slots, number, .. } = &mut *self.blocks;
            let free = &mut groups.get_mut(group).free;
            let len = usize::try_from(n).unwrap_or(usize::MAX);
            let top = free.top(slots, group, len).iter().rev();
            let (slots, number) = (slots.as_mut(), *number);
            ids.extend(top.map(|&index| {
                let slot = &mut slots[index.at()];
                slot.state = State::Staged;
                BlockId::new(number, slot.generation, index)
            }));
            free.drop_top(len);
            self.book(group, None, Some(BlockClass::Staged), n);
        }
        Ok(ids)
    }

    /// Whether a request fits without evicting anything.
    pub(crate) fn fits_free(&self, wants: &[Want]) -> bool {
        self.blocks.cost(wants).is_some_and(|cost| {
            cost.bytes <= self.free() && cost.arrays <= self.blocks.arrays_free()
        })
    }

    /// Bytes by which a request is beyond what is free or evictable.
    pub(crate) fn bytes_short(&self, wants: &[Want]) -> u64 {
        let bytes = self.blocks.cost(wants).map_or(u64::MAX, |cost| cost.bytes);
        bytes.saturating_sub(self.available())
    }

    // Blocks that are in the index ------------------------------------------------------------

    /// A staged block becomes findable in a node.
    pub(crate) fn seal(&mut self, slot: SlotIndex, node: NodeId) {
        self.turn(slot, State::Indexed { node: Some(node), leases: 0 });
    }

    /// The block is another node's from now on.
    pub(crate) fn move_to(&mut self, slot: SlotIndex, to: NodeId) {
        if let State::Indexed { node, .. } = &mut self.blocks.slots[slot].state {
            *node = Some(to);
        }
    }

    /// The block can be found no more. Whether nobody holds it either, so that it can be vacated.
    #[inline]
    pub(crate) fn orphan(&mut self, slot: SlotIndex) -> bool {
        match &mut self.blocks.slots[slot].state {
            State::Indexed { node, leases } if *leases > 0 => {
                *node = None;
                false
            }
            _ => true,
        }
    }

    /// The node that a block is found in.
    pub(crate) fn node(&self, slot: SlotIndex) -> Option<NodeId> {
        match self.blocks.slots[slot].state {
            State::Indexed { node, .. } => node,
            _ => None,
        }
    }

    pub(crate) fn leases(&self, slot: SlotIndex) -> u32 {
        match self.blocks.slots[slot].state {
            State::Indexed { leases, .. } => leases,
            _ => 0,
        }
    }

    /// The bytes of a block.
    pub(crate) fn bytes_of(&self, slot: SlotIndex) -> u64 {
        let group = self.blocks.slots[slot].group;
        self.blocks.groups.spec(group).map_or(0, |spec| spec.bytes_per_block)
    }

    /// One more lease on each of these blocks.
    pub(crate) fn lease(&mut self, slots: &[SlotIndex]) {
        let mut woken = Alike::default();
        for &index in slots {
            let slot = &mut self.blocks.slots[index];
            let State::Indexed { leases, .. } = &mut slot.state else { continue };
            *leases += 1;
            if *leases == 1 {
                let group = slot.group;
                self.woken(woken.next(group));
            }
        }
        self.woken(woken);
    }

    fn woken(&mut self, Alike { group, n }: Alike) {
        self.book(group, Some(BlockClass::Cached), Some(BlockClass::Leased), n);
    }

    /// One lease less on each of these blocks: those that nobody holds any more, and their nodes.
    pub(crate) fn unlease(
        &mut self,
        slots: impl ExactSizeIterator<Item = SlotIndex>,
    ) -> Vec<(SlotIndex, Option<NodeId>)> {
        let mut at_rest = Vec::with_capacity(slots.len());
        let mut rested = Alike::default();
        for index in slots {
            let slot = &mut self.blocks.slots[index];
            let State::Indexed { leases, node } = &mut slot.state else { continue };
            *leases = leases.saturating_sub(1);
            if *leases == 0 {
                at_rest.push((index, *node));
                let group = slot.group;
                self.rested(rested.next(group));
            }
        }
        self.rested(rested);
        at_rest
    }

    fn rested(&mut self, Alike { group, n }: Alike) {
        self.book(group, Some(BlockClass::Leased), Some(BlockClass::Cached), n);
    }
}

/// So many blocks in a row of one group, which are entered in the books together.
#[derive(Clone, Copy)]
struct Alike {
    group: GroupId,
    n: u64,
}

impl Default for Alike {
    fn default() -> Self {
        Self { group: GroupId(0), n: 0 }
    }
}

impl Alike {
    /// One more block; those before, if they were of another group, are to be entered now.
    fn next(&mut self, group: GroupId) -> Self {
        let before = if self.group == group { Self { n: 0, ..*self } } else { *self };
        *self = Self { group, n: self.n - before.n + 1 };
        before
    }
}
