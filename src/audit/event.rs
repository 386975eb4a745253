//! What can be recorded. Values arrive in clear; the encoder (`body.rs`) decides what is stored and how.

use std::net::IpAddr;

use super::schema::Kind;
use crate::decision::{Decision, UnixSeconds};

/// One event, borrowed from whoever reports it.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// An operator's action that has no kind of its own.
    Admin(AdminEvent<'a>),
    /// Somebody outside vouched for a checkpoint.
    Anchor(AnchorEvent<'a>),
    /// A setting took another value.
    ConfigChange(ChangeEvent<'a>),
    /// One token was decided.
    Decision(DecisionEvent<'a>),
    /// One call decided many tokens.
    DecisionBatch(BatchEvent<'a>),
    /// A body was dropped by an authority (evidence room).
    Erase(EraseEvent<'a>),
    /// Records left the log in a file.
    Export(ExportEvent<'a>),
    /// A token is about to be issued, was issued, or was not.
    Issue(IssueEvent<'a>),
    /// A key changed its state.
    KeyChange(ChangeEvent<'a>),
    /// A key took another's place.
    KeyRotate(ChangeEvent<'a>),
    /// A segment leaves the log's folder, by an authority.
    Retire(RetireEvent<'a>),
    /// Something is about to be revoked, was revoked, or was not.
    Revoke(RevokeEvent<'a>),
    /// The daemon started.
    Start(StartEvent<'a>),
    /// The daemon stops.
    Stop(StopEvent<'a>),
    /// Someone verified the log.
    VerifyRun(VerifyRunEvent<'a>),
}

/// Where an action stands: the intent is durable before the effect, the outcome is recorded after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// About to be done.
    Intent,
    /// Done.
    Done,
    /// Not done.
    Failed,
}

impl Phase {
    /// The number stored in bodies.
    #[must_use]
    pub const fn code(self) -> u64 {
        match self {
            Self::Intent => 0,
            Self::Done => 1,
            Self::Failed => 2,
        }
    }
}

/// One decision about one token.
#[derive(Debug, Clone, Copy)]
pub struct DecisionEvent<'a> {
    /// Which surface asked: a number the shard keeps stable (`wire`'s surfaces).
    pub surface: u8,
    /// The outcome, with its exact reason.
    pub decision: Decision,
    /// The issuer's configured name; empty when none was found.
    pub issuer: &'a str,
    /// The `kid` of the token's header; cut to [`KID_BYTES_MAX`] bytes in the record.
    pub kid: &'a str,
    /// The tenant; empty when none was found.
    pub tenant: &'a str,
    /// The caller's configured name (not a secret); empty when callers do not authenticate.
    pub caller: &'a str,
    /// `sub`. Stored as a keyed tag, and sealed where the settings ask for it.
    pub subject: Option<&'a str>,
    /// `jti`. Stored as a keyed tag, and sealed where the settings ask for it.
    pub jti: Option<&'a str>,
    /// The client's address. Stored as a keyed tag, and sealed where the settings ask for it.
    pub client: Option<IpAddr>,
    /// The policy epoch the decision was made under.
    pub policy_epoch: u32,
    /// The revocation epoch the decision was made under.
    pub revocation_epoch: u64,
    /// Time from the first byte of the request to the decision, in microseconds.
    pub latency_us: u32,
    /// `exp` of a token whose signature verified.
    pub expires: Option<UnixSeconds>,
    /// Whether it was accepted by a revocation view older than it may be, as its issuer's rules allow.
    pub stale: bool,
}

/// One call that decided many tokens, in the order of the call.
#[derive(Debug, Clone, Copy)]
pub struct BatchEvent<'a> {
    /// Which surface asked.
    pub surface: u8,
    /// The tenant of the caller; empty when none.
    pub tenant: &'a str,
    /// The caller's configured name; empty when callers do not authenticate.
    pub caller: &'a str,
    /// The client's address. Stored as a keyed tag, and sealed where the settings ask for it.
    pub client: Option<IpAddr>,
    /// The policy epoch the decisions were made under.
    pub policy_epoch: u32,
    /// The revocation epoch the decisions were made under.
    pub revocation_epoch: u64,
    /// Time from the first byte of the request to the last decision, in microseconds.
    pub latency_us: u32,
    /// The decisions; at most [`BATCH_ITEMS_MAX`].
    pub items: &'a [BatchItem<'a>],
}

/// One decision of a [`BatchEvent`].
#[derive(Debug, Clone, Copy)]
pub struct BatchItem<'a> {
    /// The outcome, with its exact reason.
    pub decision: Decision,
    /// The issuer's configured name; empty when none was found.
    pub issuer: &'a str,
    /// The `kid` of the token's header.
    pub kid: &'a str,
    /// The tenant, under whose key values are sealed; empty when none was found. Not stored.
    pub tenant: &'a str,
    /// `sub`. Stored as a keyed tag, and sealed where the settings ask for it.
    pub subject: Option<&'a str>,
    /// `jti`. Stored as a keyed tag, and sealed where the settings ask for it.
    pub jti: Option<&'a str>,
    /// `exp` of a token whose signature verified.
    pub expires: Option<UnixSeconds>,
    /// Whether it was accepted by a revocation view older than it may be, as its issuer's rules allow.
    pub stale: bool,
}

/// A token being issued.
#[derive(Debug, Clone, Copy)]
pub struct IssueEvent<'a> {
    /// Where the action stands.
    pub phase: Phase,
    /// Who asked: the caller's or operator's name.
    pub actor: &'a str,
    /// The issuer's configured name.
    pub issuer: &'a str,
    /// The signing key's `kid`; of an intent, where any of several may sign, all of theirs with spaces between.
    pub kid: &'a str,
    /// The tenant.
    pub tenant: &'a str,
    /// `sub`. Stored as a keyed tag, and sealed where the settings ask for it.
    pub subject: &'a str,
    /// `jti`. Stored as a keyed tag, and sealed where the settings ask for it.
    pub jti: &'a str,
    /// `iat`.
    pub issued_at: UnixSeconds,
    /// `exp`.
    pub expires: UnixSeconds,
    /// `scope`, one name per element.
    pub scope: &'a [&'a str],
    /// The intent this is the outcome of.
    pub intent: Option<super::RecordId>,
    /// Why it failed; never a claim value.
    pub failure: Option<&'a str>,
}

/// A revocation.
#[derive(Debug, Clone, Copy)]
pub struct RevokeEvent<'a> {
    /// Where the action stands.
    pub phase: Phase,
    /// Who asked.
    pub actor: &'a str,
    /// What kind of thing is revoked: `jti`, `subject`, `session`, `kid`, `issuer`, `tenant`.
    pub target_kind: &'a str,
    /// The thing. `jti`, `subject` and `session` are stored only as keyed tags, the rest in clear.
    pub target: &'a str,
    /// The issuer's configured name.
    pub issuer: &'a str,
    /// The tenant.
    pub tenant: &'a str,
    /// The operator's words, if any.
    pub reason: Option<&'a str>,
    /// When the revocation may be forgotten.
    pub until: Option<UnixSeconds>,
    /// The revocation epoch it made (outcome only).
    pub revocation_epoch: Option<u64>,
    /// The intent this is the outcome of.
    pub intent: Option<super::RecordId>,
    /// Why it failed.
    pub failure: Option<&'a str>,
    /// `disable` or `enable`; empty where it is a revocation.
    pub action: &'a str,
    /// A subject or session: what was issued in or before this second is refused.
    pub issued_until: Option<UnixSeconds>,
}

/// The start of the daemon.
#[derive(Debug, Clone, Copy)]
pub struct StartEvent<'a> {
    /// Version of the binary.
    pub version: &'a str,
    /// SHA-256 of the configuration in force.
    pub config_digest: Option<&'a [u8; 32]>,
    /// Shards started.
    pub shards: u16,
    /// Anything else an auditor wants at a glance, such as the verify kernel and driver chosen.
    pub detail: &'a str,
}

/// The end of the daemon.
#[derive(Debug, Clone, Copy)]
pub struct StopEvent<'a> {
    /// Why, such as the signal's name.
    pub reason: &'a str,
}

/// A change of a setting or a key.
#[derive(Debug, Clone, Copy)]
pub struct ChangeEvent<'a> {
    /// Where the action stands.
    pub phase: Phase,
    /// Who changed it.
    pub actor: &'a str,
    /// The setting's key, or the key's `kid` or purpose.
    pub what: &'a str,
    /// Value or state before; never a secret.
    pub before: &'a str,
    /// Value or state after; never a secret.
    pub after: &'a str,
    /// The intent this is the outcome of.
    pub intent: Option<super::RecordId>,
}

/// An operator's action.
#[derive(Debug, Clone, Copy)]
pub struct AdminEvent<'a> {
    /// Where the action stands.
    pub phase: Phase,
    /// Who acts.
    pub actor: &'a str,
    /// The action's stable name.
    pub action: &'a str,
    /// What it acts on; never personal data.
    pub target: &'a str,
    /// Anything else; never a secret.
    pub detail: &'a str,
    /// The intent this is the outcome of.
    pub intent: Option<super::RecordId>,
}

/// Somebody outside vouched for a checkpoint.
#[derive(Debug, Clone, Copy)]
pub struct AnchorEvent<'a> {
    /// Records the checkpoint covers.
    pub size: u64,
    /// The tree head over them.
    pub root: &'a [u8; 32],
    /// Who vouches: `witness`.
    pub anchor: &'a str,
    /// In what words: of a witness its line of a signed note.
    pub proof: &'a [u8],
}

/// The removal of a body by an authority.
#[derive(Debug, Clone, Copy)]
pub struct EraseEvent<'a> {
    /// The record whose body goes.
    pub seq: u64,
    /// Digest of the body that goes.
    pub body_digest: &'a [u8; 32],
    /// Who ordered it.
    pub authority: &'a str,
    /// Why.
    pub reason: &'a str,
}

