//! What became findable and what is findable no more, for whoever keeps a picture of the index.
//!
//! Folded in order, the events of a namespace are its findable blocks: `stored` puts a block under
//! its key, `removed` takes it away, `cleared` takes all. A block that comes to belong to a fuller
//! token block is removed under its old key and stored under the new one.

use crate::group::GroupId;
use crate::id::BlockId;
use crate::key::Key;

/// What happened to a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// It can be found from now on.
    Stored,
    /// It cannot be found any more.
    Removed,
}

/// One block of one group that became findable, or is findable no more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// What happened.
    pub change: Change,
    /// The block.
    pub block: BlockId,
    /// Its group.
    pub group: GroupId,
    /// The key of its token block.
    pub key: Key,
    /// The key of the token block before, or the namespace's root.
    pub parent: Key,
    /// Its valid positions `[lo, hi)`.
    pub lo: u64,
    /// The end of its valid positions.
    pub hi: u64,
}
