//! Token Status Lists (draft-ietf-oauth-status-list-20): one bit, or a few, for each token an issuer has out.
//!
//! An issuer gives a token a place in a list (`status.status_list` with `idx` and `uri`) and publishes the list, compressed, in
//! a signed token of type `statuslist+jwt`. Here is all of it but the wire of our own control plane:
//!
//! - [`StatusList`]: the bits, and their way into and out of `lst`. Pure.
//! - [`Document`]: the claims of a list token, read and written. Pure.
//! - [`Reference`]: a token's place, read from its claims. Pure.
//! - [`Cache`]: what other issuers' lists say, read by shards without locks, allocations or system calls.
//! - [`Fetcher`]: the thread that fills the cache. The one part of the room that does I/O and reads a clock.
//!
//! A place outside its list, a list that does not decode, one that is too old or that nobody has yet: none of these lets a
//! token pass (§8.3).
//!
//! Imports: `token`, `keys`, `verify`, `json`, `base64url`.

mod cache;
mod document;
mod fetcher;
mod list;
mod reference;
#[cfg(test)]
mod tests;

pub use cache::{Cache, Places, Standing, places};
pub use document::{Document, DocumentError};
pub use fetcher::{CurrentKeys, FetchError, Fetcher, Source, is_usable_prefix};
pub use list::{Bits, ListError, Status, StatusList};
pub use reference::{Reference, ReferenceError};

/// The type of a list token, without `application/` (§5.1).
pub const STATUS_LIST_TYP: &str = "statuslist+jwt";

/// Longest list, in bytes after decompression: 32 million tokens of one bit. What decompresses to more is refused before it
/// is there.
pub const LIST_BYTES_MAX: usize = 4 << 20;

/// Longest list token, in bytes. Only a list that hardly compresses comes near.
pub const DOCUMENT_BYTES_MAX: usize = 6 << 20;

/// Longest `uri` of a list, in bytes.
pub const URI_BYTES_MAX: usize = 512;
