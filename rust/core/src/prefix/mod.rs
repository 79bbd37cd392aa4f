//! The prefix index: which sequences are cached, what of them can be restored, and what goes first.
//!
//! ```text
//! tokens ─→ plan ─→ hold ─→ release          a hit, whose blocks nobody can take away
//! tokens ─→ draft ─→ (capture) ─→ publish    what is new of a sequence, staged, then findable
//! ```
//!
//! # What it protects
//!
//! - A token block is found under its exact prefix by comparing tokens, never by a key alone, and in
//!   its own namespace only: each has a root of its own.
//! - A hit is one length that is valid for every group.
//! - Every node leads to a published end, so nothing is kept that can complete no legal hit. Where
//!   every group is unbounded each position is legal, and an end only marks where a sequence ends.
//! - What a running sequence holds is never a victim, and no victim leaves a block behind that can
//!   be reached through it alone.
//!
//! # The order of eviction
//!
//! With bounded groups the unit is an end: it goes with the blocks that only it reads, and with the
//! nodes that lead nowhere without it. Otherwise the unit is a leaf. A path is touched from its tail
//! to its head, so that tails go before heads.
//!
//! Bytes and states of blocks are the [pool's](crate::Pool): the index says which block, the books
//! say what that means.

mod agents;
mod check;
mod crowds;
mod door;
mod draft;
mod end;
mod event;
mod evict;
mod find;
mod forks;
mod hit;
mod leaves;
mod lookup;
mod node;
mod nodes;
pub(crate) mod order;
mod pins;
mod policy;
mod publish;
mod siblings;
mod table;
mod uses;
mod wishes;

pub use agents::{Hint, Priority};
pub use door::{Hold, Prefixes};
pub use draft::{Draft, Refusal, StagedSpan};
pub use end::EndHandle;
pub use event::{Change, Event};
pub use hit::{HitPlan, RowSpan};
pub use node::Kind;
pub use policy::Policy;
pub use publish::Published;

pub(crate) use node::NodeId;

use std::collections::HashMap;

use crate::books::Books;
use crate::error::Error;
use crate::group::{GroupId, Groups};
use crate::id::BlockId;
use crate::key::{Key, KeyWidth};
use crate::prefix::agents::Agents;
use crate::prefix::crowds::Crowds;
use crate::prefix::end::{EndId, Ends};
use crate::prefix::node::{Piece, Whole};
use crate::prefix::nodes::Nodes;
use crate::prefix::order::Order;
use crate::prefix::uses::Uses;
use crate::reach::Reach;
use crate::tokens::TokenSlice;

/// A namespace in an index: sequences of different roots never share anything.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Root(u32);

/// What a reader can know of a published end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EndReading {
    /// Its name.
    pub handle: EndHandle,
    /// Its length in tokens.
    pub n_tokens: u64,
    /// What kind of segment ends here.
    pub kind: Kind,
    /// Who published it.
    pub agents: Vec<String>,
}

/// A namespace's part of the index.
#[derive(Debug)]
struct Namespace {
    top: NodeId,
    key_width: KeyWidth,
    n_ends: usize,
    /// Findable blocks for each kind group by group.
    blocks: Vec<u64>,
    /// Kept only for who asked for them.
    events: Option<Vec<Event>>,
    evicted_blocks: u64,
}

/// The prefix index of one pool.
#[derive(Debug)]
pub(crate) struct Index {
    unbounded: Vec<GroupId>,
    bounded: Vec<(GroupId, Reach)>,
    nodes: Nodes,
    ends: Ends,
    agents: Agents,
    /// By root, of which none is ever used again.
    namespaces: Vec<Option<Namespace>>,
    /// What is still to be told of namespaces that are closed.
    last_events: HashMap<Root, Vec<Event>>,
    /// When they go: leaves where every group is unbounded, else ends.
    order: Order,
    /// When nodes were last used, where leaves go.
    node_uses: Uses,
    /// Ends that were passed over because something holds them; set aside in the order.
    passed_over: Vec<EndId>,
    /// Who uses the same nodes.
    crowds: Crowds,
    /// Uses of ends so far.
    uses: u64,
    policy: Policy,
    /// The time of the last use, on the caller's clock.
    now: u64,
    /// Blocks that nobody can find any more, for whoever keeps their contents.
    gone: Vec<BlockId>,
    /// Whether an event was recorded of which nobody has heard.
    has_events: bool,
}

