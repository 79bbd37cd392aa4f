//! The full walk: everything that is counted twice is counted a third time, from the slots alone.

use crate::blocks::Blocks;
use crate::error::Error;
use crate::group::{Counts, Group, GroupId};
use crate::id::SlotIndex;
use crate::pool::Pool;
use crate::slot::{Slot, State};

impl Pool<'_> {
    /// Check every invariant of this pool. Takes a time proportional to its slots.
    ///
    /// # Errors
    ///
    /// [`Error::Broken`] with the first disagreement: a bug in this crate.
    pub fn check(&self) -> Result<(), Error> {
        let mut counted = vec![Counts::default(); self.books.blocks.groups.len()];
        for (_, slot) in self.books.blocks.slots.iter() {
            if let Some(class) = slot.state.class() {
                *counted[usize::from(slot.group.0)].of(class) += 1;
            }
        }
        for ((id, group), counted) in self.books.blocks.groups.iter().zip(&counted) {
            agree(*counted == group.counts, || format!("blocks of group {:?}", group.spec.name))?;
            self.check_free_list(id, group)?;
            self.check_caps(id, group)?;
        }
        self.check_lists()?;
        self.check_bytes(&counted)?;
        self.index.check(&self.books)
    }

    fn check_free_list(&self, id: GroupId, group: &Group) -> Result<(), Error> {
        let slots = &self.books.blocks.slots;
        let is_free = |slot: &Slot| slot.group == id && matches!(slot.state, State::Free { .. });
        let mut listed = vec![false; slots.len()];
        let mut once = |index: SlotIndex| !std::mem::replace(&mut listed[index.0 as usize], true);
        let mut list = group.free.iter();
        let sound = list.all(|index| slots.get(index).is_some_and(is_free) && once(index));
        let here = slots.iter().filter(|(_, slot)| is_free(slot)).count();
        agree(sound && group.free.len() == here as u64, || {
            format!("the free list of group {:?}", group.spec.name)
        })
    }

    fn check_caps(&self, id: GroupId, group: &Group) -> Result<(), Error> {
        let most = group.spec.max_blocks_per_agent.unwrap_or(u64::MAX);
        let mut agents = self.books.blocks.agents.iter();
        agree(agents.all(|(_, agent)| agent.held(id).len() <= most), || {
            format!("the cap of group {:?}", group.spec.name)
        })
    }

    fn check_lists(&self) -> Result<(), Error> {
        let Blocks { slots, agents, eviction, .. } = &*self.books.blocks;
        let is_cached = |index| matches!(slots[index].state, State::Cached { .. });
        let sound = eviction.is_sound(slots) && eviction.iter(slots).all(is_cached);
        let cached = slots.iter().filter(|(index, _)| is_cached(*index)).count();
        agree(sound && eviction.len() == cached as u64, || "the order of eviction".to_owned())?;
        let mut held = 0;
        for (index, agent) in agents.iter() {
            for group in self.books.blocks.groups.ids() {
                let held = agent.held(group);
                let living = held.iter(slots, index).filter(|&at| slots[at].group == group);
                agree(living.count() as u64 == held.len(), || {
                    format!("the blocks of agent {:?}", agent.name)
                })?;
            }
            agree(agent.n_blocks() > 0 && agents.find(&agent.name) == Some(index), || {
                format!("agent {:?}", agent.name)
            })?;
            held += agent.n_blocks();
        }
        agree(held == self.total_count(|counts| counts.held), || "held blocks".to_owned())?;
        agree(agents.iter().count() == agents.len(), || "the list of agents".to_owned())
    }

    fn check_bytes(&self, counted: &[Counts]) -> Result<(), Error> {
        let mut walked = *self.books.share.ledger();
        (walked.held, walked.staged_blocks, walked.cached) = (0, 0, 0);
        for ((_, group), counts) in self.books.blocks.groups.iter().zip(counted) {
            let bytes = group.spec.bytes_per_block;
            walked.held += (counts.held + counts.leased) * bytes;
            walked.staged_blocks += counts.staged * bytes;
            walked.cached += counts.cached * bytes;
        }
        agree(walked == *self.books.share.ledger(), || {
            format!("bytes by class, {walked:?} in the slots and {:?}", self.books.share.ledger())
        })?;
        agree(walked.taken() <= self.total(), || {
            "the sum of the classes and the total".to_owned()
        })?;
        agree(walked.taken() <= self.books.share.limit(self.books.budget), || {
            "the maximum".to_owned()
        })?;
        agree(self.books.blocks.arrays_used() <= self.books.blocks.arrays_max, || {
            "arrays".to_owned()
        })
    }

    fn total_count(&self, count: impl Fn(&Counts) -> u64) -> u64 {
        self.books.blocks.groups.iter().map(|(_, group)| count(&group.counts)).sum()
    }
}

fn agree(agrees: bool, what: impl FnOnce() -> String) -> Result<(), Error> {
    if agrees { Ok(()) } else { Err(broken(&what())) }
}

