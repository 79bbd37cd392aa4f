//! What goes first, rule by rule.

use std::collections::BTreeSet;

use semantic_core::{EndReading, Prefixes};

use crate::desk::{Desk, GLOBAL, SYSTEM, TURN, WINDOW, branch, tokens};

#[test]
fn whoever_wanted_a_tail_wants_what_is_left_of_it() {
    let mut desk = Desk::new(&[GLOBAL], 100);
    for (agent, way) in [("a", 1), ("b", 2)] {
        desk.publish(&branch(way, 256, 512), agent, TURN);
    }
    desk.publish(&branch(1, 256, 256), "c", TURN);
    desk.evict(2);
    let ends = desk.with(|prefixes, root| prefixes.ends(root));
    let [end] = &ends[..] else { panic!("{ends:?}") };
    let mut agents = end.agents.clone();
    agents.sort();
    assert_eq!((end.n_tokens, agents), (256, ["a", "b", "c"].map(str::to_owned).to_vec()));
}

#[test]
fn a_longer_turn_ends_what_its_own_agent_wanted_and_nobody_else() {
    let mut desk = Desk::new(&[GLOBAL], 100);
    desk.publish(&tokens(0, 256), "other", TURN);
    desk.publish(&tokens(0, 300), "own", TURN);
    let end = desk.publish(&tokens(0, 600), "own", TURN);
    desk.with(|prefixes, root| prefixes.settle(root, end, "own"));
    let kept = |agent| move |prefixes: &mut Prefixes<'_>, root| prefixes.ends_of(root, agent).len();
    assert_eq!((desk.with(kept("other")), desk.with(kept("own"))), (1, 1));
}

#[test]
fn a_path_that_was_used_goes_from_its_tail() {
    let mut desk = Desk::new(&[GLOBAL], 100);
    let (first, second) = (tokens(1, 768), tokens(2, 768));
    for path in [&first, &second] {
        desk.publish(path, "a", TURN);
    }
    for path in [&first, &second] {
        desk.with(|prefixes, root| {
            let hold = prefixes.hold(root, path.all(), u64::MAX).unwrap();
            prefixes.used(root, &hold.plan, "a");
            prefixes.release(hold);
        });
    }
    desk.evict(2);
    assert_eq!((desk.hit(&first), desk.hit(&second)), (256, 768));
}

#[test]
fn a_path_goes_from_its_tail_however_its_places_lie() {
    let mut desk = Desk::new(&[GLOBAL], 100);
    let [kept, third, first, second] = [1, 2, 3, 4].map(|way| tokens(way, 256));
    for path in [&kept, &third, &first, &second] {
        desk.publish(path, "a", TURN);
    }
    desk.publish(&third, "a", TURN);
    desk.publish(&kept, "a", TURN);
    // The places of three that go one after the other are taken in the opposite order: what is before
    // one of the new path in memory is its own beginning, with another one between them.
    desk.evict(3);
    assert_eq!([&kept, &third, &first, &second].map(|path| desk.hit(path)), [256, 0, 0, 0]);
    let path = tokens(5, 1024);
    desk.publish(&path, "a", TURN);
    desk.publish(&kept, "a", TURN);
    desk.evict(3);
    assert_eq!((desk.hit(&path), desk.hit(&kept)), (256, 256));
}

#[test]
fn old_ends_of_a_conversation_go_before_everything_else_but_not_its_system_prompt() {
    let mut desk = Desk::new(&[GLOBAL, WINDOW], 100);
    desk.publish(&tokens(9, 150), "older", TURN);
    desk.publish(&tokens(0, 150), "a", SYSTEM);
    for len in [170, 190, 210, 230] {
        desk.publish(&tokens(0, len), "a", TURN);
    }
    desk.evict(2);
    let left = desk.with(|prefixes, root| {
        let ends = prefixes.ends(root).into_iter();
        let is_older = |end: &EndReading| prefixes.tokens_of(end.handle).unwrap()[0] > 0;
        ends.map(|end| (is_older(&end), end.n_tokens)).collect::<BTreeSet<_>>()
    });
    assert_eq!(left, BTreeSet::from([(true, 150), (false, 150), (false, 210), (false, 230)]));
}

#[test]
fn what_was_passed_over_because_it_was_held_keeps_its_place() {
    for groups in [&[GLOBAL][..], &[GLOBAL, WINDOW]] {
        for pins in [false, true] {
            let mut desk = Desk::new(groups, 100);
            for way in 1..=5 {
                desk.publish(&tokens(way, 256), &format!("a{way}"), TURN);
            }
            if pins {
                desk.with(|prefixes, root| prefixes.pin(root, "a1"));
                desk.evict(groups.len() as u64);
                desk.with(|prefixes, root| prefixes.unpin(root, "a1"));
            } else {
                desk.held(&tokens(1, 256), |desk| desk.evict(groups.len() as u64));
            }
            assert_eq!(desk.hit(&tokens(2, 256)), 0);
            assert_eq!(desk.evicted(&[1, 3, 4, 5], 256), [1, 3, 4, 5], "{groups:?} {pins}");
        }
    }
}

#[test]
fn a_head_that_was_passed_over_with_its_tail_keeps_its_place() {
    let mut desk = Desk::new(&[GLOBAL], 100);
    for (way, len) in [(1, 512), (2, 256), (3, 256), (4, 256)] {
        desk.publish(&tokens(way, len), &format!("a{way}"), TURN);
    }
    desk.with(|prefixes, root| prefixes.pin(root, "a1"));
    desk.evict(1);
    desk.with(|prefixes, root| prefixes.unpin(root, "a1"));
    assert_eq!(desk.hit(&tokens(2, 256)), 0);
    assert_eq!(desk.evicted(&[1, 3, 4], 256), [1, 3, 4]);
}

#[test]
fn a_superseded_end_that_was_passed_over_is_superseded_still() {
    let mut desk = Desk::new(&[GLOBAL, WINDOW], 100);
    desk.publish(&tokens(9, 256), "older", TURN);
    for len in [256, 512, 768, 1000] {
        desk.publish(&tokens(0, len), "a", TURN);
    }
    desk.held(&tokens(0, 256), |desk| {
        desk.held(&tokens(0, 512), |desk| {
            // The superseded ones are held, so what is older goes.
            desk.evict(2);
            assert_eq!(desk.hit(&tokens(9, 256)), 0);
        });
    });
    desk.publish(&tokens(9, 256), "newer", TURN);
    desk.evict(2);
    let lens = desk.with(|prefixes, root| prefixes.ends(root));
    let lens: BTreeSet<u64> = lens.iter().map(|end| end.n_tokens).collect();
    assert_eq!(lens, BTreeSet::from([256, 768, 1000]));
    assert_eq!(desk.hit(&tokens(9, 256)), 256);
}
