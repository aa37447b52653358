//! Runs `filepull_fuzz::messages` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| filepull_fuzz::messages(data));
