//! The blocks of one pool and the states they are in; of bytes and budgets this module knows nothing.

use std::collections::HashSet;

use crate::agent::Agents;
use crate::chain::Chain;
use crate::error::Error;
use crate::group::{Counts, GroupId, Groups};
use crate::id::{BlockId, PoolNumber, SlotIndex};
use crate::ledger::Charges;
use crate::slot::{Slots, State};
use crate::visits::Visits;

/// So many blocks of a group.
pub(crate) type Want = (GroupId, u64);

/// What a request takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Cost {
    pub(crate) bytes: u64,
    pub(crate) arrays: u64,
}

impl Cost {
    /// Both together; None when that does not fit into 64 bits.
    #[inline]
    pub(crate) fn and(self, other: Self) -> Option<Self> {
        let bytes = self.bytes.checked_add(other.bytes)?;
        Some(Self { bytes, arrays: self.arrays.checked_add(other.arrays)? })
    }
}

/// The states that an operation accepts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wanted {
    Held,
    Staged,
    Sealed,
    Leased,
    Cached,
}

impl Wanted {
    fn accepts(self, state: State) -> bool {
        match self {
            Self::Held => matches!(state, State::Held(_)),
            Self::Staged => matches!(state, State::Staged),
            Self::Sealed => matches!(state, State::Leased { .. } | State::Cached { .. }),
            Self::Leased => matches!(state, State::Leased { .. }),
            Self::Cached => matches!(state, State::Cached { .. }),
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Held => "held by an agent",
            Self::Staged => "staged",
            Self::Sealed => "sealed",
            Self::Leased => "leased",
            Self::Cached => "cached",
        }
    }
}

fn word(state: State) -> &'static str {
    match state {
        State::Held(_) => Wanted::Held.word(),
        State::Staged => Wanted::Staged.word(),
        State::Leased { .. } => Wanted::Leased.word(),
        State::Cached { .. } => Wanted::Cached.word(),
        State::Indexed { .. } => "in a prefix index",
        State::Free { .. } | State::Retired => "free",
    }
}

/// Slots, who holds them, and the order in which cached ones go.
#[derive(Debug)]
pub(crate) struct Blocks {
    pub(crate) number: PoolNumber,
    pub(crate) groups: Groups,
    pub(crate) slots: Slots,
    pub(crate) agents: Agents,
    visits: Visits,
    /// Cached blocks, the next victim first.
    pub(crate) eviction: Chain,
    /// What the pool has evicted by itself since somebody asked.
    pub(crate) evicted: Vec<BlockId>,
    pub(crate) arrays_max: u64,
    /// Arrays that are not of blocks: those of running sequences, and of copies on their way.
    pub(crate) arrays_charged: Charges,
}

impl Blocks {
    /// Takes a pool number, of which a process has a limited supply: what may still be refused is
    /// checked before.
    pub(crate) fn new(groups: Groups, arrays_max: u64) -> Result<Self, Error> {
        let block = groups.smallest_block_arrays();
        if block > arrays_max {
            return Err(Error::ArraysBelowBlock { limit: arrays_max, block });
        }
        Ok(Self {
            groups,
            number: PoolNumber::fresh()?,
            slots: Slots::default(),
            agents: Agents::default(),
            visits: Visits::default(),
            eviction: Chain::default(),
            evicted: Vec::new(),
            arrays_max,
            arrays_charged: Charges::default(),
        })
    }

    pub(crate) fn id(&self, index: SlotIndex) -> BlockId {
        BlockId::new(self.number, self.slots[index].generation, index)
    }

    /// See that every id is a living block in the wanted state, and that none is listed twice.
    #[inline]
    pub(crate) fn validate(&mut self, ids: &[BlockId], wanted: Wanted) -> Result<(), Error> {
        let Self { number, slots, visits, .. } = self;
        visits.begin(slots.len());
        let is_fine = |&id: &BlockId| {
            let index = id.slot();
            slots.get(index).is_some_and(|slot| {
                id.is_life(*number, slot.generation) && wanted.accepts(slot.state)
            }) && visits.is_first(index)
        };
        if ids.iter().all(is_fine) { Ok(()) } else { self.fault(ids, wanted) }
    }

