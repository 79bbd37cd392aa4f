//! The header of a block file: a safetensors header with metadata of ours.
//!
//! ```text
//! 8 bytes     length of the JSON, little-endian
//! JSON        {"__metadata__": {…}, "<tensor>": {"dtype", "shape", "data_offsets"}, …}, padded with spaces
//! payload     the tensors, one right after the other, from a multiple of 64 bytes on
//! ```
//!
//! The metadata has the checksum of the payload and, over the whole header with this one field set
//! to zeros, the checksum of the header. So a reader with nothing but the `safetensors` library can
//! use the file, and ours knows of every changed bit.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::checksum::{Checksum, DIGITS};
use crate::error::{Damage, Error};
use crate::tensor::Tensor;

/// What the files call themselves.
pub const FORMAT: &str = "semantic-block";

/// The version of the format that is written.
pub const VERSION: &str = "1";

/// Headers longer than that are nobody's: tokens and tensors of a block take a few thousand bytes.
pub(crate) const LONGEST: u64 = 1 << 20;

/// Where payloads start: at a multiple of this, so that tensors can be used where they are.
const ALIGNMENT: usize = 64;

const LENGTH_BYTES: usize = 8;
const METADATA: &str = "__metadata__";
const HEADER_SUM: &str = "header_checksum";
const PAYLOAD_SUM: &str = "payload_checksum";
const NO_SUM: &str = "00000000000000000000000000000000";

/// What a block file says of its block.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// What the caller knows of the block.
    pub metadata: BTreeMap<String, String>,
    /// Its tensors, in the order of their bytes.
    pub tensors: Vec<Tensor>,
    /// The checksum of the payload.
    pub payload_checksum: Checksum,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

impl Header {
    /// The bytes of the header, ready to be written.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for a name that is taken, a tensor that contradicts itself, or more than
    /// fits into a header.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, Error> {
        let mut metadata = self.metadata.clone();
        let own = [
            ("format", FORMAT.to_owned()),
            ("version", VERSION.to_owned()),
            (HEADER_SUM, NO_SUM.to_owned()),
            (PAYLOAD_SUM, self.payload_checksum.to_string()),
        ];
        for (name, value) in own {
            if metadata.insert(name.to_owned(), value).is_some() {
                return Err(Error::Invalid(format!("metadata cannot be named {name:?}")));
            }
        }
        let mut members = serde_json::Map::new();
        members.insert(METADATA.to_owned(), json(&metadata)?);
        let mut start = 0;
        for tensor in &self.tensors {
            if let Some(contradiction) = tensor.contradiction() {
                return Err(Error::Invalid(contradiction));
            }
            let end = start + tensor.bytes;
            let entry = Entry {
                dtype: tensor.dtype.clone(),
                shape: tensor.shape.clone(),
                data_offsets: [start, end],
            };
            if members.insert(tensor.name.clone(), json(&entry)?).is_some() {
                return Err(Error::Invalid(format!("two tensors are named {:?}", tensor.name)));
            }
            start = end;
        }
        let text =
            serde_json::to_vec(&members).map_err(|error| Error::Invalid(error.to_string()))?;
        let padded = (LENGTH_BYTES + text.len()).next_multiple_of(ALIGNMENT) - LENGTH_BYTES;
        if padded as u64 > LONGEST {
            return Err(Error::Invalid(format!("a header of {padded} bytes is too long")));
        }
        let mut bytes = (padded as u64).to_le_bytes().to_vec();
        bytes.extend(&text);
        bytes.resize(LENGTH_BYTES + padded, b' ');
        let place =
            place_of_sum(&bytes).ok_or_else(|| Error::Invalid("no place for a sum".into()))?;
        let sum = Checksum::of(&bytes).to_string();
        bytes[place..place + DIGITS].copy_from_slice(sum.as_bytes());
        Ok(bytes)
    }

    /// The length of a header whose first bytes these are, those bytes included.
    ///
    /// # Errors
    ///
    /// [`Damage::Header`] for a length that no header has.
    pub fn length(first: [u8; LENGTH_BYTES]) -> Result<u64, Damage> {
        let length = u64::from_le_bytes(first);
        if length == 0 || length > LONGEST {
            return Err(Damage::Header(format!("it cannot be {length} bytes long")));
        }
        Ok(LENGTH_BYTES as u64 + length)
    }

    /// The header that these bytes are, every one of them.
    ///
    /// # Errors
    ///
    /// [`Damage::Version`], or [`Damage::Header`] for what is none or has changed.
    pub fn decode(bytes: &[u8]) -> Result<Self, Damage> {
        let members = members(bytes)?;
        check_sum(bytes, &members)?;
        let mut metadata: BTreeMap<String, String> =
            parsed(members.get(METADATA).cloned().unwrap_or_default(), METADATA)?;
        if metadata.remove("format").as_deref() != Some(FORMAT) {
            return Err(Damage::Header("it is no block file".into()));
        }
        let version = metadata.remove("version").unwrap_or_default();
        if version != VERSION {
            return Err(Damage::Version(version));
        }
        metadata.remove(HEADER_SUM);
        let sum = metadata.remove(PAYLOAD_SUM).as_deref().and_then(Checksum::parse);
        let payload_checksum =
            sum.ok_or_else(|| Damage::Header("it has no checksum of the payload".into()))?;
        let tensors = members.into_iter().filter(|(name, _)| name != METADATA);
        let mut entries: Vec<(String, Entry)> = tensors
            .map(|(name, entry)| Ok((name.clone(), parsed(entry, &name)?)))
            .collect::<Result<_, Damage>>()?;
        entries.sort_by_key(|(_, entry)| entry.data_offsets);
        let mut position = 0;
        let mut tensors = Vec::with_capacity(entries.len());
        for (name, Entry { dtype, shape, data_offsets: [start, end] }) in entries {
            if start != position || end < start {
                return Err(Damage::Header(format!("{name} does not follow the tensor before it")));
            }
            position = end;
            let tensor = Tensor { name, dtype, shape, bytes: end - start };
            if let Some(contradiction) = tensor.contradiction() {
                return Err(Damage::Header(contradiction));
            }
            tensors.push(tensor);
        }
        Ok(Self { metadata, tensors, payload_checksum })
    }

    /// Bytes of all tensors.
    #[must_use]
    pub fn payload_bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.bytes).sum()
    }
}

