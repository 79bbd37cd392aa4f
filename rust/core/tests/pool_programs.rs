//! Programs of operations, run on the pool and on a naive one: same results, same refusals, and
//! books that agree after every step.

mod naive;

use naive::{Doing, NaivePool, Refusal};
use proptest::collection::vec;
use proptest::prelude::*;
use semantic_core::{BlockId, Charge, Error, GroupSpec, Memory, Pool, PoolKey, Reach, Terms};

#[derive(Clone, Debug)]
enum Op {
    Allocate { n: u64, group: usize, agent: u8 },
    AllocateTokens { agent: u8, n_tokens: u64 },
    FreeAgent { agent: u8 },
    Stage { n: u64, group: usize },
    OnBlocks { verb: Verb, picks: Vec<usize>, fitting: bool },
    Charge { charge: Charge, bytes: u64, arrays: u64 },
    Discharge { charge: Charge, bytes: u64, arrays: u64 },
    Drain,
    Reconfigure { window: u64 },
}

#[derive(Clone, Copy, Debug)]
enum Verb {
    Free,
    Abandon,
    Publish { leases: u32 },
    Acquire,
    Release,
    Touch,
    Evict,
}

impl Verb {
    /// What becomes of a block, or None when the verb is not for it.
    fn change(self, doing: &Doing) -> Option<Doing> {
        match (self, doing) {
            (Self::Free, Doing::Held { .. })
            | (Self::Abandon, Doing::Staged)
            | (Self::Evict, Doing::Sealed { leases: 0 }) => Some(Doing::Gone),
            (Self::Publish { leases }, Doing::Staged) => Some(Doing::Sealed { leases }),
            (Self::Acquire, Doing::Sealed { leases }) => Some(Doing::Sealed { leases: leases + 1 }),
            (Self::Touch, Doing::Sealed { leases }) => Some(Doing::Sealed { leases: *leases }),
            (Self::Release, Doing::Sealed { leases }) => {
                leases.checked_sub(1).map(|leases| Doing::Sealed { leases })
            }
            _ => None,
        }
    }

    fn run(self, pool: &mut Pool<'_>, ids: &[BlockId]) -> Result<(), Error> {
        match self {
            Self::Free => pool.free(ids),
            Self::Abandon => pool.abandon(ids),
            Self::Publish { leases } => pool.publish(ids, leases),
            Self::Acquire => pool.acquire(ids),
            Self::Release => pool.release(ids),
            Self::Touch => pool.touch(ids),
            Self::Evict => pool.evict(ids),
        }
    }
}

fn verbs() -> impl Strategy<Value = Verb> {
    prop_oneof![
        Just(Verb::Free),
        Just(Verb::Abandon),
        (0..2_u32).prop_map(|leases| Verb::Publish { leases }),
        Just(Verb::Publish { leases: 0 }),
        Just(Verb::Acquire),
        Just(Verb::Release),
        Just(Verb::Touch),
        Just(Verb::Evict),
    ]
}

fn ops() -> impl Strategy<Value = Op> {
    let n = || prop_oneof![9 => 0..6_u64, 1 => Just(u64::MAX)];
    let charge = || prop_oneof![Just(Charge::Live), Just(Charge::Staging)];
    let bytes = || prop_oneof![9 => 0..3000_u64, 1 => Just(u64::MAX)];
    let (group, agent) = (0..3_usize, 0..3_u8);
    prop_oneof![
        3 => (n(), group.clone(), agent.clone())
            .prop_map(|(n, group, agent)| Op::Allocate { n, group, agent }),
        2 => (agent.clone(), 0..1500_u64)
            .prop_map(|(agent, n_tokens)| Op::AllocateTokens { agent, n_tokens }),
        1 => agent.prop_map(|agent| Op::FreeAgent { agent }),
        3 => (n(), group).prop_map(|(n, group)| Op::Stage { n, group }),
        9 => (verbs(), vec(0..1000_usize, 0..6), prop::bool::weighted(0.8))
            .prop_map(|(verb, picks, fitting)| Op::OnBlocks { verb, picks, fitting }),
        1 => (charge(), bytes(), 0..5_u64)
            .prop_map(|(charge, bytes, arrays)| Op::Charge { charge, bytes, arrays }),
        1 => (charge(), bytes(), 0..5_u64)
            .prop_map(|(charge, bytes, arrays)| Op::Discharge { charge, bytes, arrays }),
        1 => Just(Op::Drain),
        1 => (1..5_u64).prop_map(|window| Op::Reconfigure { window }),
    ]
}

