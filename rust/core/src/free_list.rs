//! The free slots of one group, last in, first out: a block whose memory is warm goes out again first.

use crate::group::GroupId;
use crate::id::SlotIndex;
use crate::slot::{Slots, State};

/// The top of the stack that free slots form, and how many they are.
#[derive(Clone, Debug, Default)]
pub(crate) struct FreeList {
    top: Option<SlotIndex>,
    len: u64,
}

impl FreeList {
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn top(&self) -> Option<SlotIndex> {
        self.top
    }

    /// Take the slot that was freed last, or a new one. It stays `Free` until the caller fills it.
    pub(crate) fn pop(&mut self, slots: &mut Slots, group: GroupId) -> SlotIndex {
        let Some(index) = self.top else { return slots.grow(group) };
        if let State::Free { next } = slots[index].state {
            self.top = next;
            self.len -= 1;
        }
        index
    }

    /// Give a slot back under its next generation, or retire it when it has had the last one.
    pub(crate) fn push(&mut self, slots: &mut Slots, index: SlotIndex) {
        let slot = &mut slots[index];
        if let Some(generation) = slot.generation.checked_add(1) {
            slot.generation = generation;
            slot.state = State::Free { next: self.top };
            self.top = Some(index);
            self.len += 1;
        } else {
            slot.state = State::Retired;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_in_first_out() {
        let (mut slots, mut list) = (Slots::default(), FreeList::default());
        let [a, b] = [(); 2].map(|()| list.pop(&mut slots, GroupId(0)));
        list.push(&mut slots, a);
        list.push(&mut slots, b);
        assert_eq!(list.len(), 2);
        assert_eq!(list.pop(&mut slots, GroupId(0)), b);
        assert_eq!(list.pop(&mut slots, GroupId(0)), a);
        assert_eq!(slots.iter().count(), 2);
    }

    #[test]
    fn a_slot_without_generations_is_retired() {
        let (mut slots, mut list) = (Slots::default(), FreeList::default());
        let first = list.pop(&mut slots, GroupId(0));
        for generation in 0..u16::MAX {
            assert_eq!(slots[first].generation, generation);
            list.push(&mut slots, first);
            assert_eq!(list.pop(&mut slots, GroupId(0)), first);
        }
        list.push(&mut slots, first);
        assert_eq!(slots[first].state, State::Retired);
        assert_eq!(list.len(), 0);
        assert_ne!(list.pop(&mut slots, GroupId(0)), first);
    }
}
