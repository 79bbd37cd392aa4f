//! What does a token block cost in the prefix index: to look up, to hold, to publish, to evict?
//!
//! Pools of 1,000 to 1,000,000 blocks that are cached without exception, in paths of 128 blocks,
//! published by four agents and by one agent for each path; and a hybrid of 100,000.

mod cached;

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cached::{Agents, BLOCKS_PER_PATH, Cached, Layers, prompt, scattered};
use criterion::measurement::WallTime;
use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
};
use semantic_core::{Key, KeyWidth, Tokens};

const BLOCKS: [u64; 4] = [1_000, 10_000, 100_000, 1_000_000];
/// Prompts that are asked for in turn: too many for the CPU's own caches, where the pool allows.
const PROMPTS: u64 = 256;

/// Time `call` for one prompt after the other, each written anew before, and call `after` untimed.
fn in_turn<T>(
    rounds: u64,
    prompts: &[Tokens],
    mut call: impl FnMut(usize, &Tokens) -> T,
    mut after: impl FnMut(usize, T),
) -> Duration {
    let mut spent = Duration::ZERO;
    for at in (0..prompts.len()).cycle().take(usize::try_from(rounds).expect("few")) {
        let tokens = black_box(prompts[at].clone());
        let start = Instant::now();
        let out = black_box(call(at, &tokens));
        spent += start.elapsed();
        after(at, out);
    }
    spent
}

/// What a lookup has to read in any case: each prompt against a second copy of its tokens, among the
/// tokens of all paths. As in a server, a prompt was written a moment ago.
fn comparison(group: &mut BenchmarkGroup<'_, WallTime>, blocks: u64) {
    let paths = scattered(blocks / BLOCKS_PER_PATH, PROMPTS);
    let prompts: Vec<Tokens> = paths.iter().map(|&path| prompt(path)).collect();
    let path_tokens = usize::try_from(256 * BLOCKS_PER_PATH).expect("few");
    let mut cached = Vec::with_capacity(usize::try_from(256 * blocks).expect("memory for them"));
    for path in 0..blocks / BLOCKS_PER_PATH {
        let Tokens::Narrow(ids) = prompt(path) else { continue };
        cached.extend(ids);
    }
    group.bench_function(BenchmarkId::new("bare comparison", blocks), |b| {
        b.iter_custom(|rounds| {
            let compare = |at: usize, tokens: &Tokens| {
                let Tokens::Narrow(ids) = tokens else { return 0 };
                let path = usize::try_from(paths[at]).expect("few") * path_tokens;
                let path = cached[path..path + path_tokens].chunks(256);
                path.zip(ids.chunks(256)).filter(|(mine, theirs)| mine == theirs).count()
            };
            in_turn(rounds, &prompts, compare, |_, equal| assert_eq!(equal, 128))
        });
    });
}

/// What a load costs whose address comes from the load before it, in 64 bytes for each block: the
/// machine's floor for a step from node to node that nothing foresees.
fn dependent_load(group: &mut BenchmarkGroup<'_, WallTime>, blocks: u64) {
    let n = usize::try_from(blocks).expect("few");
    // One cycle through all lines, by Sattolo's shuffle.
    let mut lines: Vec<[usize; 8]> = (0..n).map(|at| [at; 8]).collect();
    let mut state = 1_u64;
    for at in (1..n).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let other = usize::try_from(state >> 33).expect("31 bits") % at;
        lines.swap(at, other);
    }
    let mut at = 0;
    group.bench_function(BenchmarkId::new("dependent load", blocks), |b| {
        b.iter(|| {
            for _ in 0..BLOCKS_PER_PATH {
                at = lines[at][0];
            }
            at
        });
    });
}

fn hashing(group: &mut BenchmarkGroup<'_, WallTime>) {
    let prompts: Vec<Tokens> = (0..16).map(prompt).collect();
    group.bench_function("hashing", |b| {
        b.iter_custom(|rounds| {
            let chain =
                |_, tokens: &Tokens| Key::default().chain(tokens.all(), KeyWidth::default());
            in_turn(rounds, &prompts, chain, |_, keys| assert_eq!(keys.len(), 128))
        });
    });
}

fn hits(group: &mut BenchmarkGroup<'_, WallTime>, cached: &mut Cached, size: &str) {
    let paths = scattered(cached.n_paths, PROMPTS);
    let prompts: Vec<Tokens> = paths.iter().map(|&path| prompt(path)).collect();
    group.bench_function(BenchmarkId::new("lookup", size), |b| {
        b.iter_custom(|rounds| {
            let root = cached.root;
            let mut pool = cached.pool();
            let prefixes = pool.prefixes();
            let plan = |_, tokens: &Tokens| {
                prefixes.plan(root, tokens.all(), tokens.len() as u64).expect("an open root")
            };
            in_turn(rounds, &prompts, plan, |_, plan| assert_eq!(plan.n_tokens, 32_768))
        });
    });
    let agents: Vec<String> = paths.iter().map(|&path| cached.agent(path)).collect();
    group.bench_function(BenchmarkId::new("hold, use, release", size), |b| {
        b.iter_custom(|rounds| {
            let root = cached.root;
            let mut pool = cached.pool();
            let mut prefixes = pool.prefixes();
            let turn = |at: usize, tokens: &Tokens| {
                let hold = prefixes.hold(root, tokens.all(), u64::MAX).expect("an open root");
                prefixes.used(root, &hold.plan, &agents[at]);
                prefixes.release(hold);
            };
            in_turn(rounds, &prompts, turn, |_, ()| ())
        });
    });
}

