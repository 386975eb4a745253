//! RFC 3161 timestamps of checkpoints: an authority that knows nothing of the log states when its signed state was shown to it.
//!
//! What is stamped are the bytes of a checkpoint as it was published. A token is believed only after everything in it was
//! checked, and the chain is checked at the time the token states, so that it means the same ten years on, when the
//! certificates have long expired.
//!
//! - `token.rs`: what a token says (RFC 3161, RFC 5652, RFC 5035); `chain.rs`: who signed it, and whether that may.
//! - `ask.rs`: getting one over HTTP. `stamper.rs`: getting one for a checkpoint; `stamp_files.rs`: where they are kept.
//! - `fault.rs`: why one proves nothing.

mod ask;
mod chain;
mod fault;
pub mod stamp_files;
mod stamper;
mod token;

pub use ask::{AskError, Authority};
pub use chain::Authorities;
pub use fault::{StampClass, StampFault};
pub use stamper::{StampError, Stamped, Stamper};
pub use token::{Stamp, StampExpected, verify_stamp};

/// The longest token, with its certificates, and the longest answer.
pub const TOKEN_BYTES_MAX: usize = 64 * 1024;
