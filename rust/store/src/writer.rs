//! Writing blocks: many at once, each entirely or not at all.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::checksum::Summing;
use crate::error::Error;
use crate::files::Files;
use crate::header::Header;
use crate::rows::Rows;
use crate::tensor::Tensor;

/// The bytes of a tensor in memory, of which some rows are valid.
#[derive(Clone, Copy, Debug)]
pub struct Payload<'b> {
    /// All of its memory.
    pub bytes: &'b [u8],
    /// Which of it is written.
    pub rows: Rows,
}

/// A block that is to be written.
#[derive(Clone, Debug)]
pub struct Block<'b> {
    /// What the file is called, without the ending.
    pub name: String,
    /// What the caller knows of the block.
    pub metadata: BTreeMap<String, String>,
    /// Its tensors, each with a name, an element type, a shape in the file, and its bytes.
    pub tensors: Vec<(String, String, Vec<u64>, Payload<'b>)>,
}

impl Block<'_> {
    /// The header, with the checksum of the payload.
    fn header(&self) -> Result<Header, Error> {
        let mut sum = Summing::default();
        let mut tensors = Vec::with_capacity(self.tensors.len());
        for (name, dtype, shape, payload) in &self.tensors {
            let needed = payload.rows.bytes_in_memory()?;
            if payload.bytes.len() != needed {
                let found = payload.bytes.len();
                let message = format!("{name} has {found} bytes, its shape says {needed}");
                return Err(Error::Invalid(message));
            }
            for run in payload.rows.runs() {
                sum.add(&payload.bytes[run]);
            }
            tensors.push(Tensor {
                name: name.clone(),
                dtype: dtype.clone(),
                shape: shape.clone(),
                bytes: payload.rows.bytes_in_file() as u64,
            });
        }
        let metadata = self.metadata.clone();
        Ok(Header { metadata, tensors, payload_checksum: sum.finish() })
    }
}

/// Write one block under a temporary name, synced; how many bytes that are.
pub(crate) fn write_temporary<F: Files>(
    files: &F,
    path: &Path,
    block: &Block<'_>,
) -> Result<u64, Error> {
    let header = block.header()?;
    let front = header.encode()?;
    let io = || Error::io(path);
    let mut file = files.create(path).map_err(io())?;
    files.write(&mut file, &front).map_err(io())?;
    for (.., payload) in &block.tensors {
        for run in payload.rows.runs() {
            files.write(&mut file, &payload.bytes[run]).map_err(io())?;
        }
    }
    files.sync(&mut file).map_err(io())?;
    files.stored_len(&file).map_err(io())
}

/// Temporary files that are removed unless they get their name.
pub(crate) struct Temporary<'f, F: Files> {
    pub(crate) files: &'f F,
    pub(crate) paths: Vec<PathBuf>,
}

impl<F: Files> Drop for Temporary<'_, F> {
    fn drop(&mut self) {
        for path in &self.paths {
            // Whoever opens the store next removes what cannot be removed now.
            let _ = self.files.remove(path);
        }
    }
}
