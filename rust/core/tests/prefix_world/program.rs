//! What a program is made of.

use semantic_core::{Hint, Policy, Priority, Tokens};

/// A sequence that counts up, and parts from the others at some positions.
#[derive(Clone, Debug)]
pub(crate) struct Prompt {
    pub(crate) len: u64,
    pub(crate) partings: Vec<(u64, u8)>,
    pub(crate) is_wide: bool,
}

impl Prompt {
    pub(crate) fn ids(&self) -> Vec<i64> {
        let id = |at: u64| {
            let parted = self.partings.iter().filter(|(place, _)| *place <= at);
            let way = parted.fold(0_i64, |way, (_, turn)| 4 * way + i64::from(*turn));
            // One way in four leads through ids that do not fit into 32 bits.
            let sign = if way % 4 == 3 { -1 } else { 1 };
            sign * (1 + i64::try_from(at).unwrap() + 10_000 * way)
        };
        (0..self.len).map(id).collect()
    }

    pub(crate) fn tokens(&self) -> Tokens {
        if self.is_wide { Tokens::Wide(self.ids()) } else { self.ids().into_iter().collect() }
    }
}

/// The rows that the live caches have.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Known {
    Whole,
    /// What a hit at the end reads, and no more.
    WhatIsRead,
    From(u64),
}

/// An agent in a namespace.
pub(crate) type Whose = (usize, u8);

#[derive(Clone, Debug)]
pub(crate) enum Op {
    Draft { whose: Whose, prompt: Prompt, known: Known },
    Publish { pick: usize, kind: u8, with_keys: bool },
    Abandon { pick: usize },
    Hold { space: usize, prompt: Prompt, limit: u64 },
    Used { pick: usize, agent: u8 },
    Release { pick: usize },
    Settle { whose: Whose, pick: usize },
    Withdraw { whose: Whose, pick: usize },
    Expire { ago: u64 },
    EvictBytes(u64),
    MakeRoom(u64),
    DropOldest { space: usize },
    Clear { space: usize },
    Reopen { space: usize },
    Allocate { n: u64, group: usize },
    Free { pick: usize },
    Hint { whose: Whose, hint: Hint },
    Prioritise { whose: Whose, priority: Priority },
    Depart { whose: Whose },
    Pin { whose: Whose },
    Unpin { whose: Whose },
    SetPolicy(Policy),
    Wait(u64),
}
