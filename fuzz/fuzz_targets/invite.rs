//! Runs `filepull_fuzz::invite` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| filepull_fuzz::invite(data));
