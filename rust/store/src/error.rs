//! What can go wrong with a block file.

use std::io;
use std::path::PathBuf;

/// Why a file is not a block that can be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Damage {
    /// Fewer or more bytes than the header says.
    #[error("it has {found} bytes, its header says {expected}")]
    Length {
        /// Bytes that the file has.
        found: u64,
        /// Bytes that it should have.
        expected: u64,
    },
    /// The header cannot be read.
    #[error("its header is damaged: {0}")]
    Header(String),
    /// Another format, or a version that this release does not know.
    #[error("it is of version {0}, which this release does not read")]
    Version(String),
    /// The payload is not what was written.
    #[error("the checksum of its payload is wrong")]
    Payload,
    /// It is sealed with another key, changed, or not sealed.
    #[error("{0}")]
    Sealed(String),
    /// It is another block than its name says.
    #[error("it holds another block than its name says")]
    Name,
}

/// A refusal of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is not a block that can be used: it never will be.
    #[error("{}: {damage}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        damage: Damage,
    },
    /// There is no such file.
    #[error("{}: there is no such block", path.display())]
    Missing {
        /// Which file.
        path: PathBuf,
    },
    /// The system refused: this may pass.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which file or folder.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// The caller's description of a block contradicts itself.
    #[error("{0}")]
    Invalid(String),
}

impl Error {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        |source| match source.kind() {
            io::ErrorKind::NotFound => Self::Missing { path },
            io::ErrorKind::InvalidData => {
                Self::Damaged { path, damage: Damage::Sealed(source.to_string()) }
            }
            _ => Self::Io { path, source },
        }
    }
}