type Members = serde_json::Map<String, serde_json::Value>;

fn json(value: &impl Serialize) -> Result<serde_json::Value, Error> {
    serde_json::to_value(value).map_err(|error| Error::Invalid(error.to_string()))
}

fn parsed<T: for<'de> Deserialize<'de>>(value: serde_json::Value, what: &str) -> Result<T, Damage> {
    serde_json::from_value(value).map_err(|error| Damage::Header(format!("{what}: {error}")))
}

fn members(bytes: &[u8]) -> Result<Members, Damage> {
    let text = bytes.get(LENGTH_BYTES..).unwrap_or_default();
    serde_json::from_slice(text).map_err(|error| Damage::Header(error.to_string()))
}

/// See that no bit of the header has changed; a version that sums differently is named first.
fn check_sum(bytes: &[u8], members: &Members) -> Result<(), Damage> {
    let field = |name: &str| members.get(METADATA)?.get(name)?.as_str();
    let sum = field(HEADER_SUM).and_then(Checksum::parse);
    let mut without = bytes.to_vec();
    let place = place_of_sum(bytes);
    if let Some(digits) = place.and_then(|place| without.get_mut(place..place + DIGITS)) {
        digits.copy_from_slice(NO_SUM.as_bytes());
    }
    if sum == Some(Checksum::of(&without)) {
        return Ok(());
    }
    match field("version") {
        Some(version) if sum.is_none() && version != VERSION => {
            Err(Damage::Version(version.to_owned()))
        }
        _ => Err(Damage::Header("its checksum is wrong".into())),
    }
}

