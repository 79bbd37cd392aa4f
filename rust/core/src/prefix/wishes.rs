//! What agents want kept: when they were here, claims on ends, hints and priorities.

use crate::books::Books;
use crate::prefix::agents::{Agent, AgentId, Hint, Priority};
use crate::prefix::end::EndId;
use crate::prefix::node::Owner;
use crate::prefix::order::{Lane, Standing};
use crate::prefix::policy::{GONE, Policy};
use crate::prefix::{EndHandle, Index, Root};

/// Older ends of conversations that went on: they go before everything else. No node that is
/// anybody's is here.
pub(super) const SUPERSEDED: Lane = Lane(0);

impl Index {
    // Lanes -------------------------------------------------------------------------------------

    /// An end was used: of its lane it goes last.
    pub(super) fn touch_end(&mut self, id: EndId) {
        self.uses += 1;
        let uses = self.uses;
        let Some(end) = self.ends.get_mut(id) else { return };
        end.last_use = uses;
        let node = end.node;
        if !self.goes_by_leaves() {
            let last_use = self.order.next_use(self.now);
            self.order.enter(id.0, self.nodes[node].lane, last_use);
        }
    }

    /// An end whose conversation has gone on goes before others.
    pub(super) fn supersede(&mut self, id: EndId) {
        if let Some(end) = self.ends.get_mut(id) {
            end.last_use = 0;
        }
        if !self.goes_by_leaves() {
            self.order.set_standing(SUPERSEDED, Standing { class: GONE, ..Standing::default() });
            let last_use = self.order.next_use(self.now);
            self.order.enter(id.0, SUPERSEDED, last_use);
        }
    }

    fn restand(&mut self, id: AgentId) {
        let Some(agent) = self.agents.get(id) else { return };
        let (standing, crowds) = (self.policy.standing(agent), agent.crowds.clone());
        self.order.set_standing(Owner::One(id).lane(), standing);
        for crowd in crowds {
            self.restand_crowd(crowd);
        }
    }

    /// The agent of that name, who is about to be needed.
    pub(super) fn enter(&mut self, root: Root, agent: &str) -> AgentId {
        let id = self.agents.enter(root, agent);
        if self.agents.get(id).is_some_and(|agent| agent.n_nodes == 0) {
            // Its place may have been another's before.
            self.restand(id);
        }
        id
    }

    /// How an agent's blocks stand.
    pub(super) fn standing(&self, root: Root, agent: &str) -> Standing {
        let newcomer = Agent::default();
        let agent = self.agents.find(root, agent).and_then(|id| self.agents.get(id));
        self.policy.standing(agent.unwrap_or(&newcomer))
    }

