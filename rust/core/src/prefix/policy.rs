//! Policies: which agent's blocks are worth least, when memory is short.
//!
//! Every policy lets go of one agent's blocks in the order in which they were last used, tails before
//! heads. What a policy says is how agents compare: the longer until the agent is expected back, the
//! less its blocks are worth, since a block saves the same work for anybody, but sooner for some.

use crate::prefix::agents::{Agent, Hint, Priority};
use crate::prefix::order::Standing;

/// What goes before everything else: nobody is expected back.
pub(crate) const GONE: u8 = 3;

const SECOND_MS: u64 = 1000;

/// The eviction policy of a pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Policy {
    /// Tail-first least recently used. An agent that waits for its human counts as used 100 seconds
    /// earlier than it was.
    #[default]
    Lru,
    /// Keeps some agents whole when not all fit: an agent is expected back after its usual gap, or
    /// after as long as it has been away already, if that is longer. A sequence whose agent is
    /// expected later than all others is not kept at their expense.
    Resident,
    /// As resident, and what was asked for only once goes first: for chat loads.
    ScanResistant,
}

fn class_of(priority: Priority) -> u8 {
    match priority {
        Priority::Low => 2,
        Priority::Normal => 1,
        Priority::High => 0,
    }
}

/// How a policy compares agents.
trait Expectation {
    /// How an agent stands whose hint is not `Ended`.
    fn of(&self, agent: &Agent) -> Standing;
}

struct LeastRecent;

impl Expectation for LeastRecent {
    fn of(&self, agent: &Agent) -> Standing {
        let is_waiting = agent.hint == Hint::Waiting;
        Standing { bonus_ms: if is_waiting { 100 * SECOND_MS } else { 0 }, ..Standing::default() }
    }
}

struct UsualGap {
    /// After how long an agent is expected that was here only once; None: never.
    newcomer_ms: Option<u64>,
}

impl Expectation for UsualGap {
    fn of(&self, agent: &Agent) -> Standing {
        let floor_ms = match (agent.requests, self.newcomer_ms) {
            (0 | 1, None) => return Standing { class: GONE, ..Standing::default() },
            (0 | 1, Some(newcomer_ms)) => newcomer_ms,
            // What one waits for takes about ten times as long as a usual tool.
            _ if agent.hint == Hint::Waiting => 10 * agent.gap_ms,
            _ => agent.gap_ms,
        };
        Standing { floor_ms, ..Standing::default() }
    }
}

impl Policy {
    /// How an agent's blocks stand.
    pub(crate) fn standing(self, agent: &Agent) -> Standing {
        let expectation: &dyn Expectation = match self {
            Self::Lru => &LeastRecent,
            Self::Resident => &UsualGap { newcomer_ms: Some(120 * SECOND_MS) },
            Self::ScanResistant => &UsualGap { newcomer_ms: None },
        };
        let standing = expectation.of(agent);
        if !agent.is_expected() || standing.class == GONE {
            return Standing { class: GONE, ..standing };
        }
        Standing { class: class_of(agent.priority), ..standing }
    }

    /// How blocks stand that several agents have used: as with the one to whom they matter most.
    /// While more than one of them may come back, any of them may do so at any time.
    pub(crate) fn shared_standing<'a>(self, users: impl Iterator<Item = &'a Agent>) -> Standing {
        let mut expected = users.filter(|agent| agent.is_expected());
        let Some(first) = expected.next() else {
            return Standing { class: GONE, ..Standing::default() };
        };
        let class = class_of(first.priority);
        let Some(class) = expected.map(|agent| class_of(agent.priority).min(class)).min() else {
            let alone = self.standing(first);
            // That the others were here counts as having been asked for before.
            let is_new = alone.class == GONE;
            return if is_new { Standing { class, ..Standing::default() } } else { alone };
        };
        Standing { class, ..Standing::default() }
    }

    /// Whether something new may be worth less than all that is here, and is not kept then.
    pub(crate) fn declines(self) -> bool {
        self == Self::Resident
    }
}
