//! A tensor of a block file: its type, its shape and its bytes, which must not contradict each other.

/// A tensor of a block.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Its element type, in the words of safetensors: `BF16`, `F32`, `U32` …
    pub dtype: String,
    /// Its shape in the file, valid rows only.
    pub shape: Vec<u64>,
    /// Its bytes in the file.
    pub bytes: u64,
}

impl Tensor {
    /// What its type, its shape and its bytes say against each other, if they do.
    pub(crate) fn contradiction(&self) -> Option<String> {
        let Self { name, dtype, shape, bytes } = self;
        let Some(element) = element_bytes(dtype) else {
            return Some(format!("{name} has elements of an unknown type {dtype:?}"));
        };
        let stated = shape.iter().try_fold(element, |n, axis| n.checked_mul(*axis));
        (stated != Some(*bytes))
            .then(|| format!("{name} has {bytes} bytes, which is not {dtype} of {shape:?}"))
    }
}

/// Bytes of an element; None for a type that is none of safetensors', or takes parts of bytes.
fn element_bytes(dtype: &str) -> Option<u64> {
    match dtype {
        "BOOL" | "I8" | "U8" | "F8_E4M3" | "F8_E5M2" | "F8_E8M0" => Some(1),
        "I16" | "U16" | "F16" | "BF16" => Some(2),
        "I32" | "U32" | "F32" => Some(4),
        "I64" | "U64" | "F64" | "C64" => Some(8),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(dtype: &str, shape: &[u64], bytes: u64) -> Tensor {
        Tensor { name: "keys".into(), dtype: dtype.into(), shape: shape.into(), bytes }
    }

    #[test]
    fn bytes_are_what_type_and_shape_say() {
        for (dtype, shape, bytes) in [
            ("BF16", &[2, 3][..], 12),
            ("U8", &[], 1),
            ("C64", &[2], 16),
            ("F32", &[0, u64::MAX], 0),
        ] {
            assert_eq!(tensor(dtype, shape, bytes).contradiction(), None);
        }
    }

    #[test]
    fn contradictions_are_named() {
        for (dtype, shape, bytes) in [
            ("F32", &[2, 3][..], 20),
            ("F32", &[2, 3], 25),
            ("bf16", &[2, 3], 12),
            ("U8", &[1 << 32, 1 << 32], 0),
        ] {
            let said = tensor(dtype, shape, bytes).contradiction().unwrap();
            assert!(said.starts_with("keys ") && said.contains(dtype), "{said}");
        }
    }
}
