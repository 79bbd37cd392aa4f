//! Agents: who holds which blocks, by group and in the order in which they were allocated.
//!
//! An agent is here exactly as long as it holds a block.

use std::collections::HashMap;
use std::sync::Arc;

use crate::chain::Chain;
use crate::group::GroupId;

/// The place of an agent in its pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct AgentIndex(u32);

#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) name: Arc<str>,
    /// The most tokens that `allocate_tokens` has extended it to.
    pub(crate) total_tokens: u64,
    /// Its blocks by group.
    held: Vec<Chain>,
}

impl Agent {
    pub(crate) fn held(&self, group: GroupId) -> &Chain {
        &self.held[usize::from(group.0)]
    }

    pub(crate) fn held_mut(&mut self, group: GroupId) -> &mut Chain {
        &mut self.held[usize::from(group.0)]
    }

    pub(crate) fn chains(&self) -> &[Chain] {
        &self.held
    }

    pub(crate) fn n_blocks(&self) -> u64 {
        self.held.iter().map(Chain::len).sum()
    }
}

/// All agents that hold something.
#[derive(Debug, Default)]
pub(crate) struct Agents {
    by_name: HashMap<Arc<str>, AgentIndex>,
    entries: Vec<Option<Agent>>,
    vacant: Vec<AgentIndex>,
}

impl Agents {
    pub(crate) fn len(&self) -> usize {
        self.by_name.len()
    }

    pub(crate) fn find(&self, name: &str) -> Option<AgentIndex> {
        self.by_name.get(name).copied()
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
        entries.filter_map(|(index, entry)| Some((index, entry.as_ref()?)))
    }

    /// The agent of that name, who is about to get a block.
    pub(crate) fn enter(&mut self, name: &str, n_groups: usize) -> AgentIndex {
        if let Some(index) = self.find(name) {
            return index;
        }
        let name: Arc<str> = name.into();
        let held = vec![Chain::default(); n_groups];
        let agent = Agent { name: Arc::clone(&name), total_tokens: 0, held };
        let index = if let Some(index) = self.vacant.pop() {
            self.entries[index.0 as usize] = Some(agent);
            index
        } else {
            self.entries.push(Some(agent));
            AgentIndex(u32::try_from(self.entries.len() - 1).unwrap_or(u32::MAX))
        };
        self.by_name.insert(name, index);
        index
    }

    /// Forget the agent when it holds nothing any more.
    pub(crate) fn leave_if_idle(&mut self, index: AgentIndex) {
        if self.get(index).is_some_and(|agent| agent.n_blocks() == 0)
            && let Some(agent) = self.entries[index.0 as usize].take()
        {
            self.by_name.remove(&agent.name);
            self.vacant.push(index);
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
}
