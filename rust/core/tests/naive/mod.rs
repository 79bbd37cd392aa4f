//! The pool once more, as plainly as possible: one list of blocks, everything counted by walking it.
//!
//! Its blocks are named by the order in which they were made; the test knows which id is which.

use semantic_core::{Charge, GroupSpec};

/// What a block is doing.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Doing {
    Held { agent: u8 },
    Staged,
    Sealed { leases: u32 },
    Gone,
}

#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Block {
    pub(crate) group: usize,
    pub(crate) doing: Doing,
    /// When it came to rest; larger is later.
    pub(crate) rested: u64,
}

/// Why something is refused.
#[derive(PartialEq, Debug)]
pub(crate) enum Refusal {
    Bytes { requested: u64, available: u64 },
    Arrays,
    Block,
    Other,
}

#[derive(Clone, PartialEq, Debug)]
pub(crate) struct NaivePool {
    pub(crate) groups: Vec<GroupSpec>,
    pub(crate) total: u64,
    pub(crate) arrays_max: u64,
    pub(crate) blocks: Vec<Block>,
    pub(crate) live: u64,
    pub(crate) staging: u64,
    /// Arrays charged as live and as staging.
    pub(crate) arrays: [u64; 2],
    pub(crate) evicted: Vec<usize>,
    clock: u64,
}

impl NaivePool {
    pub(crate) fn new(groups: Vec<GroupSpec>, total: u64, arrays_max: u64) -> Self {
        let (blocks, evicted) = (Vec::new(), Vec::new());
        let arrays = [0; 2];
        Self { groups, total, arrays_max, blocks, live: 0, staging: 0, arrays, evicted, clock: 0 }
    }

    pub(crate) fn bytes(&self, counts: impl Fn(&Doing) -> bool) -> u64 {
        let blocks = self.blocks.iter().filter(|block| counts(&block.doing));
        blocks.map(|block| self.groups[block.group].bytes_per_block).sum()
    }

    pub(crate) fn held(&self) -> u64 {
        self.bytes(|doing| match doing {
            Doing::Held { .. } => true,
            Doing::Sealed { leases } => *leases > 0,
            _ => false,
        })
    }

    pub(crate) fn cached(&self) -> u64 {
        self.bytes(|doing| *doing == Doing::Sealed { leases: 0 })
    }

    pub(crate) fn staging(&self) -> u64 {
        self.bytes(|doing| *doing == Doing::Staged) + self.staging
    }

    pub(crate) fn free(&self) -> u64 {
        self.total - self.held() - self.live - self.staging() - self.cached()
    }

    pub(crate) fn arrays_free(&self) -> u64 {
        let there = self.blocks.iter().filter(|block| block.doing != Doing::Gone);
        let arrays = there.map(|block| u64::from(self.groups[block.group].arrays_per_block));
        self.arrays_max - arrays.sum::<u64>() - self.arrays.iter().sum::<u64>()
    }

    pub(crate) fn held_by(&self, agent: u8, group: usize) -> Vec<usize> {
        let theirs = |at: &usize| {
            let block = &self.blocks[*at];
            block.group == group && block.doing == Doing::Held { agent }
        };
        (0..self.blocks.len()).filter(theirs).collect()
    }

    /// Cached blocks, the next victim first.
    fn victims(&self) -> Vec<usize> {
        let cached = |at: &usize| self.blocks[*at].doing == Doing::Sealed { leases: 0 };
        let mut victims: Vec<_> = (0..self.blocks.len()).filter(cached).collect();
        victims.sort_by_key(|&at| self.blocks[at].rested);
        victims
    }

    fn make_room(
        &mut self,
        wants: &[(usize, u64)],
        extra: u64,
        extra_arrays: u64,
    ) -> Result<(), Refusal> {
        let bytes = |&(group, n): &(usize, u64)| self.groups[group].bytes_per_block.checked_mul(n);
        let sum = wants.iter().try_fold(extra, |sum, want| sum.checked_add(bytes(want)?));
        let requested = sum.unwrap_or(u64::MAX);
        let available = self.free() + self.cached();
        if requested > available {
            return Err(Refusal::Bytes { requested, available });
        }
        let arrays =
            |&(group, n): &(usize, u64)| n * u64::from(self.groups[group].arrays_per_block);
        let arrays = extra_arrays + wants.iter().map(arrays).sum::<u64>();
        let mut tried = self.clone();
        while requested > tried.free() || arrays > tried.arrays_free() {
            let Some(&victim) = tried.victims().first() else { return Err(Refusal::Arrays) };
            tried.blocks[victim].doing = Doing::Gone;
            tried.evicted.push(victim);
        }
        *self = tried;
        Ok(())
    }

