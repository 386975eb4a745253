//! May this token pass, as far as revocation goes? Answered for every decision from a local view.
//!
//! A revocation names a token by (tenant, issuer, `jti`), never by its bytes: a token has many spellings, its identity
//! has one. Or it names what tokens depend on: a subject or session (what was issued in or before a second), a key, an
//! issuer, a tenant. The [`View`] is what shards read: no lock, no system call, no allocation. It is filled from the
//! state database at start, and afterwards by the control listener and, where nodes share Redis, by the follower; nothing
//! in this room does I/O or reads a clock.
//!
//! The promise: once [`View::apply`] has returned, every look taken afterwards, on any thread, sees what was
//! applied. Entries leave by themselves when no valid token could still carry their identity.

mod change;
mod fingerprint;
mod freshness;
mod inquiry;
mod ledger;
mod switches;
mod table;
mod view;

#[cfg(test)]
mod tests;

pub use change::{Change, Effect, Switch, TargetKind};
pub use fingerprint::Realms;
pub use freshness::Freshness;
pub use inquiry::{Answer, Answers, Asked, Inquirer, Inquiry, Registrar, Registry, registry};
pub use table::{BATCH_LEN, Batch};
pub use view::{Identity, Look, Status, View};

/// How long an expired entry stays in the view, in seconds.
///
/// The claims check refuses an expired token already, so an entry is of use after its expiry only if the clock is set
/// back. A step of up to ten minutes therefore revives nothing that was revoked.
pub const PURGE_DELAY_S: u64 = 600;
