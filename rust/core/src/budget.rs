//! One number of bytes, and the shares that pools have in it.
//!
//! A pool may take what no other pool has taken or been promised:
//! `total − Σ others max(taken, minimum) − own taken`, and never more than its maximum. What others
//! have cached goes for it, the least wanted first, down to their minimums: so what a pool could have
//! is `total − Σ others max(used, minimum)`, up to its maximum. Which block goes is decided in
//! [`others`](crate::others); here is the arithmetic.

use crate::error::Error;
use crate::ledger::{Account, Ledger};
use crate::slot::BlockClass;

/// What a pool is promised, and what it may take at most.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Terms {
    /// Bytes that no other pool can take.
    pub minimum: u64,
    /// Bytes that this pool never goes beyond; None for the whole budget.
    pub maximum: Option<u64>,
}

/// The bytes that all pools of a [`Memory`](crate::Memory) have together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Budget {
    total: u64,
    /// Σ over the shares of what is kept for them: the larger of taken and minimum.
    reserved: u64,
    minimums: u64,
}

impl Budget {
    pub(crate) fn new(total: u64) -> Result<Self, Error> {
        if total == 0 {
            return Err(Error::EmptyBudget);
        }
        if total == u64::MAX {
            return Err(Error::HugeBudget);
        }
        Ok(Self { total, reserved: 0, minimums: 0 })
    }

    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// The most that a share could have if nobody else had anything.
    fn without_minimums_of_others(&self, own: Terms) -> u64 {
        self.total - (self.minimums - own.minimum)
    }

    /// What is taken by pools or kept for them.
    pub(crate) fn reserved(&self) -> u64 {
        self.reserved
    }

    /// The same shares in another number of bytes.
    pub(crate) fn resized(&self, total: u64) -> Result<Self, Error> {
        let Self { reserved, minimums, .. } = *self;
        if minimums > total && total > 0 {
            return Err(Error::MinimumsAboveTotal { minimums, total });
        }
        Ok(Self { reserved, minimums, ..Self::new(total)? })
    }

    /// Whether the sums are those of `shares`.
    pub(crate) fn agrees_with<'s>(&self, shares: impl Iterator<Item = &'s Share>) -> bool {
        let (mut reserved, mut minimums) = (0, 0);
        for share in shares {
            reserved += share.reserved();
            minimums += share.terms.minimum;
        }
        (reserved, minimums) == (self.reserved, self.minimums) && reserved <= self.total
    }
}

/// One pool's part in a budget: its terms, and what it has taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Share {
    terms: Terms,
    ledger: Ledger,
}

impl Share {
    /// A share under these terms, whose minimum is set aside at once.
    pub(crate) fn open(budget: &mut Budget, terms: Terms) -> Result<Self, Error> {
        let Terms { minimum, maximum } = terms;
        if let Some(maximum) = maximum.filter(|&maximum| minimum > maximum) {
            return Err(Error::MinimumAboveMaximum { minimum, maximum });
        }
        let minimums = budget.minimums.saturating_add(minimum);
        if minimums > budget.total {
            return Err(Error::MinimumsAboveTotal { minimums, total: budget.total });
        }
        let available = budget.total - budget.reserved;
        if minimum > available {
            return Err(Error::MinimumTaken { requested: minimum, available });
        }
        budget.minimums = minimums;
        budget.reserved += minimum;
        Ok(Self { terms, ledger: Ledger::default() })
    }

    /// Give back everything, what is still held included.
    pub(crate) fn close(self, budget: &mut Budget) {
        budget.reserved -= self.reserved();
        budget.minimums -= self.terms.minimum;
    }

    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The most that this share may ever take.
    pub(crate) fn limit(&self, budget: &Budget) -> u64 {
        self.terms.maximum.map_or(budget.total, |maximum| maximum.min(budget.total))
    }

    /// The most that it could have if nobody held anything.
    pub(crate) fn most(&self, budget: &Budget) -> u64 {
        self.limit(budget).min(budget.without_minimums_of_others(self.terms))
    }

    /// What it could have now, if others gave what they can: `floors` is the sum of their floors.
    pub(crate) fn total(&self, budget: &Budget, floors: u64) -> u64 {
        self.limit(budget).min(budget.total - floors)
    }

    /// Whether so many bytes more stay below its maximum.
    pub(crate) fn has_room_for(&self, bytes: u64, budget: &Budget) -> bool {
        bytes <= self.limit(budget) - self.ledger.taken()
    }

    /// What cannot be evicted of it, or is promised to it.
    pub(crate) fn floor(&self) -> u64 {
        self.ledger.used().max(self.terms.minimum)
    }

    /// Whether others may take what is evicted here.
    pub(crate) fn gives(&self) -> bool {
        self.ledger.cached > 0 && self.ledger.taken() > self.terms.minimum
    }

