//! The tokens of all nodes: a row of 256 ids for each place, in segments that never move.
//!
//! Nodes of one path mostly lie in neighbouring places, and so do their tokens: what a prompt is
//! compared with is read as one stretch of memory. Rows hold 32 bits of an id; the few blocks that
//! have one that does not fit are kept apart.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use crate::group::BLOCK;
use crate::tokens::TokenSlice;

/// Rows of one segment: 256 KiB of ids.
const SEGMENT_ROWS: u32 = 256;

/// How the ids of a row are kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Width {
    /// In the table.
    #[default]
    Narrow,
    /// Apart, in 64 bits.
    Wide,
}

/// The ids of every place that was ever used.
#[derive(Debug, Default)]
pub(crate) struct TokenTable {
    segments: Vec<Box<[u32]>>,
    wide: HashMap<u32, Box<[i64]>, RandomState>,
}

impl TokenTable {
    /// Make room for the rows of so many places.
    pub(crate) fn reach(&mut self, n_places: usize) {
        while self.segments.len() * (SEGMENT_ROWS as usize) < n_places {
            self.segments.push(vec![0; SEGMENT_ROWS as usize * BLOCK].into_boxed_slice());
        }
    }

    /// Keep at most 256 ids, and say how.
    pub(crate) fn write(&mut self, place: u32, ids: TokenSlice<'_>) -> Width {
        let (segment, at) = split(place);
        let row = &mut self.segments[segment][at..at + ids.len()];
        match ids {
            TokenSlice::Narrow(ids) => row.copy_from_slice(ids),
            TokenSlice::Wide(ids) => {
                for (mine, &id) in row.iter_mut().zip(ids) {
                    let Ok(narrow) = u32::try_from(id) else {
                        self.wide.insert(place, ids.into());
                        return Width::Wide;
                    };
                    *mine = narrow;
                }
            }
        }
        Width::Narrow
    }

    /// The first `len` ids of a place.
    #[inline]
    pub(crate) fn read(&self, place: u32, len: usize, width: Width) -> TokenSlice<'_> {
        match width {
            Width::Narrow => {
                let (segment, at) = split(place);
                TokenSlice::Narrow(&self.segments[segment][at..at + len])
            }
            Width::Wide => TokenSlice::Wide(&self.wide[&place][..len]),
        }
    }

    /// The rows from a place on that lie behind it in one stretch.
    #[inline]
    pub(crate) fn behind(&self, place: u32) -> &[u32] {
        let (segment, at) = split(place);
        &self.segments[segment][at..]
    }

    /// Forget what does not fit into the table.
    pub(crate) fn erase(&mut self, place: u32, width: Width) {
        if width == Width::Wide {
            self.wide.remove(&place);
        }
    }
}

/// Where the row of a place is: its segment, and its first id there.
#[inline]
fn split(place: u32) -> (usize, usize) {
    ((place / SEGMENT_ROWS) as usize, (place % SEGMENT_ROWS) as usize * BLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokens::Tokens;

    #[test]
    fn a_row_is_what_was_written_however_wide() {
        let mut table = TokenTable::default();
        table.reach(300);
        let narrow: Tokens = (0..256).collect();
        let odd: Tokens = [5, -7, 1 << 40].into_iter().collect();
        let fits = Tokens::Wide(vec![3, 4]);
        assert_eq!(table.write(255, narrow.all()), Width::Narrow);
        assert_eq!(table.write(256, odd.all()), Width::Wide);
        assert_eq!(table.write(299, fits.all()), Width::Narrow);
        assert_eq!(table.read(255, 256, Width::Narrow), narrow.all());
        assert_eq!(table.read(256, 2, Width::Wide), odd.all().slice(0, 2));
        assert_eq!(table.read(299, 2, Width::Narrow), fits.all());
        table.erase(256, Width::Wide);
        assert!(table.wide.is_empty());
    }

    #[test]
    fn rows_in_a_row_are_one_stretch_up_to_the_end_of_a_segment() {
        let mut table = TokenTable::default();
        table.reach(512);
        let all: Tokens = (0..512).collect();
        table.write(254, all.all().slice(0, 256));
        table.write(255, all.all().slice(256, 512));
        assert_eq!(TokenSlice::Narrow(table.behind(254)), all.all());
        assert_eq!([254, 255, 256].map(|place| table.behind(place).len() / BLOCK), [2, 1, 256]);
    }
}
