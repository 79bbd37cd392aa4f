//! A budget and the pools that live under it.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::blocks::Blocks;
use crate::books::Books;
use crate::budget::{Budget, Share, Terms};
use crate::error::Error;
use crate::group::{GroupSpec, Groups};
use crate::id::BlockId;
use crate::member::Member;
use crate::others::Others;
use crate::pool::Pool;
use crate::prefix::Index;

/// The most arrays that a pool may make when nobody says otherwise: Metal's limit of buffers.
pub const DEFAULT_ARRAYS_MAX: u64 = 499_000;

/// The name of one pool of one [`Memory`]; no other pool of the process ever has it.
#[derive(PartialEq, Eq, Debug)]
pub struct PoolKey(u64);

/// One budget of bytes, shared by the pools that were opened in it.
///
/// # Examples
///
/// ```
/// use semantic_core::{GroupSpec, Memory, Reach, Terms};
///
/// let group = GroupSpec {
///     name: "global".into(),
///     reach: Reach::All,
///     bytes_per_block: 1024,
///     max_blocks_per_agent: None,
///     arrays_per_block: 2,
/// };
/// let mut memory = Memory::new(10 * 1024)?;
/// let small = memory.open(Terms::default(), vec![group.clone()], 100)?;
/// let promised = memory.open(Terms { minimum: 4 * 1024, maximum: None }, vec![group], 100)?;
/// assert_eq!(memory.pool(&small)?.available(), 6 * 1024);
/// memory.close(&promised);
/// assert_eq!(memory.pool(&small)?.available(), 10 * 1024);
/// # Ok::<(), semantic_core::Error>(())
/// ```
#[derive(Debug)]
pub struct Memory {
    budget: Budget,
    members: Vec<Member>,
}

impl Memory {
    /// A budget of `total` bytes without pools.
    ///
    /// # Errors
    ///
    /// [`Error::EmptyBudget`] and [`Error::HugeBudget`].
    pub fn new(total: u64) -> Result<Self, Error> {
        Ok(Self { budget: Budget::new(total)?, members: Vec::new() })
    }

    /// Open a pool with these groups; its minimum is set aside at once.
    ///
    /// # Errors
    ///
    /// Groups that cannot be counted, terms that contradict themselves or the budget, and
    /// [`Error::MinimumTaken`] when other pools have taken too much to promise the minimum.
    pub fn open(
        &mut self,
        terms: Terms,
        groups: Vec<GroupSpec>,
        arrays_max: u64,
    ) -> Result<PoolKey, Error> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let groups = Groups::new(groups)?;
        let mut budget = self.budget.clone();
        let share = Share::open(&mut budget, terms)?;
        share.fits_block(&budget, groups.smallest_block_bytes())?;
        let index = Index::new(&groups);
        let blocks = Blocks::new(groups, arrays_max)?;
        self.budget = budget;
        let key = NEXT.fetch_add(1, Ordering::Relaxed);
        self.members.push(Member { key, share, blocks, index });
        Ok(PoolKey(key))
    }

    /// Close a pool: its share, with whatever is still in it, goes back to the budget.
    ///
    /// A key that is not, or no longer, here closes nothing.
    pub fn close(&mut self, key: &PoolKey) {
        if let Some(at) = self.members.iter().position(|member| member.key == key.0) {
            self.members.swap_remove(at).share.close(&mut self.budget);
        }
    }

    /// The pool of that key, for one or more operations.
    ///
    /// # Errors
    ///
    /// [`Error::PoolClosed`] for a key that is not, or no longer, here.
    #[inline]
    pub fn pool(&mut self, key: &PoolKey) -> Result<Pool<'_>, Error> {
        let at = self.members.iter().position(|member| member.key == key.0);
        let Some(pool) = at.and_then(|at| self.pool_at(at)) else { return Err(Error::PoolClosed) };
        Ok(pool)
    }

    #[inline]
    fn pool_at(&mut self, at: usize) -> Option<Pool<'_>> {
        let Self { budget, members } = self;
        let (Member { share, blocks, index, .. }, others) = Others::around(members, at)?;
        Some(Pool { books: Books { budget, share, blocks }, index, others })
    }

    /// What others have to hear of since the last call; None for nothing.
    ///
    /// The blocks are those that left an index, whichever pool's: their contents are of no use any
    /// more. Beside them there may be events to drain.
    pub fn take_news(&mut self) -> Option<Vec<BlockId>> {
        let mut news: Option<Vec<BlockId>> = None;
        for member in self.members.iter_mut().filter(|member| member.index.has_news()) {
            news.get_or_insert_default().append(&mut member.index.take_news());
        }
        news
    }

    /// The budget in bytes.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.budget.total()
    }

    /// Bytes that the pools hold and cannot evict.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.members.iter().map(|member| member.share.ledger().used()).sum()
    }

    /// Bytes of the pools' cached blocks.
    #[must_use]
    pub fn cached(&self) -> u64 {
        self.members.iter().map(|member| member.share.ledger().cached).sum()
    }

    /// Bytes that no pool has taken. `used + cached + free == total`.
    #[must_use]
    pub fn free(&self) -> u64 {
        self.total() - self.used() - self.cached()
    }

    /// Evict from all pools, the least wanted first whosever it is, until so many bytes are free that
    /// any pool may take; the bytes that went. A pool's minimum stays its own.
    pub fn evict(&mut self, bytes: u64, spared: Option<&PoolKey>) -> u64 {
        let before = self.budget.reserved();
        let mut stuck: Vec<u64> = spared.map(|key| key.0).into_iter().collect();
        let Self { budget, members } = self;
        let mut members = Others::all(members);
        let now = members.now();
        loop {
            let gone = before - budget.reserved();
            let Some(missing) = bytes.checked_sub(gone).filter(|missing| *missing > 0) else {
                return gone;
            };
            let Some((_, member)) = members.least_wanted(now, &stuck) else { return gone };
            if !member.evict(budget, missing) {
                stuck.push(member.key);
            }
        }
    }

    /// Another number of bytes from now on. What is cached goes as far as it must.
    ///
    /// # Errors
    ///
    /// [`Error::EmptyBudget`], [`Error::HugeBudget`], [`Error::MinimumsAboveTotal`] and
    /// [`Error::BudgetBelowBlock`]; [`Error::BytesExhausted`] when the pools hold more than that. The
    /// total is what it was then.
    pub fn resize(&mut self, total: u64) -> Result<(), Error> {
        let resized = self.budget.resized(total)?;
        for member in &self.members {
            member.share.fits_block(&resized, member.blocks.groups.smallest_block_bytes())?;
        }
        let floor = self.members.iter().map(|member| member.share.floor()).sum();
        if floor > total {
            return Err(Error::BytesExhausted { requested: floor, available: total });
        }
        self.evict(self.budget.reserved().saturating_sub(total), None);
        if self.budget.reserved() > total {
            let requested = self.budget.reserved();
            return Err(Error::BytesExhausted { requested, available: total });
        }
        self.budget = self.budget.resized(total)?;
        Ok(())
    }

    /// Check the books of the budget and of every pool under it.
    ///
    /// # Errors
    ///
    /// [`Error::Broken`] with the first disagreement: a bug in this crate.
    pub fn check(&mut self) -> Result<(), Error> {
        if !self.budget.agrees_with(self.members.iter().map(|member| &member.share)) {
            return Err(Error::Broken { detail: "the shares do not add up to the budget".into() });
        }
        (0..self.members.len()).try_for_each(|at| {
            let pool = self.pool_at(at);
            pool.map_or(Ok(()), |pool| pool.check())
        })
    }
}
