//! The nodes of the prefix tree: one token block each, under its exact prefix.
//!
//! A root is the node of a namespace, without tokens. Only full nodes have children, and no node is a
//! prefix of a sibling. Siblings are sorted by their tokens, so that the one that has most in common
//! with a prompt is found by bisection, and those that have nearly as much stand beside it.

use std::cmp::Ordering;
use std::num::NonZeroU32;
use std::ops::{Index, IndexMut};

use smallvec::SmallVec;

use crate::books::Books;
use crate::group::{BLOCK_TOKENS, GroupId};
use crate::id::SlotIndex;
use crate::key::Key;
use crate::prefix::agents::AgentId;
use crate::prefix::crowds::CrowdId;
use crate::prefix::end::EndId;
use crate::prefix::{Change, Event, Root};
use crate::tokens::{TokenSlice, Tokens};

/// The place of a node among all nodes, plus one: with a zero to spare, a slot has room for it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) struct NodeId(NonZeroU32);

impl NodeId {
    pub(crate) fn at(place: u32) -> Self {
        Self(NonZeroU32::MIN.saturating_add(place))
    }

    pub(crate) fn place(self) -> u32 {
        self.0.get() - 1
    }
}

/// What kind of segment published a block: a small number that the caller gives a meaning.
pub type Kind = u8;

/// A sealed block of one group, where it belongs in a sequence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Piece {
    pub(crate) group: GroupId,
    pub(crate) slot: SlotIndex,
    /// The valid positions `[lo, hi)`.
    pub(crate) lo: u64,
    pub(crate) hi: u64,
    pub(crate) kind: Kind,
    /// Ends that read it; unused in unbounded groups.
    pub(crate) readers: u32,
}

impl Piece {
    pub(crate) fn covers(&self, lo: u64, hi: u64) -> bool {
        self.lo <= lo && hi <= self.hi
    }
}

/// A sealed block of an unbounded group: all of its node's tokens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Whole {
    pub(crate) slot: SlotIndex,
    pub(crate) group: GroupId,
    pub(crate) kind: Kind,
}

/// Whose a node is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Owner {
    /// Nobody has used it yet.
    #[default]
    Nobody,
    /// Only this agent has used it.
    One(AgentId),
    /// More than one agent has used it.
    Many(CrowdId),
}

/// One token block. What a lookup reads lies together in a line of the CPU's cache, and so does what
/// the eviction of a leaf reads besides.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub(crate) struct Node {
    pub(crate) children: SmallVec<[NodeId; 2]>,
    pub(crate) tokens: Tokens,
    pub(crate) root: Root,
    pub(crate) parent: Option<NodeId>,
    /// One block for each unbounded group.
    pub(crate) whole: SmallVec<[Whole; 1]>,
    /// The published ends within its tokens.
    pub(crate) ends: SmallVec<[EndId; 2]>,
    pub(crate) owner: Owner,
    /// How many token blocks are before it.
    pub(crate) number: u32,
    /// Whether this place is in use.
    pub(crate) is_here: bool,
    /// Blocks of windows, chunks and states: what some end reads.
    pub(crate) parts: Vec<Piece>,
    pub(crate) key: Key,
}

const _: () = assert!(size_of::<Node>() == 192 && std::mem::offset_of!(Node, parts) == 128);

impl Node {
    /// The position of its first token.
    pub(crate) fn start(&self) -> u64 {
        u64::from(self.number) * BLOCK_TOKENS
    }

    /// The position after its last token.
    pub(crate) fn end(&self) -> u64 {
        self.start() + self.tokens.len() as u64
    }

    pub(crate) fn pieces(&self) -> impl Iterator<Item = Piece> {
        let whole = self.whole.iter().map(|&whole| self.piece(whole));
        whole.chain(self.parts.iter().copied())
    }

    #[inline]
    pub(crate) fn piece(&self, Whole { slot, group, kind }: Whole) -> Piece {
        Piece { group, slot, lo: self.start(), hi: self.end(), kind, readers: 0 }
    }

    /// The blocks of all groups.
    pub(crate) fn slots(&self) -> impl Iterator<Item = SlotIndex> {
        let parts = self.parts.iter().map(|piece| piece.slot);
        self.whole.iter().map(|whole| whole.slot).chain(parts)
    }

    /// A block of a bounded group that covers `[lo, hi)`.
    pub(crate) fn part(&self, group: GroupId, lo: u64, hi: u64) -> Option<&Piece> {
        self.parts.iter().find(|piece| piece.group == group && piece.covers(lo, hi))
    }
}

/// All nodes, in places that are used again.
#[derive(Debug, Default)]
pub(crate) struct Nodes {
    entries: Vec<Node>,
    vacant: Vec<NodeId>,
}

impl Nodes {
    /// A root: a node without tokens and parent.
    pub(crate) fn plant(&mut self, root: Root, key: Key) -> NodeId {
        let id = self.take();
        (self[id].root, self[id].key) = (root, key);
        id
    }

    /// A new node behind `parent`, which has none with these tokens yet.
    pub(crate) fn grow(&mut self, parent: NodeId, tokens: TokenSlice<'_>, key: Key) -> NodeId {
        let id = self.take();
        let (root, before) = (self[parent].root, self[parent].end() / BLOCK_TOKENS);
        let node = &mut self[id];
        node.root = root;
        node.parent = Some(parent);
        node.number = u32::try_from(before).unwrap_or(u32::MAX);
        node.key = key;
        node.tokens.refill(tokens);
        let place = self.place(parent, tokens);
        self[parent].children.insert(place, id);
        id
    }

