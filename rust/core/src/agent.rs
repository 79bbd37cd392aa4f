//! Agents: who holds which blocks, by group and in the order in which they were allocated.
//!
//! An agent is here exactly as long as it holds a block. The place of the one that left last is kept
//! as it was, lists and all, until it comes back or another agent takes it over: an agent whose turns
//! allocate and free everything costs no memory management.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use crate::group::GroupId;
use crate::held::Held;
use crate::id::SlotIndex;
use crate::slot::Slots;

/// The place of an agent in its pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct AgentIndex(u32);

impl AgentIndex {
    pub(crate) const FIRST: Self = Self(0);
}

#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) name: Arc<str>,
    /// The most tokens that `allocate_tokens` has extended it to.
    pub(crate) total_tokens: u64,
    /// Its blocks by group.
    held: Vec<Held>,
}

impl Agent {
    pub(crate) fn held(&self, group: GroupId) -> &Held {
        &self.held[usize::from(group.0)]
    }

    pub(crate) fn held_mut(&mut self, group: GroupId) -> &mut Held {
        &mut self.held[usize::from(group.0)]
    }

    pub(crate) fn n_blocks(&self) -> u64 {
        self.held.iter().map(Held::len).sum()
    }
}

/// All agents that hold something.
#[derive(Debug, Default)]
pub(crate) struct Agents {
    /// Those that hold something, and the one that left last.
    by_name: HashMap<Arc<str>, AgentIndex, RandomState>,
    entries: Vec<Option<Agent>>,
    vacant: Vec<AgentIndex>,
    /// The agent that left last, if its place is as it was.
    left: Option<AgentIndex>,
    /// The agent that entered last, who is often the next to be asked for.
    recent: Option<AgentIndex>,
}

impl Agents {
    pub(crate) fn len(&self) -> usize {
        self.by_name.len() - usize::from(self.left.is_some())
    }

    pub(crate) fn find(&self, name: &str) -> Option<AgentIndex> {
        self.place(name).filter(|&index| Some(index) != self.left)
    }

    /// The place of that name, whether or not its agent has left.
    fn place(&self, name: &str) -> Option<AgentIndex> {
        let is_named = |&index: &AgentIndex| self.get(index).is_some_and(|a| &*a.name == name);
        self.recent.filter(is_named).or_else(|| self.by_name.get(name).copied())
    }

    pub(crate) fn get(&self, index: AgentIndex) -> Option<&Agent> {
        self.entries.get(index.0 as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, index: AgentIndex) -> Option<&mut Agent> {
        self.entries.get_mut(index.0 as usize)?.as_mut()
    }

    pub(crate) fn named(&self, name: &str) -> Option<&Agent> {
        self.get(self.find(name)?)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (AgentIndex, &Agent)> {
        let entries = (0..).map(AgentIndex).zip(&self.entries);
        let here = entries.filter(|&(index, _)| Some(index) != self.left);
        here.filter_map(|(index, entry)| Some((index, entry.as_ref()?)))
    }

    /// The agent's blocks of a group in the order in which they were allocated.
    pub(crate) fn blocks<'a>(
        &'a self,
        slots: &'a Slots,
        agent: AgentIndex,
        group: GroupId,
    ) -> impl DoubleEndedIterator<Item = SlotIndex> + use<'a> {
        let held = self.get(agent).map(|holder| holder.held(group));
        held.into_iter().flat_map(move |held| held.iter(slots, agent))
    }

    /// The agent of that name, who is about to get a block.
    pub(crate) fn enter(&mut self, name: &str, n_groups: usize) -> AgentIndex {
        let index = self.place(name).unwrap_or_else(|| self.admit(name, n_groups));
        if self.left == Some(index) {
            self.left = None;
        }
        self.recent = Some(index);
        index
    }

    fn admit(&mut self, name: &str, n_groups: usize) -> AgentIndex {
        let name: Arc<str> = name.into();
        let index = if let Some(index) = self.left.take()
            && let Some(place) = self.entries[index.0 as usize].as_mut()
        {
            self.by_name.remove(&place.name);
            place.name = Arc::clone(&name);
            index
        } else {
            let held = vec![Held::default(); n_groups];
            let agent = Some(Agent { name: Arc::clone(&name), total_tokens: 0, held });
            if let Some(index) = self.vacant.pop() {
                self.entries[index.0 as usize] = agent;
                index
            } else {
                self.entries.push(agent);
                AgentIndex(u32::try_from(self.entries.len() - 1).unwrap_or(u32::MAX))
            }
        };
        self.by_name.insert(name, index);
        index
    }

    /// Let the agent go when it holds nothing any more.
    pub(crate) fn leave_if_idle(&mut self, index: AgentIndex) {
        let Some(agent) = self.get_mut(index).filter(|agent| agent.n_blocks() == 0) else { return };
        agent.total_tokens = 0;
        if let Some(before) = self.left.replace(index)
            && before != index
            && let Some(agent) = self.entries[before.0 as usize].take()
        {
            self.by_name.remove(&agent.name);
            self.vacant.push(before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_without_blocks_is_forgotten_and_its_place_is_used_again() {
        let mut agents = Agents::default();
        let first = agents.enter("first", 2);
        assert_eq!(agents.enter("first", 2), first);
        agents.leave_if_idle(first);
        assert_eq!((agents.find("first"), agents.len()), (None, 0));
        assert_eq!(agents.enter("second", 2), first);
        assert_eq!(agents.named("second").map(|agent| &*agent.name), Some("second"));
    }

    #[test]
    fn who_comes_back_finds_the_old_place_but_nothing_in_it() {
        let mut agents = Agents::default();
        let first = agents.enter("first", 1);
        agents.get_mut(first).unwrap().total_tokens = 9;
        agents.leave_if_idle(first);
        assert!(agents.named("first").is_none() && agents.iter().next().is_none());
        assert_eq!(agents.enter("first", 1), first);
        assert_eq!(agents.named("first").map(|agent| agent.total_tokens), Some(0));
        assert_eq!((agents.len(), agents.iter().count()), (1, 1));
    }

    #[test]
    fn only_the_place_that_was_left_last_is_kept() {
        let mut agents = Agents::default();
        let [first, second] = ["first", "second"].map(|name| agents.enter(name, 1));
        agents.leave_if_idle(first);
        agents.leave_if_idle(second);
        assert_eq!((agents.len(), agents.by_name.len()), (0, 1));
        assert_eq!(agents.enter("third", 1), second);
        assert_eq!(agents.enter("first", 1), first);
        assert_eq!((agents.len(), agents.entries.len()), (2, 2));
    }
}
