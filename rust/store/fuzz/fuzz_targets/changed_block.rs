#![no_main]
#![expect(missing_docs, reason = "semantic_store_fuzz::changed_block says what this is")]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| semantic_store_fuzz::changed_block(bytes));
