//! What agents want kept: when they were here, claims on ends, hints, priorities and pins.

use crate::books::Books;
use crate::id::SlotIndex;
use crate::prefix::agents::{Agent, AgentId, Hint, Priority};
use crate::prefix::end::EndId;
use crate::prefix::node::{NodeId, Owner};
use crate::prefix::order::{Lane, Standing};
use crate::prefix::policy::{GONE, Policy};
use crate::prefix::{EndHandle, Index, Root};

/// Older ends of conversations that went on: they go before everything else.
const SUPERSEDED: Lane = Lane(0);
/// What more than one agent has used.
const SHARED: Lane = Lane(1);

fn lane_of(agent: AgentId) -> Lane {
    Lane(agent.number() + 2)
}

impl Index {
    // Lanes -------------------------------------------------------------------------------------

    fn lane(&self, id: NodeId) -> Lane {
        match self.nodes[id].owner {
            Owner::One(agent) => lane_of(agent),
            Owner::Nobody | Owner::Many => SHARED,
        }
    }

    /// An agent uses a node: it is its own, unless others have used it too.
    pub(super) fn own(&mut self, id: NodeId, agent: AgentId) {
        let node = &mut self.nodes[id];
        node.owner = node.owner.with(agent);
    }

    /// A node was used: of its lane it goes last.
    pub(super) fn touch_node(&mut self, id: NodeId) {
        let lane = self.lane(id);
        self.order.touch(id.place(), lane, self.now);
    }

    /// An end was used: of its lane it goes last.
    pub(super) fn touch_end(&mut self, id: EndId) {
        self.uses += 1;
        let uses = self.uses;
        let Some(end) = self.ends.get_mut(id) else { return };
        end.last_use = uses;
        let node = end.node;
        let lane = self.lane(node);
        if !self.goes_by_leaves() {
            self.order.touch(id.0, lane, self.now);
        }
    }

    /// An end whose conversation has gone on goes before others.
    pub(super) fn supersede(&mut self, id: EndId) {
        if let Some(end) = self.ends.get_mut(id) {
            end.last_use = 0;
        }
        if !self.goes_by_leaves() {
            self.order.set_standing(SUPERSEDED, Standing { class: GONE, ..Standing::default() });
            self.order.touch(id.0, SUPERSEDED, self.now);
        }
    }

    fn restand(&mut self, id: AgentId) {
        if let Some(agent) = self.agents.get(id) {
            let standing = self.policy.standing(agent);
            self.order.set_standing(lane_of(id), standing);
        }
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
                self.leave_if_idle(id);
            }
        }
        let id = self.agents.enter(root, agent);
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
        if let Some(agent) = self.agents.get_mut(id) {
            change(agent);
            self.restand(id);
        }
    }

    /// Forget an agent that has nothing here any more.
    pub(super) fn leave_if_idle(&mut self, id: AgentId) {
        if self.order.is_empty(lane_of(id)) {
            self.agents.leave_if_idle(id);
        }
    }

    /// The namespace of these agents is about to close: nobody can say anything of them any more.
    pub(super) fn dismiss(&mut self, books: &mut Books<'_>, root: Root) {
        let here = self.agents.iter().filter(|(_, agent)| agent.root == root);
        for id in here.map(|(id, _)| id).collect::<Vec<_>>() {
            let Some(agent) = self.agents.get_mut(id) else { continue };
            (agent.hint, agent.priority) = (Hint::Ended, Priority::default());
            let held = agent.pinned.take().unwrap_or_default();
            self.release(books, &held);
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
        let id = self.agents.enter(root, agent);
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
        if let Some(agent) = self.agents.get_mut(agent) {
            agent.ends.retain(|other| *other != id);
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

    // Pins --------------------------------------------------------------------------------------

    /// Keep what an agent has published, now and later, until it is unpinned.
    pub(crate) fn pin(&mut self, books: &mut Books<'_>, root: Root, agent: &str) {
        let id = self.agents.enter(root, agent);
        if let Some(agent) = self.agents.get_mut(id) {
            agent.pinned.get_or_insert_with(Vec::new);
        }
        self.renew_pin(books, id);
    }

    /// Let what a pin kept go its usual way.
    pub(crate) fn unpin(&mut self, books: &mut Books<'_>, root: Root, agent: &str) {
        let Some(id) = self.agents.find(root, agent) else { return };
        let held = self.agents.get_mut(id).and_then(|agent| agent.pinned.take());
        self.release(books, &held.unwrap_or_default());
        self.leave_if_idle(id);
    }

    /// After something changed under them: pins hold what their agents' ends need now.
    pub(super) fn renew_pins(&mut self, books: &mut Books<'_>) {
        let pinned = self.agents.iter().filter(|(_, agent)| agent.pinned.is_some());
        for id in pinned.map(|(id, _)| id).collect::<Vec<_>>() {
            self.renew_pin(books, id);
        }
    }

    fn renew_pin(&mut self, books: &mut Books<'_>, id: AgentId) {
        let Some(agent) = self.agents.get(id) else { return };
        let mut slots: Vec<SlotIndex> = Vec::new();
        for &end in &agent.ends {
            let Some(end) = self.ends.get(end) else { continue };
            let path = self.nodes.ancestry(end.node);
            slots.extend(path.flat_map(|id| self.nodes[id].whole.iter().map(|whole| whole.slot)));
            slots.extend(&end.reads);
        }
        slots.sort_unstable_by_key(|slot| slot.0);
        slots.dedup();
        books.lease(&slots);
        let agent = self.agents.get_mut(id);
        let before = agent.and_then(|agent| agent.pinned.replace(slots)).unwrap_or_default();
        self.release(books, &before);
    }
}