    /// In which order things go from now on.
    pub(crate) fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
        for id in self.agents.iter().map(|(id, _)| id).collect::<Vec<_>>() {
            self.restand(id);
        }
    }

    // Coming and going --------------------------------------------------------------------------

    /// An agent asks: what was said about its absence is over.
    pub(crate) fn arrive(&mut self, root: Root, agent: &str) -> AgentId {
        let now = self.now;
        if let Some(lost) = self.agents.lost(now) {
            for id in lost {
                self.let_go(id);
            }
        }
        let id = self.enter(root, agent);
        self.change(id, |agent| agent.arrive(now));
        id
    }

    /// An agent's turn is over.
    pub(crate) fn depart(&mut self, root: Root, agent: &str) {
        let now = self.now;
        if let Some(id) = self.agents.find(root, agent) {
            self.change(id, |agent| agent.left_at = Some(now));
            self.leave_if_idle(id);
        }
    }

    /// Something is said about an agent, or becomes known.
    fn change(&mut self, id: AgentId, change: impl FnOnce(&mut Agent)) {
        let policy = self.policy;
        let stands = |agent: &Agent| (policy.standing(agent), agent.is_expected(), agent.priority);
        let Some(agent) = self.agents.get_mut(id) else { return };
        let before = stands(agent);
        change(agent);
        if before != stands(agent) {
            self.restand(id);
        }
    }

    /// Forget an agent that has nothing here any more.
    pub(super) fn leave_if_idle(&mut self, id: AgentId) {
        for crowd in self.agents.leave_if_idle(id).map(|agent| agent.crowds).unwrap_or_default() {
            self.crowds.forget(crowd, id);
            self.restand_crowd(crowd);
        }
    }

    /// An agent is lost. It wants no more what others want, too: what many share mostly stays, and
    /// nobody who was once here would ever be forgotten. One that wants nothing counts as ended.
    fn let_go(&mut self, id: AgentId) {
        let Some(agent) = self.agents.get(id).filter(|agent| agent.pinned.is_none()) else {
            return;
        };
        let is_shared = |end: &EndId| self.ends.get(*end).is_some_and(|end| end.agents.len() > 1);
        for end in agent.ends.iter().copied().filter(is_shared).collect::<Vec<_>>() {
            self.unclaim(end, id);
        }
        if self.agents.get(id).is_some_and(|agent| agent.ends.is_empty()) {
            self.change(id, |agent| agent.hint = Hint::Ended);
        }
        self.leave_if_idle(id);
    }

    /// The namespace of these agents is about to close: nobody can say anything of them any more.
    pub(super) fn dismiss(&mut self, books: &mut Books<'_>, root: Root) {
        let here = self.agents.iter().filter(|(_, agent)| agent.root == root);
        for id in here.map(|(id, _)| id).collect::<Vec<_>>() {
            self.change(id, |agent| {
                (agent.hint, agent.priority) = (Hint::Ended, Priority::default());
            });
            self.drop_pin(books, id);
            self.leave_if_idle(id);
        }
    }

    /// What is known of the agent's next request. Of one that was never here nothing is remembered.
    pub(crate) fn hint(&mut self, root: Root, agent: &str, hint: Hint) {
        if let Some(id) = self.agents.find(root, agent) {
            self.change(id, |agent| agent.hint = hint);
            self.leave_if_idle(id);
        }
    }

    /// How much the agent matters.
    pub(crate) fn prioritise(&mut self, root: Root, agent: &str, priority: Priority) {
        let id = self.enter(root, agent);
        self.change(id, |agent| agent.priority = priority);
        self.leave_if_idle(id);
    }

    // Claims ------------------------------------------------------------------------------------

    /// An agent wants an end; False when it did already.
    pub(super) fn claim(&mut self, id: EndId, agent: AgentId) -> bool {
        let Some(end) = self.ends.get_mut(id).filter(|end| !end.agents.contains(&agent)) else {
            return false;
        };
        end.agents.push(agent);
        if let Some(agent) = self.agents.get_mut(agent) {
            agent.ends.push(id);
        }
        true
    }

    /// An agent wants an end no more; whether nobody does.
    pub(super) fn unclaim(&mut self, id: EndId, agent: AgentId) -> bool {
        let Some(end) = self.ends.get_mut(id) else { return false };
        end.agents.retain(|other| *other != agent);
        let is_unwanted = end.agents.is_empty();
        // The oldest mostly goes first, and is found at once; each is there once.
        if let Some(agent) = self.agents.get_mut(agent)
            && let Some(at) = agent.ends.iter().position(|&other| other == id)
        {
            agent.ends.remove(at);
        }
        self.leave_if_idle(agent);
        is_unwanted
    }

    /// The ends that an agent has published and still wants.
    pub(crate) fn ends_of(&self, root: Root, agent: &str) -> Vec<EndHandle> {
        let agent = self.agents.find(root, agent).and_then(|id| self.agents.get(id));
        let ends = agent.into_iter().flat_map(|agent| &agent.ends);
        ends.map(|&id| self.ends.handle(id)).collect()
    }
}
