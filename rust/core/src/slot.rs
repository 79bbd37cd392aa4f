//! Slots: the places where blocks are, each in exactly one state.
//!
//! A slot belongs to one group for good, and takes 16 bytes. The order of eviction is threaded
//! through the states of the slots; an agent's lists and the free list are arrays beside them, and
//! the state decides which entry counts.

use std::num::NonZeroU32;
use std::ops::{Index, IndexMut};

use crate::agent::AgentIndex;
use crate::group::GroupId;
use crate::id::{MAX_SLOTS, SlotIndex};
use crate::prefix::NodeId;

/// The neighbours of a slot in a [`Chain`](crate::chain::Chain).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Links {
    before: Option<Neighbour>,
    after: Option<Neighbour>,
}

impl Links {
    pub(crate) fn before(self) -> Option<SlotIndex> {
        self.before.map(Neighbour::index)
    }

    pub(crate) fn after(self) -> Option<SlotIndex> {
        self.after.map(Neighbour::index)
    }

    pub(crate) fn set_before(&mut self, before: Option<SlotIndex>) {
        self.before = before.map(Neighbour::of);
    }

    pub(crate) fn set_after(&mut self, after: Option<SlotIndex>) {
        self.after = after.map(Neighbour::of);
    }
}

/// A slot's index plus one: with a zero to spare, two neighbours fit into eight bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Neighbour(NonZeroU32);

impl Neighbour {
    fn of(index: SlotIndex) -> Self {
        Self(NonZeroU32::MIN.saturating_add(index.0))
    }

    fn index(self) -> SlotIndex {
        SlotIndex(self.0.get() - 1)
    }
}

/// Where a held block stands in its agent's list.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Entry {
    pub(crate) agent: AgentIndex,
    pub(crate) at: u32,
}

/// What is in a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// Nothing; the slot is on the free list of its group. Its last entry is kept, so that a `free`
    /// that turns out to be refused can be taken back.
    Free { was: Entry },
    /// A block that an agent took with `allocate`.
    Held(Entry),
    /// A block that is being filled.
    Staged,
    /// A sealed block that running sequences use.
    Leased { leases: NonZeroU32 },
    /// A sealed block at rest, which may be evicted.
    Cached { links: Links },
    /// A sealed block of the prefix index: cached, or leased when anybody holds it. Without a node
    /// nobody can find it any more.
    Indexed { node: Option<NodeId>, leases: u32 },
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
    /// Free, and never held by an agent, or not as the last thing.
    pub(crate) const FREE: Self = Self::Free { was: Entry { agent: AgentIndex::FIRST, at: 0 } };

    /// The class of the block in the slot, or None when there is none.
    pub(crate) fn class(self) -> Option<BlockClass> {
        match self {
            Self::Held(_) => Some(BlockClass::Held),
            Self::Staged => Some(BlockClass::Staged),
            Self::Leased { .. } => Some(BlockClass::Leased),
            Self::Indexed { leases, .. } if leases > 0 => Some(BlockClass::Leased),
            Self::Indexed { .. } | Self::Cached { .. } => Some(BlockClass::Cached),
            Self::Free { .. } | Self::Retired => None,
        }
    }

    /// Its neighbours, where the state is part of a chain.
    pub(crate) fn links(self) -> Option<Links> {
        match self {
            Self::Cached { links } => Some(links),
            _ => None,
        }
    }

    fn links_mut(&mut self) -> Option<&mut Links> {
        match self {
            Self::Cached { links } => Some(links),
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

const _: () = assert!(size_of::<Slot>() == 16);

/// All slots of a pool, which grow on demand: bytes are the limit, not slots.
#[derive(Debug, Default)]
pub(crate) struct Slots(Vec<Slot>);

impl Slots {
    /// Slots that can still be added.
    pub(crate) fn room(&self) -> usize {
        MAX_SLOTS - self.0.len()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn get(&self, index: SlotIndex) -> Option<&Slot> {
        self.0.get(index.0 as usize)
    }

    /// The slots as they lie, for loops over many of them.
    pub(crate) fn as_mut(&mut self) -> &mut [Slot] {
        &mut self.0
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (SlotIndex, &Slot)> {
        (0..).map(SlotIndex).zip(&self.0)
    }

    /// Add a slot of `group`; the caller has seen that there is [`room`](Self::room).
    pub(crate) fn grow(&mut self, group: GroupId) -> SlotIndex {
        let index = SlotIndex(u32::try_from(self.0.len()).unwrap_or(u32::MAX));
        self.0.push(Slot { generation: 0, group, state: State::FREE });
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
