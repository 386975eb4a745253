//! Why a bundle proves nothing. Names and exit codes are stable; a reason that a log or a proof can have too has the
//! name and the code it has there.

use std::{fmt, io, path::Path};

use crate::audit::{
    error::AuditError,
    proof::{ProofClass, Refusal},
    timestamp::StampClass,
    verify::{Break, Class},
};

/// Why a bundle proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{class}: {member}: {detail}", member = member.escape_debug(), detail = detail.escape_debug())]
pub struct BundleFault {
    /// What kind of reason.
    pub class: BundleClass,
    /// The member it was found in; empty for the bundle as a whole.
    pub member: String,
    /// What was found and what was expected, in words.
    pub detail: String,
}

/// The kinds of reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BundleClass {
    /// The records are not a whole log, as `edgate audit verify` says it.
    Log(Class),
    /// A member is not the one that the manifest lists.
    MemberAltered,
    /// Something is there that the manifest does not list, or that belongs in no bundle.
    MemberExtra,
    /// Something is not there that the manifest lists, or that must be in every bundle.
    MemberMissing,
    /// A checkpoint or a proof fails, as `edgate audit verify-proof` says it.
    Proof(ProofClass),
    /// A timestamp fails, as `edgate audit verify-timestamp` says it.
    Stamp(StampClass),
    /// The bundle says nothing about the checkpoint that the checker has kept.
    Unrelated,
    /// There is no timestamp, though the checker brings authorities.
    Unstamped,
    /// A witness that the checker asks for did not cosign.
    Unwitnessed,
}

impl BundleClass {
    /// The stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Log(class) => class.name(),
            Self::MemberAltered => "member-altered",
            Self::MemberExtra => "member-extra",
            Self::MemberMissing => "member-missing",
            Self::Proof(class) => class.name(),
            Self::Stamp(class) => class.name(),
            Self::Unrelated => "unrelated",
            Self::Unstamped => "unstamped",
            Self::Unwitnessed => "unwitnessed",
        }
    }

    /// What `edgate audit verify-bundle` exits with.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Log(class) => class.exit_code(),
            Self::MemberAltered => 30,
            Self::MemberExtra => 31,
            Self::MemberMissing => 32,
            Self::Proof(class) => class.exit_code(),
            Self::Stamp(class) => class.exit_code(),
            Self::Unrelated => 33,
            Self::Unstamped => 35,
            Self::Unwitnessed => 34,
        }
    }

    pub(super) fn at(self, member: &str, detail: impl fmt::Display) -> CheckError {
        let detail = detail.to_string();
        CheckError::Refused(BundleFault { class: self, member: member.to_owned(), detail })
    }
}

impl fmt::Display for BundleClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why there is no verdict, or a bad one.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The bundle could not be read.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// It was read and proves nothing.
    #[error(transparent)]
    Refused(BundleFault),
}

impl CheckError {
    pub(super) fn io(what: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Audit(AuditError::io(what, path, source))
    }
}

/// A refusal of the proof or checkpoint in `member`.
pub(super) fn refused(member: &str) -> impl Fn(Refusal) -> CheckError {
    move |refusal| BundleClass::Proof(refusal.class).at(member, refusal.detail)
}

/// The first break of the records.
pub(super) fn broken(member: &str, found: &Break) -> CheckError {
    BundleClass::Log(found.class).at(member, found)
}
