//! Reading a block: its header first, then its tensors into the caller's memory.

use std::path::{Path, PathBuf};

use crate::checksum::Summing;
use crate::error::{Damage, Error};
use crate::files::Files;
use crate::header::Header;
use crate::rows::Rows;

/// Bytes that are read and summed in one go: they are still in the CPU's cache when they are summed.
const PIECE: usize = 256 << 10;

/// An open block file whose header has been read and verified.
#[derive(Debug)]
pub struct Reader<F: Files> {
    files: F,
    file: F::File,
    path: PathBuf,
    header: Header,
    front: u64,
}

impl<F: Files> Reader<F> {
    /// Open a block file.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`], [`Error::Damaged`] for what is no block of this version or has another
    /// length than its header says, [`Error::Io`].
    pub fn open(files: F, path: &Path) -> Result<Self, Error> {
        let io = || Error::io(path);
        let damaged = |damage| Error::Damaged { path: path.to_owned(), damage };
        let mut file = files.open(path).map_err(io())?;
        let found = files.len(&file).map_err(io())?;
        let mut first = [0; 8];
        if found < first.len() as u64 {
            return Err(damaged(Damage::Length { found, expected: first.len() as u64 }));
        }
        files.read(&mut file, &mut first).map_err(io())?;
        let front = Header::length(first).map_err(damaged)?;
        if found < front {
            return Err(damaged(Damage::Length { found, expected: front }));
        }
        let mut bytes = first.to_vec();
        bytes.resize(usize::try_from(front).unwrap_or(usize::MAX), 0);
        files.read(&mut file, &mut bytes[first.len()..]).map_err(io())?;
        let header = Header::decode(&bytes).map_err(damaged)?;
        let expected = front.saturating_add(header.payload_bytes());
        if found != expected {
            return Err(damaged(Damage::Length { found, expected }));
        }
        Ok(Self { files, file, path: path.to_owned(), header, front })
    }

    /// What the file says of its block.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Bytes of the file, where it is kept.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn bytes(&self) -> Result<u64, Error> {
        self.files.stored_len(&self.file).map_err(Error::io(self.path.as_path()))
    }

    /// The block is not the one that was asked for.
    #[must_use]
    pub fn misnamed(&self) -> Error {
        Error::Damaged { path: self.path.clone(), damage: Damage::Name }
    }

    /// Read all tensors into memory, in the order of the header, and verify them.
    ///
    /// Where this fails, the memory may hold anything.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] when the payload is not what was written, [`Error::Invalid`] for memory
    /// of another size than the tensors', [`Error::Io`].
    pub fn read_into(&mut self, memory: &mut [(&mut [u8], Rows)]) -> Result<(), Error> {
        self.check_memory(memory)?;
        let io = || Error::io(self.path.as_path());
        self.files.seek(&mut self.file, self.front).map_err(io())?;
        let mut sum = Summing::default();
        for (bytes, rows) in memory {
            for run in rows.runs() {
                for piece in bytes[run].chunks_mut(PIECE) {
                    self.files.read(&mut self.file, piece).map_err(io())?;
                    sum.add(piece);
                }
            }
        }
        self.check(&sum)
    }

    /// Read the payload without keeping it, and verify it.
    ///
    /// # Errors
    ///
    /// As [`read_into`](Self::read_into).
    pub fn verify(&mut self) -> Result<(), Error> {
        let io = || Error::io(self.path.as_path());
        self.files.seek(&mut self.file, self.front).map_err(io())?;
        let mut sum = Summing::default();
        let mut left = usize::try_from(self.header.payload_bytes()).unwrap_or(usize::MAX);
        let mut piece = vec![0; PIECE.min(left)];
        while left > 0 {
            let n = left.min(PIECE);
            self.files.read(&mut self.file, &mut piece[..n]).map_err(io())?;
            sum.add(&piece[..n]);
            left -= n;
        }
        self.check(&sum)
    }

    fn check_memory(&self, memory: &[(&mut [u8], Rows)]) -> Result<(), Error> {
        let tensors = &self.header.tensors;
        if memory.len() != tensors.len() {
            let message = format!("{} tensors, memory for {}", tensors.len(), memory.len());
            return Err(Error::Invalid(message));
        }
        for (tensor, (bytes, rows)) in tensors.iter().zip(memory) {
            let fits = rows.bytes_in_memory()? == bytes.len();
            if !fits || rows.bytes_in_file() as u64 != tensor.bytes {
                let name = &tensor.name;
                return Err(Error::Invalid(format!("the memory for {name} has another size")));
            }
        }
        Ok(())
    }

    fn check(&self, sum: &Summing) -> Result<(), Error> {
        if sum.finish() == self.header.payload_checksum {
            return Ok(());
        }
        Err(Error::Damaged { path: self.path.clone(), damage: Damage::Payload })
    }
}
