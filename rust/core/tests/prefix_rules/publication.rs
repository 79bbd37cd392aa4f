//! What is published, and what is told when a namespace ends.

use semantic_core::{Change, GroupSpec, Policy, Reach, Refusal};

use crate::desk::{BLOCK, Desk, GLOBAL, TURN, WINDOW, branch, tokens};

#[test]
fn a_namespace_that_is_closed_or_whose_pool_changes_says_that_all_is_gone() {
    for closes in [true, false] {
        let mut desk = Desk::new(&[GLOBAL, WINDOW], 100);
        let root = desk.root;
        desk.publish(&tokens(1, 256), "a", TURN);
        desk.with(|prefixes, _| prefixes.subscribe(root));
        if closes {
            desk.with(|prefixes, _| prefixes.close(root));
        } else {
            let group = GroupSpec {
                name: "next".into(),
                reach: GLOBAL,
                bytes_per_block: BLOCK,
                max_blocks_per_agent: None,
                arrays_per_block: 1,
            };
            desk.memory.pool(&desk.key).unwrap().reconfigure(vec![group]).unwrap();
        }
        let events = desk.with(|prefixes, _| prefixes.drain_events(root));
        let told: Vec<_> = events.iter().map(|e| (e.change, e.group.index(), e.block)).collect();
        assert!(
            told[..2]
                .iter()
                .all(|(change, _, block)| { *change == Change::Stored && block.is_some() })
        );
        assert_eq!(told[2..], [(Change::Cleared, 0, None), (Change::Cleared, 1, None)]);
        assert!(desk.with(|prefixes, _| prefixes.drain_events(root)).is_empty());
    }
}

#[test]
fn rows_that_are_not_known_to_their_end_are_not_published() {
    let mut desk = Desk::new(&[GLOBAL], 100);
    let refused = desk.draft(&tokens(0, 300), (0, 280), "a");
    assert!(matches!(refused, Err(Refusal::LostRows { lo: 256, hi: 300, .. })), "{refused:?}");
    assert_eq!(desk.draft(&tokens(0, 300), (0, 300), "a"), Ok(()));
}

#[test]
fn the_longest_prefix_that_fits_beside_what_it_builds_upon_is_published() {
    let window = |size| Reach::Window { size, keep: 0 };
    let mut desk = Desk::new(&[GLOBAL, window(300), window(700)], 8);
    desk.publish(&branch(1, 256, 856), "a", TURN);
    // Three blocks of the first group, one of which is there, and two and three of the others.
    desk.publish(&branch(2, 256, 1159), "a", TURN);
    assert_eq!(desk.hit(&branch(2, 256, 1159)), 768);
}

#[test]
fn among_equals_the_new_one_is_kept() {
    let mut desk = Desk::new(&[GLOBAL], 2);
    desk.with(|prefixes, _| prefixes.set_policy(Policy::Resident));
    for (way, agent) in [(1, "a"), (2, "b")] {
        desk.with(|prefixes, root| {
            let miss = prefixes.plan(root, tokens(way, 1).all(), 0).unwrap();
            prefixes.used(root, &miss, agent);
        });
        desk.publish(&tokens(way, 512), agent, TURN);
    }
    assert_eq!((desk.hit(&tokens(1, 512)), desk.hit(&tokens(2, 512))), (0, 512));
}
