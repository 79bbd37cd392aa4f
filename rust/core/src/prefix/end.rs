//! Published ends: the lengths at which every group of a sequence can be restored.

use smallvec::SmallVec;

use crate::id::SlotIndex;
use crate::prefix::Root;
use crate::prefix::agents::AgentId;
use crate::prefix::node::{Kind, NodeId};

/// The place of an end among the ends.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) struct EndId(pub(crate) u32);

/// The name of an end for callers: one that went away never equals a later one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct EndHandle(u64);

impl EndHandle {
    /// The handle with this number, which need not name an end.
    #[must_use]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// The number itself, below 2⁶³.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }
}

/// A published end of a sequence.
#[derive(Clone, Debug)]
pub(crate) struct End {
    pub(crate) root: Root,
    /// The node of its last token.
    pub(crate) node: NodeId,
    /// Its length in tokens.
    pub(crate) at: u64,
    /// Who published it; it stays while one of them still wants it.
    pub(crate) agents: SmallVec<[AgentId; 1]>,
    pub(crate) kind: Kind,
    /// The blocks of bounded groups that a hit here reads.
    pub(crate) reads: Vec<SlotIndex>,
    /// The number of its last use.
    pub(crate) last_use: u64,
}

#[derive(Debug)]
struct Place {
    generation: u32,
    end: Option<End>,
}

/// All published ends.
#[derive(Debug, Default)]
pub(crate) struct Ends {
    places: Vec<Place>,
    vacant: Vec<EndId>,
}

impl Ends {
    pub(crate) fn enter(&mut self, end: End) -> EndId {
        let id = self.vacant.pop().unwrap_or_else(|| {
            self.places.push(Place { generation: 0, end: None });
            EndId(u32::try_from(self.places.len() - 1).unwrap_or(u32::MAX))
        });
        self.places[id.0 as usize].end = Some(end);
        id
    }

    pub(crate) fn remove(&mut self, id: EndId) -> Option<End> {
        let place = &mut self.places[id.0 as usize];
        let end = place.end.take()?;
        // 31 bits, so that a handle is below 2⁶³; two thousand million lives of one place.
        place.generation = place.generation.wrapping_add(1) & (u32::MAX >> 1);
        self.vacant.push(id);
        Some(end)
    }

    pub(crate) fn get(&self, id: EndId) -> Option<&End> {
        self.places.get(id.0 as usize)?.end.as_ref()
    }

    pub(crate) fn get_mut(&mut self, id: EndId) -> Option<&mut End> {
        self.places.get_mut(id.0 as usize)?.end.as_mut()
    }

    pub(crate) fn handle(&self, id: EndId) -> EndHandle {
        EndHandle(u64::from(self.places[id.0 as usize].generation) << 32 | u64::from(id.0))
    }

    /// The end of that name, while it is there.
    pub(crate) fn find(&self, handle: EndHandle) -> Option<EndId> {
        let id = EndId(u32::try_from(handle.0 & u64::from(u32::MAX)).ok()?);
        let place = self.places.get(id.0 as usize)?;
        (place.end.is_some() && u64::from(place.generation) == handle.0 >> 32).then_some(id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (EndId, &End)> {
        (0..).map(EndId).zip(&self.places).filter_map(|(id, place)| Some((id, place.end.as_ref()?)))
    }
}