/// Where the digits of the header's own checksum are.
fn place_of_sum(bytes: &[u8]) -> Option<usize> {
    let name = format!("\"{HEADER_SUM}\":\"");
    // A quote after a backslash is part of a name that ends like this one.
    let is_name = |window: &[u8]| window[0] != b'\\' && window[1..] == *name.as_bytes();
    let place = bytes.windows(1 + name.len()).position(is_name)? + 1 + name.len();
    (place + DIGITS <= bytes.len()).then_some(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        let metadata = [("key", "ab"), ("group", "global \"x\"")];
        Header {
            metadata: metadata.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            tensors: vec![
                Tensor { name: "keys".into(), dtype: "BF16".into(), shape: vec![2, 3], bytes: 12 },
                Tensor { name: "empty".into(), dtype: "F32".into(), shape: vec![0, 4], bytes: 0 },
                Tensor { name: "a".into(), dtype: "I64".into(), shape: vec![1], bytes: 8 },
            ],
            payload_checksum: Checksum::of(b"payload"),
        }
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let bytes = header().encode().unwrap();
        assert_eq!(bytes.len() % ALIGNMENT, 0);
        let mut decoded = Header::decode(&bytes).unwrap();
        // Tensors without bytes have no place among the others.
        decoded.tensors.sort_by_key(|tensor| std::cmp::Reverse(tensor.bytes));
        let mut expected = header();
        expected.tensors.sort_by_key(|tensor| std::cmp::Reverse(tensor.bytes));
        assert_eq!(decoded, expected);
        assert_eq!(Header::length(bytes[..8].try_into().unwrap()).unwrap(), bytes.len() as u64);
    }

    #[test]
    fn names_that_end_like_the_checksum_are_only_names() {
        let mut named = header();
        for name in ["a\"header_checksum", "\\\"header_checksum", "header_checksum\":\""] {
            named.metadata.insert(name.into(), NO_SUM.into());
        }
        assert_eq!(Header::decode(&named.encode().unwrap()).unwrap().metadata, named.metadata);
    }

    #[test]
    fn every_changed_bit_is_seen() {
        let bytes = header().encode().unwrap();
        for at in LENGTH_BYTES..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                assert!(Header::decode(&changed).is_err(), "bit {bit} of byte {at}");
            }
        }
    }

    #[test]
    fn names_are_given_once() {
        let mut twice = header();
        twice.tensors[1].name = "keys".into();
        assert!(twice.encode().is_err());
        let mut own = header();
        own.metadata.insert("version".into(), "9".into());
        assert!(own.encode().is_err());
    }

    #[test]
    fn a_tensor_that_contradicts_itself_is_neither_written_nor_read() {
        let mut wrong = header();
        wrong.tensors[0].bytes = 13;
        assert!(matches!(wrong.encode(), Err(Error::Invalid(said)) if said.contains("13 bytes")));
        let bytes = header().encode().unwrap();
        let text = String::from_utf8_lossy(&bytes[LENGTH_BYTES..]);
        let changed = text.replace("[2,3]", "[2,4]").replace(&sum_of(&text), NO_SUM);
        let mut changed = [&bytes[..LENGTH_BYTES], changed.as_bytes()].concat();
        let (place, sum) = (place_of_sum(&changed).unwrap(), Checksum::of(&changed).to_string());
        changed[place..place + DIGITS].copy_from_slice(sum.as_bytes());
        let damage = Header::decode(&changed).unwrap_err();
        assert!(matches!(damage, Damage::Header(said) if said.contains("BF16 of [2, 4]")));
    }

    fn sum_of(text: &str) -> String {
        let place = text.find(HEADER_SUM).unwrap() + HEADER_SUM.len() + 3;
        text[place..place + DIGITS].to_owned()
    }

    #[test]
    fn another_version_is_named() {
        let text = br#"{"__metadata__":{"format":"semantic-block","version":"7"}}"#;
        let bytes = [&(text.len() as u64).to_le_bytes()[..], text].concat();
        assert_eq!(Header::decode(&bytes), Err(Damage::Version("7".into())));
    }

    #[test]
    fn lengths_that_no_header_has_are_refused() {
        for length in [0, LONGEST + 1, u64::MAX] {
            assert!(Header::length(length.to_le_bytes()).is_err());
        }
    }
}
