//! What names a block, and the counters that keep a name from ever being used twice.
//!
//! A [`BlockId`] is 63 bits wide, so that it fits a signed 64-bit integer:
//!
//! ```text
//! bit 62            42 41          26 25           0
//!     | pool, 21 bits | generation, 16 | slot, 26  |
//! ```
//!
//! The pool number is new for each pool and after each `reconfigure`; the generation of a slot grows
//! each time the slot is freed. So an id that was freed, that comes from another pool, or that is
//! older than a `reconfigure` never equals a living one.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::Error;

const SLOT_BITS: u32 = 26;
const GENERATION_BITS: u32 = 16;
const POOL_BITS: u32 = 21;

/// The most slots that a pool can name; arrays run out long before.
pub(crate) const MAX_SLOTS: usize = 1 << SLOT_BITS;

/// The name of one block, unique in the process.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId(u64);

impl BlockId {
    /// The id with this number, which need not name a living block: the pool finds that out.
    #[must_use]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// The number itself, below 2⁶³.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }

    pub(crate) fn new(pool: PoolNumber, generation: u16, slot: SlotIndex) -> Self {
        let pool = u64::from(pool.0) << (GENERATION_BITS + SLOT_BITS);
        let generation = u64::from(generation) << SLOT_BITS;
        Self(pool | generation | u64::from(slot.0))
    }

    pub(crate) fn is_of(self, pool: PoolNumber) -> bool {
        self.0 >> (GENERATION_BITS + SLOT_BITS) == u64::from(pool.0)
    }

    /// Whether it is of that pool and generation, whatever its slot.
    pub(crate) fn is_life(self, pool: PoolNumber, generation: u16) -> bool {
        let life = u64::from(pool.0) << GENERATION_BITS | u64::from(generation);
        self.0 >> SLOT_BITS == life
    }

    pub(crate) fn generation(self) -> u64 {
        (self.0 >> SLOT_BITS) & ((1 << GENERATION_BITS) - 1)
    }

    pub(crate) fn slot(self) -> SlotIndex {
        let index = self.0 & ((1 << SLOT_BITS) - 1);
        SlotIndex(u32::try_from(index).unwrap_or(u32::MAX))
    }
}

impl fmt::Debug for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockId({self})")
    }
}

impl fmt::Display for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The place of a slot in its pool.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct SlotIndex(pub(crate) u32);

impl SlotIndex {
    pub(crate) fn at(self) -> usize {
        self.0 as usize
    }
}

/// One life of a pool: from its start, or from a `reconfigure`, to the next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PoolNumber(u32);

impl PoolNumber {
    /// A number that no pool of this process has had.
    ///
    /// Counting starts at 1, so that small integers are never ids.
    pub(crate) fn fresh() -> Result<Self, Error> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        NEXT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| {
            (next < 1 << POOL_BITS).then(|| next + 1)
        })
        .map(Self)
        .map_err(|_| Error::PoolNumbersExhausted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_parts_come_back() {
        let pool = PoolNumber((1 << POOL_BITS) - 1);
        let id = BlockId::new(pool, u16::MAX, SlotIndex((1 << SLOT_BITS) - 1));
        assert_eq!(id.raw(), (1 << 63) - 1);
        assert!(id.is_of(pool) && id.is_life(pool, u16::MAX));
        assert!(!id.is_life(pool, 0) && !id.is_life(PoolNumber(pool.0 - 1), u16::MAX));
        assert_eq!(id.generation(), u64::from(u16::MAX));
        assert_eq!(id.slot(), SlotIndex((1 << SLOT_BITS) - 1));
    }

    #[test]
    fn neighbours_do_not_touch() {
        let pool = PoolNumber(1);
        let id = BlockId::new(pool, 0, SlotIndex(7));
        assert!(id.is_of(pool) && !id.is_of(PoolNumber(2)));
        assert_eq!((id.generation(), id.slot()), (0, SlotIndex(7)));
        assert!(!BlockId::from_raw(7).is_of(pool));
        assert!(!BlockId::from_raw(u64::MAX).is_of(pool));
    }

    #[test]
    fn pool_numbers_are_never_equal() {
        assert_ne!(PoolNumber::fresh().unwrap(), PoolNumber::fresh().unwrap());
    }
}
