//! How far back a layer group reads: which positions a hit needs to find (law 4).

use crate::group::LayerType;

/// Positions `[lo, hi)`.
pub type Span = (u64, u64);

/// What a group's layers see of the past.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// Every position.
    All,
    /// The last `size` positions, the current one included, and `keep` leading ones for ever.
    Window {
        /// Positions in the window.
        size: u64,
        /// Leading positions that the ring never drops.
        keep: u64,
    },
    /// The positions since the start of the chunk.
    Chunk {
        /// Positions in a chunk.
        size: u64,
    },
    /// A state, kept as the row of its last position.
    State,
}

impl Reach {
    /// The reach of a group of that type, if these numbers make one.
    #[must_use]
    pub fn new(
        layer_type: LayerType,
        window: Option<u64>,
        keep: u64,
        chunk: Option<u64>,
    ) -> Option<Self> {
        match (layer_type, window, chunk) {
            (LayerType::Global, None, None) => Some(Self::All),
            (LayerType::SlidingWindow, Some(size), None) if keep < size => {
                Some(Self::Window { size, keep })
            }
            (LayerType::Chunked, None, Some(size)) if size > 0 => Some(Self::Chunk { size }),
            (LayerType::State, None, None) => Some(Self::State),
            _ => None,
        }
    }

    /// The type of the layers that read so far back.
    #[must_use]
    pub const fn layer_type(self) -> LayerType {
        match self {
            Self::All => LayerType::Global,
            Self::Window { .. } => LayerType::SlidingWindow,
            Self::Chunk { .. } => LayerType::Chunked,
            Self::State => LayerType::State,
        }
    }

    /// Whether a hit reads the rows of its end only, not all from the first position on.
    #[must_use]
    pub fn is_bounded(self) -> bool {
        self != Self::All
    }

    /// The positions whose rows a hit at `end` reads, in order; none where a chunk is just over.
    ///
    /// A window of w needs `[end − w + 1, end)`, since the next token is in it too.
    pub fn spans_needed(self, end: u64) -> impl Iterator<Item = Span> {
        let spans = match self {
            Self::All => [(0, end), (0, 0)],
            Self::State => [(end.saturating_sub(1), end), (0, 0)],
            Self::Chunk { size } => [(end - end % size, end), (0, 0)],
            Self::Window { size, keep } => {
                let kept = keep.min(end);
                let recent = (end + keep + 1).saturating_sub(size);
                [(0, kept), (recent.max(kept), end)]
            }
        };
        spans.into_iter().filter(|(lo, hi)| lo < hi)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needed(reach: Reach, end: u64) -> Vec<Span> {
        reach.spans_needed(end).collect()
    }

    #[test]
    fn a_window_reads_one_row_less_than_it_sees() {
        let window = Reach::Window { size: 100, keep: 0 };
        assert_eq!(needed(window, 0), []);
        assert_eq!(needed(window, 99), [(0, 99)]);
        assert_eq!(needed(window, 100), [(1, 100)]);
        assert_eq!(needed(window, 700), [(601, 700)]);
        let kept = Reach::Window { size: 100, keep: 4 };
        assert_eq!(needed(kept, 3), [(0, 3)]);
        assert_eq!(needed(kept, 700), [(0, 4), (605, 700)]);
        assert_eq!(needed(Reach::Window { size: 1, keep: 0 }, 5), []);
    }

    #[test]
    fn a_chunk_reads_what_it_has_and_a_state_its_last_row() {
        let chunk = Reach::Chunk { size: 300 };
        assert_eq!(needed(chunk, 299), [(0, 299)]);
        assert_eq!(needed(chunk, 300), []);
        assert_eq!(needed(chunk, 301), [(300, 301)]);
        assert_eq!(needed(Reach::State, 7), [(6, 7)]);
        assert_eq!(needed(Reach::All, 7), [(0, 7)]);
    }

    #[test]
    fn numbers_that_contradict_the_type_make_no_reach() {
        use LayerType::{Chunked, Global, SlidingWindow, State};
        assert!(Reach::new(Global, None, 0, None).is_some());
        assert!(Reach::new(State, None, 0, None).is_some());
        assert!(Reach::new(SlidingWindow, Some(9), 4, None).is_some());
        assert!(Reach::new(Chunked, None, 0, Some(9)).is_some());
        assert!(Reach::new(SlidingWindow, None, 0, None).is_none());
        assert!(Reach::new(SlidingWindow, Some(4), 4, None).is_none());
        assert!(Reach::new(Chunked, None, 0, Some(0)).is_none());
        assert!(Reach::new(Global, Some(9), 0, None).is_none());
        assert!(Reach::new(State, None, 0, Some(9)).is_none());
    }
}
