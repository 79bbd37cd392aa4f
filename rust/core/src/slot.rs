//! Slots: the places where blocks are, each in exactly one state.
//!
//! A slot belongs to one group for good. The lists that slots form (the free list, an agent's
//! blocks, the order of eviction) are threaded through their states, so that a slot cannot be in
//! two lists, or in a list that its state knows nothing of.

use std::num::NonZeroU32;
use std::ops::{Index, IndexMut};

use crate::agent::AgentIndex;
use crate::group::GroupId;
use crate::id::{MAX_SLOTS, SlotIndex};

/// The neighbours of a slot in a [`Chain`](crate::chain::Chain).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Links {
    pub(crate) before: Option<SlotIndex>,
    pub(crate) after: Option<SlotIndex>,
}

/// What is in a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// Nothing; the next slot of the group's free list.
    Free { next: Option<SlotIndex> },
    /// A block that an agent took with `allocate`.
    Held { agent: AgentIndex, links: Links },
    /// A block that is being filled.
    Staged,
    /// A sealed block that running sequences use.
    Leased { leases: NonZeroU32 },
    /// A sealed block at rest, which may be evicted.
    Cached { links: Links },
    /// Nothing, for ever: its generations are used up.
    Retired,
}

/// The states that occupy memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum BlockClass {
    /// Taken by an agent with `allocate` or `allocate_tokens`.
    Held,
    /// Being filled, visible to nobody.
    Staged,
    /// Sealed, with at least one lease.
    Leased,
    /// Sealed, without a lease: evictable.
    Cached,
}

impl State {
    /// The class of the block in the slot, or None when there is none.
    pub(crate) fn class(self) -> Option<BlockClass> {
        match self {
            Self::Held { .. } => Some(BlockClass::Held),
            Self::Staged => Some(BlockClass::Staged),
            Self::Leased { .. } => Some(BlockClass::Leased),
            Self::Cached { .. } => Some(BlockClass::Cached),
            Self::Free { .. } | Self::Retired => None,
        }
    }

    /// Its neighbours, where the state is part of a chain.
    pub(crate) fn links(self) -> Option<Links> {
        match self {
            Self::Held { links, .. } | Self::Cached { links } => Some(links),
            _ => None,
        }
    }

    fn links_mut(&mut self) -> Option<&mut Links> {
        match self {
            Self::Held { links, .. } | Self::Cached { links } => Some(links),
            _ => None,
        }
    }
}

/// One place for a block.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) generation: u16,
    pub(crate) group: GroupId,
    pub(crate) state: State,
}

/// All slots of a pool, which grow on demand: bytes are the limit, not slots.
#[derive(Debug, Default)]
pub(crate) struct Slots(Vec<Slot>);

impl Slots {
    /// Slots that can still be added.
    pub(crate) fn room(&self) -> usize {
        MAX_SLOTS - self.0.len()
    }

    pub(crate) fn get(&self, index: SlotIndex) -> Option<&Slot> {
        self.0.get(index.0 as usize)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (SlotIndex, &Slot)> {
        (0..).map(SlotIndex).zip(&self.0)
    }

    /// Add a slot of `group`; the caller has seen that there is [`room`](Self::room).
    pub(crate) fn grow(&mut self, group: GroupId) -> SlotIndex {
        let index = SlotIndex(u32::try_from(self.0.len()).unwrap_or(u32::MAX));
        self.0.push(Slot { generation: 0, group, state: State::Free { next: None } });
        index
    }

    /// Change the neighbours of a slot that is in a chain; elsewhere nothing happens.
    pub(crate) fn relink(&mut self, index: SlotIndex, change: impl FnOnce(&mut Links)) {
        if let Some(links) = self[index].state.links_mut() {
            change(links);
        }
    }
}

impl Index<SlotIndex> for Slots {
    type Output = Slot;

    fn index(&self, index: SlotIndex) -> &Slot {
        &self.0[index.0 as usize]
    }
}

impl IndexMut<SlotIndex> for Slots {
    fn index_mut(&mut self, index: SlotIndex) -> &mut Slot {
        &mut self.0[index.0 as usize]
    }
}