/// Paths that are not cached take the room of others, which have gone before.
fn publication(group: &mut BenchmarkGroup<'_, WallTime>, cached: &mut Cached, size: &str) {
    let mut fresh = cached.next_path;
    for (keys_are_there, name) in [(true, "publish, keys before"), (false, "publish, keys within")]
    {
        group.bench_function(BenchmarkId::new(name, size), |b| {
            b.iter_custom(|rounds| {
                let mut spent = Duration::ZERO;
                for _ in 0..rounds {
                    let (path, tokens) = (fresh, Arc::new(prompt(fresh)));
                    fresh += 1;
                    let group = cached.group;
                    let ids = cached.pool().allocate(BLOCKS_PER_PATH, group, "room").expect("room");
                    cached.free(&[ids]);
                    let start = Instant::now();
                    let mut draft = cached.draft(&tokens, path);
                    spent += start.elapsed();
                    if keys_are_there {
                        draft.compute_keys();
                    }
                    let start = Instant::now();
                    cached.publish(draft, path);
                    spent += start.elapsed();
                }
                spent
            });
        });
    }
    cached.next_path = fresh;
}

/// Agents allocate from a pool without a free block, 8,192 blocks or all that there are, and ask what
/// has gone for them; then everything is cached again.
fn eviction(
    group: &mut BenchmarkGroup<'_, WallTime>,
    cached: &mut Cached,
    size: &str,
    call: u64,
    paths: &str,
) {
    // New paths each time, as many as are evicted in an iteration.
    let mut fresh = cached.next_path;
    let calls = (cached.n_paths * BLOCKS_PER_PATH).min(64 * BLOCKS_PER_PATH) / call;
    group.throughput(Throughput::Elements(calls * call));
    let name = format!("allocate with eviction, calls of {call}{paths}");
    group.bench_function(BenchmarkId::new(name, size), |b| {
        b.iter_custom(|rounds| {
            let mut spent = Duration::ZERO;
            for _ in 0..rounds {
                let global = cached.group;
                let mut ids = Vec::with_capacity(usize::try_from(calls).expect("few"));
                let start = Instant::now();
                for _ in 0..calls {
                    ids.push(cached.pool().allocate(black_box(call), global, "a1").expect("room"));
                    black_box(cached.take_news());
                }
                spent += start.elapsed();
                cached.free(&ids);
                for _ in 0..(calls * call).div_ceil(BLOCKS_PER_PATH) {
                    let draft = cached.draft(&Arc::new(prompt(fresh)), fresh);
                    cached.publish(draft, fresh);
                    fresh += 1;
                }
            }
            spent
        });
    });
    cached.next_path = fresh;
}

fn prefix(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("prefix");
    group.sample_size(10).measurement_time(Duration::from_secs(1));
    group.warm_up_time(Duration::from_millis(300));
    for blocks in BLOCKS {
        for (agents, word) in [(Agents::Four, "4 agents"), (Agents::OnePerPath, "agent per path")] {
            let size = format!("{blocks}, {word}");
            let mut cached = Cached::new(blocks, Layers::Global, agents);
            group.throughput(Throughput::Elements(BLOCKS_PER_PATH));
            hits(&mut group, &mut cached, &size);
            eviction(&mut group, &mut cached, &size, BLOCKS_PER_PATH, "");
            // New paths lie where pieces of several old ones have been, from here on.
            eviction(&mut group, &mut cached, &size, 10, "");
            eviction(&mut group, &mut cached, &size, BLOCKS_PER_PATH, ", in pieces");
            group.throughput(Throughput::Elements(BLOCKS_PER_PATH));
            publication(&mut group, &mut cached, &size);
        }
        comparison(&mut group, blocks);
        dependent_load(&mut group, blocks);
    }
    let mut hybrid = Cached::new(100_000, Layers::Hybrid, Agents::OnePerPath);
    group.throughput(Throughput::Elements(BLOCKS_PER_PATH));
    hits(&mut group, &mut hybrid, "100000, hybrid");
    eviction(&mut group, &mut hybrid, "100000, hybrid", BLOCKS_PER_PATH, "");
    group.throughput(Throughput::Elements(BLOCKS_PER_PATH));
    hashing(&mut group);
    group.finish();
}

criterion_group!(benches, prefix);
criterion_main!(benches);
