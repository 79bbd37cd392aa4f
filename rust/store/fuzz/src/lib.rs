//! Whatever bytes lie in a store's folder, reading them ends in a block or in a refusal.
//!
//! Each function takes any input and panics when that is not so. The fuzz targets call them with
//! what the fuzzer makes up, and `rust/store/tests/corpus.rs` with what it has found so far.

#![expect(clippy::missing_panics_doc, reason = "a panic is what they are for")]

mod block_file;
mod change;
mod changed_block;
mod disk;
mod file_names;
mod header;
mod memory;
mod rows;
mod sealed_file;
mod sums;

#[expect(dead_code, reason = "a disk that fails is for other tests")]
#[path = "../../tests/power/mod.rs"]
mod power;

pub use block_file::block_file;
pub use changed_block::{DTYPES, changed_block};
pub use file_names::file_names;
pub use header::header;
pub use sealed_file::{KEY, sealed, sealed_file};
pub use sums::summed_file;
