//! A pool whose every block is cached, for the benches of the prefix index.

use std::sync::Arc;

use semantic_core::{
    BlockId, Draft, GroupId, GroupSpec, Key, KeyWidth, Memory, Pool, PoolKey, Reach, Root, Terms,
    Tokens,
};

pub(crate) const BLOCK_TOKENS: u64 = 256;
pub(crate) const BLOCKS_PER_PATH: u64 = 128;
const BLOCK_BYTES: u64 = 2 << 20;

/// How many agents share the paths of a pool.
#[derive(Clone, Copy)]
pub(crate) enum Agents {
    /// Four, each with a quarter of all paths.
    Four,
    /// One for each path.
    OnePerPath,
}

/// The layer groups of a model.
#[derive(Clone, Copy)]
pub(crate) enum Layers {
    /// One group that keeps every position.
    Global,
    /// That, a window of 1,024 positions and a state.
    Hybrid,
}

impl Layers {
    /// The groups; only the first has blocks all along a path.
    fn groups(self) -> Vec<GroupSpec> {
        let group = |name: &str, reach, bytes_per_block| GroupSpec {
            name: name.into(),
            reach,
            bytes_per_block,
            max_blocks_per_agent: None,
            arrays_per_block: 2,
        };
        let global = group("global", Reach::All, BLOCK_BYTES);
        match self {
            Self::Global => vec![global],
            Self::Hybrid => vec![
                global,
                group("sliding_window", Reach::Window { size: 1024, keep: 0 }, BLOCK_BYTES),
                group("state", Reach::State, BLOCK_BYTES),
            ],
        }
    }

    /// Bytes of a cached path: the window before its end takes four blocks, the state one.
    fn path_bytes(self) -> u64 {
        let ends = match self {
            Self::Global => 0,
            Self::Hybrid => 5,
        };
        (BLOCKS_PER_PATH + ends) * BLOCK_BYTES
    }
}

/// A pool full of cached paths of 128 token blocks.
pub(crate) struct Cached {
    memory: Memory,
    key: PoolKey,
    pub(crate) group: GroupId,
    pub(crate) root: Root,
    layers: Layers,
    agents: Agents,
    pub(crate) n_paths: u64,
    /// The first path that was never cached.
    pub(crate) next_path: u64,
}

impl Cached {
    pub(crate) fn new(blocks: u64, layers: Layers, agents: Agents) -> Self {
        let n_paths = blocks / BLOCKS_PER_PATH;
        let mut memory = Memory::new(n_paths * layers.path_bytes()).expect("a budget");
        let key = memory.open(Terms::default(), layers.groups(), u64::MAX).expect("a pool");
        let mut pool = memory.pool(&key).expect("open");
        let group = pool.group("global").expect("the group");
        let root = pool.prefixes().open(Key::default(), KeyWidth::default());
        let mut cached =
            Self { memory, key, group, root, layers, agents, n_paths, next_path: n_paths };
        for path in 0..n_paths {
            let draft = cached.draft(&Arc::new(prompt(path)), path);
            cached.publish(draft, path);
        }
        cached
    }

    pub(crate) fn pool(&mut self) -> Pool<'_> {
        self.memory.pool(&self.key).expect("open")
    }

    pub(crate) fn agent(&self, path: u64) -> String {
        match self.agents {
            Agents::Four => format!("a{}", path % 4),
            Agents::OnePerPath => format!("a{path}"),
        }
    }

    pub(crate) fn draft(&mut self, tokens: &Arc<Tokens>, path: u64) -> Draft {
        let (root, agent) = (self.root, self.agent(path));
        let known = vec![vec![(0, tokens.len() as u64)]; self.layers.groups().len()];
        let drafted = self.pool().prefixes().draft(root, tokens, &known, &agent);
        drafted.expect("an open root").expect("room")
    }

    pub(crate) fn publish(&mut self, draft: Draft, path: u64) {
        let agent = self.agent(path);
        let mut pool = self.pool();
        pool.prefixes().publish(draft, &agent, 1).expect("an open root");
        self.take_news();
    }

    /// The blocks that have gone, as whoever keeps their contents asks for them.
    pub(crate) fn take_news(&mut self) -> Vec<BlockId> {
        self.memory.take_news().unwrap_or_default()
    }

    pub(crate) fn free(&mut self, ids: &[Vec<BlockId>]) {
        let mut pool = self.pool();
        for ids in ids {
            pool.free(ids).expect("held");
        }
    }
}

/// A prompt that has nothing in common with that of another path.
pub(crate) fn prompt(path: u64) -> Tokens {
    let n_tokens = BLOCKS_PER_PATH * BLOCK_TOKENS;
    let mut state = path.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u32::try_from(state >> 46).expect("18 bits")
    };
    Tokens::Narrow((0..n_tokens).map(|_| next()).collect())
}

/// Paths in an order that no prefetcher guesses.
pub(crate) fn scattered(n_paths: u64, n: u64) -> Vec<u64> {
    (0..n).map(|at| at.wrapping_mul(0x9E37_79B9_7F4A_7C15) % n_paths).collect()
}
