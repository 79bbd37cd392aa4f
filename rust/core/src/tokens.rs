//! Token ids: signed 64 bit, kept in 32 where they fit.
//!
//! Servers mark image patches with negative ids, so nothing is ever narrowed that does not fit. Two
//! sequences are equal when their ids are, however they are kept.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};

/// Token ids of a request, or of one token block.
#[derive(Clone, Debug)]
pub enum Tokens {
    /// Every id is at least 0 and below 2³².
    Narrow(Vec<u32>),
    /// Ids as they come.
    Wide(Vec<i64>),
}

impl Default for Tokens {
    fn default() -> Self {
        Self::Narrow(Vec::new())
    }
}

impl FromIterator<i64> for Tokens {
    fn from_iter<I: IntoIterator<Item = i64>>(ids: I) -> Self {
        Self::copied(ids.into_iter().collect::<Vec<i64>>().iter().copied())
    }
}

impl Tokens {
    /// The ids that an iterator yields, which is walked twice: once to see whether they are narrow.
    ///
    /// Two passes without a branch for each id are faster than one with it.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it was looked at")]
    #[must_use]
    pub fn copied(ids: impl ExactSizeIterator<Item = i64> + Clone) -> Self {
        let bits = ids.clone().fold(0, |bits, id| bits | id);
        if bits >> u32::BITS == 0 {
            return Self::Narrow(ids.map(|id| id as u32).collect());
        }
        Self::Wide(ids.collect())
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.all().len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them, borrowed.
    #[must_use]
    pub fn all(&self) -> TokenSlice<'_> {
        match self {
            Self::Narrow(ids) => TokenSlice::Narrow(ids),
            Self::Wide(ids) => TokenSlice::Wide(ids),
        }
    }
}

impl PartialEq for Tokens {
    fn eq(&self, other: &Self) -> bool {
        self.all() == other.all()
    }
}

impl Eq for Tokens {}

/// Some consecutive token ids.
#[derive(Clone, Copy, Debug)]
pub enum TokenSlice<'t> {
    /// Ids below 2³².
    Narrow(&'t [u32]),
    /// Ids as they come.
    Wide(&'t [i64]),
}

impl<'t> TokenSlice<'t> {
    /// How many there are.
    #[must_use]
    pub fn len(self) -> usize {
        match self {
            Self::Narrow(ids) => ids.len(),
            Self::Wide(ids) => ids.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Those from `start` on and before `end`; what lies beyond the last is left out.
    #[must_use]
    pub fn slice(self, start: usize, end: usize) -> Self {
        let (start, end) = (start.min(self.len()), end.min(self.len()));
        match self {
            Self::Narrow(ids) => Self::Narrow(&ids[start.min(end)..end]),
            Self::Wide(ids) => Self::Wide(&ids[start.min(end)..end]),
        }
    }

    /// The id at a position, if there is one.
    #[must_use]
    pub fn get(self, at: usize) -> Option<i64> {
        match self {
            Self::Narrow(ids) => ids.get(at).map(|&id| i64::from(id)),
            Self::Wide(ids) => ids.get(at).copied(),
        }
    }

    /// The ids in order.
    pub fn iter(self) -> impl Iterator<Item = i64> + 't {
        (0..self.len()).filter_map(move |at| self.get(at))
    }

    /// How many leading ids both have in common.
    #[must_use]
    pub fn common(self, other: Self) -> usize {
        let shorter = self.len().min(other.len());
        let (mine, theirs) = (self.slice(0, shorter), other.slice(0, shorter));
        if mine == theirs {
            return shorter;
        }
        mine.iter().zip(theirs.iter()).take_while(|(a, b)| a == b).count()
    }

    /// The lexicographic order, and the ids in common.
    pub(crate) fn compare(self, other: Self) -> (Ordering, usize) {
        let common = self.common(other);
        let order = match (self.get(common), other.get(common)) {
            (Some(mine), Some(theirs)) => mine.cmp(&theirs),
            (mine, theirs) => mine.is_some().cmp(&theirs.is_some()),
        };
        (order, common)
    }
}

impl PartialEq for TokenSlice<'_> {
    fn eq(&self, other: &Self) -> bool {
        match (*self, *other) {
            (Self::Narrow(mine), Self::Narrow(theirs)) => mine == theirs,
            (Self::Wide(mine), Self::Wide(theirs)) => mine == theirs,
            (mine, theirs) => mine.len() == theirs.len() && mine.iter().eq(theirs.iter()),
        }
    }
}

impl Eq for TokenSlice<'_> {}

/// Equal ids have equal hashes, however they are kept.
impl Hash for TokenSlice<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match *self {
            Self::Narrow(ids) => ids.hash(state),
            Self::Wide(ids) => {
                let narrow = ids.iter().map(|&id| u32::try_from(id));
                match narrow.collect::<Result<Vec<u32>, _>>() {
                    Ok(narrow) => narrow.hash(state),
                    Err(_) => ids.hash(state),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wide(ids: &[i64]) -> Tokens {
        Tokens::Wide(ids.to_vec())
    }

    #[test]
    fn an_id_that_does_not_fit_keeps_all_of_them_wide() {
        assert!(matches!([1, 2, 3].into_iter().collect(), Tokens::Narrow(_)));
        for odd in [-1, 1 << 32, i64::MIN, i64::MAX] {
            let tokens: Tokens = [7, odd, 9].into_iter().collect();
            assert_eq!(tokens, wide(&[7, odd, 9]));
            assert!(matches!(tokens, Tokens::Wide(_)));
        }
    }

    #[test]
    fn widths_do_not_matter() {
        let narrow: Tokens = (0..300).collect();
        let other: Tokens = wide(&(0..300).collect::<Vec<_>>());
        assert_eq!(narrow, other);
        assert_eq!(narrow.all().common(other.all()), 300);
        assert_ne!(narrow, wide(&[0]));
        assert_eq!(narrow.all().compare(wide(&[0, 1, -5]).all()), (Ordering::Greater, 2));
        assert_eq!(wide(&[-5]).all().compare(narrow.all()), (Ordering::Less, 0));
    }

    #[test]
    fn a_prefix_comes_first() {
        let tokens: Tokens = (0..10).collect();
        let front = tokens.all().slice(0, 4);
        assert_eq!(front.compare(tokens.all()), (Ordering::Less, 4));
        assert_eq!(tokens.all().compare(front), (Ordering::Greater, 4));
        assert_eq!(tokens.all().slice(8, 99).iter().collect::<Vec<_>>(), [8, 9]);
        assert!(tokens.all().slice(20, 30).is_empty());
    }
}
