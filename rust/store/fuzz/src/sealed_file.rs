//! Any bytes as a sealed file, any bytes within one, and any change of one.

use std::io::ErrorKind;
use std::path::Path;

use arbitrary::{Arbitrary, Unstructured};
use semantic_store::{Error, Files, KEY_BYTES, MaybeSealed, Reader, Secret};

use super::change::Change;
use super::disk::{opened, put};
use super::power::Power;

/// The key of every sealed file of the corpus.
pub const KEY: [u8; KEY_BYTES] = [1; KEY_BYTES];

const PLACE: &str = "/block";

/// More than two records: the first, one in the middle, and the last are sealed alike no more.
const LONGEST: usize = (2 << 16) + 999;

#[derive(Arbitrary, Debug)]
struct Case {
    change: Change,
    n_bytes: u32,
    places: [u32; 2],
}

/// What was not sealed with our key is refused; what was, is read as it is, from any place on; what
/// was changed since is refused.
pub fn sealed_file(bytes: &[u8]) {
    let as_it_is = on_a_disk(bytes);
    match open(&as_it_is).and_then(|mut reader| reader.verify()) {
        // Only the corpus has the key.
        Ok(()) => changed(bytes, &Change::Flip { at: 0, bit: 0 }),
        Err(error) => refused(&error),
    }
    let mut data = Unstructured::new(bytes);
    let Ok(case) = Case::arbitrary(&mut data) else { return };
    let rest = data.take_rest();
    let rest = if rest.is_empty() { &[0] } else { rest };
    let n_bytes = usize::try_from(case.n_bytes).unwrap_or(LONGEST) % LONGEST;
    let plain: Vec<u8> = rest.iter().copied().cycle().take(n_bytes.max(rest.len())).collect();
    let sealed = sealed(&plain);
    read_from(&sealed, &plain, case.places);
    same_as_plain(&sealed, &plain);
    changed(&sealed, &case.change);
}

/// A file of these bytes, as the layer seals it.
#[must_use]
pub fn sealed(plain: &[u8]) -> Vec<u8> {
    let disk = Power::default();
    let files = layer(&disk);
    let mut file = files.create(Path::new(PLACE)).expect("the disk takes all");
    for piece in plain.chunks(100_003) {
        files.write(&mut file, piece).expect("the disk takes all");
    }
    files.sync(&mut file).expect("the disk takes all");
    let mut sealed = Vec::new();
    disk.change(Path::new(PLACE), |bytes| sealed.clone_from(bytes));
    sealed
}

fn layer(disk: &Power) -> MaybeSealed<Power> {
    MaybeSealed::new(disk.clone(), Some(Secret::new(&KEY)))
}

fn on_a_disk(bytes: &[u8]) -> Power {
    let disk = Power::default();
    put(&disk, Path::new(PLACE), bytes);
    disk
}

fn open(disk: &Power) -> Result<Reader<MaybeSealed<Power>>, Error> {
    Reader::open(layer(disk), Path::new(PLACE))
}

fn refused(error: &Error) {
    assert!(matches!(error, Error::Damaged { .. }), "the disk works: {error}");
}

/// All of it is read, from the front and from any other place.
fn read_from(sealed: &[u8], plain: &[u8], places: [u32; 2]) {
    let files = layer(&on_a_disk(sealed));
    let mut file = files.open(Path::new(PLACE)).expect("it was sealed with this key");
    assert_eq!(files.len(&file).expect("the disk works"), plain.len() as u64);
    for place in places.into_iter().chain([0]) {
        let place = usize::try_from(place).unwrap_or(0) % (plain.len() + 1);
        files.seek(&mut file, place as u64).expect("it lies within");
        let mut found = vec![0; plain.len() - place];
        let middle = found.len() / 2;
        files.read(&mut file, &mut found[..middle]).expect("so much is left");
        files.read(&mut file, &mut found[middle..]).expect("so much is left");
        assert_eq!(found, plain[place..], "from {place} on");
        assert!(files.read(&mut file, &mut [0]).is_err(), "more than there is");
    }
}

/// Sealed bytes are the block, or the damage, that they are when they are not sealed.
fn same_as_plain(sealed: &[u8], plain: &[u8]) {
    let outcome = |damage: Error| match damage {
        Error::Damaged { damage, .. } => damage,
        other => panic!("the disk works: {other}"),
    };
    let expected = opened(plain).map_err(outcome);
    let found = open(&on_a_disk(sealed)).map_err(outcome);
    match (found, expected) {
        (Ok(mut found), Ok(mut expected)) => {
            assert_eq!(found.header(), expected.header());
            assert_eq!(found.bytes().expect("the disk works"), sealed.len() as u64);
            let (found, expected) = (found.verify(), expected.verify());
            assert_eq!(found.map_err(outcome), expected.map_err(outcome));
        }
        (found, expected) => {
            assert_eq!(found.map(|_| ()), expected.map(|_| ()));
        }
    }
}

/// A sealed file that was changed is refused, wherever that is seen.
fn changed(sealed: &[u8], change: &Change) {
    let mut other = sealed.to_vec();
    change.apply(&mut other);
    if other == sealed {
        return;
    }
    let disk = on_a_disk(&other);
    let files = layer(&disk);
    let read = files.open(Path::new(PLACE)).and_then(|mut file| {
        let n_bytes = usize::try_from(files.len(&file)?).expect("the file is not longer");
        files.read(&mut file, &mut vec![0; n_bytes]).map(|()| n_bytes)
    });
    match read {
        // Where there is nothing to read, nobody looks at what follows it.
        Ok(0) => refused(&open(&disk).expect_err("no block has no bytes")),
        Ok(_) => panic!("a change was not seen"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}"),
    }
}
