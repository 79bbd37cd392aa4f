//! Any bytes as a header.

use semantic_store::{Block, Header, Payload, Rows};

use super::block_file::read;
use super::disk::{ROOT, folder};
use super::power::Power;
use super::sums::{summed_file, summed_header};

const LONGEST: u64 = 1 << 20;

/// Payloads up to that are made, so that what was decoded can be written.
const PAYLOAD: u64 = 1 << 16;

/// A header of any bytes is refused or means what it is read as.
pub fn header(bytes: &[u8]) {
    if let Some(first) = bytes.first_chunk() {
        let length = u64::from_le_bytes(*first);
        let read = Header::length(*first);
        assert_eq!(read.ok(), (1..=LONGEST).contains(&length).then(|| 8 + length));
    }
    // Decoding does not look at the length: this is a reader's affair.
    let _ = Header::decode(bytes);
    let bytes = summed_header(bytes.to_vec());
    if let Ok(header) = Header::decode(&bytes)
        && header.payload_bytes() <= PAYLOAD
    {
        written_again(&header);
        in_a_file(bytes, &header);
    }
}

/// A block that has this header is written with the same one.
fn written_again(header: &Header) {
    let payload = payload(header);
    let mut left = &payload[..];
    let tensors = header.tensors.iter().map(|tensor| {
        let n = usize::try_from(tensor.bytes).expect("they fit into the payload");
        let (bytes, rest) = left.split_at(n);
        left = rest;
        let payload = Payload { bytes, rows: Rows::whole(n) };
        (tensor.name.clone(), tensor.dtype.clone(), tensor.shape.clone(), payload)
    });
    let (name, metadata) = ("00-block".to_owned(), header.metadata.clone());
    let block = Block { name, metadata, tensors: tensors.collect() };
    let folder = folder(&Power::with(ROOT.as_ref()));
    folder.write(&[block]).expect("what was decoded can be encoded");
    let mut reader = folder.read("00-block").expect("what was encoded can be decoded");
    assert_eq!(reader.header().metadata, header.metadata);
    assert_eq!(reader.header().tensors, header.tensors);
    reader.verify().expect("what was written is read");
}

/// A file with this header and such a payload is read, and is refused when the payload changes.
fn in_a_file(mut bytes: Vec<u8>, header: &Header) {
    let front = bytes.len();
    bytes[..8].copy_from_slice(&(front as u64 - 8).to_le_bytes());
    bytes.extend(payload(header));
    let mut file = summed_file(bytes);
    read(&file);
    if let Some(last) = file[front..].last_mut() {
        *last ^= 1;
        read(&file);
    }
}

/// Bytes that tell one tensor from the other.
fn payload(header: &Header) -> Vec<u8> {
    (0..header.payload_bytes()).map(|at| (at % 251).to_le_bytes()[0]).collect()
}
