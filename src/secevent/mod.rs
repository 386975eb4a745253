//! Security Event Tokens (RFC 8417): what a transmitter says has happened to a user, a session or a token.
//!
//! Bytes in, [`Received`] out, or why not, in the words of RFC 8935. Pure; time arrives as `now`. Nothing of the payload is
//! read before its signature is verified, by the rule of every token (`verify`), under a key of a configured transmitter.
//! The type `secevent+jwt` (RFC 8417 §2.3) keeps an access token from being taken for an event, and the issuers' profiles
//! keep an event from being taken for an access token.
//!
//! What is understood, and what is made of it:
//!
//! | event | subject | meaning |
//! | --- | --- | --- |
//! | CAEP `session-revoked` | a session; a user; a token | what was issued until then no longer passes |
//! | CAEP `credential-change` (`revoke`, `update`, `delete`) | a user | likewise: it may have been had with the old credential |
//! | CAEP `credential-change` (`create`) | a user | nothing: what exists is as good as before |
//! | RISC `account-disabled`, `account-purged` | a user | nothing of the user's passes until it is enabled |
//! | RISC `account-enabled` | a user | what was disabled passes again |
//! | any other | any | nothing, which is said (RFC 8417 §2.2: a receiver may ignore what it does not know) |
//!
//! Imports: `token`, `keys`, `verify`, `json`.

mod event;
mod receiver;
mod subject;
#[cfg(test)]
mod tests;

pub use event::{Effect, Statement};
pub use receiver::{Received, Receiver, SetError, Transmitter};
pub use subject::Target;

/// The type of a Security Event Token, without `application/` (RFC 8417 §2.3).
pub const SET_TYP: &str = "secevent+jwt";

/// Longest `jti`, in bytes: it is kept until the event could no longer be accepted.
pub const JTI_BYTES_MAX: usize = 256;

/// Most events in one token. Several describe one thing from several sides (RFC 8417 §2.1), so few are usual.
pub const EVENTS_MAX: usize = 16;

/// Seconds by which a transmitter's clock may be ahead of ours.
pub const LEEWAY_S: u64 = 60;

/// How old an event may be when it is delivered, in seconds: a week, longer than any transmitter tries. Its `jti` is
/// remembered for as long, so that none is accepted twice.
pub const AGE_S_MAX: u64 = 7 * 86_400;
