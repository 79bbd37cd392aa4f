//! Threads that run random turns on one budget, under a scheduler that decides who goes next at
//! every step: whatever it decides, the books agree, nobody waits for ever, and no block is lost.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LockResult, Mutex as StdMutex, TryLockResult};

use semantic_core::{
    BlockId, Error, GroupSpec, Key, KeyWidth, Memory, Pool, PoolKey, Prefixes, Reach, Root, Terms,
    Tokens,
};
use semantic_shared::{Lock, Shared};
use shuttle::rand::{Rng, thread_rng};
use shuttle::sync::{Mutex, MutexGuard};
use shuttle::thread;

const SCHEDULES: usize = 3000;
const THREADS: u64 = 3;
const TURNS: u64 = 4;
const BUDGET: u64 = 6_000;

/// The model checker's lock.
#[derive(Debug)]
struct Watched(Mutex<Memory>);

impl Lock for Watched {
    type Value = Memory;
    type Guard<'l> = MutexGuard<'l, Memory>;

    fn new(value: Memory) -> Self {
        Self(Mutex::new(value))
    }

    fn lock(&self) -> LockResult<MutexGuard<'_, Memory>> {
        self.0.lock()
    }

    fn try_lock(&self) -> TryLockResult<MutexGuard<'_, Memory>> {
        self.0.try_lock()
    }
}

/// One namespace of one pool, as each thread has it.
struct Desk {
    shared: Shared<Watched>,
    key: PoolKey,
    root: Root,
    /// Blocks that were captured into, and those that were reported gone.
    captured: StdMutex<Vec<BlockId>>,
    gone: StdMutex<Vec<BlockId>>,
}

impl Desk {
    fn new() -> Self {
        let group = |name: &str, reach, bytes_per_block| GroupSpec {
            name: name.into(),
            reach,
            bytes_per_block,
            max_blocks_per_agent: None,
            arrays_per_block: 1,
        };
        let window = Reach::Window { size: 300, keep: 0 };
        let groups = vec![group("global", Reach::All, 500), group("window", window, 200)];
        let mut memory = Memory::new(BUDGET).unwrap();
        let key = memory.open(Terms::default(), groups, 1000).unwrap();
        let root = memory
            .pool(&key)
            .map(|mut pool| pool.prefixes().open(Key::default(), KeyWidth::default()))
            .unwrap();
        let lists = || StdMutex::new(Vec::new());
        Self { shared: Shared::new(memory), key, root, captured: lists(), gone: lists() }
    }