/// The removal of a segment by an authority, and what the rest of the log continues.
#[derive(Debug, Clone, Copy)]
pub struct RetireEvent<'a> {
    /// The segment that goes.
    pub segment: u64,
    /// Its first record.
    pub first_seq: u64,
    /// Records in it.
    pub records: u64,
    /// Who ordered it.
    pub authority: &'a str,
    /// Why.
    pub reason: &'a str,
    /// Event hash of its last record.
    pub last_hash: &'a [u8; 32],
    /// The tree over all records up to its end, as [`CompactRange::to_bytes`](super::merkle::CompactRange::to_bytes).
    pub frontier: &'a [u8],
    /// SHA-256 of its archive.
    pub archive: &'a [u8; 32],
    /// The lowest wall clock of its records.
    pub first_wall_ns: u64,
    /// The highest.
    pub last_wall_ns: u64,
}

/// An export.
#[derive(Debug, Clone, Copy)]
pub struct ExportEvent<'a> {
    /// Who exported.
    pub actor: &'a str,
    /// The filter, as typed; whole in the record, so the caller bounds it.
    pub filter: &'a str,
    /// Rows written.
    pub rows: u64,
    /// SHA-256 of the export.
    pub digest: &'a [u8; 32],
}

/// A verification of the log.
#[derive(Debug, Clone, Copy)]
pub struct VerifyRunEvent<'a> {
    /// Who verified.
    pub actor: &'a str,
    /// `quick`, `range` or `full`.
    pub mode: &'a str,
    /// First record checked.
    pub from_seq: u64,
    /// Records checked.
    pub records: u64,
    /// Breaks found.
    pub breaks: u64,
    /// Class of the first break; empty when there is none.
    pub first_class: &'a str,
}

