//! Why a timestamp proves nothing. Names and exit codes are stable.

use std::fmt;

use crate::audit::classes::classes;

/// Why a timestamp proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{class}: {detail}")]
pub struct StampFault {
    /// What kind of reason.
    pub class: StampClass,
    /// What was found and what was expected, in words.
    pub detail: String,
}

classes! {
    /// The kinds of reasons.
    pub enum StampClass {
        /// The signature does not verify, or is not over this content.
        BadSignature = "stamp-bad-signature", 40;
        /// The chain was not valid at the time that the token states.
        Expired = "stamp-expired", 41;
        /// Not a token in the one form it has.
        Malformed = "stamp-malformed", 42;
        /// The authority answered that it gives none.
        Refused = "stamp-refused", 43;
        /// A certificate was revoked, or the list given says nothing about it.
        Revoked = "stamp-revoked", 44;
        /// The time it states cannot be.
        Skewed = "stamp-skewed", 45;
        /// The chain does not lead to an authority that was given.
        UnknownAuthority = "stamp-unknown-authority", 46;
        /// An algorithm that is not accepted, such as SHA-1.
        Unsupported = "stamp-unsupported", 47;
        /// It is about other bytes.
        WrongImprint = "stamp-wrong-imprint", 48;
        /// It is the answer to another question.
        WrongNonce = "stamp-wrong-nonce", 49;
        /// It was given under another policy than the one asked for.
        WrongPolicy = "stamp-wrong-policy", 50;
        /// It was not signed by the certificate it names.
        WrongSigner = "stamp-wrong-signer", 51;
        /// The certificate is not one for timestamps, and for nothing else.
        WrongUsage = "stamp-wrong-usage", 52;
    }
}

impl StampClass {
    pub(super) fn because(self, detail: impl fmt::Display) -> StampFault {
        StampFault { class: self, detail: detail.to_string() }
    }
}
