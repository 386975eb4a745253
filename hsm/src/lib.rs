//! Signing keys: who may sign what, and with which key.
//!
//! A [`Signer`] is the only thing the rest of the system sees: a handle to one key that may be used for one purpose.
//! The purpose is a type, so a key for checkpoints cannot be handed to code that signs tokens; it is also written
//! into the key file, so that renaming one file to the other does not get around the type.
//!
//! Where the private key lives is the provider's business: a file ([`SoftwareKey`]), this process's memory alone ([`MemoryKey`]), a PKCS#11 token ([`Pool`]), whose module may
//! be in another process ([`Agent`]), or several tokens ([`Group`]), with one key in each or a key of each ([`AnySigner`]), behind the same [`Signer`]. Nothing here knows tokens, logs or
//! runtimes, and every call may block: callers with an event loop use [`Signer::submit`] or a thread made for it.
//!
//! In this crate a token is the device that holds keys, as in PKCS#11.

mod admin;
mod agent;
mod any_signer;
mod backup;
mod error;
mod group;
mod hex;
mod memory;
mod pin;
mod pin_guard;
mod pkcs11;
mod pool;
mod public_key;
mod purpose;
mod release;
mod route;
mod signer;
mod software;
mod uri;
mod wrapping;

pub use admin::{
    ATTRIBUTE_NAMES, Admin, Callers, Finding, GeneratedKey, KeyName, KeySeen, Officer, REPORT_PREFIX, Report,
    SignPaths, TRANSCRIPT_PREFIX, Verdict, pooled_rate, tokens,
};
pub use agent::{Agent, AgentAddress, AgentEvent, AgentSettings, AgentUnlock, EXIT_STUCK, agent_frame_words};
pub use any_signer::AnySigner;
pub use backup::{
    BACKUP_BYTES_MAX, BACKUP_PREFIX, Backup, BackupContents, BackupError, WRAPPED_BYTES_MAX, WrapMechanism,
};
pub use error::{EXIT_OPERATOR, HsmError, Leftover, MemberFailure};
pub use group::{Group, MEMBERS_MAX, MemberSettings, MemberStanding, WEIGHT_MAX};
pub use memory::MemoryKey;
pub use pin::{PIN_BYTES_MAX, PinError, PinSource};
pub use pin_guard::{Attempt, GuardError, PinGuard};
pub use pkcs11::{
    CallError, Class, LoginRefusal, Module, PinPolicy, TokenFlags, TokenSeen, installed_softhsm,
};
pub use pool::{Access, BUCKETS_US, Durations, Pool, PoolMetrics, PoolSettings, TokenStanding};
pub use public_key::{Algorithm, NotEd25519, PublicKey};
pub use purpose::{AuditCheckpoint, KeyPurpose, Purpose, TlsServer, TokenSigning, Witness};
pub use release::{ReleaseCheck, ReleaseChecks};
pub use route::Signed;
pub use signer::Signer;
pub use software::SoftwareKey;
pub use uri::{ObjectKind, Pkcs11Uri, URI_BYTES_MAX, UriError, UriRules};
pub use wrapping::{SECRET_BYTES_MAX, WrappingKey, sealed_key_id};
