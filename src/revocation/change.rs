//! What can be revoked, and what a change does to it.

use crate::decision::UnixSeconds;

/// The kinds of thing that can be revoked, each in one write and without a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TargetKind {
    /// Every token of an issuer.
    Issuer,
    /// Every token that one of an issuer's keys signed.
    Kid,
    /// Every token of a session (`sid`) issued in or before a second.
    Session,
    /// Every token of a subject (`sub`) issued in or before a second.
    Subject,
    /// Every token of a tenant: the emergency stop.
    Tenant,
    /// One token, by its `jti`.
    Token,
}

impl TargetKind {
    /// Every kind.
    pub const ALL: &'static [Self] =
        &[Self::Issuer, Self::Kid, Self::Session, Self::Subject, Self::Tenant, Self::Token];

    /// The stable name: in requests, in the state database, in Redis.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Issuer => "issuer",
            Self::Kid => "kid",
            Self::Session => "session",
            Self::Subject => "subject",
            Self::Tenant => "tenant",
            Self::Token => "token",
        }
    }

    /// The kind of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.name() == name)
    }

    /// Whether it can be disabled and enabled again.
    #[must_use]
    pub const fn is_switched(self) -> bool {
        matches!(self, Self::Issuer | Self::Kid | Self::Subject | Self::Tenant)
    }
}

/// The state of something that is refused, or not, as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// Not refused.
    Enabled,
    /// Refused until it is enabled again.
    Disabled,
    /// Refused for good.
    Revoked,
}

impl Switch {
    /// The stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Disabled => "disabled",
            Self::Revoked => "revoked",
        }
    }

    /// The state of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Enabled, Self::Disabled, Self::Revoked].into_iter().find(|state| state.name() == name)
    }
}

/// What becomes of the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// A subject or session: what was issued in or before this second is refused. The latest one counts.
    IssuedUntil(UnixSeconds),
    /// A token: refused until this second, from which on it is refused as expired (its `exp` plus the leeway). The
    /// latest one counts.
    RefusedUntil(UnixSeconds),
    /// Anything else, and a subject that is disabled or enabled. Revoked stays; else the highest epoch counts.
    Switched(Switch),
}

/// One change of what is revoked. Borrows its names; see [`Change::new`] for which effect goes with which kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change<'a> {
    kind: TargetKind,
    tenant: &'a str,
    issuer: &'a str,
    name: &'a str,
    effect: Effect,
    epoch: u64,
}

impl<'a> Change<'a> {
    /// A change of the thing `name` of `issuer` in `tenant`; `None` where the parts do not go together.
    ///
    /// `name` is the `jti`, `sub`, `sid` or `kid`, and empty for an issuer or a tenant; `issuer` is the `iss`, and empty
    /// for a tenant. `epoch` orders changes of one switch.
    #[must_use]
    pub fn new(
        kind: TargetKind,
        tenant: &'a str,
        issuer: &'a str,
        name: &'a str,
        effect: Effect,
        epoch: u64,
    ) -> Option<Self> {
        let named = match kind {
            TargetKind::Tenant => issuer.is_empty() && name.is_empty(),
            TargetKind::Issuer => !issuer.is_empty() && name.is_empty(),
            TargetKind::Kid | TargetKind::Session | TargetKind::Subject | TargetKind::Token => {
                !issuer.is_empty() && !name.is_empty()
            }
        };
        let suits = match effect {
            Effect::IssuedUntil(_) => matches!(kind, TargetKind::Session | TargetKind::Subject),
            Effect::RefusedUntil(_) => kind == TargetKind::Token,
            // A subject is revoked by a watermark: one that is never to come back is disabled.
            Effect::Switched(Switch::Revoked) => kind.is_switched() && kind != TargetKind::Subject,
            Effect::Switched(_) => kind.is_switched(),
        };
        (named && suits && !tenant.is_empty()).then_some(Self { kind, tenant, issuer, name, effect, epoch })
    }

    /// What kind of thing changes.
    #[must_use]
    pub const fn kind(&self) -> TargetKind {
        self.kind
    }

    /// Its tenant.
    #[must_use]
    pub const fn tenant(&self) -> &'a str {
        self.tenant
    }

    /// Its `iss`; empty for a tenant.
    #[must_use]
    pub const fn issuer(&self) -> &'a str {
        self.issuer
    }

    /// Its `jti`, `sub`, `sid` or `kid`; empty for an issuer or a tenant.
    #[must_use]
    pub const fn name(&self) -> &'a str {
        self.name
    }

    /// What becomes of it.
    #[must_use]
    pub const fn effect(&self) -> Effect {
        self.effect
    }

    /// The revocation epoch the change made.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }
}
