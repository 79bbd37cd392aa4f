//! Bytes by class: the sums that law 1 speaks of.

use crate::slot::BlockClass;

/// What may be charged in plain bytes, without blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Charge {
    /// The contiguous buffers of sequences that run.
    Live,
    /// Copies on their way.
    Staging,
}

impl Charge {
    /// The word for it in Python.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Staging => "staging",
        }
    }
}

/// A number for each charge.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Charges {
    live: u64,
    staging: u64,
}

impl Charges {
    pub(crate) fn of(&mut self, charge: Charge) -> &mut u64 {
        match charge {
            Charge::Live => &mut self.live,
            Charge::Staging => &mut self.staging,
        }
    }

    pub(crate) fn sum(self) -> u64 {
        self.live + self.staging
    }
}

/// Where a number of bytes is entered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Account {
    Block(BlockClass),
    Charge(Charge),
}

/// What one pool has taken, by class.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Ledger {
    /// Held blocks, and sealed blocks with a lease.
    pub(crate) held: u64,
    pub(crate) live: u64,
    pub(crate) staged_blocks: u64,
    pub(crate) staging_charged: u64,
    pub(crate) cached: u64,
}

impl Ledger {
    pub(crate) fn of(&mut self, account: Account) -> &mut u64 {
        match account {
            Account::Block(BlockClass::Held | BlockClass::Leased) => &mut self.held,
            Account::Block(BlockClass::Staged) => &mut self.staged_blocks,
            Account::Block(BlockClass::Cached) => &mut self.cached,
            Account::Charge(Charge::Live) => &mut self.live,
            Account::Charge(Charge::Staging) => &mut self.staging_charged,
        }
    }

    pub(crate) fn staging(&self) -> u64 {
        self.staged_blocks + self.staging_charged
    }

    /// Bytes that cannot be evicted.
    pub(crate) fn used(&self) -> u64 {
        self.held + self.live + self.staging()
    }

    /// Every byte that is not free.
    pub(crate) fn taken(&self) -> u64 {
        self.used() + self.cached
    }
}
