//! Blocks with content: staged, published, leased, cached, evicted.
//!
//! ```text
//! stage ─→ staged ─publish─→ cached ⇄ leased      acquire →, release ←
//!             └──abandon──→ free ←──┘ evict, or the pool itself when memory is short
//! ```
//!
//! Eviction takes the least recently cached block first. Among blocks that came to rest in one
//! call, the last of the list goes first: the tail of a sequence is of no use without its head.

use std::num::NonZeroU32;

use crate::blocks::{Cost, Want, Wanted};
use crate::error::Error;
use crate::group::GroupId;
use crate::id::BlockId;
use crate::pool::Pool;
use crate::slot::State;

impl Pool<'_> {
    /// Take blocks that are about to be filled, in one or more groups at once. Agents' caps do not
    /// apply. Evicts when need be.
    ///
    /// # Errors
    ///
    /// [`Error::BytesExhausted`], [`Error::ArraysExhausted`], [`Error::SlotsExhausted`] and
    /// [`Error::UnknownGroup`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use semantic_core::{Error, GroupSpec, Memory, Reach, Terms};
    /// # let group = GroupSpec {
    /// #     name: "global".into(),
    /// #     reach: Reach::All,
    /// #     bytes_per_block: 1024,
    /// #     max_blocks_per_agent: None,
    /// #     arrays_per_block: 2,
    /// # };
    /// let mut memory = Memory::new(4 * 1024)?;
    /// let key = memory.open(Terms::default(), vec![group], 100)?;
    /// let mut pool = memory.pool(&key)?;
    /// let global = pool.group("global")?;
    /// let ids = pool.stage(&[(global, 3)])?;
    /// pool.publish(&ids, 0)?;
    /// assert_eq!((pool.used(), pool.available()), (0, 4 * 1024));
    /// pool.acquire(&ids[..1])?;
    /// pool.allocate(2, global, "a1")?; // one block is free, the tail of the sequence makes room
    /// assert_eq!(pool.drain_evicted(), [ids[2]]);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn stage(&mut self, wants: &[(GroupId, u64)]) -> Result<Vec<BlockId>, Error> {
        for &(group, _) in wants {
            self.books.blocks.groups.get(group)?;
        }
        let wants: Vec<Want> = wants.iter().copied().filter(|want| want.1 > 0).collect();
        self.make_room(&wants, Cost::default())?;
        self.books.stage(self.index, &wants)
    }

    /// Give back staged blocks.
    ///
    /// # Errors
    ///
    /// Names the first id that is not a staged block, or listed twice.
    pub fn abandon(&mut self, ids: &[BlockId]) -> Result<(), Error> {
        self.books.blocks.validate(ids, Wanted::Staged)?;
        for id in ids {
            self.books.vacate(id.slot());
        }
        Ok(())
    }

    /// Seal staged blocks: each starts with so many leases, or at rest with none.
    ///
    /// # Errors
    ///
    /// Names the first id that is not a staged block, or listed twice.
    pub fn publish(&mut self, ids: &[BlockId], leases: u32) -> Result<(), Error> {
        self.books.blocks.validate(ids, Wanted::Staged)?;
        let Some(leases) = NonZeroU32::new(leases) else {
            self.books.cache(ids.iter().copied());
            return Ok(());
        };
        for id in ids {
            self.books.turn(id.slot(), State::Leased { leases });
        }
        Ok(())
    }

    /// One more lease on each sealed block; what was cached is held from now on.
    ///
    /// # Errors
    ///
    /// Names the first id that is not a sealed block, is listed twice, or has 2³² − 1 leases.
    pub fn acquire(&mut self, ids: &[BlockId]) -> Result<(), Error> {
        self.books.blocks.validate(ids, Wanted::Sealed)?;
        let full = |id: &&BlockId| self.leases(**id) == u32::MAX;
        if let Some(&id) = ids.iter().find(full) {
            return Err(Error::TooManyLeases { id });
        }
        for &id in ids {
            let leases = NonZeroU32::MIN.saturating_add(self.leases(id));
            self.books.uncache(id.slot());
            self.books.turn(id.slot(), State::Leased { leases });
        }
        Ok(())
    }

    /// One lease less on each block; those without any come to rest.
    ///
    /// # Errors
    ///
    /// Names the first id that is not a leased block, or listed twice.
    pub fn release(&mut self, ids: &[BlockId]) -> Result<(), Error> {
        self.books.blocks.validate(ids, Wanted::Leased)?;
        let mut at_rest = Vec::new();
        for &id in ids {
            match NonZeroU32::new(self.leases(id) - 1) {
                Some(leases) => self.books.turn(id.slot(), State::Leased { leases }),
                None => at_rest.push(id),
            }
        }
        self.books.cache(at_rest.into_iter());
        Ok(())
    }

    /// Make cached blocks the last to be evicted. Leased ones are not in that order: no change.
    ///
    /// # Errors
    ///
    /// Names the first id that is not a sealed block, or listed twice.
    pub fn touch(&mut self, ids: &[BlockId]) -> Result<(), Error> {
        self.books.blocks.validate(ids, Wanted::Sealed)?;
        let cached = ids.iter().copied().filter(|&id| self.leases(id) == 0);
        let cached: Vec<_> = cached.collect();
        self.books.cache(cached.into_iter());
        Ok(())
    }

    /// Give back cached blocks.
    ///
    /// # Errors
    ///
    /// Names the first id that is not a cached block (a leased one is not), or listed twice.
    pub fn evict(&mut self, ids: &[BlockId]) -> Result<(), Error> {
        self.books.blocks.validate(ids, Wanted::Cached)?;
        for id in ids {
            self.books.uncache(id.slot());
            self.books.vacate(id.slot());
        }
        Ok(())
    }

    /// The ids that the pool has evicted by itself since the last call, in the order in which they
    /// went. What is looked up by hash elsewhere has to be forgotten there.
    pub fn drain_evicted(&mut self) -> Vec<BlockId> {
        std::mem::take(&mut self.books.blocks.evicted)
    }

    fn leases(&self, id: BlockId) -> u32 {
        match self.books.blocks.slots[id.slot()].state {
            State::Leased { leases } => leases.get(),
            _ => 0,
        }
    }
}
