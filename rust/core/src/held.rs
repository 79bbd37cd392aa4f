//! What one agent holds in one group, in the order in which it was allocated.
//!
//! A freed block leaves a dead entry behind, so that freeing writes nothing here but a count. Which
//! entries live is said by the slots alone: a held one's `Entry` names the agent and the place in
//! its list, and every other entry of that slot is dead. Dead entries go when they outnumber the
//! living and the list would have to grow or is about to be read; so each is passed over once.

use std::ops::Range;

use crate::agent::AgentIndex;
use crate::id::SlotIndex;
use crate::slot::{Entry, Slot, Slots, State};

#[derive(Clone, Debug, Default)]
pub(crate) struct Held {
    entries: Vec<SlotIndex>,
    len: u64,
}

impl Held {
    /// Blocks that are held: the living entries.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Add blocks, and say where in the list they are.
    pub(crate) fn extend(
        &mut self,
        slots: &mut Slots,
        agent: AgentIndex,
        added: impl ExactSizeIterator<Item = SlotIndex>,
    ) -> Range<u32> {
        let n = added.len();
        if self.entries.len() + n > self.entries.capacity() {
            self.compact(slots, agent);
        }
        let end = |list: &Vec<SlotIndex>| u32::try_from(list.len()).unwrap_or(u32::MAX);
        let start = end(&self.entries);
        self.entries.extend(added);
        self.len += n as u64;
        start..end(&self.entries)
    }

    /// `n` blocks have been freed, the first of them in the list at `first`.
    pub(crate) fn forget(&mut self, n: u64, first: u32) {
        self.len -= n;
        let tail = self.entries.len() - first as usize;
        if self.len == 0 {
            self.entries.clear();
        } else if n == tail as u64 {
            self.entries.truncate(first as usize);
        }
    }

    /// Take every block out, the last one first, and say how many they were.
    pub(crate) fn clear(
        &mut self,
        slots: &mut Slots,
        agent: AgentIndex,
        mut free: impl FnMut(SlotIndex, &mut Slot),
    ) -> u64 {
        for (n, &index) in self.entries.iter().enumerate().rev() {
            let slot = &mut slots[index];
            if is_entry(slot.state, agent, n) {
                free(index, slot);
            }
        }
        self.entries.clear();
        std::mem::take(&mut self.len)
    }

    /// Drop the dead entries where they outnumber the living.
    pub(crate) fn compact(&mut self, slots: &mut Slots, agent: AgentIndex) {
        if self.entries.len() as u64 <= 2 * self.len {
            return;
        }
        let (mut n, mut at) = (0, 0);
        self.entries.retain(|&index| {
            let state = &mut slots[index].state;
            let lives = is_entry(*state, agent, n);
            n += 1;
            if lives {
                *state = State::Held(Entry { agent, at });
                at += 1;
            }
            lives
        });
    }

    /// The blocks from the first allocated to the last.
    pub(crate) fn iter<'h>(
        &'h self,
        slots: &'h Slots,
        agent: AgentIndex,
    ) -> impl DoubleEndedIterator<Item = SlotIndex> + use<'h> {
        let entries = self.entries.iter().enumerate();
        let living = entries.filter(move |&(n, &index)| is_entry(slots[index].state, agent, n));
        living.map(|(_, &index)| index)
    }
}

/// Whether a slot of that state is held by `agent`, whose list has it at `n`.
fn is_entry(state: State, agent: AgentIndex, n: usize) -> bool {
    matches!(state, State::Held(entry) if entry.agent == agent && entry.at as usize == n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::GroupId;

    const AGENT: AgentIndex = AgentIndex::FIRST;

    fn held(n: usize) -> (Slots, Held) {
        let (mut slots, mut held) = (Slots::default(), Held::default());
        for _ in 0..n {
            add(&mut slots, &mut held);
        }
        (slots, held)
    }

    fn add(slots: &mut Slots, held: &mut Held) {
        let index = slots.grow(GroupId(0));
        let at = held.extend(slots, AGENT, std::iter::once(index)).start;
        slots[index].state = State::Held(Entry { agent: AGENT, at });
    }

    fn free(slots: &mut Slots, held: &mut Held, index: u32) {
        let State::Held(entry) = slots[SlotIndex(index)].state else { panic!("not held") };
        let at = entry.at;
        slots[SlotIndex(index)].state = State::FREE;
        held.forget(1, at);
    }

    fn order(slots: &Slots, held: &Held) -> Vec<u32> {
        held.iter(slots, AGENT).map(|index| index.0).collect()
    }

    #[test]
    fn what_is_left_keeps_its_order() {
        let (mut slots, mut held) = held(6);
        for index in [4, 0, 2] {
            free(&mut slots, &mut held, index);
        }
        assert_eq!((order(&slots, &held), held.len()), (vec![1, 3, 5], 3));
        free(&mut slots, &mut held, 3);
        held.compact(&mut slots, AGENT);
        assert_eq!((order(&slots, &held), held.entries.len()), (vec![1, 5], 2));
        free(&mut slots, &mut held, 1);
        assert_eq!(order(&slots, &held), [5]);
    }

    #[test]
    fn a_freed_tail_leaves_nothing_behind() {
        let (mut slots, mut held) = held(3);
        free(&mut slots, &mut held, 2);
        assert_eq!(held.entries.len(), 2);
    }

    #[test]
    fn dead_entries_do_not_make_it_grow() {
        let (mut slots, mut held) = held(8);
        let capacity = held.entries.capacity();
        for oldest in 0..100 {
            add(&mut slots, &mut held);
            free(&mut slots, &mut held, oldest);
        }
        assert_eq!(held.len(), 8);
        assert!(held.entries.capacity() <= 4 * capacity);
        assert_eq!(order(&slots, &held), (100..108).collect::<Vec<_>>());
    }
}
