//! Blocks of agents: taken one group at a time or by tokens, and given back.

use crate::agent::{Agent, AgentIndex};
use crate::blocks::{Blocks, Cost, Want, Wanted};
use crate::error::Error;
use crate::group::{BLOCK_TOKENS, GroupId};
use crate::id::{BlockId, PoolNumber, SlotIndex};
use crate::pool::Pool;
use crate::slot::{BlockClass, Entry, Slot, State};

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
    /// # use semantic_core::{Error, GroupSpec, Memory, Reach, Terms};
    /// # let group = GroupSpec {
    /// #     name: "global".into(),
    /// #     reach: Reach::All,
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
        let n = match self.books.blocks.groups.get(group)?.spec.max_blocks_per_agent {
            Some(most) => n.min(most - self.held_by(agent, group)),
            None => n,
        };
        if n == 0 {
            return Ok(Vec::new());
        }
        self.make_room(&[(group, n)], Cost::default())?;
        let agent = self.books.blocks.agents.enter(agent, self.books.blocks.groups.len());
        Ok(self.grant(group, n, agent))
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
    /// # use semantic_core::{Error, GroupSpec, Memory, Reach, Terms};
    /// # let group = |name: &str, reach, max_blocks_per_agent| GroupSpec {
    /// #     name: name.into(),
    /// #     reach,
    /// #     bytes_per_block: 1024,
    /// #     max_blocks_per_agent,
    /// #     arrays_per_block: 2,
    /// # };
    /// let mut memory = Memory::new(10 * 1024)?;
    /// let groups = vec![
    ///     group("global", Reach::All, None),
    ///     group("sliding_window", Reach::Window { size: 512, keep: 0 }, Some(2)),
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
        self.make_room(&wants, Cost::default())?;
        let index = self.books.blocks.agents.enter(agent, self.books.blocks.groups.len());
        for (group, n) in wants {
            self.grant(group, n, index);
        }
        let covered = self.covered_tokens(index);
        if let Some(agent) = self.books.blocks.agents.get_mut(index) {
            agent.total_tokens = agent.total_tokens.max(n_tokens).min(covered);
        }
        Ok(self.holding(index))
    }

    /// The tokens that an agent's blocks can stand for: it may have freed some one by one.
    fn covered_tokens(&self, agent: AgentIndex) -> u64 {
        let Blocks { agents, groups, .. } = &*self.books.blocks;
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
            let available = self.available();
            all.is_some_and(|all| self.books.admit(&all, Cost::default(), available).is_ok())
        };
        let Some(one) = self.books.blocks.cost(&wants) else { return Ok(0) };
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
        if self.release_alike(ids) {
            return Ok(());
        }
        self.books.blocks.validate(ids, Wanted::Held)?;
        for id in ids {
            self.release_held(id.slot());
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
        let index = self.books.blocks.agents.find(named(agent)?).ok_or_else(unknown)?;
        let held = self.books.blocks.agents.get(index).map_or(0, Agent::n_blocks);
        for group in self.books.blocks.groups.ids() {
            self.release_all(index, group);
        }
        self.books.blocks.agents.leave_if_idle(index);
        Ok(held)
    }

    /// What the agent still lacks in each group at `n_tokens`.
    fn wants(&self, agent: &str, n_tokens: u64) -> Result<Vec<Want>, Error> {
        if n_tokens == 0 {
            return Err(Error::NoTokens);
        }
        let groups = self.books.blocks.groups.iter();
        let lacks = groups.map(|(id, group)| {
            (id, group.spec.blocks_for(n_tokens).saturating_sub(self.held_by(agent, id)))
        });
        Ok(lacks.collect())
    }

    fn held_by(&self, agent: &str, group: GroupId) -> u64 {
        self.books.blocks.agents.named(agent).map_or(0, |agent| agent.held(group).len())
    }

    fn holding(&mut self, agent: AgentIndex) -> AgentHolding {
        let Blocks { agents, groups, slots, .. } = &mut *self.books.blocks;
        if let Some(holder) = agents.get_mut(agent) {
            groups.ids().for_each(|group| holder.held_mut(group).compact(slots, agent));
        }
        let Blocks { agents, groups, slots, .. } = &*self.books.blocks;
        let blocks = groups.iter().map(|(id, group)| {
            let held = agents.blocks(slots, agent, id);
            (group.spec.name.clone(), held.map(|index| self.books.blocks.id(index)).collect())
        });
        let total_tokens = agents.get(agent).map_or(0, |agent| agent.total_tokens);
        AgentHolding { total_tokens, blocks: blocks.collect() }
    }

    /// Hand out `n` blocks, for which there is room.
    fn grant(&mut self, group: GroupId, n: u64, agent: AgentIndex) -> Vec<BlockId> {
        let Blocks { agents, slots, groups, number, .. } = &mut *self.books.blocks;
        let (Ok(len), Some(holder)) = (usize::try_from(n), agents.get_mut(agent)) else {
            return Vec::new();
        };
        let free = &mut groups.get_mut(group).free;
        let top = free.top(slots, group, len).iter().rev().copied();
        let entries = holder.held_mut(group).extend(slots, agent, top.clone());
        let (slots, number) = (slots.as_mut(), *number);
        let granted = entries.zip(top).map(|(at, index)| {
            let slot = &mut slots[index.at()];
            slot.state = State::Held(Entry { agent, at });
            BlockId::new(number, slot.generation, index)
        });
        let ids = granted.collect();
        free.drop_top(len);
        self.books.book(group, None, Some(BlockClass::Held), n);
        ids
    }

    /// Free blocks when all of them are living ones of one agent and group, as they mostly are, and
    /// none is listed twice: such a one would not be held when it comes again.
    fn release_alike(&mut self, ids: &[BlockId]) -> bool {
        let Blocks { slots, groups, number, .. } = &mut *self.books.blocks;
        let Some(&Slot { state: State::Held(Entry { agent, .. }), group, .. }) =
            ids.first().and_then(|id| slots.get(id.slot()))
        else {
            return false;
        };
        let free = &mut groups.get_mut(group).free;
        free.extend(ids.iter().map(|id| id.slot()));
        let (slots, number) = (slots.as_mut(), *number);
        let (n, first) = release_while_alike(slots, ids, number, agent, group);
        if n < ids.len() {
            for id in &ids[..n] {
                let slot = &mut slots[id.slot().at()];
                if let State::Free { was } = slot.state {
                    slot.state = State::Held(was);
                    slot.generation -= 1;
                }
            }
            free.drop_top(ids.len());
            return false;
        }
        self.settle(agent, group, ids.len() as u64, first);
        true
    }

    fn release_held(&mut self, index: SlotIndex) {
        let Blocks { slots, groups, .. } = &mut *self.books.blocks;
        let slot = &mut slots[index];
        let (group, State::Held(Entry { agent, at })) = (slot.group, slot.state) else { return };
        groups.get_mut(group).free.push(slot, index);
        self.settle(agent, group, 1, at);
    }

    /// `n` blocks of an agent are free, the first of them in its list at `first`.
    fn settle(&mut self, agent: AgentIndex, group: GroupId, n: u64, first: u32) {
        if let Some(holder) = self.books.blocks.agents.get_mut(agent) {
            let held = holder.held_mut(group);
            held.forget(n, first);
            if held.len() == 0 {
                self.books.blocks.agents.leave_if_idle(agent);
            }
        }
        self.books.book(group, Some(BlockClass::Held), None, n);
    }

    /// Free all blocks of an agent in a group, the last one first.
    fn release_all(&mut self, agent: AgentIndex, group: GroupId) {
        let Blocks { agents, slots, groups, .. } = &mut *self.books.blocks;
        let Some(holder) = agents.get_mut(agent) else { return };
        let free = &mut groups.get_mut(group).free;
        let n = holder.held_mut(group).clear(slots, agent, |index, slot| free.push(slot, index));
        self.books.book(group, Some(BlockClass::Held), None, n);
    }
}

/// Free the living blocks of one agent and group that `ids` begins with: how many they are, and which
/// of its entries was the first.
// Apart, so that all that the loop looks at stays in registers.
#[inline(never)]
fn release_while_alike(
    slots: &mut [Slot],
    ids: &[BlockId],
    number: PoolNumber,
    agent: AgentIndex,
    group: GroupId,
) -> (usize, u32) {
    let mut first = u32::MAX;
    for (n, &id) in ids.iter().enumerate() {
        let Some(slot) = slots.get_mut(id.slot().at()) else { return (n, first) };
        let State::Held(entry) = slot.state else { return (n, first) };
        let is_alike = entry.agent == agent
            && slot.group == group
            && id.is_life(number, slot.generation)
            && slot.generation < u16::MAX;
        if !is_alike {
            return (n, first);
        }
        slot.generation += 1;
        slot.state = State::Free { was: entry };
        first = first.min(entry.at);
    }
    (ids.len(), first)
}

fn named(agent: &str) -> Result<&str, Error> {
    if agent.is_empty() { Err(Error::UnnamedAgent) } else { Ok(agent) }
}
