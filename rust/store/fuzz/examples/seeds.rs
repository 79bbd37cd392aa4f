//! What a fuzzer would take long to come upon: blocks of every kind, and files that say what they must not.
//!
//! `cargo run --example seeds` in this crate's folder writes them into the corpus. Whatever has a
//! place for them has the right checksums, so that what is refused is refused for what its name says.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::Path;

use semantic_store::{Block, Disk, Folder, Payload, Rows};
use semantic_store_fuzz::{DTYPES, sealed, summed_file};

type Done = Result<(), Box<dyn Error>>;

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus");

const WHOLE: Rows = Rows { outer: 2, room: 4, first: 0, valid: 4, row_bytes: 3 };

/// Name, element type, bytes of an element, and rows; a row's bytes here are its elements.
type Tensor = (&'static str, &'static str, usize, Rows);

fn main() -> Done {
    for target in ["header", "block_file", "sealed_file"] {
        fs::create_dir_all(Path::new(CORPUS).join(target))?;
    }
    blocks()?;
    headers()?;
    lengths()?;
    sealed_files()
}

/// Blocks as the store writes them.
fn blocks() -> Done {
    block("valid-every-type", &DTYPES.map(|(dtype, size)| (dtype, dtype, size, WHOLE)))?;
    let keys = |rows| [("keys", "BF16", 2, rows), ("values", "BF16", 2, rows)];
    block("valid-first-rows", &keys(Rows { valid: 3, ..WHOLE }))?;
    block("valid-last-rows", &keys(Rows { first: 3, valid: 1, ..WHOLE }))?;
    block("valid-middle-row", &keys(Rows { first: 1, valid: 1, ..WHOLE }))?;
    block("valid-no-rows", &keys(Rows { first: 4, valid: 0, ..WHOLE }))?;
    block("valid-no-width", &keys(Rows { row_bytes: 0, ..WHOLE }))?;
    block("valid-no-tensors", &[])?;
    let quantised = [
        ("keys.packed", "U32", 4, WHOLE),
        ("keys.scales", "F16", 2, WHOLE),
        ("keys.biases", "F16", 2, WHOLE),
    ];
    block("valid-quantised", &quantised)?;
    block("valid-state", &[("state", "F32", 4, Rows::whole(6)), ("conv", "F32", 4, Rows::whole(1))])
}

fn block(name: &str, tensors: &[Tensor]) -> Done {
    let memory: Vec<Vec<u8>> = tensors.iter().map(memory).collect();
    let described = tensors.iter().zip(&memory).map(|((name, dtype, size, rows), bytes)| {
        let shape = [rows.outer, rows.valid, rows.row_bytes].map(|n| n as u64).to_vec();
        let rows = Rows { row_bytes: rows.row_bytes * size, ..*rows };
        ((*name).to_owned(), (*dtype).to_owned(), shape, Payload { bytes, rows })
    });
    let metadata = [("key", "00ff"), ("layer_group", "global \"é\""), ("tokens", "1,2,3")];
    let metadata = metadata.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let block = Block {
        name: "00-block".to_owned(),
        metadata: BTreeMap::from(metadata),
        tensors: described.collect(),
    };
    let root = std::env::temp_dir().join(format!("seeds-{}", std::process::id()));
    Folder::open(Disk, &root, "seeds")?.write(&[block])?;
    let file = fs::read(root.join("blocks/00/00-block.safetensors"))?;
    fs::remove_dir_all(root)?;
    let length = file.first_chunk().ok_or("a file without a length")?;
    let front = 8 + usize::try_from(u64::from_le_bytes(*length))?;
    seed("header", name, &file[..front])?;
    seed("block_file", name, &file)
}

fn memory((_, _, size, rows): &Tensor) -> Vec<u8> {
    let bytes = rows.outer * rows.room * rows.row_bytes * size;
    (0..251).cycle().take(bytes).collect()
}

