//! Rules of eviction and publication one by one, where programs would meet them seldom.

use std::collections::BTreeSet;
use std::sync::Arc;

use semantic_core::{
    EndHandle, EndReading, GroupSpec, Key, KeyWidth, Kind, Memory, Policy, PoolKey, Prefixes,
    Reach, Refusal, Root, Span, Terms, Tokens,
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
fn rows_that_are_not_known_to_their_end_are_not_published() {
    let mut desk = Desk::new(&[GLOBAL], 100);
    let refused = desk.draft(&tokens(0, 300), (0, 280), "a");
    assert!(matches!(refused, Err(Refusal::LostRows { lo: 256, hi: 300, .. })), "{refused:?}");
    assert_eq!(desk.draft(&tokens(0, 300), (0, 300), "a"), Ok(()));
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
