//! Runs `filepull_fuzz::records` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| filepull_fuzz::records(data));
