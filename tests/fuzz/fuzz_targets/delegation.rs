#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| edgate_fuzz::delegation(input));
