//! What became findable and what is findable no more, for whoever keeps a picture of the index.
//!
//! Folded in order, the events of a namespace are its findable blocks: `stored` puts a block under
//! its key, `removed` takes it away, `cleared` takes all of a group: the namespace was closed, or the
//! pool serves another model. A block that comes to belong to a fuller
//! token block is removed under its old key and stored under the new one.

use crate::books::Books;
use crate::group::GroupId;
use crate::id::BlockId;
use crate::key::Key;
use crate::prefix::node::{NodeId, Piece};
use crate::prefix::{Index, Root};

/// What happened to a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// It can be found from now on.
    Stored,
    /// It cannot be found any more.
    Removed,
    /// No block of the group can be found any more, and none will be.
    Cleared,
}

/// One block of one group that became findable, or is findable no more; or all of a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// What happened.
    pub change: Change,
    /// The block; None for all of the group.
    pub block: Option<BlockId>,
    /// Its group.
    pub group: GroupId,
    /// The key of its token block; of all blocks, the namespace's root.
    pub key: Key,
    /// The key of the token block before, or the namespace's root.
    pub parent: Key,
    /// Its valid positions `[lo, hi)`.
    pub lo: u64,
    /// The end of its valid positions.
    pub hi: u64,
}

impl Event {
    /// All blocks of a group are gone from the namespace with this root.
    pub(crate) fn cleared(group: GroupId, root: Key) -> Self {
        Self { change: Change::Cleared, block: None, group, key: root, parent: root, lo: 0, hi: 0 }
    }
}

impl Index {
    /// Start to record events: from an empty picture, what is here now is stored first.
    pub(crate) fn subscribe(&mut self, books: &Books<'_>, root: Root) {
        let Some(space) = self.space_mut(root).filter(|space| space.events.is_none()) else {
            return;
        };
        space.events = Some(Vec::new());
        let top = space.top;
        for id in self.behind(top) {
            let pieces: Vec<Piece> = self.nodes.pieces(id).collect();
            for piece in &pieces {
                self.record(books, Change::Stored, id, piece);
            }
        }
    }

    pub(crate) fn drain_events(&mut self, root: Root) -> Vec<Event> {
        if let Some(space) = self.space_mut(root) {
            return space.events.as_mut().map(std::mem::take).unwrap_or_default();
        }
        self.last_events.remove(&root).unwrap_or_default()
    }

    /// A namespace is about to close: nothing of it can be found any more, which is the last to be
    /// told of it.
    pub(super) fn take_leave(&mut self, root: Root) {
        let Some(space) = self.space_mut(root) else { return };
        let (top, Some(mut events)) = (space.top, space.events.take()) else { return };
        let key = self.nodes.key(top);
        let n_groups = u16::try_from(self.n_groups()).unwrap_or(u16::MAX);
        events.extend((0..n_groups).map(|group| Event::cleared(GroupId(group), key)));
        self.last_events.insert(root, events);
        self.has_events = true;
    }

    #[inline]
    pub(super) fn record(&mut self, books: &Books<'_>, change: Change, id: NodeId, piece: &Piece) {
        let Self { nodes, namespaces, has_events, .. } = self;
        let node = &nodes[id];
        let space = namespaces.get_mut(node.root.0 as usize).and_then(Option::as_mut);
        if let Some(events) = space.and_then(|space| space.events.as_mut()) {
            events.push(nodes.event(books, change, id, piece));
            *has_events = true;
        }
    }
}
