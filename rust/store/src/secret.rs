//! What a store hides from who has its disk but not its key.

use blake2b_simd::Params;
use chacha20poly1305::aead::generic_array::GenericArray;
use chacha20poly1305::aead::{Aead, AeadCore, KeyInit, OsRng};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;

const NONCE: usize = 24;

/// The key of a store, as one key for each use.
#[derive(Clone)]
pub struct Secret {
    files: [u8; KEY_BYTES],
    values: [u8; KEY_BYTES],
    names: [u8; KEY_BYTES],
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Secret")
    }
}

impl Secret {
    /// The secret that a key stands for.
    #[must_use]
    pub fn new(key: &[u8; KEY_BYTES]) -> Self {
        let derived = |personal: &[u8; 16]| keyed(key, personal, b"");
        Self {
            files: derived(b"semantic-files  "),
            values: derived(b"semantic-values "),
            names: derived(b"semantic-names  "),
        }
    }

    pub(crate) fn files(&self) -> &[u8; KEY_BYTES] {
        &self.files
    }

    /// Another name for something, always the same, that tells nothing of it.
    #[must_use]
    pub fn hidden(&self, name: &[u8]) -> [u8; 32] {
        keyed(&self.names, b"semantic-hidden ", name)
    }

    /// Bytes that only who has the key can read, other ones each time.
    #[must_use]
    pub fn sealed(&self, value: &[u8]) -> Vec<u8> {
        let nonce = XChaCha20Poly1305::generate_nonce(&mut OsRng);
        let mut sealed = nonce.to_vec();
        // Refused for more than 256 GB only, which is no value.
        sealed.extend(self.cipher().encrypt(&nonce, value).unwrap_or_default());
        sealed
    }

    /// What was sealed; None for anything else.
    #[must_use]
    pub fn unsealed(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = sealed.split_at_checked(NONCE)?;
        self.cipher().decrypt(XNonce::from_slice(nonce), sealed).ok()
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(GenericArray::from_slice(&self.values))
    }
}

fn keyed(key: &[u8; KEY_BYTES], personal: &[u8; 16], name: &[u8]) -> [u8; 32] {
    let hash = Params::new().hash_length(32).key(key).personal(personal).hash(name);
    let mut bytes = [0; 32];
    bytes.copy_from_slice(hash.as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_is_read_with_its_key_alone() {
        let (one, other) = (Secret::new(&[1; 32]), Secret::new(&[2; 32]));
        let sealed = one.sealed(b"tokens");
        assert_eq!(one.unsealed(&sealed).as_deref(), Some(&b"tokens"[..]));
        assert_eq!(other.unsealed(&sealed), None);
        assert_ne!(one.sealed(b"tokens"), sealed);
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(one.unsealed(&changed), None);
        }
        assert_eq!(one.unsealed(b"short"), None);
    }

    #[test]
    fn a_hidden_name_is_the_keys_own() {
        let (one, other) = (Secret::new(&[1; 32]), Secret::new(&[2; 32]));
        assert_eq!(one.hidden(b"name"), Secret::new(&[1; 32]).hidden(b"name"));
        assert_ne!(one.hidden(b"name"), other.hidden(b"name"));
        assert_ne!(one.hidden(b"name"), one.hidden(b"game"));
    }

    #[test]
    fn nothing_of_it_is_printed() {
        assert_eq!(format!("{:?}", Secret::new(&[7; 32])), "Secret");
    }
}
