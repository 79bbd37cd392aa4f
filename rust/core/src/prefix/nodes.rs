//! The nodes of the prefix tree.
//!
//! A root is the node of a namespace, without tokens. Only full nodes have children, and no node is a
//! prefix of a sibling. Siblings are sorted by their tokens, so that the one that has most in common
//! with a prompt is found by bisection, and those that have nearly as much stand beside it.
//!
//! What is read block by block lies in arrays of its own, by place. Places are handed out so that a
//! new path gets neighbours where it can: those that an evicted path had, in the order of its tokens.

use std::ops::{Index, IndexMut};

use smallvec::SmallVec;

use crate::books::Books;
use crate::group::{BLOCK_TOKENS, GroupId};
use crate::id::SlotIndex;
use crate::key::Key;
use crate::prefix::end::EndId;
use crate::prefix::forks::Forks;
use crate::prefix::node::{Node, NodeId, Piece, Whole};
use crate::prefix::siblings::{Children, Place, Siblings};
use crate::prefix::table::TokenTable;
use crate::prefix::{Change, Event, Root};
use crate::tokens::TokenSlice;

/// What is seldom read of a node; what is read when it goes lies together, in a line of the CPU's cache.
#[derive(Debug, Default)]
#[repr(C, align(64))]
struct Apart {
    /// Of its tokens, where it has siblings and all tokens of a block.
    hash: u64,
    /// The run in which it stands, where it has siblings.
    run: u64,
    /// The published ends within its tokens.
    ends: SmallVec<[EndId; 2]>,
    /// Blocks of windows, chunks and states: what some end reads.
    parts: Vec<Piece>,
    key: Key,
    /// The children, where they are more than one.
    children: Siblings,
}

const _: () = assert!(size_of::<Apart>() == 128);

/// All nodes, in places that are used again.
#[derive(Debug)]
pub(crate) struct Nodes {
    pub(super) entries: Vec<Node>,
    apart: Vec<Apart>,
    pub(super) tokens: TokenTable,
    /// By place: one block for each unbounded group.
    whole: Vec<Whole>,
    unbounded: Vec<GroupId>,
    has_parts: bool,
    pub(super) forks: Forks,
    vacant: Vec<NodeId>,
}

impl Nodes {
    /// No nodes yet, for these unbounded groups and so many bounded ones.
    pub(crate) fn new(unbounded: Vec<GroupId>, n_bounded: usize) -> Self {
        Self {
            entries: Vec::new(),
            apart: Vec::new(),
            tokens: TokenTable::default(),
            whole: Vec::new(),
            unbounded,
            has_parts: n_bounded > 0,
            forks: Forks::default(),
            vacant: Vec::new(),
        }
    }

    // Coming and going --------------------------------------------------------------------------

    /// A root: a node without tokens and parent.
    pub(crate) fn plant(&mut self, root: Root, key: Key) -> NodeId {
        let id = self.take();
        self[id].root = root;
        self.apart_mut(id).key = key;
        id
    }

    /// A new node behind `parent`, which has none with these tokens yet.
    pub(crate) fn grow(&mut self, parent: NodeId, tokens: TokenSlice<'_>, key: Key) -> NodeId {
        let id = self.take();
        let (root, before) = (self[parent].root, self[parent].end() / BLOCK_TOKENS);
        let width = self.tokens.write(id.place(), tokens);
        let node = &mut self[id];
        node.root = root;
        node.parent = Some(parent);
        node.number = u32::try_from(before).unwrap_or(u32::MAX);
        node.len = u16::try_from(tokens.len()).unwrap_or(u16::MAX);
        node.width = width;
        self.apart_mut(id).key = key;
        self.bear(parent, id, tokens);
        id
    }

    fn take(&mut self) -> NodeId {
        let id = self.vacant.pop().unwrap_or_else(|| {
            self.entries.push(Node::default());
            self.apart.push(Apart::default());
            self.tokens.reach(self.entries.len());
            self.whole.resize(self.entries.len() * self.unbounded.len(), Whole::NONE);
            NodeId::at(u32::try_from(self.entries.len() - 1).unwrap_or(u32::MAX))
        });
        self[id].is_here = true;
        id
    }

