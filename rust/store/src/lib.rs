//! Block files: sealed blocks of a KV cache, kept beyond the process.
//!
//! ```text
//! Header + rows ─→ write ─→ tmp/… ─(sync, rename, sync)─→ blocks/ab/abcd….safetensors ─→ open ─→ rows
//! ```
//!
//! # Rules
//!
//! - **Entirely or not at all.** A file is written under a temporary name, synced, renamed, and its folder
//!   synced. Whatever is killed in between leaves a temporary file, which is nobody's block.
//! - **Nothing doubtful is read.** The header and the payload each have a checksum. A file that is too
//!   short, too long, of another version, damaged in one bit or in contradiction to itself is refused by name.
//! - **Bytes only.** What a tensor is, this crate does not know: a name, a type, a shape, and bytes.
//!   Which blocks there are, who may have them and which go first is the caller's affair.
//!
//! The format is specified in `project/architecture/block-file-format.md`.

#![forbid(unsafe_code)]

mod checksum;
mod error;
mod files;
mod folder;
mod header;
mod reader;
mod rows;
mod sealed;
mod secret;
mod tensor;
mod writer;

pub use checksum::Checksum;
pub use error::{Damage, Error};
pub use files::{Disk, Files};
pub use folder::Folder;
pub use header::{FORMAT, Header, VERSION};
pub use reader::Reader;
pub use rows::Rows;
pub use sealed::MaybeSealed;
pub use secret::{KEY_BYTES, Secret};
pub use tensor::Tensor;
pub use writer::{Block, Payload};