    /// What is wrong with the list: an id by itself before one that comes again.
    #[cold]
    fn fault(&self, ids: &[BlockId], wanted: Wanted) -> Result<(), Error> {
        for &id in ids {
            let state = self.slots[self.slot(id)?].state;
            if !wanted.accepts(state) {
                return Err(Error::WrongState { id, found: word(state), wanted: wanted.word() });
            }
        }
        repeated(ids).map_or(Ok(()), |id| Err(Error::RepeatedBlock { id }))
    }

    fn slot(&self, id: BlockId) -> Result<SlotIndex, Error> {
        if !id.is_of(self.number) {
            return Err(Error::ForeignBlock { id });
        }
        let slot = self.slots.get(id.slot()).ok_or(Error::UnknownBlock { id })?;
        let generation = u64::from(slot.generation);
        let is_here = slot.state.class().is_some();
        if id.generation() < generation || (!is_here && slot.state == State::Retired) {
            Err(Error::StaleBlock { id })
        } else if id.generation() > generation || !is_here {
            Err(Error::UnknownBlock { id })
        } else {
            Ok(id.slot())
        }
    }

    /// What so many blocks take; None when that does not fit into 64 bits.
    #[inline]
    pub(crate) fn cost(&self, wants: &[Want]) -> Option<Cost> {
        wants.iter().try_fold(Cost::default(), |sum, &(group, n)| {
            let spec = self.groups.spec(group)?;
            Some(Cost {
                bytes: sum.bytes.checked_add(spec.bytes_per_block.checked_mul(n)?)?,
                arrays: sum.arrays.checked_add(n.checked_mul(spec.arrays_per_block.into())?)?,
            })
        })
    }

    /// Slots that have to be added before so many blocks can be handed out.
    #[inline]
    pub(crate) fn new_slots(&self, wants: &[Want]) -> u64 {
        let added = self.groups.iter().map(|(id, group)| {
            let here = wants.iter().filter(|want| want.0 == id);
            let wanted = here.fold(0_u64, |sum, want| sum.saturating_add(want.1));
            wanted.saturating_sub(group.free.len())
        });
        added.fold(0, u64::saturating_add)
    }

    #[inline]
    pub(crate) fn arrays_used(&self) -> u64 {
        self.groups.arrays(Counts::total) + self.arrays_charged.sum()
    }

    /// Arrays that may be made without evicting.
    #[inline]
    pub(crate) fn arrays_free(&self) -> u64 {
        self.arrays_max - self.arrays_used()
    }

    /// Arrays that may be made once everything cached is evicted.
    #[inline]
    pub(crate) fn arrays_available(&self) -> u64 {
        self.arrays_free() + self.groups.arrays(|counts| counts.cached)
    }
}

/// The id that is the first to come for the second time.
fn repeated(ids: &[BlockId]) -> Option<BlockId> {
    let mut seen = HashSet::new();
    ids.iter().copied().find(|&id| !seen.insert(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_to_come_again_is_named() {
        for n in [2, 8, 20] {
            let mut ids: Vec<_> = (0..n).map(BlockId::from_raw).collect();
            ids.extend((0..n).rev().map(BlockId::from_raw));
            assert_eq!(repeated(&ids), Some(BlockId::from_raw(n - 1)));
        }
    }

    #[test]
    fn a_repeated_id_is_found_in_short_and_long_lists() {
        let ids: Vec<_> = (0..40).map(BlockId::from_raw).collect();
        for n in [0, 1, 2, 16, 17, 40] {
            assert_eq!(repeated(&ids[..n]), None);
        }
        for n in [2, 16, 17, 40] {
            let mut twice = ids[..n].to_vec();
            twice[n - 1] = twice[0];
            assert_eq!(repeated(&twice), Some(ids[0]));
        }
    }
}
