//! Whose sequences are cached, and how much each agent still wants them.
//!
//! An agent is here while it has published something, or while something was said about it.

use std::collections::HashMap;
use std::sync::Arc;

use crate::id::SlotIndex;
use crate::prefix::Root;
use crate::prefix::crowds::CrowdId;
use crate::prefix::end::EndId;

/// The place of an agent among those that publish.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct AgentId(u32);

impl AgentId {
    pub(crate) fn numbered(number: u32) -> Self {
        Self(number)
    }

    pub(crate) fn number(self) -> u32 {
        self.0
    }
}

/// What is known of an agent's next request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Hint {
    /// It will be back soon: a tool runs, or nothing was said.
    #[default]
    Active,
    /// It waits for a human.
    Waiting,
    /// Its session is over.
    Ended,
}

/// How much an agent matters to whoever runs the server.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Priority {
    /// Goes before all others.
    Low,
    /// What everybody has.
    #[default]
    Normal,
    /// Goes after all others.
    High,
}

#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) root: Root,
    pub(crate) name: Arc<str>,
    pub(crate) hint: Hint,
    pub(crate) priority: Priority,
    /// The blocks that a pin holds; None when the agent is not pinned.
    pub(crate) pinned: Option<Vec<SlotIndex>>,
    /// What it has published and still wants.
    pub(crate) ends: Vec<EndId>,
    /// How many nodes are its own.
    pub(crate) n_nodes: usize,
    /// The crowds that it is in.
    pub(crate) crowds: Vec<CrowdId>,
    /// How often it has asked.
    pub(crate) requests: u32,
    /// How long it usually stays away between two requests.
    pub(crate) gap_ms: u64,
    /// Since when it has been away.
    pub(crate) left_at: Option<u64>,
}

impl Default for Agent {
    fn default() -> Self {
        Self {
            root: Root::default(),
            name: Arc::default(),
            hint: Hint::default(),
            priority: Priority::default(),
            pinned: None,
            ends: Vec::new(),
            n_nodes: 0,
            crowds: Vec::new(),
            requests: 0,
            gap_ms: FIRST_GAP_MS,
            left_at: None,
        }
    }
}

/// The gap that an agent is expected to leave before anything is known of it.
const FIRST_GAP_MS: u64 = 20_000;
/// A gap beyond this says that somebody went for lunch, not how long a tool takes.
const LONGEST_GAP_MS: u64 = 30_000;

/// Arrivals between two looks at who is lost.
const SWEEP_EVERY: u32 = 1024;
const LOST_AFTER_MS: u64 = 3_600_000;

impl Agent {
    /// It asks: its usual gap moves three tenths of the way towards the one that is just over.
    pub(crate) fn arrive(&mut self, now: u64) {
        if let Some(left_at) = self.left_at.take() {
            let gap_ms = now.saturating_sub(left_at).min(LONGEST_GAP_MS);
            self.gap_ms = (7 * self.gap_ms + 3 * gap_ms) / 10;
        }
        self.requests = self.requests.saturating_add(1);
        self.hint = Hint::Active;
    }

    /// Whether it may still come back, as far as was said.
    pub(crate) fn is_expected(&self) -> bool {
        self.hint != Hint::Ended
    }

    /// Whether there is nothing to remember: habits are remembered until the session ends, and
    /// what is said during a turn holds for what the turn publishes.
    fn is_idle(&self) -> bool {
        let is_silent = self.priority == Priority::default() && self.pinned.is_none();
        let has_ended = self.hint == Hint::Ended && self.left_at.is_some();
        let has_nothing = self.ends.is_empty() && self.n_nodes == 0;
        has_nothing && is_silent && (self.requests == 0 || has_ended)
    }
}

/// All agents that have published something, or that something was said about.
#[derive(Debug, Default)]
pub(crate) struct Agents {
    /// By namespace: the same name in two of them is two agents.
    by_name: HashMap<Root, HashMap<Arc<str>, AgentId>>,
    entries: Vec<Option<Agent>>,
    vacant: Vec<AgentId>,
    arrivals: u32,
}

impl Agents {
    pub(crate) fn find(&self, root: Root, name: &str) -> Option<AgentId> {
        self.by_name.get(&root)?.get(name).copied()
    }

    pub(crate) fn get(&self, id: AgentId) -> Option<&Agent> {
        self.entries.get(id.0 as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, id: AgentId) -> Option<&mut Agent> {
        self.entries.get_mut(id.0 as usize)?.as_mut()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (AgentId, &Agent)> {
        let entries = (0..).map(AgentId).zip(&self.entries);
        entries.filter_map(|(id, entry)| Some((id, entry.as_ref()?)))
    }

    /// The agent of that name, who is about to be needed.
    pub(crate) fn enter(&mut self, root: Root, name: &str) -> AgentId {
        if let Some(id) = self.find(root, name) {
            return id;
        }
        let name: Arc<str> = name.into();
        let agent = Agent { root, name: Arc::clone(&name), ..Agent::default() };
        let id = self.vacant.pop().unwrap_or_else(|| {
            self.entries.push(None);
            AgentId(u32::try_from(self.entries.len() - 1).unwrap_or(u32::MAX))
        });
        self.entries[id.0 as usize] = Some(agent);
        self.by_name.entry(root).or_default().insert(name, id);
        id
    }

    /// Now and then, those that have not been here for an hour.
    pub(crate) fn lost(&mut self, now: u64) -> Option<Vec<AgentId>> {
        self.arrivals = self.arrivals.wrapping_add(1);
        if !self.arrivals.is_multiple_of(SWEEP_EVERY) {
            return None;
        }
        let since = now.saturating_sub(LOST_AFTER_MS);
        let is_lost = |(_, agent): &(AgentId, &Agent)| agent.left_at.is_some_and(|at| at < since);
        Some(self.iter().filter(is_lost).map(|(id, _)| id).collect())
    }

    /// Forget an agent of whom there is nothing to remember.
    pub(crate) fn leave_if_idle(&mut self, id: AgentId) -> Option<Agent> {
        if !self.get(id).is_some_and(Agent::is_idle) {
            return None;
        }
        let agent = self.entries[id.0 as usize].take()?;
        if let Some(names) = self.by_name.get_mut(&agent.root) {
            names.remove(&agent.name);
        }
        self.vacant.push(id);
        Some(agent)
    }
}
