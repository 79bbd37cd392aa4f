//! Uses of paths, where nodes go leaf by leaf: all nodes that were last used together share one entry.
//!
//! Who uses a node uses all before it, so the nodes of one use are a stretch of one path, and a leaf
//! is never the only thing that remembers when those before it were used.

use std::num::NonZeroU32;

use crate::prefix::Index;
use crate::prefix::node::NodeId;
use crate::prefix::order::Use;

/// The place of a use among those that nodes remember, plus one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct UseId(NonZeroU32);

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    last_use: Use,
    n_nodes: usize,
}

/// All uses that some node has seen last.
#[derive(Debug, Default)]
pub(crate) struct Uses {
    entries: Vec<Entry>,
    vacant: Vec<UseId>,
}

impl Uses {
    fn enter(&mut self, last_use: Use, n_nodes: usize) -> UseId {
        let id = self.vacant.pop().unwrap_or_else(|| {
            let id = UseId(
                NonZeroU32::MIN
                    .saturating_add(u32::try_from(self.entries.len()).unwrap_or(u32::MAX)),
            );
            self.entries.push(Entry::default());
            id
        });
        *self.entry(id) = Entry { last_use, n_nodes };
        id
    }

    fn entry(&mut self, id: UseId) -> &mut Entry {
        &mut self.entries[id.0.get() as usize - 1]
    }

    /// So many nodes that had seen a use last are used again, or go.
    pub(crate) fn leave(&mut self, id: Option<UseId>, n_nodes: usize) {
        let Some(id) = id else { return };
        let entry = self.entry(id);
        entry.n_nodes -= n_nodes;
        if entry.n_nodes == 0 {
            self.vacant.push(id);
        }
    }

    pub(crate) fn get(&self, id: UseId) -> Use {
        self.entries[id.0.get() as usize - 1].last_use
    }

    /// The uses that some node has seen last, and how many have.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (UseId, usize)> {
        let ids = (1..).filter_map(NonZeroU32::new).map(UseId);
        let entries = ids.zip(self.entries.iter().map(|entry| entry.n_nodes));
        entries.filter(|&(_, n_nodes)| n_nodes > 0)
    }
}

impl Index {
    /// The nodes of a path were used now: of its lane its leaf goes last, and those before it after it.
    pub(super) fn touch_path(&mut self, path: &[NodeId]) {
        let Some(&last) = path.last() else { return };
        let now = self.order.next_use(self.now);
        let id = self.node_uses.enter(now, path.len());
        // Neighbours mostly had the same use before.
        let (mut before, mut n) = (None, 0);
        for &node in path {
            let was = self.nodes[node].last_use.replace(id);
            if was != before {
                self.node_uses.leave(before, n);
                (before, n) = (was, 0);
            }
            n += 1;
        }
        self.node_uses.leave(before, n);
        if !self.nodes[last].has_children() {
            self.order.enter(last.place(), self.nodes[last].lane, now);
        }
    }

    /// A node is about to go.
    pub(super) fn forget_use(&mut self, id: NodeId) {
        let was = self.nodes[id].last_use.take();
        self.node_uses.leave(was, 1);
    }
}
