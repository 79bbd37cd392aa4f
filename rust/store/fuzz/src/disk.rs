//! A disk in memory, with files of any name and any bytes.

use std::path::Path;

use semantic_store::{Error, Files, Folder, Reader};

use super::power::Power;

pub(crate) const ROOT: &str = "/store";

/// Who has the folder open.
pub(crate) const OWNER: &str = "0a11e0a11e0a11e0";

pub(crate) fn folder(disk: &Power) -> Folder<Power> {
    Folder::open(disk.clone(), Path::new(ROOT), OWNER).expect("the disk takes all")
}

pub(crate) fn put(disk: &Power, path: &Path, bytes: &[u8]) {
    let mut file = disk.create(path).expect("the disk takes all");
    disk.write(&mut file, bytes).expect("the disk takes all");
}

/// A file of these bytes, opened as a block.
pub(crate) fn opened(bytes: &[u8]) -> Result<Reader<Power>, Error> {
    let (disk, path) = (Power::default(), Path::new("/block"));
    put(&disk, path, bytes);
    Reader::open(disk, path)
}
