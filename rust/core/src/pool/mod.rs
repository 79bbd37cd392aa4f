//! The pool: every operation on blocks and bytes, one file for each part of a block's life.
//!
//! Each operation looks at the whole request before it changes anything. What it changes it enters in
//! the [books](crate::books), once for all blocks of a group that change alike.

mod allocate;
mod charge;
mod check;
mod seal;
mod turn;

pub use allocate::AgentHolding;

use crate::blocks::{Blocks, Cost, Want};
use crate::books::Books;
use crate::error::Error;
use crate::group::{GroupId, GroupSpec, Groups};
use crate::member::least_wanted;
use crate::others::Others;
use crate::prefix::{Index, Prefixes};
use crate::usage::{GroupUsage, Usage};

/// A pool of blocks under a budget, borrowed from its [`Memory`](crate::Memory).
#[derive(Debug)]
pub struct Pool<'m> {
    pub(crate) books: Books<'m>,
    pub(crate) index: &'m mut Index,
    pub(crate) others: Others<'m>,
}

impl Pool<'_> {
    /// The group of that name; a plain layer type means the first group of that type.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownGroup`].
    pub fn group(&self, name: &str) -> Result<GroupId, Error> {
        let known = || self.books.blocks.groups.names().join(", ");
        let unknown = || Error::UnknownGroup { name: name.to_owned(), known: known() };
        self.books.blocks.groups.find(name).ok_or_else(unknown)
    }

    /// The groups, in the order in which they were given.
    pub fn groups(&self) -> impl Iterator<Item = &GroupSpec> {
        self.books.blocks.groups.iter().map(|(_, group)| &group.spec)
    }

    /// Bytes that cannot be evicted: held, live and staging.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.books.share.ledger().used()
    }

    /// Bytes that are free or evictable, in this pool or in others. `used + available == total`,
    /// always.
    #[must_use]
    pub fn available(&self) -> u64 {
        self.total() - self.used()
    }

    /// Bytes that the pool has or could have now. Without other pools, the budget; with them, what
    /// they do not use and were not promised.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.books.share.total(self.books.budget, self.others.floors())
    }

    /// The most that [`total`](Self::total) can become without another budget: when nobody holds
    /// anything.
    #[must_use]
    pub fn most(&self) -> u64 {
        self.books.share.most(self.books.budget)
    }

    /// Blocks of `group` that could be taken now, one group alone.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownGroup`].
    pub fn available_blocks(&self, group: GroupId) -> Result<u64, Error> {
        let spec = &self.books.blocks.groups.get(group)?.spec;
        let by_bytes = self.available() / spec.bytes_per_block;
        let by_arrays = self.books.blocks.arrays_available() / u64::from(spec.arrays_per_block);
        Ok(by_bytes.min(by_arrays))
    }

    /// One consistent reading of bytes and blocks.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let ledger = self.books.share.ledger();
        let groups = self.books.blocks.groups.iter().map(|(_, group)| GroupUsage {
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
            free: self.total() - ledger.taken(),
            held: ledger.held,
            live: ledger.live,
            staging: ledger.staging(),
            cached: ledger.cached,
            arrays_used: self.books.blocks.arrays_used(),
            arrays_max: self.books.blocks.arrays_max,
            agents: self.books.blocks.agents.len() as u64,
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
        let ledger = self.books.share.ledger();
        if ledger.used() > 0 || self.books.blocks.arrays_charged.sum() > 0 {
            let (held, live, staging) = (ledger.held, ledger.live, ledger.staging());
            return Err(Error::InUse { held, live, staging });
        }
        let groups = Groups::new(groups)?;
        self.books.share.fits_block(self.books.budget, groups.smallest_block_bytes())?;
        let index = Index::new(&groups);
        let mut blocks = Blocks::new(groups, self.books.blocks.arrays_max)?;
        self.index.replace_with(&self.books, index);
        blocks.evicted = std::mem::take(&mut self.books.blocks.evicted);
        let dropped = self.books.blocks.eviction.iter(&self.books.blocks.slots);
        blocks.evicted.extend(dropped.map(|index| self.books.blocks.id(index)));
        self.books.share.drop_cached(self.books.budget);
        *self.books.blocks = blocks;
        Ok(())
    }

    /// The prefix index of the pool.
    pub fn prefixes(&mut self) -> Prefixes<'_> {
        let Books { budget, share, blocks } = &mut self.books;
        Prefixes { books: Books { budget, share, blocks }, index: self.index }
    }

    /// Admit, and evict until the request fits into what is free: the least wanted first, whosever
    /// it is; of equals, this pool's own.
    fn make_room(&mut self, wants: &[Want], beside: Cost) -> Result<(), Error> {
        if self.books.is_free(wants, beside) {
            return Ok(());
        }
        let cost = self.books.admit(wants, beside, self.available())?;
        let mut stuck = Stuck::default();
        loop {
            let missing = self.books.missing(cost);
            if missing == Cost::default() {
                return Ok(());
            }
            if !self.evict_least_wanted(cost, missing, &mut stuck) {
                // Everything cached can be evicted; if ever it could not, nothing is overdrawn.
                return Err(Error::BytesExhausted {
                    requested: cost.bytes,
                    available: self.books.free(),
                });
            }
        }
    }

    /// Let go of what goes next; false when nothing may go.
    fn evict_least_wanted(&mut self, cost: Cost, missing: Cost, stuck: &mut Stuck) -> bool {
        let Self { books, index, others } = self;
        let now = index.now().max(others.now());
        let own = if stuck.own { None } else { least_wanted(books.blocks, index, now) };
        // Arrays, and what is beyond its maximum, can come from its own blocks alone.
        let is_own_affair =
            missing.arrays > 0 || !books.share.has_room_for(cost.bytes, books.budget);
        let theirs = others.least_wanted(now, &stuck.others).filter(|_| !is_own_affair);
        match (own, theirs) {
            (own, Some((worth, member))) if own.is_none_or(|own| own < worth) => {
                if !member.evict(books.budget, missing.bytes) {
                    stuck.others.push(member.key);
                }
            }
            (Some(_), _) => stuck.own = !books.evict(index, missing),
            (None, _) => return false,
        }
        true
    }
}

/// Who has nothing more to give, whatever its books say.
#[derive(Default)]
struct Stuck {
    own: bool,
    others: Vec<u64>,
}
