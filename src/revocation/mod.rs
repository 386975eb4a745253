//! Is this token revoked? Answered for every decision from a local view.
//!
//! A revocation names a token by (tenant, issuer, `jti`), never by its bytes: a token has many spellings, its identity
//! has one. The [`View`] is what shards read: no lock, no system call, no allocation. It is filled from the state
//! database at start and by the control listener afterwards; nothing in this room does I/O or reads a clock.
//!
//! The promise: once [`View::apply`] has returned, every check that starts afterwards, on any thread, sees what was
//! applied. Entries leave by themselves when no valid token could still carry their identity.

mod fingerprint;
mod table;
mod view;

#[cfg(test)]
mod tests;

pub use fingerprint::Realm;
pub use view::{Revocation, Status, View};

/// How long an expired entry stays in the view, in seconds.
///
/// The claims check refuses an expired token already, so an entry is of use after its expiry only if the clock is set
/// back. A step of up to ten minutes therefore revives nothing that was revoked.
pub const PURGE_DELAY_S: u64 = 600;
