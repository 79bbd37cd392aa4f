//! Pins: what an agent has published is held as a running sequence holds it, until it is unpinned.
//!
//! A pin holds just what the ends of its agent need. Whoever changes the ends of an agent renews it.

use crate::books::Books;
use crate::id::SlotIndex;
use crate::prefix::agents::{Agent, AgentId};
use crate::prefix::end::End;
use crate::prefix::{Index, Root};

impl Index {
    /// Keep what an agent has published, now and later, until it is unpinned.
    pub(crate) fn pin(&mut self, books: &mut Books<'_>, root: Root, agent: &str) {
        let id = self.enter(root, agent);
        if let Some(agent) = self.agents.get_mut(id) {
            agent.pinned.get_or_insert_with(Vec::new);
        }
        self.renew_pin(books, id);
    }

    /// Let what a pin kept go its usual way.
    pub(crate) fn unpin(&mut self, books: &mut Books<'_>, root: Root, agent: &str) {
        let Some(id) = self.agents.find(root, agent) else { return };
        self.drop_pin(books, id);
        self.leave_if_idle(id);
    }

    pub(super) fn drop_pin(&mut self, books: &mut Books<'_>, id: AgentId) {
        let held = self.agents.get_mut(id).and_then(|agent| agent.pinned.take());
        self.release(books, &held.unwrap_or_default());
        self.restore_ends(books);
    }

    /// Whether one of those who want an end is pinned.
    pub(super) fn is_pinned(&self, end: &End) -> bool {
        let mut agents = end.agents.iter().filter_map(|&id| self.agents.get(id));
        agents.any(|agent| agent.pinned.is_some())
    }

    /// After something changed under them: pins hold what their agents' ends need now.
    pub(super) fn renew_pins(&mut self, books: &mut Books<'_>) {
        let pinned = self.agents.iter().filter(|(_, agent)| agent.pinned.is_some());
        for id in pinned.map(|(id, _)| id).collect::<Vec<_>>() {
            self.renew_pin(books, id);
        }
    }

    /// After the ends of an agent have changed: if it is pinned, its pin holds what they need now.
    pub(super) fn renew_pin(&mut self, books: &mut Books<'_>, id: AgentId) {
        let Some(agent) = self.agents.get(id).filter(|agent| agent.pinned.is_some()) else {
            return;
        };
        let slots = self.needed(agent);
        books.lease(&slots);
        let agent = self.agents.get_mut(id);
        let before = agent.and_then(|agent| agent.pinned.replace(slots)).unwrap_or_default();
        self.release(books, &before);
        self.restore_ends(books);
    }

    /// The blocks that an agent's ends need, each once.
    pub(super) fn needed(&self, agent: &Agent) -> Vec<SlotIndex> {
        let mut slots: Vec<SlotIndex> = Vec::new();
        for &end in &agent.ends {
            let Some(end) = self.ends.get(end) else { continue };
            let path = self.nodes.ancestry(end.node);
            slots.extend(path.flat_map(|id| self.nodes.whole(id).iter().map(|whole| whole.slot)));
            slots.extend(&end.reads);
        }
        slots.sort_unstable_by_key(|slot| slot.0);
        slots.dedup();
        slots
    }

    /// Bytes of the blocks that nobody holds but the pins of a namespace.
    pub(crate) fn pinned_bytes(&self, books: &Books<'_>, root: Root) -> u64 {
        let here = self.agents.iter().filter(|(_, agent)| agent.root == root);
        let mut slots: Vec<SlotIndex> =
            here.flat_map(|(_, agent)| agent.pinned.iter().flatten().copied()).collect();
        slots.sort_unstable_by_key(|slot| slot.0);
        let by_pins_alone = slots
            .chunk_by(|one, other| one == other)
            .filter(|pins| books.leases(pins[0]) as usize == pins.len());
        by_pins_alone.map(|pins| books.bytes_of(pins[0])).sum()
    }
}
