//! Programs of operations on the prefix index, with its laws checked after every step by a naive
//! twin, and once more with the layer groups the other way round: the same hits, whatever the order.

mod naive_index;
mod prefix_world;

use prefix_world::{Known, Op, Outcome, Prompt, World};
use proptest::collection::vec;
use proptest::prelude::*;
use semantic_core::{GroupSpec, Hint, KeyWidth, Policy, Priority, Reach};

/// Positions near which sequences part, or end.
const PLACES: [u64; 13] = [1, 2, 100, 255, 256, 257, 300, 384, 511, 512, 513, 700, 768];

fn prompts() -> impl Strategy<Value = Prompt> {
    let place = || prop_oneof![6 => prop::sample::select(&PLACES[..]), 1 => 1..900_u64];
    (place(), vec((place(), 0..4_u8), 0..3), prop::bool::weighted(0.1))
        .prop_map(|(len, partings, is_wide)| Prompt { len, partings, is_wide })
}

fn known() -> impl Strategy<Value = Known> {
    prop_oneof![
        5 => Just(Known::Whole),
        3 => Just(Known::WhatIsRead),
        1 => (0..700_u64).prop_map(Known::From),
    ]
}

fn words() -> impl Strategy<Value = Op> {
    let hint = prop::sample::select(&[Hint::Active, Hint::Waiting, Hint::Ended][..]);
    let priority = prop::sample::select(&[Priority::Low, Priority::Normal, Priority::High][..]);
    let policy = prop::sample::select(&[Policy::Lru, Policy::Resident, Policy::ScanResistant][..]);
    let (space, agent) = (0..2_usize, 0..3_u8);
    let whose = (space, agent);
    prop_oneof![
        2 => (whose.clone(), hint).prop_map(|(whose, hint)| Op::Hint { whose, hint }),
        1 => (whose.clone(), priority)
            .prop_map(|(whose, priority)| Op::Prioritise { whose, priority }),
        2 => whose.clone().prop_map(|whose| Op::Depart { whose }),
        2 => whose.clone().prop_map(|whose| Op::Pin { whose }),
        2 => whose.prop_map(|whose| Op::Unpin { whose }),
        1 => policy.prop_map(Op::SetPolicy),
        2 => (1..200_000_u64).prop_map(Op::Wait),
    ]
}

fn ops() -> impl Strategy<Value = Op> {
    let (space, agent, pick) = (0..2_usize, 0..3_u8, 0..100_usize);
    let whose = (prop_oneof![3 => Just(0), 1 => Just(1_usize)], agent.clone());
    prop_oneof![
        10 => (whose.clone(), prompts(), known())
            .prop_map(|(whose, prompt, known)| Op::Draft { whose, prompt, known }),
        9 => (pick.clone(), 0..3_u8, any::<bool>())
            .prop_map(|(pick, kind, with_keys)| Op::Publish { pick, kind, with_keys }),
        1 => pick.clone().prop_map(|pick| Op::Abandon { pick }),
        6 => (space.clone(), prompts(), prop_oneof![3 => Just(u64::MAX), 1 => 0..900_u64])
            .prop_map(|(space, prompt, limit)| Op::Hold { space, prompt, limit }),
        3 => (pick.clone(), agent).prop_map(|(pick, agent)| Op::Used { pick, agent }),
        4 => pick.clone().prop_map(|pick| Op::Release { pick }),
        1 => (whose.clone(), pick.clone()).prop_map(|(whose, pick)| Op::Settle { whose, pick }),
        1 => (whose, pick.clone()).prop_map(|(whose, pick)| Op::Withdraw { whose, pick }),
        2 => (0..300_000_u64).prop_map(|ago| Op::Expire { ago }),
        2 => (1..3000_u64).prop_map(Op::EvictBytes),
        1 => (1..3000_u64).prop_map(Op::MakeRoom),
        1 => space.clone().prop_map(|space| Op::DropOldest { space }),
        1 => space.clone().prop_map(|space| Op::Clear { space }),
        1 => space.prop_map(|space| Op::Reopen { space }),
        3 => (1..8_u64, 0..2_usize).prop_map(|(n, group)| Op::Allocate { n, group }),
        2 => pick.prop_map(|pick| Op::Free { pick }),
        6 => words(),
    ]
}

fn geometries() -> impl Strategy<Value = Vec<GroupSpec>> {
    let all = ("global", Reach::All, 500);
    let window = ("sliding_window", Reach::Window { size: 300, keep: 0 }, 200);
    let kept = ("kept", Reach::Window { size: 280, keep: 4 }, 300);
    let chunk = ("chunked", Reach::Chunk { size: 384 }, 300);
    let state = ("state", Reach::State, 400);
    let lists: Vec<Vec<(&str, Reach, u64)>> = vec![
        vec![all],
        vec![all, ("other", Reach::All, 100)],
        vec![all, window],
        vec![all, kept],
        vec![all, chunk],
        vec![all, state],
        vec![window, state],
        vec![chunk],
        vec![all, window, state],
    ];
    prop::sample::select(lists).prop_map(|list| {
        let group = |(name, reach, bytes_per_block): (&str, Reach, u64)| GroupSpec {
            name: name.into(),
            reach,
            bytes_per_block,
            max_blocks_per_agent: None,
            arrays_per_block: 1,
        };
        list.into_iter().map(group).collect()
    })
}

/// At least 1,500 programs; `PROPTEST_CASES` asks for more.
fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    ProptestConfig { cases: default.cases.max(1500), failure_persistence: None, ..default }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_index_keeps_its_laws(
        groups in geometries(),
        n_bytes in prop_oneof![3 => 2_000..9_000_u64, 1 => Just(1 << 20)],
        key_width in prop_oneof![2 => Just(KeyWidth::default()), 1 => Just(KeyWidth(0))],
        program in vec(ops(), 1..50),
    ) {
        let mut world = World::new(groups.clone(), n_bytes, key_width);
        let mut mirrored = World::new(groups.into_iter().rev().collect(), n_bytes, key_width);
        for op in &program {
            let outcome: Outcome = world.run(op);
            world.check();
            // b21: a hit does not depend on the order of the groups, and no more does what goes.
            prop_assert_eq!(outcome, mirrored.run(op), "{:?}", op);
            mirrored.check();
        }
        world.end();
        mirrored.end();
    }
}
