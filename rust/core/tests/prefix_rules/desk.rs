//! A pool and its index, each step followed by a full check.

use std::sync::Arc;

use semantic_core::{
    EndHandle, GroupSpec, Key, KeyWidth, Kind, Memory, PoolKey, Prefixes, Reach, Refusal, Root,
    Span, Terms, Tokens,
};

pub(crate) const BLOCK: u64 = 1000;
pub(crate) const GLOBAL: Reach = Reach::All;
pub(crate) const WINDOW: Reach = Reach::Window { size: 100, keep: 0 };
pub(crate) const SYSTEM: Kind = 0;
pub(crate) const TURN: Kind = 1;

pub(crate) struct Desk {
    pub(crate) memory: Memory,
    pub(crate) key: PoolKey,
    pub(crate) root: Root,
    pub(crate) n_groups: usize,
}

impl Desk {
    /// Room for so many blocks of each of these groups.
    pub(crate) fn new(reaches: &[Reach], blocks: u64) -> Self {
        let group = |(n, &reach): (usize, &Reach)| GroupSpec {
            name: format!("group {n}"),
            reach,
            bytes_per_block: BLOCK,
            max_blocks_per_agent: None,
            arrays_per_block: 1,
        };
        let groups: Vec<GroupSpec> = reaches.iter().enumerate().map(group).collect();
        let n_groups = groups.len();
        let mut memory = Memory::new(blocks * BLOCK).unwrap();
        let key = memory.open(Terms::default(), groups, 1_000_000).unwrap();
        let mut pool = memory.pool(&key).unwrap();
        let root = pool.prefixes().open(Key::default(), KeyWidth::default());
        Self { memory, key, root, n_groups }
    }

    pub(crate) fn with<R>(&mut self, work: impl FnOnce(&mut Prefixes<'_>, Root) -> R) -> R {
        let root = self.root;
        let done = self.memory.pool(&self.key).map(|mut pool| work(&mut pool.prefixes(), root));
        self.memory.check().unwrap();
        done.unwrap()
    }

    pub(crate) fn draft(
        &mut self,
        tokens: &Tokens,
        known: Span,
        agent: &str,
    ) -> Result<(), Refusal> {
        let known = vec![vec![known]; self.n_groups];
        let tokens = Arc::new(tokens.clone());
        self.with(|prefixes, root| {
            let drafted = prefixes.draft(root, &tokens, &known, agent).unwrap();
            drafted.map(|draft| prefixes.abandon(draft))
        })
    }

    pub(crate) fn publish(&mut self, tokens: &Tokens, agent: &str, kind: Kind) -> EndHandle {
        let known = vec![vec![(0, tokens.len() as u64)]; self.n_groups];
        let tokens = Arc::new(tokens.clone());
        self.with(|prefixes, root| {
            let draft = prefixes.draft(root, &tokens, &known, agent).unwrap().unwrap();
            prefixes.publish(draft, agent, kind).unwrap().end
        })
    }

    pub(crate) fn hit(&mut self, tokens: &Tokens) -> u64 {
        self.with(|prefixes, root| prefixes.plan(root, tokens.all(), u64::MAX).unwrap().n_tokens)
    }

    /// A hit on these tokens is held, while something else happens.
    pub(crate) fn held(&mut self, tokens: &Tokens, meanwhile: impl FnOnce(&mut Self)) {
        let hold = self.with(|prefixes, root| prefixes.hold(root, tokens.all(), u64::MAX).unwrap());
        meanwhile(self);
        self.with(|prefixes, _| prefixes.release(hold));
    }

    /// Which of these are found, so many tokens each, as they are evicted one by one.
    pub(crate) fn evicted(&mut self, ways: &[i64], len: i64) -> Vec<i64> {
        let mut left = ways.to_vec();
        let mut gone = Vec::new();
        while self.with(|prefixes, _| prefixes.evict_bytes(1)) > 0 {
            let (here, lost): (Vec<i64>, Vec<i64>) =
                left.iter().partition(|&&way| self.hit(&tokens(way, len)) == len.unsigned_abs());
            gone.extend(lost);
            left = here;
        }
        gone
    }

    pub(crate) fn evict(&mut self, blocks: u64) {
        assert_eq!(self.with(|prefixes, _| prefixes.evict_bytes(blocks * BLOCK)), blocks * BLOCK);
    }
}

/// So many tokens, in which every way is another from the first token on.
pub(crate) fn tokens(way: i64, len: i64) -> Tokens {
    (0..len).map(|n| way * 100_000 + n).collect()
}

/// As the first of these, and another from that position on.
pub(crate) fn branch(way: i64, from: i64, len: i64) -> Tokens {
    (0..len).map(|n| if n < from { n } else { way * 100_000 + n }).collect()
}
