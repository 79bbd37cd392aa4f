//! Whatever bytes the fuzzer has found so far, reading them ends in a block or in a refusal.

use std::fs;
use std::path::PathBuf;

use semantic_store::{Disk, Error, MaybeSealed, Reader, Secret};

#[path = "../fuzz/src/lib.rs"]
pub mod targets;

fn corpus(target: &str) -> Vec<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<PathBuf> = files.collect();
    assert!(!files.is_empty());
    files
}

fn every(target: &str, check: impl Fn(&[u8])) {
    for path in corpus(target) {
        println!("{}", path.display());
        check(&fs::read(path).unwrap());
    }
}

#[test]
fn any_bytes_as_a_header() {
    every("header", targets::header);
}

#[test]
fn any_bytes_as_a_file() {
    every("block_file", targets::block_file);
}

#[test]
fn any_change_of_a_block() {
    every("changed_block", targets::changed_block);
}

#[test]
fn any_names() {
    every("file_names", targets::file_names);
}

#[test]
fn any_bytes_as_a_sealed_file() {
    every("sealed_file", targets::sealed_file);
}

#[test]
fn sealed_files_that_were_written_long_ago_are_read_with_their_key_and_others_refused() {
    let files = || MaybeSealed::new(Disk, Some(Secret::new(&targets::KEY)));
    for path in corpus("sealed_file") {
        let name = path.file_name().unwrap().to_str().unwrap();
        let read = Reader::open(files(), &path).and_then(|mut reader| reader.verify());
        match name.split_once('-') {
            Some(("valid", _)) => read.unwrap(),
            _ => assert!(matches!(read, Err(Error::Damaged { .. })), "{name}"),
        }
    }
}

#[test]
fn files_that_were_written_long_ago_are_read_and_others_refused() {
    for path in corpus("block_file") {
        let name = path.file_name().unwrap().to_str().unwrap();
        let read = Reader::open(Disk, &path).and_then(|mut reader| reader.verify());
        match name.split_once('-') {
            Some(("valid", _)) => read.unwrap(),
            Some(("refused", _)) => assert!(matches!(read, Err(Error::Damaged { .. })), "{name}"),
            _ => {}
        }
    }
}

#[test]
fn the_longest_header_takes_no_more_memory_than_there_may_be() {
    for (member, n) in [(r#"{"":0},"#, 149_000), ("0,", 524_000), ("[],", 349_000)] {
        let text = format!(r#"{{"__metadata__":[{}0]}}"#, member.repeat(n));
        assert!((1_000_000..=1 << 20).contains(&text.len()));
        let bytes = [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
        targets::block_file(&bytes);
    }
}
