//! Memory with valid rows in it, as plainly as can be.

use semantic_store::Rows;

/// What lies where no valid row is.
pub(crate) const UNTOUCHED: u8 = 0xA5;

/// Memory that nothing has been read into.
pub(crate) fn untouched(rows: Rows) -> Vec<u8> {
    vec![UNTOUCHED; rows.outer * rows.room * rows.row_bytes]
}

/// Memory whose valid rows are the next bytes of a payload.
pub(crate) fn filled(rows: Rows, payload: &mut impl Iterator<Item = u8>) -> Vec<u8> {
    let mut memory = untouched(rows);
    if rows.row_bytes > 0 {
        for (at, row) in memory.chunks_mut(rows.row_bytes).enumerate() {
            if (rows.first..rows.first + rows.valid).contains(&(at % rows.room)) {
                row.fill_with(|| payload.next().expect("a payload has all valid rows"));
            }
        }
    }
    memory
}
