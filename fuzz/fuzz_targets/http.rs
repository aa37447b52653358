//! Runs `filepull_fuzz::http` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| filepull_fuzz::http(data));
