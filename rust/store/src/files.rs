//! What is asked of a file system, step by step, so that a test can stop at each of them.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

#[cfg(unix)]
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};

/// A file system, as far as block files need one.
pub trait Files {
    /// An open file.
    type File;

    /// Make a folder and those before it, for its owner alone. It may be there.
    ///
    /// # Errors
    ///
    /// What the system says; so for all that follow.
    fn make_folder(&self, path: &Path) -> io::Result<()>;

    /// Make a new file, for its owner alone.
    ///
    /// # Errors
    ///
    /// Also when it is there.
    fn create(&self, path: &Path) -> io::Result<Self::File>;

    /// Add bytes to a file.
    ///
    /// # Errors
    ///
    /// Some of the bytes may be there then.
    fn write(&self, file: &mut Self::File, bytes: &[u8]) -> io::Result<()>;

    /// End a file, and return when its bytes would survive a power cut.
    ///
    /// # Errors
    ///
    /// The bytes may be lost then.
    fn sync(&self, file: &mut Self::File) -> io::Result<()>;

    /// Give a file another name, in the place of what has it.
    ///
    /// # Errors
    ///
    /// It has its old name then.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Return when the names in a folder would survive a power cut.
    ///
    /// # Errors
    ///
    /// They may be lost then.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;

    /// Remove a file; what is not there has been removed.
    ///
    /// # Errors
    ///
    /// It is still there then.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Open a regular file to read it.
    ///
    /// # Errors
    ///
    /// Also when it is not there, or something else has its name.
    fn open(&self, path: &Path) -> io::Result<Self::File>;

    /// How many bytes a file has.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn len(&self, file: &Self::File) -> io::Result<u64>;

    /// How many bytes a file takes where it is kept: more than can be read of it, if it is sealed.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn stored_len(&self, file: &Self::File) -> io::Result<u64> {
        self.len(file)
    }

    /// Fill `bytes` from where the last call stopped.
    ///
    /// # Errors
    ///
    /// Also when the file ends before.
    fn read(&self, file: &mut Self::File, bytes: &mut [u8]) -> io::Result<()>;

    /// Go on reading from a position.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn seek(&self, file: &mut Self::File, position: u64) -> io::Result<()>;

    /// The files in a folder; none when it is not there.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>>;
}

/// The file system of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Disk;

impl Files for Disk {
    type File = File;

    fn make_folder(&self, path: &Path) -> io::Result<()> {
        let mut builder = DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        builder.mode(0o700);
        builder.create(path)
    }

    fn create(&self, path: &Path) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        options.mode(0o600);
        options.open(path)
    }

    fn write(&self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        file.write_all(bytes)
    }

    fn sync(&self, file: &mut File) -> io::Result<()> {
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    fn open(&self, path: &Path) -> io::Result<File> {
        // To open a pipe is to wait for somebody who writes into it.
        if !fs::metadata(path)?.is_file() {
            return Err(io::Error::other("it is no regular file"));
        }
        File::open(path)
    }

    fn len(&self, file: &File) -> io::Result<u64> {
        Ok(file.metadata()?.len())
    }

    fn read(&self, file: &mut File, bytes: &mut [u8]) -> io::Result<()> {
        file.read_exact(bytes)
    }

    fn seek(&self, file: &mut File, position: u64) -> io::Result<()> {
        file.seek(SeekFrom::Start(position)).map(|_| ())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        match fs::read_dir(path) {
            Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}
