//! The folder of a store: where block files are, and how they come and go.
//!
//! ```text
//! blocks/ab/ab….safetensors   the blocks, by the first two digits of their names
//! tmp/<owner>-<n>             on their way, of an owner that runs: sixteen digits, hexadecimal
//! aside/                      what is no block: damaged, or of another version
//! ```
//!
//! `tmp`, `blocks` and `aside` are on one file system, so that a rename is one step.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Error;
use crate::files::Files;
use crate::reader::Reader;
use crate::writer::{Block, Temporary, write_temporary};

const ENDING: &str = "safetensors";
const FANS: &[u8; 16] = b"0123456789abcdef";

/// Digits of an owner's name: a temporary file that is called otherwise is not a store's.
const OWNER_DIGITS: usize = 16;

/// A folder of block files.
#[derive(Debug)]
pub struct Folder<F: Files> {
    files: F,
    root: PathBuf,
    /// Whose temporary files are ours.
    owner: String,
    n: AtomicU64,
}

impl<F: Files + Clone> Folder<F> {
    /// Open a folder, which is made when it is not there.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn open(files: F, root: &Path, owner: &str) -> Result<Self, Error> {
        for part in ["blocks", "tmp", "aside"] {
            let path = root.join(part);
            files.make_folder(&path).map_err(Error::io(path))?;
        }
        files.sync_folder(root).map_err(Error::io(root))?;
        let (root, owner) = (root.to_owned(), owner.to_owned());
        Ok(Self { files, root, owner, n: AtomicU64::new(0) })
    }

    /// Write blocks: each is there entirely or not at all, and all that are there when this returns
    /// survive a power cut. How many bytes each file has.
    ///
    /// # Errors
    ///
    /// None of them is there then, except for those that had been there, and for those that got
    /// their name before a rename or the sync of a folder was refused.
    pub fn write(&self, blocks: &[Block<'_>]) -> Result<Vec<u64>, Error> {
        let mut temporary = Temporary { files: &self.files, paths: Vec::new() };
        let mut sizes = Vec::with_capacity(blocks.len());
        for block in blocks {
            let path = self.temporary_path();
            temporary.paths.push(path.clone());
            sizes.push(write_temporary(&self.files, &path, block)?);
        }
        let mut fans: Vec<PathBuf> = Vec::new();
        for (block, from) in blocks.iter().zip(&temporary.paths) {
            let to = self.path(&block.name)?;
            if let Some(fan) = to.parent().filter(|fan| !fans.iter().any(|known| known == fan)) {
                self.files.make_folder(fan).map_err(Error::io(fan))?;
                fans.push(fan.to_owned());
            }
            self.files.rename(from, &to).map_err(Error::io(to))?;
        }
        fans.push(self.root.join("blocks"));
        for fan in fans {
            self.files.sync_folder(&fan).map_err(Error::io(fan))?;
        }
        temporary.paths.clear();
        Ok(sizes)
    }

    /// Open a block to read it.
    ///
    /// # Errors
    ///
    /// As [`Reader::open`].
    pub fn read(&self, name: &str) -> Result<Reader<F>, Error> {
        Reader::open(self.files.clone(), &self.path(name)?)
    }

    /// Remove a block; one that is not there has been removed.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn remove(&self, name: &str) -> Result<(), Error> {
        let path = self.path(name)?;
        self.files.remove(&path).map_err(Error::io(path))
    }

    /// Put a file aside, so that nobody takes it for a block again. Where it is now.
    ///
    /// # Errors
    ///
    /// [`Error::Missing`] when somebody was faster, [`Error::Io`].
    pub fn set_aside(&self, name: &str) -> Result<PathBuf, Error> {
        let from = self.path(name)?;
        let n = self.n.fetch_add(1, Ordering::Relaxed);
        let to = self.root.join("aside").join(format!("{name}.{}-{n}", self.owner));
        self.files.rename(&from, &to).map_err(Error::io(from))?;
        Ok(to)
    }

    /// The names of all blocks.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn names(&self) -> Result<Vec<String>, Error> {
        let mut names = Vec::new();
        for high in FANS {
            for low in FANS {
                let fan = format!("{}{}", char::from(*high), char::from(*low));
                let path = self.root.join("blocks").join(fan);
                let files = self.files.list(&path).map_err(Error::io(path))?;
                let blocks =
                    files.iter().filter(|path| path.extension().is_some_and(|e| e == ENDING));
                let stems = blocks.filter_map(|path| path.file_stem()?.to_str());
                names.extend(stems.map(str::to_owned));
            }
        }
        Ok(names)
    }

    /// Remove the temporary files of owners that do not run any more. How many there were.
    ///
    /// What has another name than these is somebody else's, and stays.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn clean(&self, runs: impl Fn(&str) -> bool) -> Result<usize, Error> {
        let path = self.root.join("tmp");
        let files = self.files.list(&path).map_err(Error::io(path))?;
        let is_left = |path: &&PathBuf| owner_of(path).is_some_and(|owner| !runs(owner));
        let left: Vec<&PathBuf> = files.iter().filter(is_left).collect();
        for path in &left {
            self.files.remove(path).map_err(Error::io(path.as_path()))?;
        }
        Ok(left.len())
    }

    /// Where a block is.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for what names no block.
    fn path(&self, name: &str) -> Result<PathBuf, Error> {
        let is_fan = |byte: &u8| FANS.contains(byte);
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let bytes = name.as_bytes();
        if bytes.len() < 3 || !bytes[..2].iter().all(is_fan) || !name.bytes().all(is_plain) {
            return Err(Error::Invalid(format!("{name:?} names no block")));
        }
        let file = format!("{name}.{ENDING}");
        Ok(self.root.join("blocks").join(&name[..2]).join(file))
    }

    fn temporary_path(&self) -> PathBuf {
        let n = self.n.fetch_add(1, Ordering::Relaxed);
        self.root.join("tmp").join(format!("{}-{n}", self.owner))
    }
}

/// Whose temporary file has this name.
fn owner_of(path: &Path) -> Option<&str> {
    let (owner, n) = path.file_name()?.to_str()?.rsplit_once('-')?;
    let is_owner = owner.len() == OWNER_DIGITS && owner.bytes().all(|byte| FANS.contains(&byte));
    let is_number = !n.is_empty() && n.bytes().all(|byte| byte.is_ascii_digit());
    (is_owner && is_number).then_some(owner)
}