    /// At once where that is possible, else when it is this thread's turn: as the binding does it.
    fn with<R>(&self, work: impl FnOnce(&mut Pool<'_>) -> Result<R, Error>) -> Result<R, Error> {
        let done = self.shared.brief(|memory| work(&mut memory.pool(&self.key)?));
        done.unwrap_or_else(|work| self.shared.long(work))
    }

    fn prefixes<R>(&self, work: impl FnOnce(&mut Prefixes<'_>, Root) -> R) -> R {
        self.with(|pool| Ok(work(&mut pool.prefixes(), self.root))).unwrap()
    }

    fn drain(&self) -> Vec<BlockId> {
        let gone = self.shared.long(|memory| Ok(memory.take_news())).unwrap().unwrap_or_default();
        self.gone.lock().unwrap().extend(&gone);
        gone
    }

    fn turn(&self, agent: &str) {
        let mut rng = thread_rng();
        let len = [1, 256, 300, 512, 700][rng.gen_range(0..5)];
        let way = rng.gen_range(0..2) * 10_000;
        let id = |at: i64| if at < 256 { at } else { at + way };
        let tokens: Arc<Tokens> = Arc::new((0..len).map(id).collect());
        let mut hit = self.prefixes(|prefixes, root| {
            prefixes.hold(root, tokens.all(), u64::MAX).expect("an open root")
        });
        let held: HashSet<BlockId> = hit.plan.blocks().into_iter().collect();
        if rng.gen_bool(0.3) {
            let ids = self.with(|pool| pool.allocate(2, pool.group("global")?, agent));
            self.drain();
            if let Ok(ids) = ids {
                self.with(|pool| pool.free(&ids)).unwrap();
            }
        }
        // Who is refused goes on without having entered.
        let _ = self.with(|pool| pool.enter(self.root, &mut hit, agent, 300, 1));
        let _ = self.with(|pool| pool.grow(&mut hit, 400));
        let known = vec![vec![(0, tokens.len() as u64)]; 2];
        let drafted = self.prefixes(|prefixes, root| {
            prefixes.draft(root, &tokens, &known, agent).expect("an open root")
        });
        assert!(self.drain().iter().all(|id| !held.contains(id)), "what is held went");
        if let Ok(mut draft) = drafted {
            // Capture and keys: without the lock, while the others go on.
            let blocks: Vec<BlockId> = draft.spans.iter().map(|span| span.block).collect();
            draft.compute_keys();
            thread::yield_now();
            if rng.gen_bool(0.8) {
                self.captured.lock().unwrap().extend(blocks);
                self.prefixes(|prefixes, _| prefixes.publish(draft, agent, 1)).unwrap();
            } else {
                self.prefixes(|prefixes, _| prefixes.abandon(draft));
            }
        }
        self.with(|pool| pool.leave(self.root, hit, Some(agent))).unwrap();
        self.drain();
    }

    /// Everybody has gone: nothing is held, and each captured block is gone once or still here.
    fn close(&self) {
        self.shared.long(Memory::check).unwrap();
        assert_eq!(self.with(|pool| Ok(pool.used())), Ok(0));
        self.with(|pool| {
            pool.prefixes().clear(self.root);
            Ok(())
        })
        .unwrap();
        self.drain();
        assert_eq!(self.shared.long(|memory| Ok(memory.free())), Ok(BUDGET));
        let (mut captured, mut gone) =
            (self.captured.lock().unwrap().clone(), self.gone.lock().unwrap().clone());
        captured.sort_unstable();
        gone.sort_unstable();
        assert_eq!(captured, gone);
        self.shared.close(&self.key);
    }
}

#[test]
fn whoever_goes_next_no_block_is_lost_and_nobody_waits_for_ever() {
    let turns = || {
        let desk = Arc::new(Desk::new());
        let agent = |number: u64| {
            let desk = Arc::clone(&desk);
            thread::spawn(move || (0..TURNS).for_each(|_| desk.turn(&format!("a{}", number % 2))))
        };
        for thread in (0..THREADS).map(agent).collect::<Vec<_>>() {
            thread.join().unwrap();
        }
        desk.close();
    };
    shuttle::check_random(turns, SCHEDULES);
    shuttle::check_pct(turns, SCHEDULES, 3);
}

#[test]
fn work_comes_back_while_another_thread_is_inside() {
    let shared: Shared = Shared::new(Memory::new(10).unwrap());
    let inside = |memory: &mut Memory| {
        let refused = shared.brief(|memory| Ok(memory.total()));
        assert!(refused.is_err());
        Ok(memory.total())
    };
    assert_eq!(shared.long(inside), Ok(10));
    assert!(matches!(shared.brief(|memory| Ok(memory.total())), Ok(Ok(10))));
}

#[test]
fn after_a_panic_inside_every_call_says_so_and_finalisers_go_on() {
    let shared: Shared = Shared::new(Memory::new(10).unwrap());
    let panics = || shared.long(|_| -> Result<(), Error> { panic!("a bug of the core") });
    assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
    let broken = |done: Result<u64, Error>| matches!(done, Err(Error::Broken { .. }));
    assert!(shared.brief(|memory| Ok(memory.total())).is_ok_and(broken));
    assert!(broken(shared.long(|memory| Ok(memory.total()))));
    let mut seen = 0;
    shared.quietly(|memory| seen = memory.total());
    assert_eq!(seen, 10);
}
