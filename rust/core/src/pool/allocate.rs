//! Blocks of agents: taken one group at a time or by tokens, and given back.

use crate::agent::AgentIndex;
use crate::blocks::{Blocks, Want, Wanted};
use crate::error::Error;
use crate::group::{BLOCK_TOKENS, GroupId};
use crate::id::BlockId;
use crate::pool::Pool;
use crate::slot::{Links, State};

/// What an agent holds after `allocate_tokens`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AgentHolding {
    /// The most tokens that the agent was extended to.
    pub total_tokens: u64,
    /// Its blocks by group, in the order in which they were allocated.
    pub blocks: Vec<(String, Vec<BlockId>)>,
}

impl Pool<'_> {
    /// Take `n` blocks of a group for an agent.
    ///
    /// A group with a cap grants what is left of it, which may be nothing. As to memory it is all
    /// or nothing; cached blocks are evicted when that makes the difference.
    ///
    /// # Errors
    ///
    /// [`Error::BytesExhausted`], [`Error::ArraysExhausted`], [`Error::SlotsExhausted`],
    /// [`Error::UnnamedAgent`] and [`Error::UnknownGroup`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use semantic_core::{Error, GroupSpec, LayerType, Memory, Terms};
    /// # let group = GroupSpec {
    /// #     name: "global".into(),
    /// #     layer_type: LayerType::Global,
    /// #     bytes_per_block: 1024,
    /// #     max_blocks_per_agent: None,
    /// #     arrays_per_block: 2,
    /// # };
    /// let mut memory = Memory::new(10 * 1024)?;
    /// let key = memory.open(Terms::default(), vec![group], 100)?;
    /// let mut pool = memory.pool(&key)?;
    /// let global = pool.group("global")?;
    /// let ids = pool.allocate(8, global, "a1")?;
    /// assert_eq!((pool.used(), pool.available()), (8 * 1024, 2 * 1024));
    /// let refused = pool.allocate(3, global, "a2");
    /// assert_eq!(refused, Err(Error::BytesExhausted { requested: 3072, available: 2048 }));
    /// pool.free(&ids)?;
    /// assert_eq!(pool.free(&ids), Err(Error::StaleBlock { id: ids[0] }));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn allocate(&mut self, n: u64, group: GroupId, agent: &str) -> Result<Vec<BlockId>, Error> {
        let agent = named(agent)?;
        let n = match self.blocks.groups.get(group)?.spec.max_blocks_per_agent {
            Some(most) => n.min(most - self.held_by(agent, group)),
            None => n,
        };
        if n == 0 {
            return Ok(Vec::new());
        }
        self.make_room(&[(group, n)], 0)?;
        let agent = self.blocks.agents.enter(agent, self.blocks.groups.len());
        Ok((0..n).map(|_| self.grant(group, agent)).collect())
    }

    /// Extend an agent *to* `n_tokens` in every group at once; never shrinks it.
    ///
    /// # Errors
    ///
    /// Those of [`allocate`](Self::allocate), and [`Error::NoTokens`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use semantic_core::{Error, GroupSpec, LayerType, Memory, Terms};
    /// # let group = |name: &str, layer_type, max_blocks_per_agent| GroupSpec {
    /// #     name: name.into(),
    /// #     layer_type,
    /// #     bytes_per_block: 1024,
    /// #     max_blocks_per_agent,
    /// #     arrays_per_block: 2,
    /// # };
    /// let mut memory = Memory::new(10 * 1024)?;
    /// let groups = vec![
    ///     group("global", LayerType::Global, None),
    ///     group("sliding_window", LayerType::SlidingWindow, Some(2)),
    /// ];
    /// let key = memory.open(Terms::default(), groups, 100)?;
    /// let mut pool = memory.pool(&key)?;
    /// let holding = pool.allocate_tokens("a1", 1000)?;
    /// let counts: Vec<_> = holding.blocks.iter().map(|(_, ids)| ids.len()).collect();
    /// assert_eq!(counts, [4, 2]);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn allocate_tokens(&mut self, agent: &str, n_tokens: u64) -> Result<AgentHolding, Error> {
        let wants = self.wants(named(agent)?, n_tokens)?;
        self.make_room(&wants, 0)?;
        let index = self.blocks.agents.enter(agent, self.blocks.groups.len());
        for (group, n) in wants {
            for _ in 0..n {
                self.grant(group, index);
            }
        }
        let covered = self.covered_tokens(index);
        if let Some(agent) = self.blocks.agents.get_mut(index) {
            agent.total_tokens = agent.total_tokens.max(n_tokens).min(covered);
        }
        Ok(self.holding(index))
    }

    /// The tokens that an agent's blocks can stand for: it may have freed some one by one.
    fn covered_tokens(&self, agent: AgentIndex) -> u64 {
        let Blocks { agents, groups, .. } = &*self.blocks;
        let unbounded = groups.iter().filter(|(_, g)| g.spec.max_blocks_per_agent.is_none());
        let held = |id| agents.get(agent).map_or(0, |agent| agent.held(id).len());
        let covered = unbounded.map(|(id, _)| held(id).saturating_mul(BLOCK_TOKENS));
        covered.min().unwrap_or(u64::MAX)
    }

    /// How many agents that hold nothing yet `allocate_tokens(n_tokens)` would serve, one by one.
    ///
    /// # Errors
    ///
    /// [`Error::NoTokens`].
    pub fn max_batch_size(&self, n_tokens: u64) -> Result<u64, Error> {
        // No living agent has an empty name.
        let wants = self.wants("", n_tokens)?;
        let fits = |agents: u64| {
            let all = wants.iter().map(|&(group, n)| Some((group, n.checked_mul(agents)?)));
            let all: Option<Vec<Want>> = all.collect();
            all.is_some_and(|all| self.admit(&all, 0).is_ok())
        };
        let Some(one) = self.blocks.cost(&wants) else { return Ok(0) };
        let (mut fit, mut beyond) = (0, self.available() / one.bytes + 1);
        while beyond - fit > 1 {
            let middle = fit + (beyond - fit) / 2;
            if fits(middle) { fit = middle } else { beyond = middle }
        }
        Ok(fit)
    }

    /// Give back blocks that agents hold.
    ///
    /// # Errors
    ///
    /// Names the first id that is unknown, foreign, stale, not held by an agent, or listed twice.
    pub fn free(&mut self, ids: &[BlockId]) -> Result<(), Error> {
        self.blocks.validate(ids, Wanted::Held)?;
        for &id in ids {
            self.release_held(id);
        }
        Ok(())
    }

    /// Give back everything that an agent holds, and say how many blocks that were.
    ///
    /// # Errors
    ///
    /// [`Error::AgentNotFound`] when it holds nothing.
    pub fn free_agent(&mut self, agent: &str) -> Result<u64, Error> {
        let unknown = || Error::AgentNotFound { agent: agent.to_owned() };
        let index = self.blocks.agents.find(named(agent)?).ok_or_else(unknown)?;
        let ids: Vec<_> = self.holding(index).blocks.into_iter().flat_map(|(_, ids)| ids).collect();
        for &id in ids.iter().rev() {
            self.release_held(id);
        }
        Ok(ids.len() as u64)
    }

    /// What the agent still lacks in each group at `n_tokens`.
    fn wants(&self, agent: &str, n_tokens: u64) -> Result<Vec<Want>, Error> {
        if n_tokens == 0 {
            return Err(Error::NoTokens);
        }
        let groups = self.blocks.groups.iter();
        let lacks = groups.map(|(id, group)| {
            (id, group.spec.blocks_for(n_tokens).saturating_sub(self.held_by(agent, id)))
        });
        Ok(lacks.collect())
    }

    fn held_by(&self, agent: &str, group: GroupId) -> u64 {
        self.blocks.agents.named(agent).map_or(0, |agent| agent.held(group).len())
    }

    fn holding(&self, agent: AgentIndex) -> AgentHolding {
        let Blocks { agents, groups, slots, .. } = &*self.blocks;
        let blocks = groups.iter().map(|(id, group)| {
            let chain = agents.get(agent).map(|agent| agent.held(id));
            let ids = chain.into_iter().flat_map(|chain| chain.iter(slots));
            (group.spec.name.clone(), ids.map(|index| self.blocks.id(index)).collect())
        });
        let total_tokens = agents.get(agent).map_or(0, |agent| agent.total_tokens);
        AgentHolding { total_tokens, blocks: blocks.collect() }
    }

    fn grant(&mut self, group: GroupId, agent: AgentIndex) -> BlockId {
        let index = self.occupy(group, State::Held { agent, links: Links::default() });
        let Blocks { agents, slots, .. } = &mut *self.blocks;
        if let Some(agent) = agents.get_mut(agent) {
            agent.held_mut(group).push(slots, index);
        }
        self.blocks.id(index)
    }

    fn release_held(&mut self, id: BlockId) {
        let index = id.slot();
        let Blocks { agents, slots, .. } = &mut *self.blocks;
        let State::Held { agent, .. } = slots[index].state else { return };
        let group = slots[index].group;
        if let Some(holder) = agents.get_mut(agent) {
            let chain = holder.held_mut(group);
            chain.unlink(slots, index);
            if chain.len() == 0 {
                agents.leave_if_idle(agent);
            }
        }
        self.vacate(index);
    }
}

fn named(agent: &str) -> Result<&str, Error> {
    if agent.is_empty() { Err(Error::UnnamedAgent) } else { Ok(agent) }
}
