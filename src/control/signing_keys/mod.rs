//! This node's signing keys while it runs: which one signs, what is done to them by whom, and when by themselves.
//!
//! What may be done is `keys::life`'s to say. Here it is done, in this order: the intent is on record, what a crash must not
//! forget is in the state database, then it is so for everybody at once ([`Keys::change`]: ring, policy of the shards, signer, under
//! one lock that is never held across an await), then the state database has how it ended, then the record does. An emergency
//! ([`kill`]) goes the other way round, and waits for nobody: first it is so, then it is written down.
//!
//! | path | |
//! | --- | --- |
//! | `GET /v1/keys` | every key, and what is due next |
//! | `GET /v1/keys/jwks` | the JWKS that the data listener serves |
//! | `POST /v1/keys/rotate` | the next key: now if it may sign, else as soon as it may |
//! | `POST /v1/keys/kill` | a key of whatever issuer verifies nothing any more |
//! | `POST /v1/keys/{kid}/activate`, `backed-up`, `destroy`, `disable`, `retire` | one key |

mod answers;
mod commands;
mod delegating;
mod held;
mod keeper;
mod kill;
mod signers;
mod steps;

use std::sync::Arc;

use edgate_hsm::{Signer, TokenSigning};

pub(super) use answers::metrics;
pub(super) use commands::{jwks, list, rotate, to_one_key};
pub(super) use held::Keys;
pub(super) use keeper::keep;
pub(super) use kill::kill;
pub(super) use signers::{SignedInput, Signers};

use crate::keys::KilledKeys;
use crate::keys::delegated::{DelegatedKey, Delegations};
use crate::keys::life::{Rings, SigningKey, UnixMillis};
use crate::store::KilledKey;

/// What the daemon hands over of its keys.
pub struct SigningKeys {
    /// This node's own; `None` on a node that only verifies.
    pub own: Option<OwnKeys>,
    /// The configured issuers whose keys these are, in the order of the configuration's issuers.
    pub own_issuers: Vec<usize>,
    /// Every key that was killed.
    pub killed: Vec<KilledKey>,
    /// Makes shards verify by other keys.
    pub publish: Publish,
    /// Who has a key of some name.
    pub holders: Holders,
    /// The JWKS that is served.
    pub jwks: Arc<dyn Fn() -> String + Send + Sync>,
    /// The time.
    pub now: fn() -> UnixMillis,
}

/// This node's own keys.
pub struct OwnKeys {
    /// The tenant that they are stored under.
    pub tenant: String,
    /// How they stand.
    pub rings: Rings,
    /// Those that sign, by their names.
    pub signers: Vec<(String, Signer<TokenSigning>)>,
    /// Those in memory, which they delegate to; those of the process before, whose private halves are gone.
    pub delegations: Delegations,
    /// How private keys are made, opened and destroyed.
    pub places: KeyPlaces,
}

/// The configured issuers that have a key of this name.
pub type Holders = Arc<dyn Fn(&str) -> Vec<usize> + Send + Sync>;

/// Where private keys are made, opened and destroyed: beside the first one. Each blocks; errors are in words.
#[derive(Clone)]
pub struct KeyPlaces {
    /// Makes one, beside the first one of a ring, which is named by its place in the configuration.
    pub make: Arc<dyn Fn(usize) -> Result<MadeKey, String> + Send + Sync>,
    /// Opens one, which proves itself.
    pub open: OpenKey,
    /// Destroys one.
    pub destroy: DestroyKey,
    /// Makes one that lives in this process's memory alone.
    pub make_in_memory: MakeInMemory,
}

/// Makes a key in memory.
pub type MakeInMemory = Arc<dyn Fn() -> Result<Signer<TokenSigning>, String> + Send + Sync>;

/// Opens a key.
pub type OpenKey = Arc<dyn Fn(&SigningKey) -> Result<Signer<TokenSigning>, String> + Send + Sync>;

/// Destroys the private half of a key.
pub type DestroyKey = Arc<dyn Fn(&SigningKey) -> Result<(), String> + Send + Sync>;

/// A key that was made just now.
#[derive(Debug, Clone)]
pub struct MadeKey {
    /// Its public half.
    pub public_key: [u8; 32],
    /// Where its private half is.
    pub place: String,
}

/// Has every shard verify by these keys of ours, and by those of the other issuers that were not killed, from its next turn on; lists
/// our keys and the delegated ones in the JWKS. Issuers are named by their places in the configuration.
pub type Publish =
    Arc<dyn Fn(&[&SigningKey], &[DelegatedKey], KilledKeys) -> Result<(), String> + Send + Sync>;
