//! A block as the store writes it, and one change of its file.

use std::collections::BTreeMap;

use arbitrary::{Arbitrary, Unstructured};
use semantic_store::{Block, Error, Payload, Rows};

use super::block_file::read_into;
use super::change::Change;
use super::disk::{ROOT, folder, opened};
use super::power::Power;
use super::rows::{filled, untouched};

/// Element types, and the bytes of an element.
pub const DTYPES: [(&str, usize); 15] = [
    ("BOOL", 1),
    ("U8", 1),
    ("I8", 1),
    ("F8_E4M3", 1),
    ("F8_E5M2", 1),
    ("I16", 2),
    ("U16", 2),
    ("F16", 2),
    ("BF16", 2),
    ("I32", 4),
    ("U32", 4),
    ("F32", 4),
    ("I64", 8),
    ("U64", 8),
    ("F64", 8),
];

/// A row that takes more than one piece to read.
const WIDE: usize = (256 << 10) + 9;

/// Memory for any rows ends there: what they say beyond it has to be refused.
const MOST: usize = 1 << 20;

#[derive(Arbitrary, Debug)]
struct Case {
    change: Change,
    elsewhere: [usize; 5],
    is_wide: bool,
    tensors: Vec<(String, Shape)>,
    metadata: BTreeMap<String, String>,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
struct Shape {
    dtype: u8,
    outer: u8,
    room: u8,
    first: u8,
    valid: u8,
    width: u8,
}

/// A block is read as it was written, and refused after any change of its file.
pub fn changed_block(bytes: &[u8]) {
    let Ok(case) = Case::arbitrary_take_rest(Unstructured::new(bytes)) else { return };
    let mut rows: Vec<Rows> = case.tensors.iter().map(|(_, shape)| shape.rows()).collect();
    if let (Some(first), true) = (rows.first_mut(), case.is_wide) {
        *first = Rows { outer: 1, row_bytes: WIDE, ..*first };
    }
    let mut payload = (0_u8..251).cycle();
    let wrote: Vec<Vec<u8>> = rows.iter().map(|rows| filled(*rows, &mut payload)).collect();
    let Some(file) = written(&case, &rows, &wrote) else { return };
    assert_eq!(read(&file, &rows).expect("nothing has changed"), wrote);
    if let [rows] = rows[..] {
        read_elsewhere(&file, rows, case.elsewhere);
    }
    let mut changed = file.clone();
    case.change.apply(&mut changed);
    match read(&changed, &rows) {
        Ok(found) => assert_eq!((changed, found), (file, wrote), "a change was not seen"),
        Err(Error::Damaged { .. }) => assert_ne!(changed, file, "what is right was refused"),
        Err(other) => panic!("{other}"),
    }
}

/// The file of a block; None where its names are taken.
fn written(case: &Case, rows: &[Rows], memory: &[Vec<u8>]) -> Option<Vec<u8>> {
    let tensors =
        case.tensors.iter().zip(rows).zip(memory).map(|(((name, shape), rows), bytes)| {
            let (dtype, size) = shape.dtype();
            let counts = [rows.outer, rows.valid, rows.row_bytes / size].map(|n| n as u64);
            (name.clone(), dtype.to_owned(), counts.to_vec(), Payload { bytes, rows: *rows })
        });
    let (name, metadata) = ("ab-block".to_owned(), case.metadata.clone());
    let disk = Power::with(ROOT.as_ref());
    match folder(&disk).write(&[Block { name, metadata, tensors: tensors.collect() }]) {
        Ok(_) => {}
        Err(Error::Invalid(_)) => return None,
        Err(other) => panic!("the disk works: {other}"),
    }
    let mut file = Vec::new();
    disk.change(&disk.paths()[0], |bytes| file.clone_from(bytes));
    Some(file)
}

/// What a file has, as rows in memory.
fn read(file: &[u8], rows: &[Rows]) -> Result<Vec<Vec<u8>>, Error> {
    let mut reader = opened(file)?;
    let mut memory: Vec<Vec<u8>> = rows.iter().copied().map(untouched).collect();
    read_into(&mut reader, &mut memory, rows)?;
    Ok(memory)
}

/// Rows of any numbers are refused, or take as many bytes as the tensor has.
fn read_elsewhere(file: &[u8], tensor: Rows, numbers: [usize; 5]) {
    let [outer, room, first, valid, row_bytes] = numbers;
    let rows = Rows { outer, room, first, valid, row_bytes };
    let bytes = rows.bytes_in_memory().unwrap_or(0);
    let mut reader = opened(file).expect("nothing has changed");
    let mut memory = vec![0; bytes.min(MOST)];
    match reader.read_into(&mut [(&mut memory, rows)]) {
        Ok(()) => assert_eq!(rows.bytes_in_file(), tensor.bytes_in_file()),
        Err(Error::Invalid(_)) => {}
        Err(other) => panic!("nothing has changed: {other}"),
    }
}

impl Shape {
    fn dtype(self) -> (&'static str, usize) {
        DTYPES[usize::from(self.dtype) % DTYPES.len()]
    }

    fn rows(self) -> Rows {
        let room = usize::from(self.room % 5);
        let first = usize::from(self.first) % (room + 1);
        Rows {
            outer: usize::from(self.outer % 4),
            room,
            first,
            valid: usize::from(self.valid) % (room - first + 1),
            row_bytes: usize::from(self.width % 5) * self.dtype().1,
        }
    }
}
