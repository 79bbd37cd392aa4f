//! Rules of eviction and publication one by one, where programs would meet them seldom.

use std::collections::BTreeSet;
use std::sync::Arc;

use semantic_core::{
    Change, EndHandle, EndReading, GroupSpec, Hint, Key, KeyWidth, Kind, Memory, Policy, PoolKey,
    Prefixes, Priority, Reach, Refusal, Root, Span, Terms, Tokens,
};

const BLOCK: u64 = 1000;
const GLOBAL: Reach = Reach::All;
const WINDOW: Reach = Reach::Window { size: 100, keep: 0 };
const SYSTEM: Kind = 0;
const TURN: Kind = 1;

struct Desk {
    memory: Memory,
    key: PoolKey,
    root: Root,
    n_groups: usize,
}

impl Desk {
    /// Room for so many blocks of each of these groups.
    fn new(reaches: &[Reach], blocks: u64) -> Self {
        let group = |(n, &reach): (usize, &Reach)| GroupSpec {
            name: format!("group {n}"),
            reach,
            bytes_per_block: BLOCK,
            max_blocks_per_agent: None,
            arrays_per_block: 1,
        };
        let groups: Vec<GroupSpec> = reaches.iter().enumerate().map(group).collect();
        let n_groups = groups.len();
        let mut memory = Memory::new(blocks * BLOCK).unwrap();
        let key = memory.open(Terms::default(), groups, 1_000_000).unwrap();
        let mut pool = memory.pool(&key).unwrap();
        let root = pool.prefixes().open(Key::default(), KeyWidth::default());
        Self { memory, key, root, n_groups }
    }

    fn with<R>(&mut self, work: impl FnOnce(&mut Prefixes<'_>, Root) -> R) -> R {
        let root = self.root;
        let done = self.memory.pool(&self.key).map(|mut pool| work(&mut pool.prefixes(), root));
        self.memory.check().unwrap();
        done.unwrap()
    }

    fn draft(&mut self, tokens: &Tokens, known: Span, agent: &str) -> Result<(), Refusal> {
        let known = vec![vec![known]; self.n_groups];
        let tokens = Arc::new(tokens.clone());
        self.with(|prefixes, root| {
            let drafted = prefixes.draft(root, &tokens, &known, agent).unwrap();
            drafted.map(|draft| prefixes.abandon(draft))
        })
    }

    fn publish(&mut self, tokens: &Tokens, agent: &str, kind: Kind) -> EndHandle {
        let known = vec![vec![(0, tokens.len() as u64)]; self.n_groups];
        let tokens = Arc::new(tokens.clone());
        self.with(|prefixes, root| {
            let draft = prefixes.draft(root, &tokens, &known, agent).unwrap().unwrap();
            prefixes.publish(draft, agent, kind).unwrap().end
        })
    }

    fn hit(&mut self, tokens: &Tokens) -> u64 {
        self.with(|prefixes, root| prefixes.plan(root, tokens.all(), u64::MAX).unwrap().n_tokens)
    }

    /// A hit on these tokens is held, while something else happens.
    fn held(&mut self, tokens: &Tokens, meanwhile: impl FnOnce(&mut Self)) {
        let hold = self.with(|prefixes, root| prefixes.hold(root, tokens.all(), u64::MAX).unwrap());
        meanwhile(self);
        self.with(|prefixes, _| prefixes.release(hold));
    }

    /// Which of these are found, so many tokens each, as they are evicted one by one.
    fn evicted(&mut self, ways: &[i64], len: i64) -> Vec<i64> {
        let mut left = ways.to_vec();
        let mut gone = Vec::new();
        while self.with(|prefixes, _| prefixes.evict_bytes(1)) > 0 {
            let (here, lost): (Vec<i64>, Vec<i64>) =
                left.iter().partition(|&&way| self.hit(&tokens(way, len)) == len.unsigned_abs());
            gone.extend(lost);
            left = here;
        }
        gone
    }

    fn evict(&mut self, blocks: u64) {
        assert_eq!(self.with(|prefixes, _| prefixes.evict_bytes(blocks * BLOCK)), blocks * BLOCK);
    }
}

/// So many tokens, in which every way is another from the first token on.
fn tokens(way: i64, len: i64) -> Tokens {
    (0..len).map(|n| way * 100_000 + n).collect()
}

/// As the first of these, and another from that position on.
fn branch(way: i64, from: i64, len: i64) -> Tokens {
    (0..len).map(|n| if n < from { n } else { way * 100_000 + n }).collect()
}

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
