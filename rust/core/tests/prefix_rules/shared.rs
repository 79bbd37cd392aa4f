//! What agents share, and what is said of them.

use semantic_core::{Hint, Prefixes, Priority, Reach, Root};

use crate::desk::{Desk, GLOBAL, TURN, WINDOW, tokens};

/// Who of three goes first, when two of them share a block that is older than the third's.
fn first_of_shared(groups: &[Reach], say: impl FnOnce(&mut Prefixes<'_>, Root)) -> Vec<i64> {
    let mut desk = Desk::new(groups, 100);
    for (way, agent) in [(1, "a"), (1, "b"), (2, "c")] {
        desk.publish(&tokens(way, 256), agent, TURN);
    }
    desk.with(say);
    desk.evicted(&[1, 2], 256)
}

#[test]
fn what_agents_share_matters_as_much_as_to_the_one_to_whom_it_matters_most() {
    for groups in [&[GLOBAL][..], &[GLOBAL, WINDOW]] {
        let first = |say: &dyn Fn(&mut Prefixes<'_>, Root)| {
            first_of_shared(groups, |prefixes, root| say(prefixes, root))[0]
        };
        assert_eq!(first(&|_, _| ()), 1);
        assert_eq!(first(&|p, root| p.prioritise(root, "a", Priority::High)), 2);
        assert_eq!(first(&|p, root| p.prioritise(root, "b", Priority::High)), 2);
        // A higher priority that was taken back is none.
        let back = |p: &mut Prefixes<'_>, root| {
            p.prioritise(root, "b", Priority::High);
            p.prioritise(root, "b", Priority::Normal);
        };
        assert_eq!(first(&back), 1);
        // Low is what matters little to everybody.
        let low = |names: &'static [&str]| {
            move |p: &mut Prefixes<'_>, root| {
                p.prioritise(root, "c", Priority::Low);
                for name in names {
                    p.prioritise(root, name, Priority::Low);
                }
            }
        };
        assert_eq!((first(&low(&["a"])), first(&low(&["a", "b"]))), (2, 1));
    }
}

#[test]
fn what_agents_share_goes_first_once_all_of_them_have_ended() {
    for groups in [&[GLOBAL][..], &[GLOBAL, WINDOW]] {
        let mut desk = Desk::new(groups, 100);
        for (way, agent) in [(2, "live"), (1, "a"), (1, "b")] {
            desk.publish(&tokens(way, 256), agent, TURN);
        }
        desk.with(|prefixes, root| prefixes.hint(root, "a", Hint::Ended));
        let n = groups.len() as u64;
        desk.publish(&tokens(3, 256), "passing", TURN);
        desk.with(|prefixes, root| prefixes.hint(root, "b", Hint::Ended));
        desk.evict(n);
        assert_eq!((desk.hit(&tokens(1, 256)), desk.hit(&tokens(2, 256))), (0, 256));
        // While one of them may come back, it is as that one's own.
        for agent in ["c", "d"] {
            desk.publish(&tokens(4, 256), agent, TURN);
        }
        desk.with(|prefixes, root| {
            prefixes.hint(root, "c", Hint::Ended);
            prefixes.hint(root, "d", Hint::Waiting);
            prefixes.set_time(60_000);
        });
        desk.publish(&tokens(5, 256), "e", TURN);
        assert_eq!(desk.evicted(&[2, 3, 4, 5], 256), [4, 2, 3, 5]);
    }
}

#[test]
fn a_crowd_of_any_size_knows_to_whom_it_matters() {
    for groups in [&[GLOBAL][..], &[GLOBAL, WINDOW]] {
        let mut desk = Desk::new(groups, 1000);
        for n in 0..100 {
            let agent = format!("a{n}");
            desk.publish(&tokens(1, 256), &agent, TURN);
            let hint = if n < 99 { Hint::Ended } else { Hint::Active };
            desk.with(|prefixes, root| prefixes.hint(root, &agent, hint));
        }
        desk.with(|prefixes, root| prefixes.prioritise(root, "high", Priority::High));
        desk.publish(&tokens(1, 256), "high", TURN);
        desk.publish(&tokens(2, 256), "normal", TURN);
        assert_eq!(desk.evicted(&[1, 2], 256), [2, 1]);
    }
}

#[test]
fn whoever_takes_the_place_of_an_agent_that_ended_has_not_ended() {
    let mut desk = Desk::new(&[GLOBAL], 100);
    desk.publish(&tokens(1, 256), "ended", TURN);
    desk.publish(&tokens(2, 256), "old", TURN);
    desk.with(|prefixes, root| prefixes.hint(root, "ended", Hint::Ended));
    desk.evict(1);
    desk.publish(&tokens(3, 256), "young", TURN);
    assert_eq!(desk.evicted(&[2, 3], 256), [2, 3]);
}
