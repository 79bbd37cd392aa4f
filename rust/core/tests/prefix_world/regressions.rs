//! Programs that once broke a law, each as short as it was found.

use semantic_core::{GroupSpec, KeyWidth, Policy, Priority, Reach};

use super::{Known, Op, Prompt, World};

const GLOBAL: (&str, Reach, u64) = ("global", Reach::All, 500);
const WINDOW: (&str, Reach, u64) = ("window", Reach::Window { size: 300, keep: 0 }, 200);
const CHUNK: (&str, Reach, u64) = ("chunked", Reach::Chunk { size: 384 }, 300);

fn world(groups: &[(&str, Reach, u64)], n_bytes: u64) -> World {
    let group = |&(name, reach, bytes_per_block): &(&str, Reach, u64)| GroupSpec {
        name: name.into(),
        reach,
        bytes_per_block,
        max_blocks_per_agent: None,
        arrays_per_block: 1,
    };
    let groups = groups.iter().map(group).collect();
    World::new(groups, n_bytes, KeyWidth::default())
}

fn run(groups: &[(&str, Reach, u64)], n_bytes: u64, program: &[Op]) {
    let mut world = world(groups, n_bytes);
    for op in program {
        world.run(op);
        world.check();
    }
    world.end();
}

fn prompt(len: u64) -> Prompt {
    Prompt { len, partings: Vec::new(), is_wide: false }
}

fn parted(len: u64, place: u64, way: u8) -> Prompt {
    Prompt { partings: vec![(place, way)], ..prompt(len) }
}

fn draft(agent: u8, prompt: Prompt) -> Op {
    Op::Draft { whose: (0, agent), prompt, known: Known::Whole }
}

const PUBLISH: Op = Op::Publish { pick: 0, kind: 1, with_keys: true };

fn hold(len: u64) -> Op {
    Op::Hold { space: 0, prompt: prompt(len), limit: u64::MAX }
}

#[test]
fn a_shared_head_whose_tails_matter_more_is_passed_over_once() {
    let high = |agent| Op::Prioritise { whose: (0, agent), priority: Priority::High };
    let program = [
        high(0),
        high(1),
        draft(0, parted(512, 256, 1)),
        PUBLISH,
        draft(1, parted(512, 256, 2)),
        PUBLISH,
        Op::Allocate { n: 4, group: 0 },
    ];
    run(&[GLOBAL], 2500, &program);
}

#[test]
fn an_agent_that_matters_goes_after_all_others() {
    let mut world = world(&[GLOBAL], 1000);
    let high = Op::Prioritise { whose: (0, 0), priority: Priority::High };
    let program =
        [draft(0, prompt(1)), PUBLISH, draft(1, parted(1, 0, 1)), PUBLISH, high, Op::EvictBytes(1)];
    for op in &program {
        world.run(op);
    }
    assert_eq!(world.run(&hold(1)), [1, 1]);
}

#[test]
fn an_agent_whose_only_claim_moves_is_not_forgotten() {
    let program = [
        draft(1, prompt(257)),
        draft(0, prompt(300)),
        PUBLISH,
        PUBLISH,
        Op::EvictBytes(1),
        draft(2, parted(600, 1, 1)),
        PUBLISH,
    ];
    run(&[GLOBAL], 2500, &program);
}

#[test]
fn a_closed_namespace_keeps_no_pin() {
    let whose = (0, 1);
    run(
        &[GLOBAL],
        3000,
        &[Op::Pin { whose }, draft(1, prompt(1)), PUBLISH, Op::Reopen { space: 0 }],
    );
}

#[test]
fn slots_that_are_not_there_yet_are_no_reason_to_decline() {
    let first = [draft(0, prompt(1)), PUBLISH, Op::SetPolicy(Policy::Resident)];
    let part = Op::Draft { whose: (0, 0), prompt: prompt(300), known: Known::WhatIsRead };
    run(&[GLOBAL, WINDOW], 4200, &[&first[..], &[part, Op::MakeRoom(1)]].concat());
}

#[test]
fn a_block_beside_a_held_part_can_be_evicted() {
    let program = [
        draft(0, prompt(257)),
        draft(0, prompt(300)),
        PUBLISH,
        hold(257),
        PUBLISH,
        Op::Draft { whose: (1, 0), prompt: prompt(512), known: Known::Whole },
    ];
    run(&[GLOBAL, CHUNK], 3200, &program);
}

#[test]
fn a_hit_whose_last_block_was_replaced_is_used_as_far_as_it_is_there() {
    let program = [
        draft(0, prompt(1)),
        PUBLISH,
        hold(1),
        draft(0, prompt(2)),
        PUBLISH,
        Op::Used { pick: 0, agent: 0 },
        Op::EvictBytes(500),
    ];
    run(&[GLOBAL], 4000, &program);
}

#[test]
fn what_a_draft_builds_upon_is_found_again_when_its_place_has_gone() {
    let program = [
        draft(0, prompt(100)),
        PUBLISH,
        draft(1, prompt(100)),
        draft(0, prompt(200)),
        Op::Publish { pick: 1, kind: 1, with_keys: true },
        Op::EvictBytes(500),
        PUBLISH,
    ];
    for groups in [&[GLOBAL][..], &[GLOBAL, WINDOW], &[GLOBAL, CHUNK]] {
        run(groups, 1 << 20, &program);
    }
}

#[test]
fn a_draft_is_published_where_it_was_planned_not_in_a_sibling() {
    let program = [
        draft(0, prompt(256)),
        PUBLISH,
        draft(0, parted(300, 255, 3)),
        draft(0, prompt(1)),
        PUBLISH,
        Op::DropOldest { space: 0 },
        PUBLISH,
    ];
    run(&[GLOBAL, WINDOW], 6000, &program);
}

#[test]
fn what_is_pinned_does_not_expire() {
    let whose = (0, 2);
    let old = [Op::Pin { whose }, draft(2, prompt(384)), PUBLISH, Op::Wait(60_000)];
    for groups in [&[GLOBAL][..], &[GLOBAL, WINDOW], &[GLOBAL, CHUNK], &[CHUNK]] {
        let program = [&old[..], &[Op::Wait(1), Op::Expire { ago: 0 }, Op::EvictBytes(1)]].concat();
        run(groups, 4000, &program);
    }
}

#[test]
fn an_end_that_moved_to_a_fuller_node_while_it_was_held_may_go() {
    let program = [
        Op::Allocate { n: 5, group: 0 },
        draft(0, prompt(1)),
        Op::Allocate { n: 4, group: 0 },
        PUBLISH,
        hold(1),
        Op::EvictBytes(1),
        draft(0, prompt(2)),
        PUBLISH,
        draft(0, prompt(100)),
    ];
    run(&[GLOBAL, WINDOW], 5900, &program);
}
