//! What is held, and hits that have been outlived.

use semantic_core::{Hint, Tokens};

use crate::desk::{BLOCK, Desk, GLOBAL, TURN, WINDOW, branch, tokens};

#[test]
fn a_pin_holds_what_is_wanted_and_no_more() {
    for groups in [&[GLOBAL][..], &[GLOBAL, WINDOW]] {
        let mut desk = Desk::new(groups, 100);
        let root = desk.root;
        desk.with(|prefixes, _| prefixes.pin(root, "p"));
        let n = groups.len() as u64;
        let forget = |desk: &mut Desk, end| {
            desk.with(|prefixes, root| prefixes.withdraw(root, end, "p"));
            desk.memory.used()
        };
        let (first, second) =
            (desk.publish(&tokens(1, 512), "p", TURN), desk.publish(&tokens(2, 256), "p", TURN));
        assert_eq!(desk.memory.used(), (3 + 2 * (n - 1)) * BLOCK);
        assert_eq!(forget(&mut desk, first), n * BLOCK);
        assert_eq!(desk.hit(&tokens(1, 512)), 0);
        // The least recently used that is nobody's pin goes, and then nothing.
        desk.publish(&tokens(3, 256), "other", TURN);
        assert!(desk.with(|prefixes, _| prefixes.drop_oldest(root)));
        assert!(!desk.with(|prefixes, _| prefixes.drop_oldest(root)));
        assert_eq!((desk.hit(&tokens(2, 256)), desk.hit(&tokens(3, 256))), (256, 0));
        assert_eq!(desk.with(|prefixes, root| prefixes.pinned_bytes(root)), n * BLOCK);
        desk.held(&tokens(2, 256), |desk| {
            assert_eq!(desk.with(|prefixes, root| prefixes.pinned_bytes(root)), 0);
        });
        assert_eq!(forget(&mut desk, second), 0);
        desk.publish(&tokens(4, 256), "p", TURN);
        desk.with(|prefixes, _| prefixes.clear(root));
        assert_eq!((desk.memory.used(), desk.memory.cached()), (0, 0));
    }
}

#[test]
fn what_is_due_expires_beside_what_is_held() {
    for groups in [&[GLOBAL][..], &[GLOBAL, WINDOW]] {
        let mut desk = Desk::new(groups, 100);
        desk.with(|prefixes, _| prefixes.set_time(1000));
        for (way, len) in [(1, 256), (2, 256), (3, 600)] {
            desk.publish(&tokens(way, len), "a", TURN);
        }
        // The head of this one is in another lane than its tail.
        desk.publish(&tokens(4, 256), "a", TURN);
        desk.publish(&tokens(4, 512), "b", TURN);
        desk.with(|prefixes, _| prefixes.set_time(2000));
        desk.publish(&tokens(5, 256), "a", TURN);
        desk.held(&tokens(1, 256), |desk| desk.with(|prefixes, _| prefixes.expire(2000)));
        let hits = [1, 2, 3, 4, 5].map(|way| desk.hit(&tokens(way, 600)));
        assert_eq!(hits, [256, 0, 0, 0, 256], "{groups:?}");
        desk.with(|prefixes, _| prefixes.expire(2000));
        assert_eq!(desk.hit(&tokens(1, 256)), 0);
    }
}

#[test]
fn what_leads_to_a_branch_that_is_held_is_no_leaf_when_its_latest_branch_goes() {
    let mut desk = Desk::new(&[GLOBAL], 100);
    let [older, later] = [1, 2].map(|way| branch(way, 256, 512));
    for tokens in [&older, &later] {
        desk.publish(tokens, "a", TURN);
    }
    desk.held(&older, |desk| {
        desk.evict(1);
        assert_eq!((desk.hit(&older), desk.hit(&later)), (512, 256));
        assert_eq!(desk.with(|prefixes, _| prefixes.evict_bytes(1)), 0);
    });
    desk.evict(1);
    assert_eq!((desk.hit(&older), desk.hit(&later)), (256, 256));
    desk.evict(1);
    assert_eq!(desk.hit(&older), 0);
}

#[test]
fn who_goes_on_without_a_hit_uses_nothing_of_it() {
    let mut desk = Desk::new(&[GLOBAL], 100);
    let [given_up, later] = [1, 2].map(|way| tokens(way, 512));
    desk.publish(&given_up, "a", TURN);
    desk.publish(&later, "a", TURN);
    let mut hold = desk.with(|prefixes, root| {
        let mut hold = prefixes.hold(root, given_up.all(), u64::MAX).unwrap();
        prefixes.forgo(&mut hold);
        hold
    });
    let root = desk.root;
    desk.memory.pool(&desk.key).unwrap().enter(root, &mut hold, "b", 1, 0).unwrap();
    desk.evict(2);
    assert_eq!((desk.hit(&given_up), desk.hit(&later)), (0, 512));
    desk.memory.pool(&desk.key).unwrap().leave(root, hold, Some("b")).unwrap();
    desk.memory.check().unwrap();
}

#[test]
fn a_hit_that_another_model_has_outlived_is_used_by_nobody() {
    let mut desk = Desk::new(&[GLOBAL], 100);
    desk.publish(&tokens(1, 512), "a", TURN);
    let root = desk.root;
    let plan =
        desk.with(|prefixes, root| prefixes.plan(root, tokens(1, 512).all(), u64::MAX).unwrap());
    let mut pool = desk.memory.pool(&desk.key).unwrap();
    pool.reconfigure(pool.groups().cloned().collect()).unwrap();
    pool.prefixes().used(root, &plan, "b");
    desk.memory.check().unwrap();
}

#[test]
fn a_place_that_has_become_anothers_is_not_used_with_the_hit_that_had_it() {
    let mut desk = Desk::new(&[GLOBAL], 100);
    let short = branch(1, 0, 300);
    let longer: Tokens = short.all().iter().chain(0..200).collect();
    let others = branch(2, 0, 512);
    desk.publish(&branch(2, 0, 256), "c", TURN);
    desk.publish(&short, "a", TURN);
    let hold = desk.with(|prefixes, root| prefixes.hold(root, short.all(), u64::MAX).unwrap());
    assert_eq!(hold.plan.n_tokens, 300);
    // The fuller block takes over, and another conversation's second block gets the place.
    desk.publish(&longer, "a", TURN);
    desk.publish(&others, "c", TURN);
    desk.with(|prefixes, root| {
        prefixes.used(root, &hold.plan, "b");
        prefixes.release(hold);
    });
    desk.with(|prefixes, root| prefixes.hint(root, "b", Hint::Ended));
    assert_eq!(desk.evicted(&[2], 512), [2]);
}
