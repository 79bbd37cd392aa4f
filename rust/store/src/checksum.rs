//! The checksum of headers and payloads: XXH3 with 128 bits.
//!
//! It runs at the speed of memory (EXP-005), so that it is not what a restore waits for. It finds
//! damage, not forgery: whoever may write the folder may also write a checksum.

use std::fmt;

use xxhash_rust::xxh3::{Xxh3Default, xxh3_128};

/// Hexadecimal digits of a checksum.
pub(crate) const DIGITS: usize = 32;

/// A checksum of some bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Checksum(u128);

impl Checksum {
    /// Of bytes that lie together.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(xxh3_128(bytes))
    }

    /// The one that these digits spell; None when they spell none.
    #[must_use]
    pub fn parse(digits: &str) -> Option<Self> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (digits.len() == DIGITS && digits.bytes().all(is_digit))
            .then(|| u128::from_str_radix(digits, 16).ok().map(Self))?
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A checksum on its way, of bytes that come piece by piece.
#[derive(Default)]
pub(crate) struct Summing(Xxh3Default);

impl Summing {
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(&self) -> Checksum {
        Checksum(self.0.digest128())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_make_the_checksum_of_the_whole() {
        let bytes: Vec<u8> = (0..100_000_u32).map(|n| n.to_le_bytes()[0] ^ 0x5a).collect();
        for piece in [1, 7, 64, 1000, 100_000] {
            let mut summing = Summing::default();
            bytes.chunks(piece).for_each(|piece| summing.add(piece));
            assert_eq!(summing.finish(), Checksum::of(&bytes));
        }
    }

    #[test]
    fn it_is_the_published_function() {
        // xxh128sum of nothing, and of the ten digits.
        assert_eq!(Checksum::of(b"").to_string(), "99aa06d3014798d86001c324468d497f");
        assert_eq!(Checksum::parse(&Checksum::of(b"x").to_string()), Some(Checksum::of(b"x")));
    }

    #[test]
    fn what_spells_no_checksum_is_none() {
        let digits = Checksum::of(b"x").to_string();
        for wrong in
            ["", &digits[1..], &format!("{digits}0"), &digits.to_uppercase(), &"+".repeat(32)]
        {
            assert_eq!(Checksum::parse(wrong), None, "{wrong}");
        }
    }
}
