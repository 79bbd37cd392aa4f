//! What does a call of `allocate` or `free` cost inside the core?
//!
//! A pool of 1,000 blocks; 100 allocations of 10 blocks fill it, 100 frees empty it again.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use semantic_core::{BlockId, GroupId, GroupSpec, LayerType, Memory, PoolKey, Terms};

const CALLS: u64 = 100;
const BLOCKS_PER_CALL: u64 = 10;
const BLOCK_BYTES: u64 = 2 << 20;

fn empty_pool() -> (Memory, PoolKey, GroupId) {
    let group = GroupSpec {
        name: "global".into(),
        layer_type: LayerType::Global,
        bytes_per_block: BLOCK_BYTES,
        max_blocks_per_agent: None,
        arrays_per_block: 2,
    };
    let mut memory = Memory::new(CALLS * BLOCKS_PER_CALL * BLOCK_BYTES).expect("a budget");
    let key = memory.open(Terms::default(), vec![group], 499_000).expect("a pool");
    let group = memory.pool(&key).and_then(|pool| pool.group("global")).expect("the group");
    // Once full, so that what is measured is a pool at work, not the growth of its slots.
    let ids = fill(&mut memory, &key, group);
    drain(&mut memory, &key, &ids);
    (memory, key, group)
}

fn fill(memory: &mut Memory, key: &PoolKey, group: GroupId) -> Vec<Vec<BlockId>> {
    let allocate = |_| {
        let mut pool = memory.pool(key).expect("open");
        pool.allocate(BLOCKS_PER_CALL, group, "a1").expect("room")
    };
    (0..CALLS).map(allocate).collect()
}

fn drain(memory: &mut Memory, key: &PoolKey, ids: &[Vec<BlockId>]) {
    for ids in ids {
        memory.pool(key).and_then(|mut pool| pool.free(black_box(ids))).expect("held");
    }
}

fn allocation(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("core");
    group.throughput(Throughput::Elements(CALLS));
    group.bench_function("allocate 10 blocks, 100 calls", |bencher| {
        bencher.iter_batched_ref(
            empty_pool,
            |(memory, key, group)| fill(memory, key, *group),
            BatchSize::SmallInput,
        );
    });
    group.bench_function("free 10 blocks, 100 calls", |bencher| {
        let full = || {
            let (mut memory, key, group) = empty_pool();
            let ids = fill(&mut memory, &key, group);
            (memory, key, ids)
        };
        bencher.iter_batched_ref(
            full,
            |(memory, key, ids)| drain(memory, key, ids),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, allocation);
criterion_main!(benches);