/// A longer `kid` is cut in the record; the token parser already refuses most of these.
pub const KID_BYTES_MAX: usize = 128;

/// Sub-decisions of one batch record, so that its body stays below the record limit.
pub const BATCH_ITEMS_MAX: usize = 256;

impl Event<'_> {
    /// The record kind this event becomes.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Admin(_) => Kind::Admin,
            Self::Anchor(_) => Kind::Anchor,
            Self::ConfigChange(_) => Kind::ConfigChange,
            Self::Decision(_) => Kind::Decision,
            Self::DecisionBatch(_) => Kind::DecisionBatch,
            Self::Erase(_) => Kind::Erase,
            Self::Export(_) => Kind::Export,
            Self::Issue(_) => Kind::Issue,
            Self::KeyChange(_) => Kind::KeyChange,
            Self::KeyRotate(_) => Kind::KeyRotate,
            Self::Retire(_) => Kind::Retire,
            Self::Revoke(_) => Kind::Revoke,
            Self::Start(_) => Kind::Start,
            Self::Stop(_) => Kind::Stop,
            Self::VerifyRun(_) => Kind::VerifyRun,
        }
    }

    /// The policy epoch for the header; 0 where the event carries none.
    #[must_use]
    pub const fn epoch(&self) -> u32 {
        match self {
            Self::Decision(event) => event.policy_epoch,
            Self::DecisionBatch(event) => event.policy_epoch,
            Self::Admin(_)
            | Self::Anchor(_)
            | Self::ConfigChange(_)
            | Self::Erase(_)
            | Self::Export(_)
            | Self::Issue(_)
            | Self::KeyChange(_)
            | Self::KeyRotate(_)
            | Self::Retire(_)
            | Self::Revoke(_)
            | Self::Start(_)
            | Self::Stop(_)
            | Self::VerifyRun(_) => 0,
        }
    }
}
