//! Any names, of blocks and of files.

use std::ffi::OsString;
use std::path::{Component, Path};

use semantic_store::{Error, Files};

use super::disk::{OWNER, ROOT, folder, put};
use super::power::Power;

/// More files than that tell nothing new, and a disk in memory is slow to list.
const MOST: usize = 8;

const FOLDERS: [&str; 3] = ["tmp", "blocks/ab", "blocks/00"];

/// Names, one a line, lead to no place outside of the folder, and files of any name harm nobody.
pub fn file_names(bytes: &[u8]) {
    let disk = Power::with(ROOT.as_ref());
    let folder = folder(&disk);
    for line in bytes.split(|byte| *byte == b'\n').take(MOST).map(os_string) {
        if let Some(name) = line.to_str() {
            named(&folder.read(name).map(|_| ()), name);
        }
        // A folder lists no names but these.
        if Path::new(&line).components().eq([Component::Normal(&line)]) {
            for part in FOLDERS {
                let path = Path::new(ROOT).join(part).join(&line);
                if disk.open(&path).is_err() {
                    put(&disk, &path, b"no block");
                }
            }
        }
    }
    for name in folder.names().expect("the disk works") {
        match folder.read(&name) {
            Err(Error::Damaged { .. } | Error::Missing { .. } | Error::Invalid(_)) => {}
            other => panic!("no block is read: {other:?}"),
        }
    }
    let mut expected = disk.paths();
    expected.retain(|path| path.strip_prefix("/store/tmp").map_or(true, |file| !is_left(file)));
    folder.clean(|owner| owner == OWNER).expect("the disk works");
    assert_eq!(disk.paths(), expected);
}

/// Whether a temporary file has the name that an owner who does not run has given it.
fn is_left(file: &Path) -> bool {
    let Some((owner, n)) = file.to_str().and_then(|file| file.split_once('-')) else {
        return false;
    };
    let are = |text: &str, digits: &str| text.chars().all(|digit| digits.contains(digit));
    let is_owner = owner.len() == OWNER.len() && are(owner, "0123456789abcdef");
    is_owner && owner != OWNER && !n.is_empty() && are(n, "0123456789")
}

/// A name is refused, or that of a file at its place.
fn named(read: &Result<(), Error>, name: &str) {
    match read {
        Err(Error::Invalid(_)) => {}
        Err(Error::Missing { path } | Error::Damaged { path, .. }) => {
            let fan = name.get(..2).expect("names are longer");
            let place = Path::new(ROOT).join("blocks").join(fan);
            assert_eq!(path.parent(), Some(&*place));
            assert_eq!(path.file_name(), Some(format!("{name}.safetensors").as_ref()));
            assert!(path.components().skip(1).all(|part| matches!(part, Component::Normal(_))));
        }
        other => panic!("no block is read: {other:?}"),
    }
}

#[cfg(unix)]
fn os_string(bytes: &[u8]) -> OsString {
    std::os::unix::ffi::OsStringExt::from_vec(bytes.to_vec())
}

#[cfg(not(unix))]
fn os_string(bytes: &[u8]) -> OsString {
    String::from_utf8_lossy(bytes).into_owned().into()
}