    /// Enter a child, whose tokens these are, among its siblings.
    fn bear(&mut self, parent: NodeId, child: NodeId, tokens: TokenSlice<'_>) {
        if !self[parent].has_children() {
            self[parent].only = Some(child);
            return;
        }
        let place = self.place(parent, tokens);
        if let Some(other) = self[parent].only.take() {
            self[parent].is_forked = true;
            self.join(parent, Place::default(), other);
        }
        self.join(parent, place, child);
    }

    /// Have a child stand among its siblings.
    fn join(&mut self, parent: NodeId, place: Place, child: NodeId) {
        let mut children = std::mem::take(&mut self.apart_mut(parent).children);
        children.insert(place, child, |id, run| self.apart_mut(id).run = run);
        self.apart_mut(parent).children = children;
        self.enter(parent, child);
    }

    /// Strike a child.
    fn bury(&mut self, parent: NodeId, child: NodeId) {
        if !self[parent].is_forked {
            self[parent].only = None;
            return;
        }
        self.strike(parent, child);
        let run = self.apart(child).run;
        let children = &mut self.apart_mut(parent).children;
        children.remove(run, child);
        if let Some(last) = children.take_only() {
            self.strike(parent, last);
            self[parent].only = Some(last);
            self[parent].is_forked = false;
        }
    }

    /// Have a child guessed by its tokens; only full ones are looked for.
    fn enter(&mut self, parent: NodeId, child: NodeId) {
        if self[child].is_full() {
            let hash = self.forks.hash(self.tokens(child));
            self.forks.enter(parent, hash, child);
            self.apart_mut(child).hash = hash;
        }
    }

    fn strike(&mut self, parent: NodeId, child: NodeId) {
        if self[child].is_full() {
            let hash = self.apart(child).hash;
            self.forks.strike(parent, hash, child);
        }
    }

    /// Take a leaf that has lost all it had off the tree. Its memory is kept for the next node.
    pub(crate) fn cut(&mut self, id: NodeId) {
        self.cut_tail(&[id]);
    }

    /// Take the end of a path off the tree: a leaf, and before it what leads to nothing else.
    pub(crate) fn cut_tail(&mut self, tail: &[NodeId]) {
        let Some(&head) = tail.last() else { return };
        if let Some(parent) = self[head].parent {
            self.bury(parent, head);
        }
        for &id in tail {
            let node = &mut self[id];
            debug_assert!(!node.has_ends && !node.is_forked);
            let width = node.width;
            *node = Node::default();
            self.tokens.erase(id.place(), width);
        }
        self.vacant.extend_from_slice(tail);
    }

    /// Forget the tokens of a leaf behind the first `len`; its key is another one then.
    pub(crate) fn shorten(&mut self, id: NodeId, len: usize, key: Key) {
        if let Some(parent) = self[id].parent.filter(|&parent| self[parent].is_forked) {
            self.strike(parent, id);
        }
        self[id].len = u16::try_from(len).unwrap_or(u16::MAX);
        self.apart_mut(id).key = key;
        let end = self[id].end();
        for piece in self.parts_mut(id) {
            piece.hi = piece.hi.min(end);
        }
    }

    // What a node has ---------------------------------------------------------------------------

    fn apart(&self, id: NodeId) -> &Apart {
        &self.apart[id.place() as usize]
    }

    fn apart_mut(&mut self, id: NodeId) -> &mut Apart {
        &mut self.apart[id.place() as usize]
    }

    /// The node of a place, which may be vacant; None for one that never was.
    pub(crate) fn get(&self, id: NodeId) -> Option<&Node> {
        self.entries.get(id.place() as usize)
    }

    /// Its name outside of this process.
    pub(crate) fn key(&self, id: NodeId) -> Key {
        self.apart(id).key
    }