fn groups(window: u64) -> Vec<GroupSpec> {
    let group = |name: &str, reach, bytes_per_block, cap, arrays_per_block| GroupSpec {
        name: name.into(),
        reach,
        bytes_per_block,
        max_blocks_per_agent: cap,
        arrays_per_block,
    };
    vec![
        group("global", Reach::All, 500, None, 2),
        group(
            "sliding_window",
            Reach::Window { size: 256 * window, keep: 0 },
            300,
            Some(window),
            1,
        ),
        group("state", Reach::State, 700, Some(1), 3),
    ]
}

/// The pool, the naive pool, and which id is which of its blocks.
struct Twins {
    memory: Memory,
    key: PoolKey,
    naive: NaivePool,
    ids: Vec<BlockId>,
}

impl Twins {
    fn new(total: u64, arrays_max: u64) -> Self {
        let mut memory = Memory::new(total).unwrap();
        let key = memory.open(Terms::default(), groups(2), arrays_max).unwrap();
        Self { memory, key, naive: NaivePool::new(groups(2), total, arrays_max), ids: Vec::new() }
    }

    fn run(&mut self, op: &Op) {
        let Self { memory, key, naive, ids } = self;
        let mut pool = memory.pool(key).unwrap();
        let group = |pool: &Pool<'_>, at: usize| pool.group(&groups(2)[at].name).unwrap();
        match op {
            Op::Allocate { n, group: at, agent } => {
                let group = group(&pool, *at);
                let ours = pool.allocate(*n, group, &format!("a{agent}"));
                same_blocks(ids, ours, naive.allocate(*n, *at, *agent));
            }
            Op::AllocateTokens { agent, n_tokens } => {
                let holding = pool.allocate_tokens(&format!("a{agent}"), *n_tokens);
                let theirs = naive.allocate_tokens(*agent, *n_tokens);
                let all = |(_, ids): (String, Vec<BlockId>)| ids;
                let ours = holding.map(|held| held.blocks.into_iter().flat_map(all).collect());
                same_blocks(ids, ours, theirs);
            }
            Op::FreeAgent { agent } => {
                let freed = pool.free_agent(&format!("a{agent}"));
                assert_eq!(freed.map_err(|error| refusal(&error)), naive.free_agent(*agent));
            }
            Op::Stage { n, group: at } => {
                let group = group(&pool, *at);
                same_blocks(ids, pool.stage(&[(group, *n)]), naive.stage(*n, *at));
            }
            Op::OnBlocks { verb, picks, fitting } => {
                let list = picked(naive, *verb, picks, *fitting);
                let native: Vec<_> = list.iter().map(|&at| name(ids, at)).collect();
                let ours = verb.run(&mut pool, &native).map_err(|error| refusal(&error));
                assert_eq!(ours, naive.change(&list, |doing| verb.change(doing)), "{verb:?}");
            }
            Op::Charge { charge, bytes, arrays } => {
                let ours = pool.charge(*charge, *bytes, *arrays).map_err(|error| refusal(&error));
                assert_eq!(ours, naive.charge(*charge, *bytes, *arrays));
            }
            Op::Discharge { charge, bytes, arrays } => {
                let ours =
                    pool.discharge(*charge, *bytes, *arrays).map_err(|error| refusal(&error));
                assert_eq!(ours, naive.discharge(*charge, *bytes, *arrays));
            }
            Op::Drain => {
                let evicted: Vec<_> = naive.evicted.drain(..).map(|at| ids[at]).collect();
                assert_eq!(pool.drain_evicted(), evicted);
            }
            Op::Reconfigure { window } => {
                let ours = pool.reconfigure(groups(*window)).map_err(|error| refusal(&error));
                assert_eq!(ours, naive.reconfigure(groups(*window)));
            }
        }
    }

