//! Any bytes as a whole file.

use semantic_store::{Damage, Error, Header, Reader, Rows, Tensor};

use super::disk::opened;
use super::power::Power;
use super::rows::{filled, untouched};
use super::sums::{front, sum, summed_file, summed_header};

/// A file of any bytes is refused or read as it is, whether or not its checksums are right.
pub fn block_file(bytes: &[u8]) {
    read(bytes);
    read(&summed_file(bytes.to_vec()));
}

/// A file is refused as damaged, or its payload is what its checksum says.
pub(crate) fn read(file: &[u8]) {
    let mut reader = match opened(file) {
        Ok(reader) => reader,
        Err(Error::Damaged { .. }) => return,
        Err(other) => panic!("the disk works: {other}"),
    };
    let header = reader.header().clone();
    let front = front(file).expect("what is open has a header");
    let (head, payload) = file.split_at(front);
    assert_eq!(Header::decode(head).as_ref(), Ok(&header));
    assert_eq!(summed_header(head.to_vec()), head, "a wrong header was taken");
    assert_eq!(
        (reader.bytes().unwrap(), header.payload_bytes()),
        (file.len() as u64, payload.len() as u64)
    );
    let is_right = header.payload_checksum.to_string() == sum(payload);
    check(reader.verify(), is_right);
    for layout in [whole, scattered] {
        let rows: Vec<Rows> = header.tensors.iter().map(layout).collect();
        let mut memory: Vec<Vec<u8>> = rows.iter().copied().map(untouched).collect();
        check(read_into(&mut reader, &mut memory, &rows), is_right);
        if is_right {
            let mut payload = payload.iter().copied();
            let expected: Vec<Vec<u8>> = rows.iter().map(|r| filled(*r, &mut payload)).collect();
            assert_eq!((memory, payload.next()), (expected, None));
        }
    }
    let mut more: Vec<Rows> = header.tensors.iter().map(whole).collect();
    more.push(Rows::whole(0));
    let mut memory: Vec<Vec<u8>> = more.iter().copied().map(untouched).collect();
    let refused = read_into(&mut reader, &mut memory, &more);
    assert!(matches!(refused, Err(Error::Invalid(_))), "memory for a tensor that is not there");
}

pub(crate) fn read_into(
    reader: &mut Reader<Power>,
    memory: &mut [Vec<u8>],
    rows: &[Rows],
) -> Result<(), Error> {
    let memory = memory.iter_mut().map(Vec::as_mut_slice);
    reader.read_into(&mut memory.zip(rows.iter().copied()).collect::<Vec<_>>())
}

fn check(result: Result<(), Error>, is_right: bool) {
    match result {
        Ok(()) => assert!(is_right, "a wrong payload was taken"),
        Err(Error::Damaged { damage: Damage::Payload, .. }) => {
            assert!(!is_right, "a right payload was refused");
        }
        Err(other) => panic!("the disk works: {other}"),
    }
}

fn whole(tensor: &Tensor) -> Rows {
    Rows::whole(bytes(tensor))
}

/// The same bytes as rows with room between them.
fn scattered(tensor: &Tensor) -> Rows {
    let bytes = bytes(tensor);
    let outer = (2..=5).find(|n| bytes.is_multiple_of(*n)).unwrap_or(1);
    Rows { outer, room: 3, first: 1, valid: 1, row_bytes: bytes / outer }
}

fn bytes(tensor: &Tensor) -> usize {
    usize::try_from(tensor.bytes).expect("the file is as long as its tensors")
}