/// Headers that say what they must not, or what no store would write.
fn headers() -> Done {
    let zeros = "0".repeat(32);
    let sums = format!(r#""header_checksum":"{zeros}","payload_checksum":"{zeros}""#);
    let own = format!(r#"{{"format":"semantic-block",{sums},"version":"1"}}"#);
    let tensor =
        |offsets: &str| format!(r#"{{"data_offsets":{offsets},"dtype":"U8","shape":[4]}}"#);
    let one = |offsets: &str| format!(r#"{{"__metadata__":{own},"a":{}}}"#, tensor(offsets));
    let two = |first: &str, second: &str| {
        let (first, second) = (tensor(first), tensor(second));
        format!(r#"{{"__metadata__":{own},"a":{first},"b":{second}}}"#)
    };
    let said = |metadata: &str| format!(r#"{{"__metadata__":{metadata}}}"#);
    let texts = [
        ("refused-overlap", two("[0,4]", "[2,6]"), 6),
        ("refused-gap", two("[0,4]", "[5,9]"), 9),
        ("refused-late-start", one("[4,8]"), 8),
        ("refused-backwards", one("[0,-4]"), 4),
        ("refused-end-before-start", two("[0,8]", "[8,4]"), 8),
        ("refused-largest-payload", one("[0,18446744073709551615]"), 4),
        ("refused-larger-than-64-bits", one("[0,18446744073709551616]"), 0),
        ("refused-fraction", one("[0,4.0]"), 4),
        ("refused-three-offsets", one("[0,2,4]"), 4),
        ("refused-no-offsets", one("null"), 4),
        ("refused-other-bytes-than-its-shape", one("[0,5]"), 5),
        ("refused-unknown-type", one("[0,4]").replace("U8", "u8"), 4),
        ("refused-payload-missing", one("[0,4]"), 0),
        ("refused-payload-too-long", one("[0,4]"), 5),
        ("refused-no-metadata", "{}".to_owned(), 0),
        ("refused-metadata-null", said("null"), 0),
        ("refused-metadata-number", said(&own.replace(r#""1""#, "1")), 0),
        ("refused-another-format", said(&own.replace("semantic-block", "pt")), 0),
        ("refused-version-2", said(&own.replace(r#""1""#, r#""2""#)), 0),
        ("refused-version-2-summed-otherwise", said(r#"{"version":"2"}"#), 0),
        ("refused-no-sums", said(r#"{"format":"semantic-block","version":"1"}"#), 0),
        ("refused-payload-sum-short", said(&own.replace(r#"0","version""#, r#"","version""#)), 0),
        ("refused-sum-cut-off", r#"{"__metadata__":{"header_checksum":"00"#.to_owned(), 0),
        ("refused-nested", format!(r#"{{"a":{}{}}}"#, "[".repeat(200), "]".repeat(200)), 0),
        ("refused-no-object", format!("[{own}]"), 0),
        ("refused-no-text", "\u{1}\u{fffd}".to_owned(), 0),
        ("refused-two-texts", format!("{} {{}}", said(&own)), 0),
        ("valid-no-bytes", two("[0,0]", "[0,0]").replace("[4]", "[0]"), 0),
        ("valid-other-order", two("[4,8]", "[0,4]"), 8),
        ("valid-escapes", said(&own.replacen('{', r#"{"\u0000\"":"\ud83d\ude00\\","#, 1)), 0),
        ("odd-name-twice", one("[0,4]").replacen(r#""a":"#, r#""a":0,"a":"#, 1), 4),
        ("odd-unknown-member", one("[0,4]").replacen(r#""dtype""#, r#""x":[{}],"dtype""#, 1), 4),
    ];
    for (name, text, payload) in texts {
        let head = [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
        let file = summed_file([&head[..], &vec![b'x'; payload]].concat());
        seed("header", name, &file[..head.len()])?;
        seed("block_file", name, &file)?;
    }
    Ok(())
}

/// Lengths that no file has.
fn lengths() -> Done {
    let lengths = [
        ("refused-length-0", 0),
        ("refused-length-1-more-than-there-is", 3),
        ("refused-length-longest", 1 << 20),
        ("refused-length-1-mib-and-1", (1 << 20) + 1),
        ("refused-length-2-63", 1 << 63),
        ("refused-length-all-ones", u64::MAX),
    ];
    for (name, length) in lengths {
        for target in ["header", "block_file"] {
            seed(target, name, &[&length.to_le_bytes()[..], b"{}"].concat())?;
        }
    }
    seed("block_file", "refused-empty", b"")?;
    seed("block_file", "refused-7-bytes", &[1, 0, 0, 0, 0, 0, 0])
}

/// Files that are sealed with the corpus's key, what lacks a part of one, and what is none.
fn sealed_files() -> Done {
    const RECORD: usize = 64 << 10;
    let block = fs::read(Path::new(CORPUS).join("block_file/valid-quantised"))?;
    let whole = sealed(&block);
    seed("sealed_file", "valid-block", &whole)?;
    seed("sealed_file", "refused-no-block", &sealed(b"no block"))?;
    seed("sealed_file", "refused-nothing", &sealed(b""))?;
    seed("sealed_file", "refused-not-sealed", &block)?;
    seed("sealed_file", "refused-no-records", &whole[..35])?;
    seed("sealed_file", "refused-half-a-nonce", &whole[..25])?;
    seed("sealed_file", "refused-a-tag-alone", &whole[..51])?;
    seed("sealed_file", "refused-empty", b"")?;
    // Changes of files of one record, of exactly two, and of more: see `sealed_file`.
    for (name, n_bytes) in [("one", 999), ("two", 2 * RECORD), ("more", 2 * RECORD + 1)] {
        for change in 0..6_u8 {
            let n_bytes = u32::try_from(n_bytes)?.to_le_bytes();
            let change_of = [0, 0, 0, change.wrapping_mul(43), 255, 1, 0, 0, 3];
            let parts = [&change_of[..], &n_bytes, b"someplacethese bytes, again and again"];
            seed("sealed_file", &format!("change-{change}-of-{name}"), &parts.concat())?;
        }
    }
    Ok(())
}

fn seed(target: &str, name: &str, bytes: &[u8]) -> Done {
    Ok(fs::write(Path::new(CORPUS).join(target).join(name), bytes)?)
}
