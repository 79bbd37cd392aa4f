//! A node of the prefix tree: one token block under its exact prefix, and the blocks it names.

use std::num::NonZeroU32;

use crate::group::{BLOCK, BLOCK_TOKENS, GroupId};
use crate::id::{BlockId, PoolNumber, SlotIndex};
use crate::prefix::Root;
use crate::prefix::agents::AgentId;
use crate::prefix::crowds::CrowdId;
use crate::prefix::order::Lane;
use crate::prefix::table::Width;
use crate::prefix::uses::UseId;

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

    /// The place before.
    pub(crate) fn before(self) -> Option<Self> {
        NonZeroU32::new(self.0.get() - 1).map(Self)
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

/// A sealed block of an unbounded group: all of its node's tokens. Which group says its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Whole {
    pub(crate) slot: SlotIndex,
    pub(crate) generation: u16,
    pub(crate) kind: Kind,
}

impl Whole {
    /// What is where nothing has been entered yet.
    pub(super) const NONE: Self = Self { slot: SlotIndex(u32::MAX), generation: 0, kind: 0 };

    #[inline]
    pub(crate) fn id(self, pool: PoolNumber) -> BlockId {
        BlockId::new(pool, self.generation, self.slot)
    }
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

impl Owner {
    /// Where in the order of eviction its nodes are.
    #[inline]
    pub(crate) fn lane(self) -> Lane {
        match self {
            Self::Nobody => Lane(0),
            Self::One(agent) => Lane(2 * agent.number() + 1),
            Self::Many(crowd) => Lane(2 * crowd.number() + 2),
        }
    }

    #[inline]
    fn of(lane: Lane) -> Self {
        match (lane.0, lane.0 % 2) {
            (0, _) => Self::Nobody,
            (lane, 1) => Self::One(AgentId::numbered(lane / 2)),
            (lane, _) => Self::Many(CrowdId::numbered(lane / 2 - 1)),
        }
    }
}

/// One token block. Two of them share a line of the CPU's cache, and hold what lookups and evictions
/// read; the rest lies apart in [`Nodes`](crate::prefix::nodes::Nodes).
#[derive(Debug, Default)]
#[repr(C, align(32))]
pub(crate) struct Node {
    pub(crate) root: Root,
    pub(crate) parent: Option<NodeId>,
    /// Where in the order of eviction it is, which says whose it is.
    pub(crate) lane: Lane,
    /// When it was last used, where nodes go leaf by leaf.
    pub(crate) last_use: Option<UseId>,
    /// How many token blocks are before it.
    pub(crate) number: u32,
    /// The child, where there is one only.
    pub(super) only: Option<NodeId>,
    /// How many tokens it has.
    pub(super) len: u16,
    /// How many blocks of unbounded groups it has.
    pub(super) n_whole: u16,
    pub(super) width: Width,
    /// Whether this place is in use.
    pub(crate) is_here: bool,
    /// Whether it has more than one child.
    pub(super) is_forked: bool,
    /// Whether a published end is within its tokens.
    pub(super) has_ends: bool,
}

const _: () = assert!(size_of::<Node>() == 32);

impl Node {
    /// The position of its first token.
    pub(crate) fn start(&self) -> u64 {
        u64::from(self.number) * BLOCK_TOKENS
    }

    /// The position after its last token.
    pub(crate) fn end(&self) -> u64 {
        self.start() + u64::from(self.len)
    }

    /// Whose it is.
    pub(crate) fn owner(&self) -> Owner {
        Owner::of(self.lane)
    }

    /// Whether it has all the tokens of a block.
    pub(crate) fn is_full(&self) -> bool {
        usize::from(self.len) == BLOCK
    }

    pub(crate) fn has_children(&self) -> bool {
        self.only.is_some() || self.is_forked
    }

    /// Whether it has more than one child.
    pub(crate) fn is_forked(&self) -> bool {
        self.is_forked
    }

    /// Whether a published end is within its tokens.
    pub(crate) fn has_ends(&self) -> bool {
        self.has_ends
    }

    #[inline]
    pub(crate) fn piece(&self, group: GroupId, Whole { slot, kind, .. }: Whole) -> Piece {
        Piece { group, slot, lo: self.start(), hi: self.end(), kind, readers: 0 }
    }
}
