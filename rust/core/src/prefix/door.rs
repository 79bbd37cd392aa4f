//! What callers do with an index: one call for each step of a request.

use std::sync::Arc;

use crate::blocks::Cost;
use crate::books::Books;
use crate::error::Error;
use crate::group::GroupId;
use crate::id::{BlockId, SlotIndex};
use crate::key::{Key, KeyWidth};
use crate::prefix::agents::{Hint, Priority};
use crate::prefix::draft::{Draft, Refusal};
use crate::prefix::end::EndHandle;
use crate::prefix::event::Event;
use crate::prefix::hit::HitPlan;
use crate::prefix::node::Kind;
use crate::prefix::policy::Policy;
use crate::prefix::publish::Published;
use crate::prefix::{EndReading, Index, Root};
use crate::reach::Span;
use crate::tokens::{TokenSlice, Tokens};

/// A hit whose blocks nobody can take away until it is released, and what is charged for who runs
/// on it.
///
/// It has to be given to [`Prefixes::release`] once, or to [`Pool::leave`](crate::Pool::leave) when
/// it has [entered](crate::Pool::enter).
#[derive(Debug, Default)]
pub struct Hold {
    /// What is held, and where its rows are.
    pub plan: Arc<HitPlan>,
    slots: Vec<SlotIndex>,
    pub(crate) live: Cost,
}

impl Hold {
    /// Live bytes that are charged to it.
    #[must_use]
    pub fn live_bytes(&self) -> u64 {
        self.live.bytes
    }

    /// Arrays that are charged to it.
    #[must_use]
    pub fn live_arrays(&self) -> u64 {
        self.live.arrays
    }
}

/// The prefix index of a pool, borrowed together with the pool's books.
///
/// # Examples
///
/// ```
/// # use std::sync::Arc;
/// # use semantic_core::{Error, GroupSpec, Key, KeyWidth, Memory, Reach, Terms, Tokens};
/// # let group = GroupSpec {
/// #     name: "global".into(),
/// #     reach: Reach::All,
/// #     bytes_per_block: 1024,
/// #     max_blocks_per_agent: None,
/// #     arrays_per_block: 2,
/// # };
/// let mut memory = Memory::new(10 * 1024)?;
/// let key = memory.open(Terms::default(), vec![group], 100)?;
/// let mut pool = memory.pool(&key)?;
/// let mut prefixes = pool.prefixes();
/// let root = prefixes.open(Key::default(), KeyWidth::default());
/// let tokens: Arc<Tokens> = Arc::new((0..600).collect());
///
/// let draft = prefixes.draft(root, &tokens, &[vec![(0, 600)]], "a1")?.expect("it fits");
/// let rows: Vec<_> = draft.spans.iter().map(|span| (span.lo, span.hi)).collect();
/// assert_eq!(rows, [(0, 256), (256, 512), (512, 600)]); // captured into the staged blocks, then
/// prefixes.publish(draft, "a1", 1)?;
///
/// let other: Tokens = (0..520).chain([-1, -2]).collect();
/// let hold = prefixes.hold(root, other.all(), 521)?;
/// assert_eq!(hold.plan.n_tokens, 520);
/// prefixes.used(root, &hold.plan, "a2");
/// prefixes.release(hold);
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug)]
pub struct Prefixes<'p> {
    pub(crate) books: Books<'p>,
    pub(crate) index: &'p mut Index,
}

