//! An index with two namespaces and three agents, run step by step beside its naive twin.

mod program;
mod regressions;
mod turn;

use std::collections::HashSet;
use std::sync::Arc;

use semantic_core::{
    BlockId, Charge, Draft, EndHandle, EndReading, GroupSpec, Hold, Key, KeyWidth, Memory, Policy,
    Pool, PoolKey, Prefixes, Root, Span, Terms, TokenSlice, Tokens, Usage,
};

pub(crate) use program::{Known, Op, Prompt, Whose};

use crate::naive_index::{NaiveIndex, rows_read};

/// What an operation led to, as far as it does not depend on the order of the groups.
pub(crate) type Outcome = Vec<u64>;

struct Drafted {
    draft: Draft,
    space: usize,
    root: Root,
    agent: u8,
    ids: Vec<i64>,
}

struct Held {
    hold: Hold,
    space: usize,
    root: Root,
}

pub(crate) struct World {
    memory: Memory,
    key: PoolKey,
    groups: Vec<GroupSpec>,
    key_width: KeyWidth,
    roots: [Root; 2],
    /// The names of the namespaces in the twin.
    spaces: [usize; 2],
    twin: NaiveIndex,
    drafts: Vec<Drafted>,
    holds: Vec<Held>,
    allocated: Vec<Vec<BlockId>>,
    ends: Vec<EndHandle>,
    pinned: HashSet<Whose>,
    policy: Policy,
    now: u64,
}

fn name(agent: u8) -> String {
    format!("a{agent}")
}

impl World {
    pub(crate) fn new(groups: Vec<GroupSpec>, n_bytes: u64, key_width: KeyWidth) -> Self {
        let mut memory = Memory::new(n_bytes).unwrap();
        let key = memory.open(Terms::default(), groups.clone(), 100_000).unwrap();
        let mut pool = memory.pool(&key).unwrap();
        let mut prefixes = pool.prefixes();
        // Two namespaces of one key: even then nothing is shared.
        let roots = [(); 2].map(|()| prefixes.open(Key::default(), key_width));
        for root in roots {
            prefixes.subscribe(root);
        }
        Self {
            memory,
            key,
            groups,
            key_width,
            roots,
            spaces: [0, 1],
            twin: NaiveIndex::default(),
            drafts: Vec::new(),
            holds: Vec::new(),
            allocated: Vec::new(),
            ends: Vec::new(),
            pinned: HashSet::new(),
            policy: Policy::default(),
            now: 0,
        }
    }

