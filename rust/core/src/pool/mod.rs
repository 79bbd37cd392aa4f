//! The pool: every operation on blocks and bytes, one file for each part of a block's life.
//!
//! Each operation looks at the whole request before it changes anything. All changes of a block's
//! state pass through `turn` and `vacate` below, so that counts and bytes follow the state and
//! `free + held + live + staging + cached == total` cannot be forgotten anywhere.

mod allocate;
mod charge;
mod check;
mod seal;

pub use allocate::AgentHolding;

use crate::blocks::{Blocks, Cost, Want};
use crate::budget::{Budget, Share};
use crate::error::Error;
use crate::group::{GroupId, GroupSpec, Groups};
use crate::id::{BlockId, SlotIndex};
use crate::ledger::Account;
use crate::slot::{BlockClass, State};
use crate::usage::{GroupUsage, Usage};

/// A pool of blocks under a budget, borrowed from its [`Memory`](crate::Memory).
#[derive(Debug)]
pub struct Pool<'m> {
    pub(crate) budget: &'m mut Budget,
    pub(crate) share: &'m mut Share,
    pub(crate) blocks: &'m mut Blocks,
}

impl Pool<'_> {
    /// The group of that name; a plain layer type means the first group of that type.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownGroup`].
    pub fn group(&self, name: &str) -> Result<GroupId, Error> {
        let known = || self.blocks.groups.names().join(", ");
        let unknown = || Error::UnknownGroup { name: name.to_owned(), known: known() };
        self.blocks.groups.find(name).ok_or_else(unknown)
    }

    /// The groups, in the order in which they were given.
    pub fn groups(&self) -> impl Iterator<Item = &GroupSpec> {
        self.blocks.groups.iter().map(|(_, group)| &group.spec)
    }

    /// Bytes that cannot be evicted: held, live and staging.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.share.ledger().used()
    }

    /// Bytes that are free or evictable. `used + available == total`, always.
    #[must_use]
    pub fn available(&self) -> u64 {
        self.share.available(self.budget)
    }

    /// Bytes that the pool has or could have now. Without other pools, the budget; with them, what
    /// they have not taken and were not promised.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.used() + self.available()
    }

    /// Blocks of `group` that could be taken now, one group alone.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownGroup`].
    pub fn available_blocks(&self, group: GroupId) -> Result<u64, Error> {
        let spec = &self.blocks.groups.get(group)?.spec;
        let by_bytes = self.available() / spec.bytes_per_block;
        let by_arrays = self.blocks.arrays_available() / u64::from(spec.arrays_per_block);
        Ok(by_bytes.min(by_arrays))
    }

    /// One consistent reading of bytes and blocks.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let ledger = self.share.ledger();
        let groups = self.blocks.groups.iter().map(|(_, group)| GroupUsage {
            name: group.spec.name.clone(),
            bytes_per_block: group.spec.bytes_per_block,
            held_blocks: group.counts.held,
            staged_blocks: group.counts.staged,
            leased_blocks: group.counts.leased,
            cached_blocks: group.counts.cached,
            free_slots: group.free.len(),
        });
        Usage {
            total: self.total(),
            free: self.share.free(self.budget),
            held: ledger.held,
            live: ledger.live,
            staging: ledger.staging(),
            cached: ledger.cached,
            arrays_used: self.blocks.arrays_used(),
            arrays_max: self.blocks.arrays_max,
            agents: self.blocks.agents.len() as u64,
            groups: groups.collect(),
        }
    }

    /// Start again with other groups, for another model. The bytes stay what they are; cached
    /// blocks are dropped and reported by [`drain_evicted`](Self::drain_evicted); every old id is
    /// stale.
    ///
    /// # Errors
    ///
    /// [`Error::InUse`] while anything is held, live, staged or leased, and every error that
    /// opening a pool with these groups would have.
    pub fn reconfigure(&mut self, groups: Vec<GroupSpec>) -> Result<(), Error> {
        let ledger = self.share.ledger();
        if ledger.used() > 0 {
            let (held, live, staging) = (ledger.held, ledger.live, ledger.staging());
            return Err(Error::InUse { held, live, staging });
        }
        let groups = Groups::new(groups)?;
        self.share.fits_block(self.budget, groups.smallest_block_bytes())?;
        let mut blocks = Blocks::new(groups, self.blocks.arrays_max)?;
        blocks.evicted = std::mem::take(&mut self.blocks.evicted);
        let dropped = self.blocks.eviction.iter(&self.blocks.slots);
        blocks.evicted.extend(dropped.map(|index| self.blocks.id(index)));
        self.share.drop_cached(self.budget);
        *self.blocks = blocks;
        Ok(())
    }

    /// See that so many blocks and bytes could be taken, if need be by evicting.
    fn admit(&self, wants: &[Want], extra_bytes: u64) -> Result<Cost, Error> {
        let cost = self.blocks.cost(wants).and_then(|Cost { bytes, arrays }| {
            Some(Cost { bytes: bytes.checked_add(extra_bytes)?, arrays })
        });
        let bytes_available = self.available();
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

    /// Admit, and evict until the request fits into what is free.
    fn make_room(&mut self, wants: &[Want], extra_bytes: u64) -> Result<(), Error> {
        let cost = self.admit(wants, extra_bytes)?;
        while cost.bytes > self.share.free(self.budget) || cost.arrays > self.blocks.arrays_free() {
            let Some(oldest) = self.blocks.eviction.first() else { break };
            let id = self.blocks.id(oldest);
            self.blocks.evicted.push(id);
            self.uncache(oldest);
            self.vacate(oldest);
        }
        Ok(())
    }

    /// Put a block into a free slot of the group, for which there is room.
    fn occupy(&mut self, group: GroupId, state: State) -> SlotIndex {
        let Blocks { groups, slots, .. } = &mut *self.blocks;
        let index = groups.get_mut(group).free.pop(slots, group);
        self.turn(index, state);
        index
    }

    /// Change the state of a slot, with everything that is counted by state.
    fn turn(&mut self, index: SlotIndex, state: State) {
        let slot = &mut self.blocks.slots[index];
        let group = self.blocks.groups.get_mut(slot.group);
        let bytes = group.spec.bytes_per_block;
        let (from, to) = (slot.state.class(), state.class());
        slot.state = state;
        if let Some(from) = from {
            *group.counts.of(from) -= 1;
        }
        if let Some(to) = to {
            *group.counts.of(to) += 1;
        }
        match (from.map(Account::Block), to.map(Account::Block)) {
            (Some(from), Some(to)) => self.share.transfer(from, to, bytes),
            (None, Some(to)) => self.share.enter(self.budget, to, bytes),
            (Some(from), None) => self.share.leave(self.budget, from, bytes),
            (None, None) => {}
        }
    }

    /// Empty a slot that is in no chain any more, and give it back to its group.
    fn vacate(&mut self, index: SlotIndex) {
        self.turn(index, State::Free { next: None });
        let Blocks { groups, slots, .. } = &mut *self.blocks;
        groups.get_mut(slots[index].group).free.push(slots, index);
    }

    /// Take a block out of the order of eviction, if it is in it.
    fn uncache(&mut self, index: SlotIndex) {
        let Blocks { slots, eviction, .. } = &mut *self.blocks;
        if slots[index].state.class() == Some(BlockClass::Cached) {
            eviction.unlink(slots, index);
        }
    }

    /// Make blocks the last to be evicted; the list's own tail goes before its head.
    fn cache(&mut self, ids: impl DoubleEndedIterator<Item = BlockId>) {
        for index in ids.rev().map(BlockId::slot) {
            self.uncache(index);
            self.turn(index, State::Cached { links: crate::slot::Links::default() });
            let Blocks { slots, eviction, .. } = &mut *self.blocks;
            eviction.push(slots, index);
        }
    }
}
