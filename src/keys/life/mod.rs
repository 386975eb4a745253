//! The life of this node's signing keys: which of them signs, which verify, what may become of each, and when. Pure: time
//! comes as `now`, and whoever does something first asks here, then does it, then says here that it was done.
//!
//! ```text
//!          published, propagated          the next takes over       nothing it signed can be valid
//!  Draft ───────────────────────▶ Active ───────────────────▶ Trusted ─────────────────▶ Retired ─▶ Destroyed
//!    └────────── disabled, killed ──────────── killed ─────────────────────────────────────▲
//! ```
//!
//! | state | in the JWKS and the key set | signs | private key |
//! | --- | --- | --- | --- |
//! | Draft | yes | no | there |
//! | Active | yes | yes | there |
//! | Trusted | yes | no more | there |
//! | Retired | no | no more | there |
//! | Destroyed | no | no more | gone |
//!
//! Where each of several tokens has a key of its own, each of these has such a life, beside the others ([`Rings`]).
//!
//! Two rules carry the rest. A key signs once every copy of the JWKS that may be in use has it: `propagation_ms`, which is no
//! shorter than the JWKS's max-age, after it was published. A key verifies until nothing that it signed can be valid any more:
//! `verify_for_ms` after it stopped signing, which is the longest life of what it signs, the leeway, the time one signature may
//! take, and the max-age.

mod ring;
mod rings;
#[cfg(test)]
mod tests;

pub use ring::{Due, Mended, NewKey, Ring};
pub use rings::Rings;

/// Milliseconds since 1970.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    /// `self + ms`, stopping at the largest representable time.
    #[must_use]
    pub const fn saturating_add(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// `self - ms`, stopping at 1970.
    #[must_use]
    pub const fn saturating_sub(self, ms: u64) -> Self {
        Self(self.0.saturating_sub(ms))
    }

    /// Milliseconds from `earlier` to `self`; zero if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Where a key stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyState {
    /// Made and published, so that it can sign later.
    Draft,
    /// The one that signs.
    Active,
    /// Signs no more; what it signed still verifies.
    Trusted,
    /// Neither signs nor verifies.
    Retired,
    /// Its private key is gone.
    Destroyed,
}

impl KeyState {
    /// Every state, in the order of a life.
    pub const ALL: [Self; 5] = [Self::Draft, Self::Active, Self::Trusted, Self::Retired, Self::Destroyed];

    /// The stable name: in the state database, in answers, in records and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::Active => "active",
            Self::Trusted => "trusted",
            Self::Retired => "retired",
            Self::Destroyed => "destroyed",
        }
    }

    /// The state of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    /// Whether a key in this state is published and verifies.
    #[must_use]
    pub const fn verifies(self) -> bool {
        matches!(self, Self::Draft | Self::Active | Self::Trusted)
    }
}

/// One of this node's signing keys. A time that is `None` has not come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningKey {
    /// Its RFC 7638 thumbprint.
    pub kid: String,
    /// Its public half.
    pub public_key: [u8; 32],
    /// Where its private half is: the path of a file, or a PKCS#11 URI.
    pub place: String,
    /// Where it stands.
    pub state: KeyState,
    /// When it was made, or first met in the configuration.
    pub created: UnixMillis,
    /// When it was in the JWKS that is served.
    pub published: Option<UnixMillis>,
    /// When it began to sign.
    pub activated: Option<UnixMillis>,
    /// When it stopped.
    pub stopped: Option<UnixMillis>,
    /// Before this nothing takes it out of the JWKS but an operator who kills it.
    pub retire_not_before: Option<UnixMillis>,
    /// When it left the JWKS.
    pub retired: Option<UnixMillis>,
    /// When its private half was destroyed.
    pub destroyed: Option<UnixMillis>,
    /// When an operator said that a copy of it is safe.
    pub backed_up: Option<UnixMillis>,
    /// Whether it takes over by itself as soon as it may.
    pub wanted: bool,
    /// How long after its last signature it must verify: the most that any configuration asked for while it signed.
    pub verify_for_ms: u64,
}

impl SigningKey {
    /// A key that was made and is in no ring.
    #[must_use]
    pub fn unused(new: NewKey) -> Self {
        Self {
            kid: new.kid,
            public_key: new.public_key,
            place: new.place,
            state: KeyState::Draft,
            created: UnixMillis(0),
            published: None,
            activated: None,
            stopped: None,
            retire_not_before: None,
            retired: None,
            destroyed: None,
            backed_up: None,
            wanted: new.wanted,
            verify_for_ms: 0,
        }
    }
}

/// What the configuration asks of every key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// From publication to the first signature, at least: `signing.propagation_s`.
    pub propagation_ms: u64,
    /// From the last signature to the end of verification, at least.
    pub verify_for_ms: u64,
    /// Whether a key may sign only once it is backed up: `signing.require_backup`.
    pub require_backup: bool,
    /// How long one key signs; `None`: until somebody rotates. `signing.rotate_every_s`.
    pub rotate_every_ms: Option<u64>,
    /// Most keys in the JWKS at once: this ring's share of [`PUBLISHED_MAX`].
    pub published_max: usize,
}

/// Most keys in the JWKS at once. Readers of other makes take a set of this size; ours takes four times as many.
pub const PUBLISHED_MAX: usize = 64;

/// Why something is not done to a key. Each names its rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// `require_backup`.
    #[error(
        "require_backup: key {kid} is not backed up, and signing.require_backup is set; copy it, then say so: edgate keys backed-up {kid}"
    )]
    BackUpFirst {
        /// The key.
        kid: String,
    },
    /// There are no more places in the JWKS.
    #[error(
        "published_max: {max} keys are published already; one must retire before another is made: edgate keys list says when"
    )]
    Full {
        /// The number of places.
        max: usize,
    },
    /// `last_active`.
    #[error(
        "last_active: key {kid} is the one that signs and no other does in its place; rotate first, or stop it by edgate keys disable {kid}"
    )]
    LastActive {
        /// The key.
        kid: String,
    },
    /// `propagation`.
    #[error(
        "propagation: key {kid} may sign in {wait_ms} ms at the earliest, once nobody can have a JWKS without it (signing.propagation_s)"
    )]
    NotPropagated {
        /// The key.
        kid: String,
        /// How long that is.
        wait_ms: u64,
    },
    /// `outstanding`.
    #[error(
        "outstanding: tokens that key {kid} signed may be valid for another {wait_ms} ms; if it is compromised: edgate keys kill {kid}"
    )]
    Outstanding {
        /// The key.
        kid: String,
        /// How long at most.
        wait_ms: u64,
    },
    /// There is no such key.
    #[error("unknown_key: this node has no signing key {kid:?}; edgate keys list shows those it has")]
    Unknown {
        /// What was asked for.
        kid: String,
    },
    /// `wrong_state`.
    #[error("wrong_state: key {kid} is {}; {wanted}", .state.name())]
    WrongState {
        /// The key.
        kid: String,
        /// What it is.
        state: KeyState,
        /// What it would have to be.
        wanted: &'static str,
    },
}

impl Refusal {
    /// The stable name of the rule.
    #[must_use]
    pub const fn rule(&self) -> &'static str {
        match self {
            Self::BackUpFirst { .. } => "require_backup",
            Self::Full { .. } => "published_max",
            Self::LastActive { .. } => "last_active",
            Self::NotPropagated { .. } => "propagation",
            Self::Outstanding { .. } => "outstanding",
            Self::Unknown { .. } => "unknown_key",
            Self::WrongState { .. } => "wrong_state",
        }
    }
}
