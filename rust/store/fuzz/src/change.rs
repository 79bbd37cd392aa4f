//! One change of a file.

use arbitrary::Arbitrary;

/// What happens to the bytes of a file.
#[derive(Arbitrary, Debug)]
pub(crate) enum Change {
    Flip { at: u32, bit: u8 },
    Overwrite { at: u32, bytes: Vec<u8> },
    Insert { at: u32, bytes: Vec<u8> },
    Remove { at: u32, n: u16 },
    Truncate { at: u32 },
    Extend { bytes: Vec<u8> },
}

impl Change {
    pub(crate) fn apply(&self, file: &mut Vec<u8>) {
        let length = file.len();
        let place = |at: u32| usize::try_from(at).unwrap_or(usize::MAX) % length.max(1);
        match self {
            Self::Flip { at, bit } => file[place(*at)] ^= 1 << (bit % 8),
            Self::Overwrite { at, bytes } => {
                file.iter_mut().skip(place(*at)).zip(bytes).for_each(|(old, new)| *old = *new);
            }
            Self::Insert { at, bytes } => {
                let at = place(*at);
                file.splice(at..at, bytes.iter().copied());
            }
            Self::Remove { at, n } => {
                let at = place(*at);
                file.drain(at..length.min(at + usize::from(*n)));
            }
            Self::Truncate { at } => file.truncate(place(*at)),
            Self::Extend { bytes } => file.extend(bytes),
        }
    }
}