fn broken(what: &str) -> Error {
    Error::Broken { detail: format!("{what} do not agree with the slots") }
}

#[cfg(test)]
mod tests {
    use crate::blocks::Blocks;
    use crate::books::Books;
    use crate::budget::{Budget, Share, Terms};
    use crate::error::Error;
    use crate::group::{GroupId, GroupSpec, Groups};
    use crate::id::SlotIndex;
    use crate::ledger::{Account, Charge};
    use crate::others::Others;
    use crate::pool::Pool;
    use crate::prefix::Index;
    use crate::reach::Reach;
    use crate::slot::{BlockClass, Entry, State};

    const GLOBAL: GroupId = GroupId(0);

    /// Break a pool that has blocks in every state, and see what the check says.
    fn complaint(damage: impl FnOnce(&mut Pool<'_>)) -> Option<String> {
        let group = GroupSpec {
            name: "global".into(),
            reach: Reach::All,
            bytes_per_block: 10,
            max_blocks_per_agent: Some(3),
            arrays_per_block: 1,
        };
        let mut budget = Budget::new(100).unwrap();
        let mut share = Share::open(&mut budget, Terms::default()).unwrap();
        let mut blocks = Blocks::new(Groups::new(vec![group]).unwrap(), 10).unwrap();
        let mut index = Index::new(&blocks.groups);
        let books = Books { budget: &mut budget, share: &mut share, blocks: &mut blocks };
        let others = Others::default();
        let mut pool = Pool { books, index: &mut index, others };
        let freed = pool.allocate(1, GLOBAL, "a1").unwrap();
        pool.allocate(2, GLOBAL, "a1").unwrap();
        let sealed = pool.stage(&[(GLOBAL, 3)]).unwrap();
        pool.publish(&sealed, 0).unwrap();
        pool.acquire(&sealed[..1]).unwrap();
        pool.free(&freed).unwrap();
        pool.check().unwrap();
        damage(&mut pool);
        match pool.check() {
            Err(Error::Broken { detail }) => Some(detail),
            _ => None,
        }
    }

    fn says(what: &str, damage: impl FnOnce(&mut Pool<'_>)) {
        let detail = complaint(damage).expect("the damage is seen");
        assert!(detail.contains(what), "{detail:?} does not speak of {what:?}");
    }

    #[test]
    fn every_damage_is_seen() {
        let cached = |pool: &Pool<'_>| pool.books.blocks.eviction.first().unwrap();
        says("blocks of group", |pool| pool.books.blocks.groups.get_mut(GLOBAL).counts.held += 1);
        says("blocks of group", |pool| pool.books.blocks.slots[SlotIndex(1)].state = State::Staged);
        says("free list", |pool| {
            let slot = &mut pool.books.blocks.slots[SlotIndex(0)];
            pool.books.blocks.groups.get_mut(GLOBAL).free.push(slot, SlotIndex(0));
        });
        says("free list", |pool| pool.books.blocks.slots[SlotIndex(0)].state = State::Retired);
        says("free list", |pool| {
            pool.books.blocks.groups.get_mut(GLOBAL).free.drop_top(1);
        });
        says("cap", |pool| {
            pool.books.blocks.groups.get_mut(GLOBAL).spec.max_blocks_per_agent = Some(1);
        });
        says("order of eviction", |pool| {
            let index = cached(pool);
            pool.books.blocks.eviction.unlink(&mut pool.books.blocks.slots, index);
        });
        says("order of eviction", |pool| {
            let index = cached(pool);
            pool.books.blocks.slots.relink(index, |links| links.set_after(None));
        });
        says("agent", |pool| {
            pool.books.blocks.agents.enter("idle", 1);
        });
        let entry = |pool: &Pool<'_>, index| match pool.books.blocks.slots[index].state {
            State::Held(entry) => entry,
            state => panic!("{state:?}"),
        };
        says("blocks of agent", |pool| {
            let Entry { agent, at } = entry(pool, SlotIndex(1));
            pool.books.blocks.slots[SlotIndex(1)].state = State::Held(Entry { agent, at: at + 1 });
        });
        says("blocks of agent", |pool| {
            let agent = pool.books.blocks.agents.enter("a2", 1);
            pool.books.blocks.slots[SlotIndex(1)].state = State::Held(Entry { agent, at: 0 });
        });
        says("held blocks", |pool| {
            let Entry { agent, at } = entry(pool, SlotIndex(2));
            pool.books.blocks.agents.get_mut(agent).unwrap().held_mut(GLOBAL).forget(1, at);
        });
        says("bytes by class", |pool| {
            let (cached, held) = (BlockClass::Cached, BlockClass::Held);
            pool.books.share.transfer(Account::Block(cached), Account::Block(held), 10);
        });
        says("arrays", |pool| pool.books.blocks.arrays_max = 1);
        assert_eq!(complaint(|_| {}), None);
        let honest = |pool: &mut Pool<'_>| pool.charge(Charge::Live, 50, 0).unwrap();
        assert_eq!(complaint(honest), None);
    }
}