    fn add(&mut self, group: usize, n: u64, doing: &Doing) -> Vec<usize> {
        let block = Block { group, doing: doing.clone(), rested: 0 };
        let first = self.blocks.len();
        self.blocks.extend((0..n).map(|_| block.clone()));
        (first..self.blocks.len()).collect()
    }

    pub(crate) fn allocate(
        &mut self,
        n: u64,
        group: usize,
        agent: u8,
    ) -> Result<Vec<usize>, Refusal> {
        let cap = self.groups[group].max_blocks_per_agent.unwrap_or(u64::MAX);
        let n = n.min(cap - self.held_by(agent, group).len() as u64);
        self.make_room(&[(group, n)], 0, 0)?;
        Ok(self.add(group, n, &Doing::Held { agent }))
    }

    pub(crate) fn lacks(&self, agent: u8, n_tokens: u64) -> Vec<(usize, u64)> {
        let lacks = |(at, group): (usize, &GroupSpec)| {
            let held = self.held_by(agent, at).len() as u64;
            (at, group.blocks_for(n_tokens).saturating_sub(held))
        };
        self.groups.iter().enumerate().map(lacks).collect()
    }

    pub(crate) fn allocate_tokens(
        &mut self,
        agent: u8,
        n_tokens: u64,
    ) -> Result<Vec<usize>, Refusal> {
        if n_tokens == 0 {
            return Err(Refusal::Other);
        }
        let wants = self.lacks(agent, n_tokens);
        self.make_room(&wants, 0, 0)?;
        for (group, n) in wants {
            self.add(group, n, &Doing::Held { agent });
        }
        Ok((0..self.groups.len()).flat_map(|group| self.held_by(agent, group)).collect())
    }

    pub(crate) fn free_agent(&mut self, agent: u8) -> Result<u64, Refusal> {
        let mut freed = 0;
        for block in &mut self.blocks {
            if block.doing == (Doing::Held { agent }) {
                block.doing = Doing::Gone;
                freed += 1;
            }
        }
        if freed == 0 { Err(Refusal::Other) } else { Ok(freed) }
    }

    pub(crate) fn stage(&mut self, n: u64, group: usize) -> Result<Vec<usize>, Refusal> {
        self.make_room(&[(group, n)], 0, 0)?;
        Ok(self.add(group, n, &Doing::Staged))
    }

    /// Change each block of a list, or none. The list's head comes to rest last.
    pub(crate) fn change(
        &mut self,
        list: &[usize],
        change: impl Fn(&Doing) -> Option<Doing>,
    ) -> Result<(), Refusal> {
        let mut changed = self.clone();
        for (n, &at) in list.iter().enumerate().rev() {
            if list[..n].contains(&at) {
                return Err(Refusal::Block);
            }
            let block = changed.blocks.get_mut(at).ok_or(Refusal::Block)?;
            let before = block.doing.clone();
            block.doing = change(&before).ok_or(Refusal::Block)?;
            if block.doing == (Doing::Sealed { leases: 0 }) {
                changed.clock += 1;
                block.rested = changed.clock;
            }
        }
        *self = changed;
        Ok(())
    }

    pub(crate) fn charge(
        &mut self,
        charge: Charge,
        bytes: u64,
        arrays: u64,
    ) -> Result<(), Refusal> {
        self.make_room(&[], bytes, arrays)?;
        let (charged, of_arrays) = self.charged(charge);
        *charged += bytes;
        *of_arrays += arrays;
        Ok(())
    }

    pub(crate) fn discharge(
        &mut self,
        charge: Charge,
        bytes: u64,
        arrays: u64,
    ) -> Result<(), Refusal> {
        let (charged, of_arrays) = self.charged(charge);
        if bytes > *charged || arrays > *of_arrays {
            return Err(Refusal::Other);
        }
        *charged -= bytes;
        *of_arrays -= arrays;
        Ok(())
    }

    fn charged(&mut self, charge: Charge) -> (&mut u64, &mut u64) {
        let [live, staging] = &mut self.arrays;
        match charge {
            Charge::Live => (&mut self.live, live),
            Charge::Staging => (&mut self.staging, staging),
        }
    }

    pub(crate) fn reconfigure(&mut self, groups: Vec<GroupSpec>) -> Result<(), Refusal> {
        let fits = groups.iter().any(|group| group.bytes_per_block <= self.total);
        if self.held() + self.live + self.staging() + self.arrays.iter().sum::<u64>() > 0 || !fits {
            return Err(Refusal::Other);
        }
        for victim in self.victims() {
            self.evicted.push(victim);
        }
        for block in &mut self.blocks {
            block.doing = Doing::Gone;
        }
        self.groups = groups;
        Ok(())
    }
}
