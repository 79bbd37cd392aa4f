//! Where the valid rows of a block lie in memory.
//!
//! A block's tensor has the rows of a whole token block in memory, `[outer, rows, bytes]`, and only
//! the valid ones of them in a file. Rows that follow each other lie together, so a full block is
//! one run of bytes.

use std::ops::Range;

use crate::error::Error;

/// The valid rows of a tensor in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rows {
    /// How often the rows come: layers times heads.
    pub outer: usize,
    /// Rows that there is room for, each time.
    pub room: usize,
    /// The first valid one.
    pub first: usize,
    /// How many are valid.
    pub valid: usize,
    /// Bytes of a row.
    pub row_bytes: usize,
}

impl Rows {
    /// A tensor whose every byte is valid.
    #[must_use]
    pub fn whole(bytes: usize) -> Self {
        Self { outer: 1, room: 1, first: 0, valid: 1, row_bytes: bytes }
    }

    /// Bytes in memory.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for rows outside of the room, or for more than fits into memory.
    pub fn bytes_in_memory(&self) -> Result<usize, Error> {
        let outside = || Error::Invalid(format!("rows that lie outside of their room: {self:?}"));
        let end = self.first.checked_add(self.valid).ok_or_else(outside)?;
        if end > self.room {
            return Err(outside());
        }
        // Where one number is zero, the others can still be too many to multiply.
        let rows = self.outer.checked_mul(self.room).ok_or_else(outside)?;
        self.room.checked_mul(self.row_bytes).ok_or_else(outside)?;
        rows.checked_mul(self.row_bytes).ok_or_else(outside)
    }

    /// Bytes in a file: those of the valid rows.
    #[must_use]
    pub fn bytes_in_file(&self) -> usize {
        self.outer * self.valid * self.row_bytes
    }

    /// The runs of bytes that are valid, in the order of a file.
    pub(crate) fn runs(self) -> impl Iterator<Item = Range<usize>> {
        let is_whole = self.valid == self.room;
        let (outer, valid) =
            if is_whole { (1, self.outer * self.valid) } else { (self.outer, self.valid) };
        let bytes = valid * self.row_bytes;
        let outer = if bytes == 0 { 0 } else { outer };
        (0..outer).map(move |at| {
            let start = (at * self.room + self.first) * self.row_bytes;
            start..start + bytes
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(rows: Rows) -> Vec<Range<usize>> {
        rows.runs().collect()
    }

    #[test]
    fn a_full_block_is_one_run() {
        let rows = Rows { outer: 6, room: 256, first: 0, valid: 256, row_bytes: 10 };
        assert_eq!(runs(rows), vec![0..15_360]);
        assert_eq!((rows.bytes_in_memory().unwrap(), rows.bytes_in_file()), (15_360, 15_360));
    }

    #[test]
    fn a_partial_one_has_a_run_for_each_head_and_layer() {
        let rows = Rows { outer: 2, room: 4, first: 1, valid: 2, row_bytes: 3 };
        assert_eq!(runs(rows), vec![3..9, 15..21]);
        assert_eq!((rows.bytes_in_memory().unwrap(), rows.bytes_in_file()), (24, 12));
    }

    #[test]
    fn nothing_has_no_runs() {
        for rows in [
            Rows { outer: 3, room: 4, first: 0, valid: 4, row_bytes: 0 },
            Rows { outer: 3, room: 4, first: 4, valid: 0, row_bytes: 5 },
            Rows { outer: 0, room: 4, first: 0, valid: 4, row_bytes: 5 },
        ] {
            assert!(runs(rows).is_empty());
            assert_eq!(rows.bytes_in_file(), 0);
        }
    }

    #[test]
    fn rows_outside_of_their_room_are_refused() {
        let rows = Rows { outer: 1, room: 4, first: 3, valid: 2, row_bytes: 1 };
        assert!(rows.bytes_in_memory().is_err());
    }

    #[test]
    fn more_rows_than_can_be_counted_are_refused_even_when_they_take_no_bytes() {
        const MAX: usize = usize::MAX;
        for (outer, room, row_bytes) in [(MAX, 2, 1), (MAX, 2, 0), (0, MAX, 2), (2, 1, MAX)] {
            for valid in [room - 1, room] {
                let rows = Rows { outer, room, first: 0, valid, row_bytes };
                assert!(rows.bytes_in_memory().is_err(), "{rows:?}");
            }
        }
    }
}
