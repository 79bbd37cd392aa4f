//! Crowds: agents that use the same nodes, so that what they share is worth what it is worth to the one
//! to whom it matters most.
//!
//! All nodes that the same agents have used are one crowd's, which is here as long as one of them is.

use std::collections::HashMap;
use std::sync::Arc;

use crate::prefix::Index;
use crate::prefix::agents::AgentId;
use crate::prefix::node::{NodeId, Owner};
use crate::prefix::wishes::SUPERSEDED;

/// Who is known of a crowd: enough to see that it is one. Those who matter most stay.
const CROWD_MAX: usize = 64;

/// The place of a crowd among the crowds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct CrowdId(u32);

impl CrowdId {
    pub(crate) fn numbered(number: u32) -> Self {
        Self(number)
    }

    pub(crate) fn number(self) -> u32 {
        self.0
    }
}

#[derive(Debug, Default)]
struct Crowd {
    /// Sorted.
    members: Arc<[AgentId]>,
    n_nodes: usize,
}

/// All crowds that have used a node.
#[derive(Debug, Default)]
pub(crate) struct Crowds {
    by_members: HashMap<Arc<[AgentId]>, CrowdId>,
    entries: Vec<Crowd>,
    vacant: Vec<CrowdId>,
}

impl Crowds {
    /// The crowd of these agents, who are sorted, and whether it is new and has no node yet.
    pub(crate) fn of(&mut self, members: Vec<AgentId>) -> (CrowdId, bool) {
        let members: Arc<[AgentId]> = members.into();
        if let Some(&id) = self.by_members.get(&members) {
            return (id, false);
        }
        let id = self.vacant.pop().unwrap_or_else(|| {
            self.entries.push(Crowd::default());
            CrowdId(u32::try_from(self.entries.len() - 1).unwrap_or(u32::MAX))
        });
        self.entries[id.0 as usize].members = Arc::clone(&members);
        self.by_members.insert(members, id);
        (id, true)
    }

    pub(crate) fn members(&self, id: CrowdId) -> &[AgentId] {
        &self.entries[id.0 as usize].members
    }

    /// One node more is this crowd's.
    pub(crate) fn enter(&mut self, id: CrowdId) {
        self.entries[id.0 as usize].n_nodes += 1;
    }

    /// `n` nodes less are this crowd's. When those were the last, it is gone: those who were in it.
    pub(crate) fn leave(&mut self, id: CrowdId, n: usize) -> Option<Arc<[AgentId]>> {
        let crowd = &mut self.entries[id.0 as usize];
        crowd.n_nodes -= n;
        if crowd.n_nodes > 0 {
            return None;
        }
        let members = std::mem::take(&mut crowd.members);
        self.unname(id, &members);
        self.vacant.push(id);
        Some(members)
    }

    /// An agent is in this crowd no more: nothing is known of it any longer.
    pub(crate) fn forget(&mut self, id: CrowdId, agent: AgentId) {
        let members = Arc::clone(&self.entries[id.0 as usize].members);
        self.unname(id, &members);
        let rest: Arc<[AgentId]> =
            members.iter().copied().filter(|&other| other != agent).collect();
        self.entries[id.0 as usize].members = Arc::clone(&rest);
        // There may be one of the same agents already: then this one is found by its nodes alone.
        self.by_members.entry(rest).or_insert(id);
    }

    fn unname(&mut self, id: CrowdId, members: &Arc<[AgentId]>) {
        if self.by_members.get(members) == Some(&id) {
            self.by_members.remove(members);
        }
    }

    /// How many nodes are this crowd's.
    pub(crate) fn n_nodes(&self, id: CrowdId) -> usize {
        self.entries[id.0 as usize].n_nodes
    }

    /// How many crowds there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.vacant.len()
    }
}

impl Index {
    /// An agent uses the nodes of a path: they are its own, unless others have used them too.
    pub(super) fn own(&mut self, path: &[NodeId], agent: AgentId) {
        // Neighbours mostly have the same owner, and the same one afterwards.
        let mut last = None;
        for &id in path {
            let before = self.nodes[id].owner();
            let owner = match last {
                Some((seen, owner)) if seen == before => owner,
                _ => self.joined(before, agent),
            };
            last = Some((before, owner));
            if owner != before {
                self.hand_over(id, owner);
            }
        }
    }

    /// Whose a node is once this agent uses it.
    fn joined(&mut self, owner: Owner, agent: AgentId) -> Owner {
        let mut members = match owner {
            Owner::Nobody => return Owner::One(agent),
            Owner::One(other) => vec![other],
            Owner::Many(crowd) => self.crowds.members(crowd).to_vec(),
        };
        let Err(at) = members.binary_search(&agent) else { return owner };
        members.insert(at, agent);
        if members.len() > CROWD_MAX {
            let matters = |id: &AgentId| {
                let agent = self.agents.get(*id);
                agent.map(|agent| (agent.is_expected(), agent.priority))
            };
            let least = members.iter().filter(|&&id| id != agent).min_by_key(|&id| matters(id));
            match least.copied() {
                Some(least) if matters(&least) < matters(&agent) => {
                    members.retain(|&id| id != least);
                }
                _ => return owner,
            }
        }
        let (crowd, is_new) = self.crowds.of(members);
        if is_new {
            for member in self.crowds.members(crowd).to_vec() {
                if let Some(agent) = self.agents.get_mut(member) {
                    agent.crowds.push(crowd);
                }
            }
            self.restand_crowd(crowd);
        }
        Owner::Many(crowd)
    }

    /// Another owner of a node, and the lane of what ends in it.
    fn hand_over(&mut self, id: NodeId, owner: Owner) {
        match owner {
            Owner::Nobody => {}
            Owner::One(agent) => {
                if let Some(agent) = self.agents.get_mut(agent) {
                    agent.n_nodes += 1;
                }
            }
            Owner::Many(crowd) => self.crowds.enter(crowd),
        }
        let before = self.nodes[id].owner();
        self.nodes[id].lane = owner.lane();
        if !self.goes_by_leaves() {
            let (lane, Self { nodes, order, .. }) = (owner.lane(), &mut *self);
            for end in nodes.ends(id) {
                if order.lane_of(end.0).is_some_and(|lane| lane != SUPERSEDED) {
                    order.move_to(end.0, lane);
                }
            }
        }
        self.give_up(before, 1);
    }

    /// Whoever had `n` nodes has them no more.
    pub(super) fn give_up(&mut self, owner: Owner, n: usize) {
        match owner {
            Owner::Nobody => {}
            Owner::One(id) => {
                let Some(agent) = self.agents.get_mut(id) else { return };
                agent.n_nodes -= n;
                if agent.n_nodes == 0 {
                    self.leave_if_idle(id);
                }
            }
            Owner::Many(crowd) => {
                let members = self.crowds.leave(crowd, n);
                for &member in members.iter().flat_map(|members| members.iter()) {
                    if let Some(agent) = self.agents.get_mut(member) {
                        agent.crowds.retain(|other| *other != crowd);
                    }
                }
            }
        }
    }

    /// A crowd stands as its members do now.
    pub(super) fn restand_crowd(&mut self, crowd: CrowdId) {
        let members = self.crowds.members(crowd).iter();
        let agents = members.filter_map(|&id| self.agents.get(id));
        let standing = self.policy.shared_standing(agents);
        self.order.set_standing(Owner::Many(crowd).lane(), standing);
    }
}
