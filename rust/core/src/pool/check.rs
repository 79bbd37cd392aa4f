//! The full walk: everything that is counted twice is counted a third time, from the slots alone.

use crate::blocks::Blocks;
use crate::error::Error;
use crate::group::{Counts, Group, GroupId};
use crate::ledger::Ledger;
use crate::pool::Pool;
use crate::slot::State;

impl Pool<'_> {
    /// Check every invariant of this pool. Takes a time proportional to its slots.
    ///
    /// # Errors
    ///
    /// [`Error::Broken`] with the first disagreement: a bug in this crate.
    pub fn check(&self) -> Result<(), Error> {
        let mut counted = vec![Counts::default(); self.blocks.groups.len()];
        for (_, slot) in self.blocks.slots.iter() {
            if let Some(class) = slot.state.class() {
                *counted[usize::from(slot.group.0)].of(class) += 1;
            }
        }
        for ((id, group), counted) in self.blocks.groups.iter().zip(&counted) {
            agree(*counted == group.counts, || format!("blocks of group {:?}", group.spec.name))?;
            self.check_free_list(id, group)?;
            self.check_caps(id, group)?;
        }
        self.check_chains()?;
        self.check_bytes(&counted)
    }

    fn check_free_list(&self, id: GroupId, group: &Group) -> Result<(), Error> {
        let slots = &self.blocks.slots;
        let is_free = |index| slots.get(index).is_some_and(|slot| slot.group == id);
        let (mut at, mut len) = (group.free.top(), 0);
        while let Some(index) = at.filter(|&index| is_free(index) && len <= group.free.len()) {
            len += 1;
            at = match slots[index].state {
                State::Free { next } => next,
                _ => return Err(broken(&format!("a free slot of group {:?}", group.spec.name))),
            };
        }
        let free = |state| matches!(state, State::Free { .. });
        let here = slots.iter().filter(|(_, slot)| slot.group == id && free(slot.state)).count();
        agree(at.is_none() && len == group.free.len() && len == here as u64, || {
            format!("the free list of group {:?}", group.spec.name)
        })
    }

    fn check_caps(&self, id: GroupId, group: &Group) -> Result<(), Error> {
        let most = group.spec.max_blocks_per_agent.unwrap_or(u64::MAX);
        let mut agents = self.blocks.agents.iter();
        agree(agents.all(|(_, agent)| agent.held(id).len() <= most), || {
            format!("the cap of group {:?}", group.spec.name)
        })
    }

    fn check_chains(&self) -> Result<(), Error> {
        let Blocks { slots, agents, eviction, .. } = &*self.blocks;
        let is_cached = |index| matches!(slots[index].state, State::Cached { .. });
        let sound = eviction.is_sound(slots) && eviction.iter(slots).all(is_cached);
        agree(sound && eviction.len() == self.total_count(|counts| counts.cached), || {
            "the order of eviction".to_owned()
        })?;
        let mut held = 0;
        for (index, agent) in agents.iter() {
            for ((group, _), chain) in self.blocks.groups.iter().zip(agent.chains()) {
                let is_theirs = |at| {
                    let slot = &slots[at];
                    let holder =
                        |state| matches!(state, State::Held { agent, .. } if agent == index);
                    slot.group == group && holder(slot.state)
                };
                agree(chain.is_sound(slots) && chain.iter(slots).all(is_theirs), || {
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
        let mut walked = *self.share.ledger();
        (walked.held, walked.staged_blocks, walked.cached) = (0, 0, 0);
        for ((_, group), counts) in self.blocks.groups.iter().zip(counted) {
            let bytes = group.spec.bytes_per_block;
            walked.held += (counts.held + counts.leased) * bytes;
            walked.staged_blocks += counts.staged * bytes;
            walked.cached += counts.cached * bytes;
        }
        agree(walked == *self.share.ledger(), || {
            format!("bytes by class, {walked:?} in the slots and {:?}", self.share.ledger())
        })?;
        let Ledger { held, live, cached, .. } = walked;
        let classes = self.share.free(self.budget) + held + live + walked.staging() + cached;
        agree(classes == self.total(), || "the sum of the classes and the total".to_owned())?;
        agree(walked.taken() <= self.share.limit(self.budget), || "the maximum".to_owned())?;
        agree(self.blocks.arrays_used() <= self.blocks.arrays_max, || "arrays".to_owned())
    }

    fn total_count(&self, count: impl Fn(&Counts) -> u64) -> u64 {
        self.blocks.groups.iter().map(|(_, group)| count(&group.counts)).sum()
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
    use crate::budget::{Budget, Share, Terms};
    use crate::error::Error;
    use crate::group::{GroupId, GroupSpec, Groups, LayerType};
    use crate::id::SlotIndex;
    use crate::ledger::{Account, Charge};
    use crate::pool::Pool;
    use crate::slot::{BlockClass, State};

    const GLOBAL: GroupId = GroupId(0);

    /// Break a pool that has blocks in every state, and see what the check says.
    fn complaint(damage: impl FnOnce(&mut Pool<'_>)) -> Option<String> {
        let group = GroupSpec {
            name: "global".into(),
            layer_type: LayerType::Global,
            bytes_per_block: 10,
            max_blocks_per_agent: Some(3),
            arrays_per_block: 1,
        };
        let mut budget = Budget::new(100).unwrap();
        let mut share = Share::open(&mut budget, Terms::default()).unwrap();
        let mut blocks = Blocks::new(Groups::new(vec![group]).unwrap(), 10).unwrap();
        let mut pool = Pool { budget: &mut budget, share: &mut share, blocks: &mut blocks };
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
        let cached = |pool: &Pool<'_>| pool.blocks.eviction.first().unwrap();
        says("blocks of group", |pool| pool.blocks.groups.get_mut(GLOBAL).counts.held += 1);
        says("blocks of group", |pool| pool.blocks.slots[SlotIndex(1)].state = State::Staged);
        says("free list", |pool| {
            pool.blocks.slots[SlotIndex(0)].state = State::Free { next: Some(SlotIndex(0)) };
        });
        says("free list", |pool| {
            pool.blocks.groups.get_mut(GLOBAL).free.pop(&mut pool.blocks.slots, GLOBAL);
        });
        says("cap", |pool| {
            pool.blocks.groups.get_mut(GLOBAL).spec.max_blocks_per_agent = Some(1);
        });
        says("order of eviction", |pool| {
            let index = cached(pool);
            pool.blocks.eviction.unlink(&mut pool.blocks.slots, index);
        });
        says("order of eviction", |pool| {
            let index = cached(pool);
            pool.blocks.slots.relink(index, |links| links.after = None);
        });
        says("agent", |pool| {
            pool.blocks.agents.enter("idle", 1);
        });
        says("held blocks", |pool| {
            let index = pool.blocks.agents.find("a1").unwrap();
            let agent = pool.blocks.agents.get_mut(index).unwrap();
            agent.held_mut(GLOBAL).unlink(&mut pool.blocks.slots, SlotIndex(1));
        });
        says("bytes by class", |pool| {
            let (cached, held) = (BlockClass::Cached, BlockClass::Held);
            pool.share.transfer(Account::Block(cached), Account::Block(held), 10);
        });
        says("arrays", |pool| pool.blocks.arrays_max = 1);
        assert_eq!(complaint(|_| {}), None);
        let honest = |pool: &mut Pool<'_>| pool.charge(Charge::Live, 50).unwrap();
        assert_eq!(complaint(honest), None);
    }
}
