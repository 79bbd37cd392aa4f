//! What does a block cost to allocate and to free inside the core, and does it depend on the pool?
//!
//! Pools of 1,000 to 1,000,000 blocks, in calls of 10 and of 128. Each round fills the pool for one
//! agent and empties it again, call by call and in the same order; one half of the round is timed.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
};
use semantic_core::{BlockId, GroupId, GroupSpec, Memory, PoolKey, Reach, Terms};

const BLOCKS: [u64; 4] = [1_000, 10_000, 100_000, 1_000_000];
const BLOCKS_PER_CALL: [u64; 2] = [10, 128];
const BLOCK_BYTES: u64 = 2 << 20;
const ARRAYS_PER_BLOCK: u32 = 2;

/// A pool that takes turns at being full and empty.
struct Tide {
    memory: Memory,
    key: PoolKey,
    group: GroupId,
    per_call: u64,
    calls: u64,
    ids: Vec<Vec<BlockId>>,
}

impl Tide {
    /// Full once, so that what is measured is a pool at work, not the growth of its slots.
    fn new(blocks: u64, per_call: u64) -> Self {
        let group = GroupSpec {
            name: "global".into(),
            reach: Reach::All,
            bytes_per_block: BLOCK_BYTES,
            max_blocks_per_agent: None,
            arrays_per_block: ARRAYS_PER_BLOCK,
        };
        let mut memory = Memory::new(blocks * BLOCK_BYTES).expect("a budget");
        let arrays_max = blocks * u64::from(ARRAYS_PER_BLOCK);
        let key = memory.open(Terms::default(), vec![group], arrays_max).expect("a pool");
        let group = memory.pool(&key).and_then(|pool| pool.group("global")).expect("the group");
        let ids = Vec::new();
        let mut tide = Self { memory, key, group, per_call, calls: blocks / per_call, ids };
        tide.fill();
        tide.drain();
        tide
    }

    fn blocks(&self) -> u64 {
        self.calls * self.per_call
    }

    fn fill(&mut self) -> Duration {
        self.ids.clear();
        let start = Instant::now();
        for _ in 0..self.calls {
            let mut pool = self.memory.pool(&self.key).expect("open");
            let ids = pool.allocate(black_box(self.per_call), self.group, "a1").expect("room");
            self.ids.push(ids);
        }
        start.elapsed()
    }

    fn drain(&mut self) -> Duration {
        let start = Instant::now();
        for ids in &self.ids {
            self.memory
                .pool(&self.key)
                .and_then(|mut pool| pool.free(black_box(ids)))
                .expect("held");
        }
        start.elapsed()
    }
}

fn both(group: &mut BenchmarkGroup<'_, WallTime>, per_call: u64, blocks: u64) {
    let mut tide = Tide::new(blocks, per_call);
    group.throughput(Throughput::Elements(tide.blocks()));
    group.bench_function(BenchmarkId::new(format!("allocate, calls of {per_call}"), blocks), |b| {
        b.iter_custom(|rounds| {
            let timed = |_| {
                let filling = tide.fill();
                tide.drain();
                filling
            };
            (0..rounds).map(timed).sum()
        });
    });
    group.bench_function(BenchmarkId::new(format!("free, calls of {per_call}"), blocks), |b| {
        b.iter_custom(|rounds| {
            let timed = |_| {
                tide.fill();
                tide.drain()
            };
            (0..rounds).map(timed).sum()
        });
    });
}

fn allocation(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("core");
    group.sample_size(20).measurement_time(Duration::from_secs(2));
    group.warm_up_time(Duration::from_millis(500));
    for per_call in BLOCKS_PER_CALL {
        for blocks in BLOCKS {
            both(&mut group, per_call, blocks);
        }
    }
    group.finish();
}

criterion_group!(benches, allocation);
criterion_main!(benches);
