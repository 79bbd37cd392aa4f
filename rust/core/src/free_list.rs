//! The free slots of one group, last in, first out: a block whose memory is warm goes out again first.

use crate::group::GroupId;
use crate::id::SlotIndex;
use crate::slot::{Slot, Slots, State};

#[derive(Clone, Debug, Default)]
pub(crate) struct FreeList(Vec<SlotIndex>);

impl FreeList {
    pub(crate) fn len(&self) -> u64 {
        self.0.len() as u64
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = SlotIndex> {
        self.0.iter().copied()
    }

    /// The `n` slots to fill next, the last of them first; those freed last go before new ones.
    pub(crate) fn top(&mut self, slots: &mut Slots, group: GroupId, n: usize) -> &[SlotIndex] {
        if let Some(missing) = n.checked_sub(self.0.len() + 1) {
            let added: Vec<_> = (0..=missing).map(|_| slots.grow(group)).collect();
            self.0.splice(0..0, added.into_iter().rev());
        }
        &self.0[self.0.len() - n..]
    }

    /// Let go of the top `n`, which have been filled or were never freed.
    pub(crate) fn drop_top(&mut self, n: usize) {
        self.0.truncate(self.0.len() - n);
    }

    /// Take slots that are about to be freed.
    pub(crate) fn extend(&mut self, indices: impl Iterator<Item = SlotIndex>) {
        self.0.extend(indices);
    }

    /// Give a slot back under its next generation, or retire it when it has had the last one.
    #[inline]
    pub(crate) fn push(&mut self, slot: &mut Slot, index: SlotIndex) {
        if let Some(generation) = slot.generation.checked_add(1) {
            slot.generation = generation;
            slot.state = State::FREE;
            self.0.push(index);
        } else {
            slot.state = State::Retired;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pop(list: &mut FreeList, slots: &mut Slots) -> SlotIndex {
        let top = list.top(slots, GroupId(0), 1)[0];
        list.drop_top(1);
        top
    }

    fn push(list: &mut FreeList, slots: &mut Slots, index: SlotIndex) {
        list.push(&mut slots[index], index);
    }

    #[test]
    fn last_in_first_out() {
        let (mut slots, mut list) = (Slots::default(), FreeList::default());
        let [a, b] = [(); 2].map(|()| pop(&mut list, &mut slots));
        push(&mut list, &mut slots, a);
        push(&mut list, &mut slots, b);
        assert_eq!(list.len(), 2);
        assert_eq!(pop(&mut list, &mut slots), b);
        assert_eq!(pop(&mut list, &mut slots), a);
        assert_eq!(slots.iter().count(), 2);
    }

    #[test]
    fn many_at_once_come_in_the_order_of_one_by_one() {
        let (mut slots, mut list) = (Slots::default(), FreeList::default());
        let [a, b] = [(); 2].map(|()| pop(&mut list, &mut slots));
        push(&mut list, &mut slots, a);
        push(&mut list, &mut slots, b);
        let top = list.top(&mut slots, GroupId(0), 4);
        assert_eq!(top, [SlotIndex(3), SlotIndex(2), a, b]);
        assert_eq!((list.len(), slots.len()), (4, 4));
    }

    #[test]
    fn a_slot_without_generations_is_retired() {
        let (mut slots, mut list) = (Slots::default(), FreeList::default());
        let first = pop(&mut list, &mut slots);
        for generation in 0..u16::MAX {
            assert_eq!(slots[first].generation, generation);
            push(&mut list, &mut slots, first);
            assert_eq!(pop(&mut list, &mut slots), first);
        }
        push(&mut list, &mut slots, first);
        assert_eq!(slots[first].state, State::Retired);
        assert_eq!(list.len(), 0);
        assert_ne!(pop(&mut list, &mut slots), first);
    }
}