impl Prefixes<'_> {
    // Namespaces --------------------------------------------------------------------------------

    /// Open a namespace. The same key may be opened more than once: the roots do not share.
    pub fn open(&mut self, key: Key, key_width: KeyWidth) -> Root {
        self.index.open(key, key_width)
    }

    /// Close a namespace: what no running sequence holds goes at once, the rest when it is released.
    pub fn close(&mut self, root: Root) {
        self.index.close(&mut self.books, root);
    }

    /// In which order things go from now on, in all namespaces.
    pub fn set_policy(&mut self, policy: Policy) {
        self.index.set_policy(policy);
    }

    // Hits --------------------------------------------------------------------------------------

    /// The longest hit of at most `limit` tokens. Changes nothing.
    ///
    /// # Errors
    ///
    /// [`Error::PoolClosed`] for a namespace that was closed.
    pub fn plan(&self, root: Root, tokens: TokenSlice<'_>, limit: u64) -> Result<HitPlan, Error> {
        self.index.plan(&self.books, root, tokens, limit)
    }

    /// Plan a hit and hold its blocks, in one step. The order of eviction does not change.
    ///
    /// # Errors
    ///
    /// Those of [`plan`](Self::plan).
    pub fn hold(&mut self, root: Root, tokens: TokenSlice<'_>, limit: u64) -> Result<Hold, Error> {
        let plan = self.plan(root, tokens, limit)?;
        let slots: Vec<SlotIndex> = plan.blocks().into_iter().map(BlockId::slot).collect();
        self.books.lease(&slots);
        Ok(Hold { plan: Arc::new(plan), slots, live: Cost::default() })
    }

    /// A hit that is held was used by an agent: what it read goes last from now on.
    pub fn used(&mut self, root: Root, plan: &HitPlan, agent: &str) {
        self.index.used(&self.books, root, plan, agent);
    }

    /// An agent's turn is over: from now on it is away.
    pub fn depart(&mut self, root: Root, agent: &str) {
        self.index.depart(root, agent);
    }

    /// It is so late, on any clock of milliseconds that does not go back.
    pub fn set_time(&mut self, now_ms: u64) {
        self.index.now = now_ms.max(self.index.now);
    }

    /// End a hold: what nothing needs any more goes.
    pub fn release(&mut self, mut hold: Hold) {
        self.forgo(&mut hold);
    }

    /// Let the blocks of a hold go their way, and keep what is charged to it: it is a miss from now
    /// on, which uses nothing.
    pub fn forgo(&mut self, hold: &mut Hold) {
        hold.plan = Arc::default();
        self.index.release(&mut self.books, &std::mem::take(&mut hold.slots));
    }

    // Publication -------------------------------------------------------------------------------

    /// Stage what is new of `tokens`, or of the longest prefix of them that fits; evicts when need
    /// be.
    ///
    /// `known` has, for each group, the positions whose rows the live caches surely have. The inner
    /// result says why nothing can be published; the index is as it was then, but for what
    /// [`Policy::Resident`] has found to be worth even less.
    ///
    /// # Errors
    ///
    /// [`Error::PoolClosed`] for a namespace that was closed.
    pub fn draft(
        &mut self,
        root: Root,
        tokens: &Arc<Tokens>,
        known: &[Vec<Span>],
        agent: &str,
    ) -> Result<Result<Draft, Refusal>, Error> {
        self.index.draft(&mut self.books, root, tokens, known, agent)
    }

    /// Make a draft findable, with what was captured into its staged blocks.
    ///
    /// # Errors
    ///
    /// [`Error::PoolClosed`] for a namespace that was closed; the draft is given back then.
    pub fn publish(&mut self, draft: Draft, agent: &str, kind: Kind) -> Result<Published, Error> {
        let published = self.index.publish(&mut self.books, &draft, agent, kind);
        if published.is_err() {
            self.abandon(draft);
        }
        published
    }

    /// Give back a draft: nothing was published.
    #[expect(clippy::needless_pass_by_value, reason = "a draft is spent by giving it back")]
    pub fn abandon(&mut self, draft: Draft) {
        self.index.abandon(&mut self.books, &draft);
    }

    /// The turn that published this end is over: drop the agent's own shorter ends that it serves.
    pub fn settle(&mut self, root: Root, end: EndHandle, agent: &str) {
        self.index.settle(&mut self.books, root, end, agent);
    }

    /// One agent wants a published end no more; it goes when that was the last.
    pub fn withdraw(&mut self, root: Root, end: EndHandle, agent: &str) {
        self.index.withdraw(&mut self.books, root, end, agent);
    }

    // Eviction ----------------------------------------------------------------------------------

    /// Evict until so many cached bytes have gone or nothing may go; the bytes that went.
    pub fn evict_bytes(&mut self, n_bytes: u64) -> u64 {
        let before = self.books.share.ledger().cached;
        let mut gone = 0;
        while gone < n_bytes {
            let missing = Cost { bytes: n_bytes - gone, arrays: 0 };
            if !self.index.evict(&mut self.books, missing) {
                break;
            }
            gone = before - self.books.share.ledger().cached;
        }
        gone
    }

    /// The least recently used end of a namespace that no pin keeps goes, with what only it needs;
    /// False for none.
    pub fn drop_oldest(&mut self, root: Root) -> bool {
        self.index.drop_oldest(&mut self.books, root)
    }

    /// What was last used before that time goes, in all namespaces.
    pub fn expire(&mut self, before_ms: u64) {
        self.index.expire(&mut self.books, before_ms);
    }

    /// Forget everything of a namespace that no running sequence holds, what is pinned included.
    pub fn clear(&mut self, root: Root) {
        self.index.clear(&mut self.books, root);
    }

    // What is said about agents -----------------------------------------------------------------

    /// What is known of the agent's next request.
    pub fn hint(&mut self, root: Root, agent: &str, hint: Hint) {
        self.index.hint(root, agent, hint);
    }

    /// How much the agent matters.
    pub fn prioritise(&mut self, root: Root, agent: &str, priority: Priority) {
        self.index.prioritise(root, agent, priority);
    }

    /// Keep what an agent has published, now and later, until it is unpinned.
    pub fn pin(&mut self, root: Root, agent: &str) {
        self.index.pin(&mut self.books, root, agent);
    }

    /// Let what a pin kept go its usual way.
    pub fn unpin(&mut self, root: Root, agent: &str) {
        self.index.unpin(&mut self.books, root, agent);
    }

    /// Bytes of the blocks that nobody holds but the pins of a namespace.
    #[must_use]
    pub fn pinned_bytes(&self, root: Root) -> u64 {
        self.index.pinned_bytes(&self.books, root)
    }

    // Readings ----------------------------------------------------------------------------------

    /// How many ends are published in a namespace.
    #[must_use]
    pub fn n_ends(&self, root: Root) -> usize {
        self.index.n_ends(root)
    }

    /// The published ends of a namespace, the least recently used first.
    #[must_use]
    pub fn ends(&self, root: Root) -> Vec<EndReading> {
        self.index.ends(root)
    }

    /// The ends that an agent has published and still wants.
    #[must_use]
    pub fn ends_of(&self, root: Root, agent: &str) -> Vec<EndHandle> {
        self.index.ends_of(root, agent)
    }

    /// The tokens of a published end; None when it has gone.
    #[must_use]
    pub fn tokens_of(&self, end: EndHandle) -> Option<Vec<i64>> {
        self.index.tokens_of(end)
    }

    /// Findable blocks of a namespace by kind and group.
    #[must_use]
    pub fn blocks(&self, root: Root) -> Vec<(Kind, GroupId, u64)> {
        self.index.blocks(root)
    }

    /// Blocks of a namespace that went because memory was short.
    #[must_use]
    pub fn evicted_blocks(&self, root: Root) -> u64 {
        self.index.evicted_blocks(root)
    }

    /// Start to record events: from an empty picture, what is here now is stored first.
    pub fn subscribe(&mut self, root: Root) {
        self.index.subscribe(&self.books, root);
    }

    /// The events of a namespace since the last call. Those of one that was closed, or whose pool
    /// serves other groups by now, end with [`Change::Cleared`](crate::Change::Cleared) of each group.
    pub fn drain_events(&mut self, root: Root) -> Vec<Event> {
        self.index.drain_events(root)
    }

    /// Check every invariant of the index. Takes a time proportional to its blocks.
    ///
    /// # Errors
    ///
    /// [`Error::Broken`] with the first disagreement: a bug in this crate.
    pub fn check(&self) -> Result<(), Error> {
        self.index.check(&self.books)
    }
}
