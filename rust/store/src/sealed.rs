//! Files that only who has the key can read: a layer under the format, which does not know of it.
//!
//! ```text
//! 16 bytes    "semantic-sealed1"
//! 19 bytes    random nonce
//! records     64 KiB each, the last one as long as is left, each followed by a tag of 16 bytes
//! ```
//!
//! The records are the STREAM construction over XChaCha20-Poly1305: none of them can be changed, left
//! out, repeated or put elsewhere, and the last one is known as such, so that no file can be cut short.

use std::io;
use std::path::{Path, PathBuf};

use chacha20poly1305::XChaCha20Poly1305;
use chacha20poly1305::aead::generic_array::GenericArray;
use chacha20poly1305::aead::rand_core::RngCore;
use chacha20poly1305::aead::stream::{NewStream, StreamBE32, StreamPrimitive};
use chacha20poly1305::aead::{KeyInit, OsRng};

use crate::files::Files;
use crate::secret::Secret;

const MAGIC: &[u8; 16] = b"semantic-sealed1";
const NONCE: usize = 19;
const FRONT: usize = MAGIC.len() + NONCE;
const RECORD: usize = 64 << 10;
const TAG: usize = 16;

type Stream = StreamBE32<XChaCha20Poly1305>;

/// A file system whose files are sealed when there is a key, and plain ones when there is none.
#[derive(Clone, Debug)]
pub struct MaybeSealed<F: Files> {
    files: F,
    secret: Option<Secret>,
}

impl<F: Files> MaybeSealed<F> {
    /// The files of `files`, sealed with `secret`.
    pub fn new(files: F, secret: Option<Secret>) -> Self {
        Self { files, secret }
    }
}

/// An open file.
#[derive(Debug)]
pub struct File<T> {
    inner: T,
    records: Option<Records>,
}

/// Where a sealed file is being written or read.
struct Records {
    stream: Stream,
    /// Plain bytes: those that wait to be written, or the record that is being read.
    piece: Vec<u8>,
    /// How many of `piece` have been read.
    taken: usize,
    /// The record that comes next.
    next: u32,
    /// Bytes of the whole file, when it is read.
    sealed_bytes: u64,
}

impl std::fmt::Debug for Records {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Records").field("next", &self.next).finish_non_exhaustive()
    }
}

impl Records {
    fn new(secret: &Secret, nonce: &[u8], sealed_bytes: u64) -> Self {
        let cipher = XChaCha20Poly1305::new(GenericArray::from_slice(secret.files()));
        let stream = Stream::from_aead(cipher, GenericArray::from_slice(nonce));
        Self { stream, piece: Vec::new(), taken: 0, next: 0, sealed_bytes }
    }

    fn sealed(&mut self, is_last: bool) -> io::Result<Vec<u8>> {
        let record = self.stream.encrypt(self.next, is_last, self.piece.as_slice());
        self.piece.clear();
        self.next = self.next.checked_add(1).ok_or_else(|| damaged("it is too long"))?;
        record.map_err(|_| damaged("it cannot be sealed"))
    }

    /// Where the next record begins in the file, and its bytes; None after the last one.
    fn next_record(&self) -> Option<(usize, bool)> {
        let start = FRONT as u64 + u64::from(self.next) * (RECORD + TAG) as u64;
        let left = self.sealed_bytes.checked_sub(start).filter(|left| *left > 0)?;
        let whole = (RECORD + TAG) as u64;
        Some((usize::try_from(left.min(whole)).unwrap_or(RECORD + TAG), left <= whole))
    }
}

