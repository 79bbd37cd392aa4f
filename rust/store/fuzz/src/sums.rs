//! Checksums that are right: behind wrong ones, nothing but their refusal would be reached.

use xxhash_rust::xxh3::xxh3_128;

const DIGITS: usize = 32;

/// The digits of the checksum of some bytes.
pub(crate) fn sum(bytes: &[u8]) -> String {
    format!("{:032x}", xxh3_128(bytes))
}

/// The length of a file's header as its first bytes give it; None when the file is shorter.
pub(crate) fn front(file: &[u8]) -> Option<usize> {
    let length = u64::from_le_bytes(*file.first_chunk()?);
    let front = usize::try_from(length).ok()?.checked_add(8)?;
    (front <= file.len()).then_some(front)
}

/// A header with the checksum that it has to have, where it has a place for one.
pub(crate) fn summed_header(mut header: Vec<u8>) -> Vec<u8> {
    if let Some(at) = place(&header, "header_checksum") {
        header[at..at + DIGITS].fill(b'0');
        let sum = sum(&header);
        header[at..at + DIGITS].copy_from_slice(sum.as_bytes());
    }
    header
}

/// A file with both checksums that it has to have, where it has places for them.
#[must_use]
pub fn summed_file(mut file: Vec<u8>) -> Vec<u8> {
    let Some(front) = front(&file) else { return file };
    let payload = file.split_off(front);
    if let Some(at) = place(&file, "payload_checksum") {
        file[at..at + DIGITS].copy_from_slice(sum(&payload).as_bytes());
    }
    let mut file = summed_header(file);
    file.extend(payload);
    file
}

/// Where the digits of a field are.
fn place(header: &[u8], field: &str) -> Option<usize> {
    let name = format!("\"{field}\":\"");
    let is_here = |at: &usize| header[*at..].starts_with(name.as_bytes());
    // A quote after a backslash is part of a string.
    let place = (1..header.len()).filter(is_here).find(|at| header[at - 1] != b'\\')? + name.len();
    (place + DIGITS <= header.len()).then_some(place)
}
