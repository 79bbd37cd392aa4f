//! What is sealed is read with its key alone, whole and unchanged.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use semantic_store::{Block, Disk, Error, Folder, MaybeSealed, Payload, Rows, Secret};

type Sealed = Folder<MaybeSealed<Disk>>;

fn folder(root: &Path, key: Option<u8>) -> Sealed {
    let secret = key.map(|key| Secret::new(&[key; 32]));
    Folder::open(MaybeSealed::new(Disk, secret), root, "owner").unwrap()
}

fn write(folder: &Sealed, bytes: &[u8]) -> u64 {
    let block = Block {
        name: "ab-block".into(),
        metadata: BTreeMap::from([("tokens".to_owned(), "1,2,3".to_owned())]),
        tensors: vec![(
            "keys".into(),
            "U8".into(),
            vec![bytes.len() as u64],
            Payload { bytes, rows: Rows::whole(bytes.len()) },
        )],
    };
    folder.write(&[block]).unwrap()[0]
}

fn read(folder: &Sealed, n: usize) -> Result<Vec<u8>, Error> {
    let mut reader = folder.read("ab-block")?;
    let mut bytes = vec![0; n];
    reader.verify()?;
    reader.read_into(&mut [(&mut bytes, Rows::whole(n))])?;
    assert_eq!(reader.header().metadata["tokens"], "1,2,3");
    Ok(bytes)
}

fn file(root: &Path) -> PathBuf {
    root.join("blocks/ab/ab-block.safetensors")
}

fn pattern(n: usize) -> Vec<u8> {
    (0..n).map(|at| u8::try_from(at * 7 % 251).unwrap()).collect()
}

#[test]
fn blocks_of_every_number_of_records_are_read_again() {
    const RECORD: usize = 64 << 10;
    let root = tempfile::tempdir().unwrap();
    let sealed = folder(root.path(), Some(1));
    // The header takes some hundred bytes of the first record.
    for n in [0, 1, 1000, RECORD - 600, RECORD, 2 * RECORD, 3 * RECORD + 17] {
        for n in n..n + 3 {
            let n_bytes = write(&sealed, &pattern(n));
            assert_eq!(read(&sealed, n).unwrap(), pattern(n), "{n} bytes");
            assert_eq!(n_bytes, fs::metadata(file(root.path())).unwrap().len());
            assert_eq!(sealed.read("ab-block").unwrap().bytes().unwrap(), n_bytes);
        }
    }
}

#[test]
fn records_that_are_exactly_full_are_read_again() {
    let root = tempfile::tempdir().unwrap();
    let sealed = folder(root.path(), Some(1));
    let header = write(&sealed, b"") - 51;
    let n = (128 << 10) - usize::try_from(header).unwrap();
    for n in n - 1..=n + 1 {
        write(&sealed, &pattern(n));
        assert_eq!(read(&sealed, n).unwrap(), pattern(n));
    }
}

#[test]
fn nothing_of_it_can_be_read_without_the_key() {
    let root = tempfile::tempdir().unwrap();
    write(&folder(root.path(), Some(1)), &pattern(500));
    let bytes = fs::read(file(root.path())).unwrap();
    for plain in [&b"tokens"[..], b"1,2,3", b"keys", &pattern(500)[..16]] {
        assert!(!bytes.windows(plain.len()).any(|window| window == plain));
    }
    for other in [None, Some(2)] {
        let error = read(&folder(root.path(), other), 500).unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{error}");
    }
}

#[test]
fn what_is_not_sealed_is_refused_where_there_is_a_key() {
    let root = tempfile::tempdir().unwrap();
    write(&folder(root.path(), None), &pattern(500));
    let error = read(&folder(root.path(), Some(1)), 500).unwrap_err();
    assert!(error.to_string().ends_with("it is not sealed"), "{error}");
}

#[test]
fn b28_any_changed_bit_any_other_length_and_any_other_order_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let sealed = folder(root.path(), Some(1));
    write(&sealed, &pattern(90));
    let path = file(root.path());
    let whole = fs::read(&path).unwrap();
    let refused = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        let error = read(&sealed, 90).unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{error}");
    };
    for bit in 0..whole.len() * 8 {
        let mut changed = whole.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        refused(&changed);
    }
    for n in 0..whole.len() {
        refused(&whole[..n]);
    }
    refused(&[&whole[..], b"x"].concat());
    // Even nothing is sealed as a record, whose tag says that it is the last.
    fs::write(&path, &whole[..35]).unwrap();
    let error = sealed.read("ab-block").unwrap_err();
    assert!(error.to_string().ends_with("it is too short"), "{error}");
    let long = pattern(200 << 10);
    write(&sealed, &long);
    let whole = fs::read(&path).unwrap();
    let (front, records) = whole.split_at(35);
    let records: Vec<&[u8]> = records.chunks((64 << 10) + 16).collect();
    for order in [&[1, 0, 2, 3][..], &[0, 1, 2], &[0, 0, 2, 3], &[0, 1, 3]] {
        let parts = order.iter().flat_map(|at| records[*at].iter().copied());
        refused(&front.iter().copied().chain(parts).collect::<Vec<_>>());
    }
    // So little of a record says nothing of how much there was.
    for n in 1..=16 {
        fs::write(&path, [front, records[0], &records[1][..n]].concat()).unwrap();
        let error = sealed.read("ab-block").unwrap_err();
        assert!(error.to_string().ends_with("it ends within a record"), "{error}");
    }
}
