//! A doubly linked list through the slots: the order of eviction.
//!
//! A slot joins after its state has been set to one with links, and leaves before that state goes.

use crate::id::SlotIndex;
use crate::slot::{Links, Slots};

/// The ends of the list, and how many slots it has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Chain {
    first: Option<SlotIndex>,
    last: Option<SlotIndex>,
    len: u64,
}

impl Chain {
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn first(&self) -> Option<SlotIndex> {
        self.first
    }

    pub(crate) fn push(&mut self, slots: &mut Slots, index: SlotIndex) {
        let before = self.last;
        slots.relink(index, |links| {
            *links = Links::default();
            links.set_before(before);
        });
        match before {
            Some(before) => slots.relink(before, |links| links.set_after(Some(index))),
            None => self.first = Some(index),
        }
        self.last = Some(index);
        self.len += 1;
    }

    pub(crate) fn unlink(&mut self, slots: &mut Slots, index: SlotIndex) {
        let Some(links) = slots[index].state.links() else { return };
        let (before, after) = (links.before(), links.after());
        match before {
            Some(before) => slots.relink(before, |links| links.set_after(after)),
            None => self.first = after,
        }
        match after {
            Some(after) => slots.relink(after, |links| links.set_before(before)),
            None => self.last = before,
        }
        self.len -= 1;
    }

    /// The slots from first to last.
    pub(crate) fn iter<'s>(&self, slots: &'s Slots) -> impl Iterator<Item = SlotIndex> + use<'s> {
        std::iter::successors(self.first, |&index| {
            slots[index].state.links().and_then(Links::after)
        })
    }

    /// Whether both directions tell the same story of [`len`](Self::len) slots.
    pub(crate) fn is_sound(&self, slots: &Slots) -> bool {
        let mut before = None;
        let mut seen = 0;
        let mut at = self.first;
        while let Some(index) = at {
            let Some(links) = slots.get(index).and_then(|slot| slot.state.links()) else {
                return false;
            };
            seen += 1;
            if links.before() != before || seen > self.len {
                return false;
            }
            before = at;
            at = links.after();
        }
        before == self.last && seen == self.len
    }
}
