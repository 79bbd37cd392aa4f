//! Keys: what a token block is called outside of this process (law 5).
//!
//! The key of a token block is a BLAKE2b-256 over its ids as little-endian signed 64-bit integers,
//! keyed with the key of the block before it; the first block's parent is the root of its
//! namespace. So a key stands for every token before it and for the namespace, and is the same in
//! every process and on every machine. `hashlib.blake2b(ids, digest_size=32, key=parent,
//! person=b"semantic-block")` computes the same.
//!
//! Nothing in memory is found by its key: the index compares tokens. Keys name blocks in events and
//! in files.

use blake2b_simd::Params;

use crate::group::BLOCK;
use crate::tokens::TokenSlice;

const KEY_BYTES: usize = 32;
const PERSON: &[u8] = b"semantic-block";

/// The name of a token block under its exact prefix, or of a namespace.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Key([u8; KEY_BYTES]);

/// How many bytes of a key are used: all of them, except where a test wants keys to collide.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyWidth(pub usize);

impl Default for KeyWidth {
    fn default() -> Self {
        Self(KEY_BYTES)
    }
}

impl Key {
    /// The key that these bytes are.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// The key of a token block behind this one.
    #[must_use]
    pub fn child(&self, tokens: TokenSlice<'_>, width: KeyWidth) -> Self {
        let mut params = Params::new();
        params.hash_length(KEY_BYTES).key(&self.0).personal(PERSON);
        let mut state = params.to_state();
        let mut bytes = [0; 8 * BLOCK];
        let ids = (0..tokens.len()).filter_map(|at| tokens.get(at));
        let mut filled = 0;
        for (place, id) in bytes.chunks_exact_mut(8).zip(ids) {
            place.copy_from_slice(&id.to_le_bytes());
            filled += 8;
        }
        state.update(&bytes[..filled]);
        let mut key = Self::default();
        let width = width.0.min(KEY_BYTES);
        key.0[..width].copy_from_slice(&state.finalize().as_bytes()[..width]);
        key
    }

    /// The keys of all token blocks of a sequence that starts behind this one.
    #[must_use]
    pub fn chain(&self, tokens: TokenSlice<'_>, width: KeyWidth) -> Vec<Self> {
        let mut parent = *self;
        let mut keys = Vec::with_capacity(tokens.len().div_ceil(BLOCK));
        let mut start = 0;
        while start < tokens.len() {
            let end = start + BLOCK;
            parent = parent.child(tokens.slice(start, end), width);
            keys.push(parent);
            start = end;
        }
        keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokens::Tokens;

    fn hex(key: Key) -> String {
        let digit = |four: u8| char::from_digit(four.into(), 16);
        key.0.iter().flat_map(|byte| [byte >> 4, byte & 15]).filter_map(digit).collect()
    }

    #[test]
    fn b09_the_key_of_these_tokens_is_known() {
        // hashlib.blake2b(array('q', range(256)), digest_size=32, key=bytes(range(32)),
        //                 person=b"semantic-block").hexdigest()
        let root = Key(std::array::from_fn(|at| u8::try_from(at).unwrap()));
        let tokens: Tokens = (0..256).collect();
        assert_eq!(hex(root.child(tokens.all(), KeyWidth::default())), KNOWN);
    }

    const KNOWN: &str = "1205dc3383d2590bdc039025b2cf59fdf39060d8d8cd561fed7d7bf091af0575";

    #[test]
    fn b06_a_key_depends_on_everything_before_it() {
        let (root, all) = (Key::default(), KeyWidth::default());
        let (a, b): (Tokens, Tokens) = ((0..600).collect(), (1..601).collect());
        let (a, b) = (root.chain(a.all(), all), root.chain(b.all(), all));
        assert_eq!(a.len(), 3);
        assert!(a.iter().all(|key| !b.contains(key)));
        let wide = Tokens::Wide((0..600).collect());
        assert_eq!(a, root.chain(wide.all(), all));
    }
}