impl Index {
    pub(crate) fn new(groups: &Groups) -> Self {
        let reaches = || groups.iter().map(|(id, group)| (id, group.spec.reach));
        let unbounded = reaches().filter(|(_, reach)| !reach.is_bounded());
        let unbounded: Vec<GroupId> = unbounded.map(|(id, _)| id).collect();
        let bounded: Vec<_> = reaches().filter(|(_, reach)| reach.is_bounded()).collect();
        Self {
            nodes: Nodes::new(unbounded.clone(), bounded.len()),
            unbounded,
            bounded,
            ends: Ends::default(),
            agents: Agents::default(),
            namespaces: Vec::new(),
            last_events: HashMap::new(),
            order: Order::default(),
            node_uses: Uses::default(),
            passed_over: Vec::new(),
            crowds: Crowds::default(),
            uses: 0,
            policy: Policy::default(),
            now: 0,
            gone: Vec::new(),
            has_events: false,
        }
    }

    /// Start again for other groups: what was cached is gone, and every root is closed.
    pub(crate) fn replace_with(&mut self, books: &Books<'_>, next: Self) {
        let slots = self.nodes.iter().flat_map(|id| self.nodes.slots(id));
        let mut gone: Vec<BlockId> = slots.map(|slot| books.blocks.id(slot)).collect();
        self.gone.append(&mut gone);
        for id in self.ends.iter().map(|(id, _)| id).collect::<Vec<_>>() {
            self.ends.remove(id);
        }
        for root in (0..).map(Root).take(self.namespaces.len()) {
            self.take_leave(root);
        }
        // Roots and handles of before must never name anything of after.
        *self = Self {
            namespaces: self.namespaces.iter().map(|_| None).collect(),
            last_events: std::mem::take(&mut self.last_events),
            ends: std::mem::take(&mut self.ends),
            gone: std::mem::take(&mut self.gone),
            has_events: self.has_events,
            policy: self.policy,
            now: self.now,
            ..next
        };
    }

    /// Open a namespace. The same key may be opened more than once: the roots do not share.
    pub(crate) fn open(&mut self, key: Key, key_width: KeyWidth) -> Root {
        let root = Root(u32::try_from(self.namespaces.len()).unwrap_or(u32::MAX));
        let top = self.nodes.plant(root, key);
        self.namespaces.push(Some(Namespace {
            top,
            key_width,
            n_ends: 0,
            blocks: Vec::new(),
            events: None,
            evicted_blocks: 0,
        }));
        root
    }

    /// Close a namespace: what no running sequence holds goes at once, the rest when it is released.
    pub(crate) fn close(&mut self, books: &mut Books<'_>, root: Root) {
        if self.space(root).is_none() {
            self.last_events.remove(&root);
        }
        self.take_leave(root);
        self.dismiss(books, root);
        self.clear(books, root);
        let place = self.namespaces.get_mut(root.0 as usize);
        if let Some(space) = place.and_then(Option::take)
            && !self.nodes[space.top].has_children()
        {
            self.nodes.cut(space.top);
        }
    }

    fn space(&self, root: Root) -> Option<&Namespace> {
        self.namespaces.get(root.0 as usize)?.as_ref()
    }

    #[inline]
    fn space_mut(&mut self, root: Root) -> Option<&mut Namespace> {
        self.namespaces.get_mut(root.0 as usize)?.as_mut()
    }

    /// The node of a namespace, before its first token block.
    fn top(&self, root: Root) -> Result<NodeId, Error> {
        self.space(root).map(|space| space.top).ok_or(Error::PoolClosed)
    }

    /// Whether hits are legal at every position, so that leaves go one by one.
    fn goes_by_leaves(&self) -> bool {
        self.bounded.is_empty()
    }

    fn n_groups(&self) -> usize {
        self.unbounded.len() + self.bounded.len()
    }

    /// Whether blocks have gone, or events were recorded, since the news were taken.
    #[inline]
    pub(crate) fn has_news(&self) -> bool {
        self.has_events || !self.gone.is_empty()
    }

    /// The blocks that have gone; whoever takes them hears that there may be events.
    pub(crate) fn take_news(&mut self) -> Vec<BlockId> {
        self.has_events = false;
        std::mem::take(&mut self.gone)
    }

    pub(crate) fn n_ends(&self, root: Root) -> usize {
        self.space(root).map_or(0, |space| space.n_ends)
    }

    /// Findable blocks by kind and group.
    pub(crate) fn blocks(&self, root: Root) -> Vec<(Kind, GroupId, u64)> {
        let blocks = self.space(root).map_or(&[][..], |space| &space.blocks);
        let kinds = (0..).zip(blocks.chunks(self.n_groups()));
        let groups = kinds.flat_map(|(kind, groups)| {
            (0..).map(GroupId).zip(groups).map(move |(group, &n)| (kind, group, n))
        });
        groups.filter(|&(_, _, n)| n > 0).collect()
    }