    /// See that one block of this size can ever be taken.
    pub(crate) fn fits_block(&self, budget: &Budget, block: u64) -> Result<(), Error> {
        let limit = self.limit(budget);
        if block > limit { Err(Error::BudgetBelowBlock { limit, block }) } else { Ok(()) }
    }

    /// Drop everything cached from the books.
    pub(crate) fn drop_cached(&mut self, budget: &mut Budget) {
        self.leave(budget, Account::Block(BlockClass::Cached), self.ledger.cached);
    }

    /// Bytes that may be taken now.
    pub(crate) fn free(&self, budget: &Budget) -> u64 {
        let others = budget.reserved - self.reserved();
        let taken = self.ledger.taken();
        (budget.total - others - taken).min(self.limit(budget) - taken)
    }

    /// Bytes that may be taken once everything cached is evicted.
    pub(crate) fn available(&self, budget: &Budget) -> u64 {
        self.free(budget) + self.ledger.cached
    }

    /// Enter bytes that the caller has seen to be [`free`](Self::free).
    pub(crate) fn enter(&mut self, budget: &mut Budget, account: Account, bytes: u64) {
        let taken = self.ledger.taken();
        *self.ledger.of(account) += bytes;
        self.book(budget, taken, taken + bytes);
    }

    /// Take bytes off an account that has them.
    pub(crate) fn leave(&mut self, budget: &mut Budget, account: Account, bytes: u64) {
        let taken = self.ledger.taken();
        *self.ledger.of(account) -= bytes;
        self.book(budget, taken, taken - bytes);
    }

    /// Move bytes between two accounts.
    pub(crate) fn transfer(&mut self, from: Account, to: Account, bytes: u64) {
        *self.ledger.of(from) -= bytes;
        *self.ledger.of(to) += bytes;
    }

    /// Keep the budget's sum in step: the taken bytes were `before` and are `after`.
    fn book(&self, budget: &mut Budget, before: u64, after: u64) {
        let minimum = self.terms.minimum;
        budget.reserved = budget.reserved - before.max(minimum) + after.max(minimum);
    }

    fn reserved(&self) -> u64 {
        self.ledger.taken().max(self.terms.minimum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Charge;

    const LIVE: Account = Account::Charge(Charge::Live);

    fn terms(minimum: u64, maximum: Option<u64>) -> Terms {
        Terms { minimum, maximum }
    }

    #[test]
    fn a_minimum_is_kept_from_the_others() {
        let mut budget = Budget::new(100).unwrap();
        let mut promised = Share::open(&mut budget, terms(30, None)).unwrap();
        let mut other = Share::open(&mut budget, terms(0, None)).unwrap();
        assert_eq!(other.free(&budget), 70);
        assert_eq!(promised.free(&budget), 100);
        other.enter(&mut budget, LIVE, 70);
        assert_eq!((promised.free(&budget), other.free(&budget)), (30, 0));
        promised.enter(&mut budget, LIVE, 30);
        assert_eq!((promised.free(&budget), other.free(&budget)), (0, 0));
        other.leave(&mut budget, LIVE, 20);
        assert_eq!((promised.free(&budget), other.free(&budget)), (20, 20));
        assert!(budget.agrees_with([&promised, &other].into_iter()));
    }

    #[test]
    fn a_maximum_stops_its_own_pool_only() {
        let mut budget = Budget::new(100).unwrap();
        let mut small = Share::open(&mut budget, terms(0, Some(40))).unwrap();
        small.enter(&mut budget, LIVE, 25);
        let other = Share::open(&mut budget, terms(0, None)).unwrap();
        assert_eq!((small.free(&budget), other.free(&budget)), (15, 75));
    }

    #[test]
    fn closing_gives_everything_back() {
        let mut budget = Budget::new(100).unwrap();
        let mut gone = Share::open(&mut budget, terms(60, None)).unwrap();
        gone.enter(&mut budget, LIVE, 80);
        gone.close(&mut budget);
        assert_eq!(budget, Budget::new(100).unwrap());
    }

    #[test]
    fn terms_that_cannot_be_kept_are_refused() {
        let mut budget = Budget::new(100).unwrap();
        let refused = Share::open(&mut budget, terms(9, Some(8)));
        assert_eq!(refused, Err(Error::MinimumAboveMaximum { minimum: 9, maximum: 8 }));
        let mut first = Share::open(&mut budget, terms(50, None)).unwrap();
        let refused = Share::open(&mut budget, terms(51, None));
        assert_eq!(refused, Err(Error::MinimumsAboveTotal { minimums: 101, total: 100 }));
        first.enter(&mut budget, LIVE, 80);
        let refused = Share::open(&mut budget, terms(21, None));
        assert_eq!(refused, Err(Error::MinimumTaken { requested: 21, available: 20 }));
        assert!(budget.agrees_with(std::iter::once(&first)));
    }
}
