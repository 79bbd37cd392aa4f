//! Layer groups as the pool sees them: a name, a price per block, and a cap per agent.

use std::fmt;
use std::str::FromStr;

use crate::error::Error;
use crate::free_list::FreeList;
use crate::reach::Reach;
use crate::slot::BlockClass;

/// Positions in a token block, as tokens are counted.
pub(crate) const BLOCK: usize = 256;

/// Positions in a token block.
pub const BLOCK_TOKENS: u64 = BLOCK as u64;

/// How the layers of a group keep their past.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LayerType {
    /// Every position.
    Global,
    /// The last positions of a window.
    SlidingWindow,
    /// The positions since the start of the chunk.
    Chunked,
    /// A state of fixed size; a block is one checkpoint.
    State,
}

impl LayerType {
    /// The word for it in Python and in configs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Global => "global",
            Self::SlidingWindow => "sliding_window",
            Self::Chunked => "chunked",
            Self::State => "state",
        }
    }
}

impl fmt::Display for LayerType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for LayerType {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self, Error> {
        [Self::Global, Self::SlidingWindow, Self::Chunked, Self::State]
            .into_iter()
            .find(|layer_type| layer_type.as_str() == word)
            .ok_or_else(|| Error::UnknownLayerType { name: word.to_owned() })
    }
}

/// The place of a group in its pool's list.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct GroupId(pub(crate) u16);

impl GroupId {
    /// The place itself.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a pool has to know of a layer group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupSpec {
    /// Unique in the pool.
    pub name: String,
    /// How far back the layers read.
    pub reach: Reach,
    /// Bytes of one block over all layers of the group; never 0.
    pub bytes_per_block: u64,
    /// Blocks that one agent may hold; None when unbounded, 1 for a state.
    pub max_blocks_per_agent: Option<u64>,
    /// Arrays that one block is made of; never 0.
    pub arrays_per_block: u32,
}

impl GroupSpec {
    /// Blocks that an agent of `n_tokens` holds in this group.
    #[must_use]
    pub fn blocks_for(&self, n_tokens: u64) -> u64 {
        let blocks = match self.reach {
            Reach::State => 1,
            _ => n_tokens.div_ceil(BLOCK_TOKENS),
        };
        self.max_blocks_per_agent.map_or(blocks, |most| blocks.min(most))
    }

    fn validate(&self) -> Result<(), Error> {
        if self.name.is_empty() {
            Err(Error::UnnamedGroup)
        } else if self.bytes_per_block == 0 {
            Err(Error::EmptyBlock { group: self.name.clone(), unit: "bytes" })
        } else if self.arrays_per_block == 0 {
            Err(Error::EmptyBlock { group: self.name.clone(), unit: "arrays" })
        } else if self.max_blocks_per_agent == Some(0) {
            Err(Error::ZeroCap { group: self.name.clone() })
        } else {
            Ok(())
        }
    }
}

/// Blocks of a group by class.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) held: u64,
    pub(crate) staged: u64,
    pub(crate) leased: u64,
    pub(crate) cached: u64,
}

impl Counts {
    pub(crate) fn of(&mut self, class: BlockClass) -> &mut u64 {
        match class {
            BlockClass::Held => &mut self.held,
            BlockClass::Staged => &mut self.staged,
            BlockClass::Leased => &mut self.leased,
            BlockClass::Cached => &mut self.cached,
        }
    }

    pub(crate) fn total(&self) -> u64 {
        self.held + self.staged + self.leased + self.cached
    }
}

/// A group at work: its spec, its free slots, and how many blocks are where.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) spec: GroupSpec,
    pub(crate) free: FreeList,
    pub(crate) counts: Counts,
}

/// The groups of a pool, in the order in which they were given.
#[derive(Debug)]
pub(crate) struct Groups(Vec<Group>);

impl Groups {
    /// The groups, when each can exist and each has a name of its own.
    pub(crate) fn new(specs: Vec<GroupSpec>) -> Result<Self, Error> {
        if specs.is_empty() || specs.len() > usize::from(u16::MAX) {
            return Err(Error::GroupCount { groups: specs.len() });
        }
        for (n, spec) in specs.iter().enumerate() {
            spec.validate()?;
            if specs[..n].iter().any(|other| other.name == spec.name) {
                return Err(Error::RepeatedGroup { group: spec.name.clone() });
            }
        }
        let group = |spec| Group { spec, free: FreeList::default(), counts: Counts::default() };
        Ok(Self(specs.into_iter().map(group).collect()))
    }

    /// The group of that name; a plain layer type means the first group of that type.
    pub(crate) fn find(&self, name: &str) -> Option<GroupId> {
        let by_name = self.0.iter().position(|group| group.spec.name == name);
        let by_type =
            || self.0.iter().position(|group| group.spec.reach.layer_type().as_str() == name);
        let position = by_name.or_else(by_type)?;
        u16::try_from(position).ok().map(GroupId)
    }

    pub(crate) fn spec(&self, id: GroupId) -> Option<&GroupSpec> {
        self.0.get(usize::from(id.0)).map(|group| &group.spec)
    }

    #[inline]
    pub(crate) fn get(&self, id: GroupId) -> Result<&Group, Error> {
        self.0.get(usize::from(id.0)).ok_or_else(|| self.unknown(id))
    }

    #[cold]
    fn unknown(&self, id: GroupId) -> Error {
        Error::UnknownGroup { name: format!("#{}", id.0), known: self.names().join(", ") }
    }

    pub(crate) fn get_mut(&mut self, id: GroupId) -> &mut Group {
        &mut self.0[usize::from(id.0)]
    }

    /// The groups' names, in order.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.0.iter().map(|group| group.spec.name.as_str()).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = GroupId> + use<> {
        (0..self.0.len()).map_while(|n| u16::try_from(n).ok()).map(GroupId)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (GroupId, &Group)> {
        (0..).map(GroupId).zip(&self.0)
    }

    pub(crate) fn smallest_block_bytes(&self) -> u64 {
        self.0.iter().map(|group| group.spec.bytes_per_block).min().unwrap_or(0)
    }

    pub(crate) fn smallest_block_arrays(&self) -> u64 {
        self.0.iter().map(|group| group.spec.arrays_per_block.into()).min().unwrap_or(0)
    }

    /// Arrays of all blocks there are, or of the cached ones alone.
    pub(crate) fn arrays(&self, blocks: impl Fn(&Counts) -> u64) -> u64 {
        let arrays = |group: &Group| blocks(&group.counts) * u64::from(group.spec.arrays_per_block);
        self.0.iter().map(arrays).sum()
    }
}