    #[inline]
    pub(crate) fn tokens(&self, id: NodeId) -> TokenSlice<'_> {
        let node = &self[id];
        self.tokens.read(id.place(), node.len.into(), node.width)
    }

    /// Its children, sorted by their tokens.
    #[inline]
    pub(crate) fn children(&self, id: NodeId) -> Children<'_> {
        let node = &self[id];
        if node.is_forked {
            Children::Forked(&self.apart(id).children)
        } else {
            Children::Only(node.only.as_slice())
        }
    }

    /// One block for each unbounded group.
    #[inline]
    pub(crate) fn whole(&self, id: NodeId) -> &[Whole] {
        let first = id.place() as usize * self.unbounded.len();
        &self.whole[first..first + usize::from(self[id].n_whole)]
    }

    /// The next unbounded group's block: the groups come in their order.
    pub(crate) fn push_whole(&mut self, id: NodeId, whole: Whole) {
        let at = id.place() as usize * self.unbounded.len() + usize::from(self[id].n_whole);
        self.whole[at] = whole;
        self[id].n_whole += 1;
    }

    pub(crate) fn pop_whole(&mut self, id: NodeId) -> Option<Piece> {
        let last = self.whole_pieces(id).last()?;
        self[id].n_whole -= 1;
        Some(last)
    }

    /// The blocks of unbounded groups.
    pub(crate) fn whole_pieces(&self, id: NodeId) -> impl Iterator<Item = Piece> {
        let (node, whole) = (&self[id], self.whole(id));
        self.unbounded.iter().zip(whole).map(|(&group, &whole)| node.piece(group, whole))
    }

    /// The published ends within its tokens.
    #[inline]
    pub(crate) fn ends(&self, id: NodeId) -> &[EndId] {
        if self[id].has_ends { &self.apart(id).ends } else { &[] }
    }

    pub(crate) fn add_end(&mut self, id: NodeId, end: EndId) {
        self[id].has_ends = true;
        self.apart_mut(id).ends.push(end);
    }

    pub(crate) fn remove_end(&mut self, id: NodeId, end: EndId) {
        let ends = &mut self.apart_mut(id).ends;
        ends.retain(|other| *other != end);
        self[id].has_ends = !self.apart(id).ends.is_empty();
    }

    pub(crate) fn take_ends(&mut self, id: NodeId) -> SmallVec<[EndId; 2]> {
        self[id].has_ends = false;
        std::mem::take(&mut self.apart_mut(id).ends)
    }

    /// Blocks of bounded groups.
    #[inline]
    pub(crate) fn parts(&self, id: NodeId) -> &[Piece] {
        if self.has_parts { &self.apart(id).parts } else { &[] }
    }

    pub(crate) fn parts_mut(&mut self, id: NodeId) -> &mut Vec<Piece> {
        &mut self.apart_mut(id).parts
    }

    /// A block of a bounded group that covers `[lo, hi)`.
    pub(crate) fn part(&self, id: NodeId, group: GroupId, lo: u64, hi: u64) -> Option<&Piece> {
        self.parts(id).iter().find(|piece| piece.group == group && piece.covers(lo, hi))
    }

    pub(crate) fn pieces(&self, id: NodeId) -> impl Iterator<Item = Piece> {
        self.whole_pieces(id).chain(self.parts(id).iter().copied())
    }

    /// The blocks of all groups.
    #[inline]
    pub(crate) fn slots(&self, id: NodeId) -> impl Iterator<Item = SlotIndex> {
        let parts = self.parts(id).iter().map(|piece| piece.slot);
        self.whole(id).iter().map(|whole| whole.slot).chain(parts)
    }

    // Walking -----------------------------------------------------------------------------------

    /// The node and all before it, up to but without the root.
    pub(crate) fn ancestry(&self, id: NodeId) -> impl Iterator<Item = NodeId> {
        let has_parent = |&id: &NodeId| self[id].parent.is_some();
        std::iter::successors(Some(id), |&id| self[id].parent).take_while(has_parent)
    }

    /// A place and those before it, the nearest first.
    #[inline]
    pub(crate) fn downwards(&self, id: NodeId) -> impl Iterator<Item = (NodeId, &Node)> {
        let entries = &self.entries[..=id.place() as usize];
        (0..=id.place()).map(NodeId::at).rev().zip(entries.iter().rev())
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
        id: NodeId,
        piece: &Piece,
    ) -> Event {
        Event {
            change,
            block: Some(books.blocks.id(piece.slot)),
            group: piece.group,
            key: self.key(id),
            parent: self[id].parent.map_or_else(Key::default, |parent| self.key(parent)),
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