    fn pool(&mut self) -> Pool<'_> {
        self.memory.pool(&self.key).unwrap()
    }

    fn with<R>(&mut self, work: impl FnOnce(&mut Prefixes<'_>) -> R) -> R {
        work(&mut self.pool().prefixes())
    }

    fn plan(&mut self, root: Root, tokens: TokenSlice<'_>) -> u64 {
        self.with(|prefixes| prefixes.plan(root, tokens, u64::MAX).unwrap().n_tokens)
    }

    /// Everything that can be read of the index and the pool.
    fn readings(&mut self) -> (Vec<Vec<EndReading>>, Vec<u64>, Usage) {
        let roots = self.roots;
        let read = |prefixes: &mut Prefixes<'_>| {
            let ends = roots.iter().map(|&root| prefixes.ends(root)).collect();
            (ends, roots.iter().map(|&root| prefixes.evicted_blocks(root)).collect())
        };
        let (ends, evicted) = self.with(read);
        let mut usage = self.pool().usage();
        // Slots may have been added and given back.
        usage.groups.iter_mut().for_each(|group| group.free_slots = 0);
        (ends, evicted, usage)
    }

    fn known(&self, known: Known, end: u64) -> Vec<Vec<Span>> {
        let spans = |group: &GroupSpec| match known {
            Known::Whole => vec![(0, end)],
            Known::From(lo) => vec![(lo.min(end), end)],
            Known::WhatIsRead => {
                let mut spans: Vec<Span> = Vec::new();
                for row in rows_read(group, end) {
                    match spans.last_mut() {
                        Some((_, hi)) if *hi == row => *hi += 1,
                        _ => spans.push((row, row + 1)),
                    }
                }
                spans
            }
        };
        self.groups.iter().map(spans).collect()
    }

    pub(crate) fn run(&mut self, op: &Op) -> Outcome {
        let is_said = matches!(
            op,
            Op::Settle { .. }
                | Op::Withdraw { .. }
                | Op::Clear { .. }
                | Op::Reopen { .. }
                | Op::Unpin { .. }
        );
        let pinned = if is_said { Vec::new() } else { self.pinned_ends() };
        let outcome = self.step(op);
        self.keep_up();
        self.check_pins(op);
        for (root, end, ids) in pinned {
            let tokens: Tokens = ids.iter().copied().collect();
            assert!(self.with(|prefixes| prefixes.tokens_of(end).is_some()), "a pinned end went");
            assert_eq!(self.plan(root, tokens.all()), ids.len() as u64, "what is pinned went");
        }
        outcome
    }

    /// Pins hold what the ends of their agents need, and nobody else holds anything when nothing runs.
    fn check_pins(&mut self, op: &Op) {
        let pinned = self.pinned_ends();
        let needs: Vec<usize> = pinned
            .iter()
            .map(|(root, _, ids)| {
                let tokens: Tokens = ids.iter().copied().collect();
                let n = ids.len() as u64;
                let plan = self.with(|prefixes| prefixes.plan(*root, tokens.all(), n).unwrap());
                plan.blocks().len()
            })
            .collect();
        let usage = self.pool().usage();
        let leased: u64 = usage.groups.iter().map(|group| group.leased_blocks).sum();
        assert!(
            leased >= needs.iter().max().copied().unwrap_or(0) as u64,
            "what is pinned is held"
        );
        if !self.holds.is_empty() || !self.drafts.is_empty() {
            return;
        }
        assert!(leased <= needs.iter().sum::<usize>() as u64, "held for nobody after {op:?}");
        let roots = self.roots;
        let by_pins: u64 = roots.map(|root| self.with(|p| p.pinned_bytes(root))).iter().sum();
        let bytes = usage.groups.iter().zip(&self.groups);
        let bytes: u64 =
            bytes.map(|(group, spec)| group.leased_blocks * spec.bytes_per_block).sum();
        assert_eq!(by_pins, bytes);
        if let Op::Clear { space } = op {
            let left = self.with(|prefixes| prefixes.blocks(roots[*space]));
            assert!(left.is_empty(), "cleared, and still found: {left:?}");
        }
    }

    fn pinned_ends(&mut self) -> Vec<(Root, EndHandle, Vec<i64>)> {
        let mut pinned = Vec::new();
        for (space, agent) in self.pinned.clone() {
            let root = self.roots[space];
            for end in self.with(|prefixes| prefixes.ends_of(root, &name(agent))) {
                let tokens = self.with(|prefixes| prefixes.tokens_of(end)).expect("an end");
                pinned.push((root, end, tokens));
            }
        }
        pinned
    }

    fn step(&mut self, op: &Op) -> Outcome {
        match op {
            Op::Draft { whose, prompt, known } => self.draft(*whose, prompt, *known),
            Op::Publish { pick, kind, with_keys } => self.publish(*pick, *kind, *with_keys),
            Op::Hold { space, prompt, limit } => self.hold(*space, prompt, *limit),
            Op::Abandon { pick } => {
                if let Some(drafted) = taken(&mut self.drafts, *pick) {
                    self.with(|prefixes| prefixes.abandon(drafted.draft));
                }
                vec![]
            }
            Op::Used { pick, agent } => {
                let Some(at) = pick.checked_rem(self.holds.len()) else { return vec![] };
                let (plan, root) = (Arc::clone(&self.holds[at].hold.plan), self.holds[at].root);
                self.with(|prefixes| prefixes.used(root, &plan, &name(*agent)));
                vec![]
            }
            Op::Release { pick } => {
                if let Some(held) = taken(&mut self.holds, *pick) {
                    self.with(|prefixes| prefixes.release(held.hold));
                }
                vec![]
            }
            Op::Settle { whose: (space, agent), pick } => {
                self.on_end(*pick, |prefixes, root, end| {
                    prefixes.settle(root[*space], end, &name(*agent));
                })
            }
            Op::Withdraw { whose: (space, agent), pick } => {
                self.on_end(*pick, |prefixes, root, end| {
                    prefixes.withdraw(root[*space], end, &name(*agent));
                })
            }
            Op::Expire { ago } => {
                let before = self.now.saturating_sub(*ago);
                self.with(|prefixes| prefixes.expire(before));
                vec![]
            }
            Op::EvictBytes(n_bytes) => vec![self.with(|prefixes| prefixes.evict_bytes(*n_bytes))],
            Op::MakeRoom(n_bytes) => {
                let mut pool = self.pool();
                let available = pool.available();
                let made = pool.charge(Charge::Live, *n_bytes, 0);
                assert_eq!(made.is_ok(), *n_bytes <= available);
                if made.is_ok() {
                    pool.discharge(Charge::Live, *n_bytes, 0).unwrap();
                }
                vec![u64::from(made.is_ok())]
            }
            Op::DropOldest { space } => {
                let root = self.roots[*space];
                vec![u64::from(self.with(|prefixes| prefixes.drop_oldest(root)))]
            }
            Op::Clear { space } => {
                let root = self.roots[*space];
                self.with(|prefixes| prefixes.clear(root));
                vec![]
            }
            Op::Reopen { space } => self.reopen(*space),
            Op::Allocate { n, group } => self.allocate(*n, *group),
            Op::Free { pick } => {
                let ids = taken(&mut self.allocated, *pick).unwrap_or_default();
                self.pool().free(&ids).unwrap();
                vec![]
            }
            word => self.say(word),
        }
    }

    fn say(&mut self, word: &Op) -> Outcome {
        let roots = self.roots;
        match word {
            Op::Pin { whose } => self.pinned.insert(*whose),
            Op::Unpin { whose } => self.pinned.remove(whose),
            Op::SetPolicy(policy) => {
                self.policy = *policy;
                true
            }
            Op::Wait(milliseconds) => {
                self.now += milliseconds;
                true
            }
            _ => true,
        };
        let now = self.now;
        self.with(|prefixes| match word {
            Op::Hint { whose: (space, agent), hint } => {
                prefixes.hint(roots[*space], &name(*agent), *hint);
            }
            Op::Prioritise { whose: (space, agent), priority } => {
                prefixes.prioritise(roots[*space], &name(*agent), *priority);
            }
            Op::Depart { whose: (space, agent) } => prefixes.depart(roots[*space], &name(*agent)),
            Op::Pin { whose: (space, agent) } => prefixes.pin(roots[*space], &name(*agent)),
            Op::Unpin { whose: (space, agent) } => prefixes.unpin(roots[*space], &name(*agent)),
            Op::SetPolicy(policy) => prefixes.set_policy(*policy),
            _ => prefixes.set_time(now),
        });
        vec![]
    }

    fn on_end(
        &mut self,
        pick: usize,
        work: impl FnOnce(&mut Prefixes<'_>, [Root; 2], EndHandle),
    ) -> Outcome {
        let roots = self.roots;
        if let Some(at) = pick.checked_rem(self.ends.len()) {
            let end = self.ends[at];
            self.with(|prefixes| work(prefixes, roots, end));
        }
        vec![]
    }

    fn reopen(&mut self, space: usize) -> Outcome {
        let (root, key_width) = (self.roots[space], self.key_width);
        self.with(|prefixes| prefixes.close(root));
        self.keep_up();
        assert_eq!(self.twin.counts(self.spaces[space], self.groups.len()).iter().sum::<u64>(), 0);
        self.spaces[space] = 1 + self.spaces[0].max(self.spaces[1]);
        self.roots[space] = self.with(|prefixes| {
            let root = prefixes.open(Key::default(), key_width);
            prefixes.subscribe(root);
            root
        });
        self.pinned.retain(|(other, _)| *other != space);
        vec![]
    }

    fn allocate(&mut self, n: u64, group: usize) -> Outcome {
        let mut names: Vec<String> = self.groups.iter().map(|group| group.name.clone()).collect();
        names.sort_unstable();
        let mut pool = self.pool();
        let group = pool.group(&names[group % names.len()]).unwrap();
        let available = pool.available_blocks(group).unwrap();
        let ids = pool.allocate(n, group, "running");
        assert_eq!(ids.is_ok(), n <= available, "everything that nobody holds can be evicted");
        let granted = ids.is_ok();
        self.allocated.extend(ids);
        vec![u64::from(granted)]
    }

    /// The twin hears what the index says.
    fn keep_up(&mut self) {
        for (root, space) in self.roots.into_iter().zip(self.spaces) {
            let events = self.with(|prefixes| prefixes.drain_events(root));
            self.twin.fold(space, events);
        }
        let gone = self.memory.take_news().unwrap_or_default();
        let held = self.holds.iter().flat_map(|held| held.hold.plan.blocks()).collect();
        self.twin.lose(&gone, &held);
    }

    pub(crate) fn check(&mut self) {
        self.memory.check().unwrap();
        for (root, space) in self.roots.into_iter().zip(self.spaces) {
            let mut counts = vec![0; self.groups.len()];
            for (_, group, n) in self.with(|prefixes| prefixes.blocks(root)) {
                counts[group.index()] += n;
            }
            assert_eq!(counts, self.twin.counts(space, self.groups.len()));
        }
        if self.holds.is_empty() && self.drafts.is_empty() && self.pinned.is_empty() {
            assert_eq!(self.twin.published.len(), self.twin.findable.len(), "a block is lost");
        }
        let foreign = |held: &Held| {
            held.hold.plan.blocks().iter().any(|id| self.twin.published[id].space != held.space)
        };
        assert!(!self.holds.iter().any(foreign), "what is held belongs to its namespace");
    }

    /// Everything is given back, and can go: first what was evicted, then what was forgotten.
    pub(crate) fn end(&mut self) {
        for op in [Op::Release { pick: 0 }, Op::Abandon { pick: 0 }, Op::Free { pick: 0 }] {
            while !(self.holds.is_empty() && self.drafts.is_empty() && self.allocated.is_empty()) {
                let left = (self.holds.len(), self.drafts.len(), self.allocated.len());
                self.run(&op);
                if left == (self.holds.len(), self.drafts.len(), self.allocated.len()) {
                    break;
                }
            }
        }
        for whose in self.pinned.clone() {
            self.run(&Op::Unpin { whose });
        }
        self.check();
        let cached = self.pool().usage().cached;
        assert_eq!(self.pool().used(), 0);
        self.run(&Op::EvictBytes(cached / 2));
        self.check();
        self.run(&Op::Clear { space: 0 });
        self.run(&Op::EvictBytes(u64::MAX));
        self.check();
        assert_eq!(self.pool().usage().free, self.memory.total());
        assert!(self.twin.published.is_empty(), "not reported gone: {:?}", self.twin.published);
    }
}

fn taken<T>(list: &mut Vec<T>, pick: usize) -> Option<T> {
    let at = pick.checked_rem(list.len())?;
    Some(list.remove(at))
}