fn damaged(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

fn plain_bytes(sealed: u64) -> io::Result<u64> {
    let whole = (RECORD + TAG) as u64;
    let records = sealed.checked_sub(FRONT as u64).ok_or_else(|| damaged("it is too short"))?;
    let (tag, last) = (TAG as u64, records % whole);
    // Even a file of no bytes has a last record, and no other one is without any.
    if records != tag && (1..=tag).contains(&last) {
        return Err(damaged("it ends within a record"));
    }
    let tags = records.div_ceil(whole).max(1) * tag;
    records.checked_sub(tags).ok_or_else(|| damaged("it is too short"))
}

impl<F: Files> Files for MaybeSealed<F> {
    type File = File<F::File>;

    fn make_folder(&self, path: &Path) -> io::Result<()> {
        self.files.make_folder(path)
    }

    fn create(&self, path: &Path) -> io::Result<Self::File> {
        let mut inner = self.files.create(path)?;
        let Some(secret) = &self.secret else { return Ok(File { inner, records: None }) };
        let mut nonce = [0; NONCE];
        OsRng.try_fill_bytes(&mut nonce).map_err(|error| io::Error::other(error.to_string()))?;
        self.files.write(&mut inner, MAGIC)?;
        self.files.write(&mut inner, &nonce)?;
        Ok(File { inner, records: Some(Records::new(secret, &nonce, 0)) })
    }

    fn write(&self, file: &mut Self::File, mut bytes: &[u8]) -> io::Result<()> {
        let Some(records) = &mut file.records else {
            return self.files.write(&mut file.inner, bytes);
        };
        while !bytes.is_empty() {
            // A full record is written when more comes: only then is it known not to be the last.
            if records.piece.len() == RECORD {
                let record = records.sealed(false)?;
                self.files.write(&mut file.inner, &record)?;
            }
            let n = bytes.len().min(RECORD - records.piece.len());
            records.piece.extend_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
        }
        Ok(())
    }

    fn sync(&self, file: &mut Self::File) -> io::Result<()> {
        if let Some(records) = &mut file.records {
            let record = records.sealed(true)?;
            self.files.write(&mut file.inner, &record)?;
        }
        self.files.sync(&mut file.inner)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.files.rename(from, to)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.files.sync_folder(path)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.files.remove(path)
    }

    fn open(&self, path: &Path) -> io::Result<Self::File> {
        let mut inner = self.files.open(path)?;
        let Some(secret) = &self.secret else { return Ok(File { inner, records: None }) };
        let sealed_bytes = self.files.len(&inner)?;
        plain_bytes(sealed_bytes)?;
        let mut front = [0; FRONT];
        self.files.read(&mut inner, &mut front)?;
        let (magic, nonce) = front.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err(damaged("it is not sealed"));
        }
        Ok(File { inner, records: Some(Records::new(secret, nonce, sealed_bytes)) })
    }

    fn len(&self, file: &Self::File) -> io::Result<u64> {
        let n_bytes = self.files.len(&file.inner)?;
        if file.records.is_some() { plain_bytes(n_bytes) } else { Ok(n_bytes) }
    }

    fn stored_len(&self, file: &Self::File) -> io::Result<u64> {
        self.files.stored_len(&file.inner)
    }

    fn read(&self, file: &mut Self::File, mut bytes: &mut [u8]) -> io::Result<()> {
        let Some(records) = &mut file.records else {
            return self.files.read(&mut file.inner, bytes);
        };
        while !bytes.is_empty() {
            if records.taken == records.piece.len() {
                let (n, is_last) = records.next_record().ok_or(io::ErrorKind::UnexpectedEof)?;
                let mut record = vec![0; n];
                self.files.read(&mut file.inner, &mut record)?;
                let plain = records.stream.decrypt(records.next, is_last, record.as_slice());
                records.piece = plain.map_err(|_| damaged("it is not what was sealed"))?;
                records.taken = 0;
                records.next += 1;
            }
            let n = bytes.len().min(records.piece.len() - records.taken);
            let (now, later) = bytes.split_at_mut(n);
            now.copy_from_slice(&records.piece[records.taken..records.taken + n]);
            records.taken += n;
            bytes = later;
        }
        Ok(())
    }

    fn seek(&self, file: &mut Self::File, position: u64) -> io::Result<()> {
        let Some(records) = &mut file.records else {
            return self.files.seek(&mut file.inner, position);
        };
        let number = u32::try_from(position / RECORD as u64).map_err(io::Error::other)?;
        let start = FRONT as u64 + u64::from(number) * (RECORD + TAG) as u64;
        self.files.seek(&mut file.inner, start)?;
        (records.next, records.taken) = (number, 0);
        records.piece.clear();
        let mut before = vec![0; usize::try_from(position % RECORD as u64).unwrap_or(0)];
        self.read(file, &mut before)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        self.files.list(path)
    }
}
