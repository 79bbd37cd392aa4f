//! Which slots the list at hand has named already: a repeated id is known at its second visit.
//!
//! Each slot keeps the number of the last list that named it, so that nothing has to be cleared
//! between two lists, and nothing undone when one is refused.

use crate::id::SlotIndex;

#[derive(Debug, Default)]
pub(crate) struct Visits {
    last: Vec<u32>,
    list: u32,
}

impl Visits {
    /// Start with the next list, in which so many slots can be named.
    #[inline]
    pub(crate) fn begin(&mut self, n_slots: usize) {
        if self.list == u32::MAX {
            self.last.clear();
            self.list = 0;
        }
        self.list += 1;
        if self.last.len() < n_slots {
            self.last.resize(n_slots, 0);
        }
    }

    /// Whether the list names this slot for the first time.
    #[inline]
    pub(crate) fn is_first(&mut self, index: SlotIndex) -> bool {
        let last = &mut self.last[index.0 as usize];
        let is_first = *last != self.list;
        *last = self.list;
        is_first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_list_starts_anew() {
        let [a, b] = [SlotIndex(0), SlotIndex(1)];
        let mut visits = Visits::default();
        for _ in 0..3 {
            visits.begin(2);
            assert!(visits.is_first(a) && visits.is_first(b));
            assert!(!visits.is_first(a) && !visits.is_first(b));
        }
    }

    #[test]
    fn so_does_the_list_after_the_last_number() {
        let mut visits = Visits::default();
        visits.begin(1);
        visits.is_first(SlotIndex(0));
        visits.list = u32::MAX;
        visits.begin(1);
        assert!(visits.is_first(SlotIndex(0)));
    }
}
