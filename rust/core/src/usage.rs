//! One consistent reading of a pool.

/// Blocks of one group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupUsage {
    /// The group's name.
    pub name: String,
    /// Bytes of one block.
    pub bytes_per_block: u64,
    /// Blocks taken by agents.
    pub held_blocks: u64,
    /// Blocks being filled.
    pub staged_blocks: u64,
    /// Sealed blocks with a lease.
    pub leased_blocks: u64,
    /// Sealed blocks without one.
    pub cached_blocks: u64,
    /// Slots that wait to be used again.
    pub free_slots: u64,
}

/// Bytes by class, blocks by group. `free + held + live + staging + cached == total`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Usage {
    /// Bytes that the pool has or could have now.
    pub total: u64,
    /// Bytes that could be taken without evicting.
    pub free: u64,
    /// Bytes of blocks that agents hold, or that leases hold.
    pub held: u64,
    /// Bytes charged for the buffers of running sequences.
    pub live: u64,
    /// Bytes of staged blocks and charged for copies.
    pub staging: u64,
    /// Bytes of sealed blocks at rest.
    pub cached: u64,
    /// Arrays of all blocks that are not free.
    pub arrays_used: u64,
    /// The most that `arrays_used` may become.
    pub arrays_max: u64,
    /// Agents that hold something.
    pub agents: u64,
    /// The groups, in the pool's order.
    pub groups: Vec<GroupUsage>,
}

impl Usage {
    /// Bytes that cannot be evicted.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.held + self.live + self.staging
    }

    /// Bytes that are free or evictable.
    #[must_use]
    pub fn available(&self) -> u64 {
        self.free + self.cached
    }
}