    fn take(&mut self) -> NodeId {
        let id = self.vacant.pop().unwrap_or_else(|| {
            self.entries.push(Node::default());
            NodeId::at(u32::try_from(self.entries.len() - 1).unwrap_or(u32::MAX))
        });
        self[id].is_here = true;
        id
    }

    /// Take a leaf that has lost all it had off the tree. Its memory is kept for the next node.
    pub(crate) fn cut(&mut self, id: NodeId) {
        self.cut_tail(&[id]);
    }

    /// Take the end of a path off the tree: a leaf, and before it what leads to nothing else.
    pub(crate) fn cut_tail(&mut self, tail: &[NodeId]) {
        let Some(&head) = tail.last() else { return };
        if let Some(parent) = self[head].parent {
            if self[parent].children.len() == 1 {
                self[parent].children.clear();
            } else {
                let at = self.place(parent, self[head].tokens.all());
                self[parent].children.remove(at);
            }
        }
        for &id in tail {
            let node = &mut self[id];
            debug_assert!(node.ends.is_empty() && node.parts.is_empty());
            debug_assert!(node.owner == Owner::Nobody, "whose it was is told before");
            node.is_here = false;
            node.parent = None;
            node.children.clear();
            node.tokens.truncate(0);
            node.whole.clear();
            node.number = 0;
        }
        self.vacant.extend_from_slice(tail);
    }

    /// The child whose tokens are exactly these.
    #[inline]
    pub(crate) fn child(&self, parent: NodeId, tokens: TokenSlice<'_>) -> Option<NodeId> {
        let children = &self[parent].children;
        let candidate = match children.as_slice() {
            [] => return None,
            [only] => *only,
            many => *many.get(self.place(parent, tokens))?,
        };
        (self[candidate].tokens.all() == tokens).then_some(candidate)
    }

    /// The first place among the children whose tokens are not below these.
    fn place(&self, parent: NodeId, tokens: TokenSlice<'_>) -> usize {
        self[parent]
            .children
            .partition_point(|&child| self[child].tokens.all().compare(tokens).0 == Ordering::Less)
    }

    /// The child that has most in common with these tokens, and how many of them.
    pub(crate) fn most_alike(
        &self,
        parent: NodeId,
        tokens: TokenSlice<'_>,
    ) -> Option<(NodeId, usize)> {
        let children = &self[parent].children;
        let place = if children.len() < 2 { 0 } else { self.place(parent, tokens) };
        let neighbours = children.get(place).into_iter();
        let neighbours = neighbours.chain(place.checked_sub(1).and_then(|at| children.get(at)));
        let common = |&child: &NodeId| (child, self[child].tokens.all().common(tokens));
        neighbours.map(common).max_by_key(|&(_, common)| common)
    }

    /// The children that have more than `floor` tokens in common with these, and how many.
    pub(crate) fn alike(
        &self,
        parent: NodeId,
        tokens: TokenSlice<'_>,
        floor: usize,
    ) -> impl Iterator<Item = (NodeId, usize)> {
        let children = &self[parent].children;
        let place = self.place(parent, tokens);
        let common = move |&child: &NodeId| (child, self[child].tokens.all().common(tokens));
        let near = move |&(_, common): &(NodeId, usize)| common > floor;
        let behind = children[place..].iter().map(common).take_while(near);
        behind.chain(children[..place].iter().rev().map(common).take_while(near))
    }

    /// The children that begin with these tokens.
    pub(crate) fn longer(
        &self,
        parent: NodeId,
        tokens: TokenSlice<'_>,
    ) -> impl Iterator<Item = NodeId> {
        let children = &self[parent].children;
        let begins =
            move |child: &NodeId| self[*child].tokens.all().slice(0, tokens.len()) == tokens;
        children[self.place(parent, tokens)..].iter().copied().take_while(begins)
    }

    /// The child whose tokens are the beginning of these, without being all of them.
    pub(crate) fn shorter(&self, parent: NodeId, tokens: TokenSlice<'_>) -> Option<NodeId> {
        let before = self.place(parent, tokens).checked_sub(1)?;
        let child = self[parent].children[before];
        let mine = self[child].tokens.all();
        (mine.len() < tokens.len() && mine == tokens.slice(0, mine.len())).then_some(child)
    }

    /// The node and all before it, up to but without the root.
    pub(crate) fn ancestry(&self, id: NodeId) -> impl Iterator<Item = NodeId> {
        let has_parent = |&id: &NodeId| self[id].parent.is_some();
        std::iter::successors(Some(id), |&id| self[id].parent).take_while(has_parent)
    }

    /// Every place that was ever used, the vacant ones included: those hold nothing.
    pub(crate) fn iter(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..u32::try_from(self.entries.len()).unwrap_or(u32::MAX)).map(NodeId::at)
    }

    /// What happened to a block of a node.
    #[cold]
    pub(crate) fn event(
        &self,
        books: &Books<'_>,
        change: Change,
        node: &Node,
        piece: &Piece,
    ) -> Event {
        Event {
            change,
            block: Some(books.blocks.id(piece.slot)),
            group: piece.group,
            key: node.key,
            parent: node.parent.map_or_else(Key::default, |parent| self[parent].key),
            lo: piece.lo,
            hi: piece.hi,
        }
    }

    /// How many nodes there are, roots included.
    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.vacant.len()
    }
}

impl Index<NodeId> for Nodes {
    type Output = Node;

    fn index(&self, id: NodeId) -> &Node {
        &self.entries[id.place() as usize]
    }
}

impl IndexMut<NodeId> for Nodes {
    fn index_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.entries[id.place() as usize]
    }
}
