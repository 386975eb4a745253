//! PKCS#11 (OASIS, version 2.40 and later): modules, tokens, keys. Everything here blocks.
//!
//! What providers really do, as opposed to what the standard says, decides the shape of this room:
//!
//! - Labels are not unique and slot numbers change, so tokens are found by label and serial, keys by id or label, and
//!   exactly one hit is demanded. Public keys are pinned.
//! - The same error code means different things in different functions ([`Class`]).
//! - A module without `CKF_OS_LOCKING_OK`, or finalized under a running call, crashes the process ([`Module`]).
//! - Of Ed25519 only the pure kind is asked for: two providers ignore context and pre-hash and sign as if there were none.
//!   Of ECDSA only `CKM_ECDSA` over a digest made here: SoftHSM 2.6.1 does not hash.

mod class;
mod gate;
#[cfg(test)]
mod gate_tests;
mod key;
mod login;
mod module;
mod raw;
mod sync;
mod tenant;
mod token;

pub use class::{CallError, Class};
pub(crate) use gate::Inside;
pub(crate) use key::{
    EC_PARAMS_NAME, EC_PARAMS_OID, KeyRules, P256_PARAMS_OID, SigningKeyFound, find_all, find_one,
    find_signing_key, key_type, read_point,
};
pub(crate) use login::{Login, Who, log_in};
pub use login::{LoginRefusal, PinPolicy};
pub use module::{Module, installed_softhsm};
pub(crate) use tenant::{Activity, Cost, Tenant};
pub(crate) use token::find_token;
pub(crate) use token::list_tokens;
pub use token::{TokenFlags, TokenSeen};
