//! What Edgate is measured with: inputs that never change, and a load generator for verify servers.
//!
//! The micro benches are in `benches/`, the services Edgate is compared with in `peers/`, and the numbers with their
//! machine, commands and spread in `README.md`.

pub mod att; // mints Agent Task Tokens from a software key
pub mod inputs; // fixed-seed keys, messages and tokens for the benches
pub mod load; // the load generator behind `edgate-load`
pub mod ratio; // two things measured in turn

/// Whether a part of a bench was asked for: `cargo bench … -- PART …`, or everything.
#[must_use]
pub fn wanted(part: &str) -> bool {
    let mut names = std::env::args().skip(1).filter(|name| !name.starts_with('-')).peekable();
    names.peek().is_none() || names.any(|name| name == part)
}
