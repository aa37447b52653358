//! Runs `filepull_fuzz::agent` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| filepull_fuzz::agent(data));
