//! `cargo +nightly fuzz run verify` in `tests/fuzz`.
#![no_main]

#[path = "../verify.rs"]
mod verify;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    verify::run(data);
});