    pub(crate) fn evicted_blocks(&self, root: Root) -> u64 {
        self.space(root).map_or(0, |space| space.evicted_blocks)
    }

    /// The published ends of a namespace, the least recently used first.
    pub(crate) fn ends(&self, root: Root) -> Vec<EndReading> {
        let mut here: Vec<_> = self.ends.iter().filter(|(_, end)| end.root == root).collect();
        here.sort_unstable_by_key(|(id, end)| (end.last_use, *id));
        let name = |&agent: &agents::AgentId| Some(self.agents.get(agent)?.name.to_string());
        let reading = |(id, end): (end::EndId, &end::End)| EndReading {
            handle: self.ends.handle(id),
            n_tokens: end.at,
            kind: end.kind,
            agents: end.agents.iter().filter_map(name).collect(),
        };
        here.into_iter().map(reading).collect()
    }

    /// The tokens of a published end; None when it has gone.
    pub(crate) fn tokens_of(&self, handle: EndHandle) -> Option<Vec<i64>> {
        let end = self.ends.get(self.ends.find(handle)?)?;
        let mut path: Vec<NodeId> = self.nodes.ancestry(end.node).collect();
        path.reverse();
        let tokens = path.iter().flat_map(|&id| self.nodes.tokens(id).iter());
        Some(tokens.take(usize::try_from(end.at).unwrap_or(usize::MAX)).collect())
    }

    // Pieces ------------------------------------------------------------------------------------

    /// A staged block becomes findable in a node.
    fn attach(&mut self, books: &mut Books<'_>, id: NodeId, piece: Piece) {
        books.seal(piece.slot, id);
        self.join(books, id, piece);
    }

    /// A block that was held, but found nowhere, becomes findable again.
    fn adopt(&mut self, books: &mut Books<'_>, id: NodeId, piece: Piece) {
        books.move_to(piece.slot, id);
        let hi = piece.hi.min(self.nodes[id].end());
        self.join(books, id, Piece { hi, readers: 0, ..piece });
    }

    fn join(&mut self, books: &Books<'_>, id: NodeId, piece: Piece) {
        let is_bounded = self.bounded.iter().any(|(group, _)| *group == piece.group);
        if is_bounded {
            self.nodes.parts_mut(id).push(piece);
        } else {
            let Piece { slot, kind, .. } = piece;
            let generation = books.blocks.slots[slot].generation;
            self.nodes.push_whole(id, Whole { slot, generation, kind });
        }
        if let Some(n) = self.n_blocks(self.nodes[id].root, piece.kind, piece.group) {
            *n += 1;
        }
        self.record(books, Change::Stored, id, &piece);
    }

    /// A block that has left its node is findable no more: it is free, or will be when released.
    #[inline]
    fn detach(&mut self, books: &mut Books<'_>, id: NodeId, piece: &Piece) {
        self.record(books, Change::Removed, id, piece);
        if let Some(n) = self.n_blocks(self.nodes[id].root, piece.kind, piece.group) {
            *n -= 1;
        }
        if books.orphan(piece.slot) {
            self.gone.push(books.blocks.id(piece.slot));
            books.vacate(piece.slot);
        }
    }

    /// All blocks of unbounded groups leave a node.
    fn detach_whole(&mut self, books: &mut Books<'_>, id: NodeId) {
        while let Some(piece) = self.nodes.pop_whole(id) {
            self.detach(books, id, &piece);
        }
    }

    /// Findable blocks of a namespace, of a kind and a group.
    #[inline]
    fn n_blocks(&mut self, root: Root, kind: Kind, group: GroupId) -> Option<&mut u64> {
        let at = usize::from(kind) * self.n_groups() + usize::from(group.0);
        let space = self.space_mut(root)?;
        if space.blocks.len() <= at {
            space.blocks.resize(at + 1, 0);
        }
        space.blocks.get_mut(at)
    }

    /// The key of a token block behind a node.
    fn key(&self, parent: NodeId, tokens: TokenSlice<'_>) -> Key {
        let space = self.space(self.nodes[parent].root);
        let width = space.map(|space| space.key_width).unwrap_or_default();
        self.nodes.key(parent).child(tokens, width)
    }

    /// Whether a running sequence holds one of a node's blocks.
    #[inline]
    fn is_leased(&self, books: &Books<'_>, id: NodeId) -> bool {
        self.nodes.slots(id).any(|slot| books.leases(slot) > 0)
    }

    /// All nodes behind this one and itself, parents before their children. Paths may be long.
    fn behind(&self, id: NodeId) -> Vec<NodeId> {
        let mut order = Vec::new();
        let mut stack = vec![id];
        while let Some(next) = stack.pop() {
            order.push(next);
            stack.extend(self.nodes.children(next).iter());
        }
        order
    }
}
