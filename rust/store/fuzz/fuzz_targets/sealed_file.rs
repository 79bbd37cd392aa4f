#![no_main]
#![expect(missing_docs, reason = "semantic_store_fuzz::sealed_file says what this is")]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| semantic_store_fuzz::sealed_file(bytes));