    fn compare(&mut self) {
        let Self { memory, key, naive, .. } = self;
        memory.check().unwrap();
        let pool = memory.pool(key).unwrap();
        let usage = pool.usage();
        let ours = (usage.free, usage.held, usage.live, usage.staging, usage.cached);
        let theirs = (naive.free(), naive.held(), naive.live, naive.staging(), naive.cached());
        assert_eq!(ours, theirs);
        assert_eq!(
            usage.free + usage.held + usage.live + usage.staging + usage.cached,
            naive.total
        );
        assert_eq!((pool.total(), pool.used() + pool.available()), (naive.total, naive.total));
        assert_eq!(usage.arrays_max - usage.arrays_used, naive.arrays_free());
    }

    /// The predictor against a loop of the allocator.
    fn compare_batch(&mut self, n_tokens: u64) {
        let Self { memory, key, naive, .. } = self;
        let predicted = memory.pool(key).unwrap().max_batch_size(n_tokens).unwrap();
        let mut naive = naive.clone();
        let served =
            (100..u8::MAX).take_while(|&agent| naive.allocate_tokens(agent, n_tokens).is_ok());
        assert_eq!(predicted, served.count() as u64);
    }
}

/// Indices of blocks, mostly ones that the verb is for. An index beyond the end stands for an id
/// that was never given out.
fn picked(naive: &NaivePool, verb: Verb, picks: &[usize], fitting: bool) -> Vec<usize> {
    let fits = |at: &usize| verb.change(&naive.blocks[*at].doing).is_some();
    let pool: Vec<usize> = if fitting {
        (0..naive.blocks.len()).filter(fits).collect()
    } else {
        (0..=naive.blocks.len()).collect()
    };
    if pool.is_empty() {
        return Vec::new();
    }
    let mut list: Vec<_> = picks.iter().map(|pick| pool[pick % pool.len()]).collect();
    if fitting {
        let mut seen = Vec::new();
        list.retain(|at| {
            !seen.contains(at) && {
                seen.push(*at);
                true
            }
        });
    }
    list
}

fn name(ids: &[BlockId], at: usize) -> BlockId {
    ids.get(at).copied().unwrap_or(BlockId::from_raw(7))
}

fn same_blocks(
    ids: &mut Vec<BlockId>,
    ours: Result<Vec<BlockId>, Error>,
    theirs: Result<Vec<usize>, Refusal>,
) {
    match (ours, theirs) {
        (Ok(ours), Ok(theirs)) => {
            assert_eq!(ours.len(), theirs.len());
            for (id, at) in ours.into_iter().zip(theirs) {
                if at == ids.len() {
                    assert!(!ids.contains(&id), "{id} was given out before");
                    ids.push(id);
                } else {
                    assert_eq!(ids[at], id);
                }
            }
        }
        (Err(ours), Err(theirs)) => assert_eq!(refusal(&ours), theirs),
        (ours, theirs) => panic!("{ours:?} and {theirs:?}"),
    }
}

fn refusal(error: &Error) -> Refusal {
    match *error {
        Error::BytesExhausted { requested, available } => Refusal::Bytes { requested, available },
        Error::ArraysExhausted { .. } => Refusal::Arrays,
        Error::UnknownBlock { .. }
        | Error::ForeignBlock { .. }
        | Error::StaleBlock { .. }
        | Error::RepeatedBlock { .. }
        | Error::WrongState { .. } => Refusal::Block,
        _ => Refusal::Other,
    }
}

/// At least 2,000 programs; `PROPTEST_CASES` asks for more.
fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    ProptestConfig { cases: default.cases.max(2000), failure_persistence: None, ..default }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_pool_does_what_the_naive_pool_does(
        total in 700..12_000_u64,
        arrays_max in prop_oneof![1 => 5..20_u64, 2 => Just(1000)],
        program in vec(ops(), 1..60),
        n_tokens in 1..1500_u64,
    ) {
        let mut twins = Twins::new(total, arrays_max);
        for op in &program {
            twins.run(op);
            twins.compare();
        }
        twins.compare_batch(n_tokens);
    }
}
