//! What a token can do, and what it lets others do. Run before a token is trusted with keys.
//!
//! The negative tests matter more than the positive: NSS wraps keys that may not be extracted, two modules sign with
//! Ed25519 on a P-256 key or ignore a context. All objects made here are session objects; nothing stays in the token.

use std::fmt;
use std::time::{Duration, Instant};

use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, AttributeType, ObjectHandle};
use cryptoki::session::Session;
use ed25519_dalek::{Signature, VerifyingKey};

use super::Admin;
use crate::pkcs11::{
    CallError, EC_PARAMS_NAME, EC_PARAMS_OID, Inside, KeyRules, P256_PARAMS_OID, find_signing_key, read_point,
};
use crate::{Algorithm, HsmError, Pkcs11Uri, PublicKey, Purpose, ReleaseChecks};

/// How one examination ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be.
    Pass,
    /// A fact to know; no judgement.
    Note,
    /// Not to be used in production.
    Fail,
}

/// One examination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was examined: stable words.
    pub subject: &'static str,
    /// How it ended.
    pub verdict: Verdict,
    /// What was seen.
    pub detail: String,
}

/// All examinations of one token, in order.
#[derive(Debug, Clone)]
pub struct Report {
    /// The token's full name.
    pub token: String,
    /// The module.
    pub module: String,
    /// What was found.
    pub findings: Vec<Finding>,
}

impl Verdict {
    /// The word in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Note => "note",
            Self::Fail => "fail",
        }
    }
}

impl Report {
    /// Whether nothing forbids production use.
    #[must_use]
    pub fn is_fit(&self) -> bool {
        self.findings.iter().all(|finding| finding.verdict != Verdict::Fail)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "edgate hsm report 1\ntoken {}\nmodule {}", self.token, self.module)?;
        self.findings.iter().try_for_each(|finding| {
            writeln!(f, "{} {}: {}", finding.verdict.name(), finding.subject, finding.detail)
        })
    }
}

impl Admin {
    /// Examines the token. Takes about a second.
    ///
    /// # Errors
    /// If it stops answering; what it refuses is a finding.
    pub fn examine(&self) -> Result<Report, HsmError> {
        let inside = self.enter()?;
        let mut report = Report {
            token: self.token.uri.to_string(),
            module: self.module.path().display().to_string(),
            findings: Vec::new(),
        };
        let mut examination = Examination { admin: self, inside: &inside, report: &mut report };
        examination.mechanisms()?;
        examination.flags();
        if let Some(pair) = examination.encodings() {
            examination.signature(&pair);
            examination.context(&pair);
            examination.copy_as_extractable(&pair);
            examination.wrap_unextractable(&pair);
            examination.read_out(&pair);
            examination.rate(&pair);
        }
        examination.other_key();
        Ok(report)
    }
}

impl Admin {
    /// Signs a report with `key`, as a statement of the token about itself; the public key and the signature, over
    /// [`REPORT_PREFIX`] and the text.
    ///
    /// # Errors
    /// What is wrong with the key, or [`HsmError::SignatureFault`].
    pub fn sign_report(&self, key: &Pkcs11Uri, report: &Report) -> Result<([u8; 32], [u8; 64]), HsmError> {
        self.sign_ed25519(key, &[REPORT_PREFIX, report.to_string().as_bytes()].concat())
    }

    /// Has `key` sign something and verifies it: the key is there, usable and matches its public half, which is
    /// returned.
    ///
    /// # Errors
    /// What is wrong with the key, or [`HsmError::SignatureFault`].
    pub fn selftest(&self, key: &Pkcs11Uri) -> Result<PublicKey, HsmError> {
        Ok(self.sign_verified(key, &Algorithm::ALL, &crate::pool::probe_message())?.0)
    }

    pub(super) fn sign_ed25519(
        &self,
        key: &Pkcs11Uri,
        message: &[u8],
    ) -> Result<([u8; 32], [u8; 64]), HsmError> {
        let (public_key, signature) = self.sign_verified(key, &[Algorithm::Ed25519], message)?;
        let public_key =
            public_key.try_into().map_err(|_| HsmError::KeyMismatch { key: Box::new(key.clone()) })?;
        Ok((public_key, signature))
    }

    /// Signs with `key` and verifies it; the public key that the token shows, and the signature.
    ///
    /// # Errors
    /// What is wrong with the key, or [`HsmError::SignatureFault`].
    pub fn sign_verified(
        &self,
        key: &Pkcs11Uri,
        allowed: &[Algorithm],
        message: &[u8],
    ) -> Result<(PublicKey, [u8; 64]), HsmError> {
        // Whether a service may use a key that can be backed up is for its configuration to say.
        let rules = KeyRules { allow_wrapped_export: true, ..KeyRules::default() };
        self.sign_under(key, allowed, rules, message)
    }

    pub(super) fn sign_under(
        &self,
        key: &Pkcs11Uri,
        allowed: &[Algorithm],
        rules: KeyRules,
        message: &[u8],
    ) -> Result<(PublicKey, [u8; 64]), HsmError> {
        key.require_object()?;
        let inside = self.enter()?;
        let found = find_signing_key(&self.session, key, allowed, rules)?;
        let public_key = found.public_key.ok_or_else(|| HsmError::Unpinned { key: Box::new(key.clone()) })?;
        let raw = self.module.raw(&inside);
        let signature = raw.sign(&self.session, public_key.algorithm(), found.private, message)?;
        let good =
            ReleaseChecks::strict().pin(public_key).is_some_and(|key| key.verifies(message, &signature));
        let purpose = found.label.as_deref().and_then(Purpose::of_label);
        match good {
            true => Ok((public_key, signature)),
            false => Err(HsmError::SignatureFault { purpose: purpose.unwrap_or(Purpose::TokenSigning) }),
        }
    }
}

/// Begins what is signed of a report: neither a token's signing input nor a checkpoint has a NUL.
pub const REPORT_PREFIX: &[u8] = b"edgate-hsm report\0";

struct Examination<'a> {
    admin: &'a Admin,
    inside: &'a Inside<'a>,
    report: &'a mut Report,
}

/// An Ed25519 pair of this session.
struct Pair {
    public_key: [u8; 32],
    private: ObjectHandle,
}

impl Examination<'_> {
    fn session(&self) -> &Session {
        &self.admin.session
    }

    fn find(&mut self, subject: &'static str, verdict: Verdict, detail: impl Into<String>) {
        self.report.findings.push(Finding { subject, verdict, detail: detail.into() });
    }

    fn mechanisms(&mut self) -> Result<(), HsmError> {
        let context = self.admin.module.context(self.inside);
        let offered = context.get_mechanism_list(self.admin.token.slot).map_err(CallError::from)?;
        let wanted = [
            ("CKM_EDDSA", MechanismType::EDDSA, Verdict::Fail),
            ("CKM_EC_EDWARDS_KEY_PAIR_GEN", MechanismType::ECC_EDWARDS_KEY_PAIR_GEN, Verdict::Fail),
            ("CKM_AES_GCM", MechanismType::AES_GCM, Verdict::Note),
            ("CKM_ECDSA", MechanismType::ECDSA, Verdict::Note),
            ("CKM_AES_KEY_WRAP", MechanismType::AES_KEY_WRAP, Verdict::Note),
        ];
        for (name, mechanism, without) in wanted {
            let there = offered.contains(&mechanism);
            let verdict = if there { Verdict::Pass } else { without };
            self.find("mechanism", verdict, format!("{name} {}", if there { "offered" } else { "missing" }));
        }
        Ok(())
    }

    fn flags(&mut self) {
        let token = &self.admin.token;
        let (flags, sessions) = (token.flags, token.sessions_max);
        let sessions =
            sessions.map_or_else(|| "no limit stated".to_owned(), |count| format!("at most {count}"));
        self.find("sessions", Verdict::Note, sessions);
        if flags.error_state {
            self.find("self-test", Verdict::Fail, "the token is in its error state");
        }
        if flags.pin_count_low {
            self.find("pin", Verdict::Note, "a wrong PIN was entered since the last good one");
        }
    }

    /// A pair by either name of the curve, and how its point is encoded.
    fn encodings(&mut self) -> Option<Pair> {
        let mut pair = None;
        for (name, params) in [("object identifier", EC_PARAMS_OID), ("curve name", EC_PARAMS_NAME)] {
            match self.generate(params) {
                Ok((made, encoding)) => {
                    let detail = format!("accepts the {name}; CKA_EC_POINT is {encoding}");
                    self.find("encoding", Verdict::Pass, detail);
                    pair.get_or_insert(made);
                }
                Err(error) => self.find("encoding", Verdict::Note, format!("refuses the {name}: {error}")),
            }
        }
        if pair.is_none() {
            self.find("ed25519", Verdict::Fail, "no Ed25519 key can be generated");
        }
        pair
    }

    fn generate(&self, params: &[u8]) -> Result<(Pair, &'static str), CallError> {
        let public = [Attribute::Token(false), Attribute::Verify(true), Attribute::EcParams(params.to_vec())];
        let private = [
            Attribute::Token(false),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Sign(true),
        ];
        let mechanism = Mechanism::EccEdwardsKeyPairGen;
        let (public, private) = self.session().generate_key_pair(&mechanism, &public, &private)?;
        let attributes = self.session().get_attributes(public, &[AttributeType::EcPoint])?;
        let point = attributes.into_iter().find_map(|attribute| match attribute {
            Attribute::EcPoint(point) => Some(point),
            _ => None,
        });
        let point = point.unwrap_or_default();
        let encoding = match point.first() {
            Some(0x04) if point.len() == 34 => "a DER OCTET STRING",
            Some(0x03) if point.len() == 35 => "a DER BIT STRING",
            _ => "raw",
        };
        let read = read_point(Algorithm::Ed25519, &point).and_then(|key| key.try_into().ok());
        let public_key = read.ok_or_else(|| {
            CallError::nonsense(
                cryptoki::context::Function::GetAttributeValue,
                "a CKA_EC_POINT in no known encoding",
            )
        })?;
        Ok((Pair { public_key, private }, encoding))
    }

    fn sign(&self, key: ObjectHandle, message: &[u8]) -> Result<[u8; 64], CallError> {
        // On its own session: an error may spoil it.
        let context = self.admin.module.context(self.inside);
        let session = context.open_ro_session(self.admin.token.slot)?;
        self.admin.module.raw(self.inside).sign(&session, Algorithm::Ed25519, key, message)
    }

    fn signature(&mut self, pair: &Pair) {
        let message = b"edgate-hsm doctor\0";
        let good = |signature: &[u8; 64]| {
            VerifyingKey::from_bytes(&pair.public_key)
                .is_ok_and(|key| key.verify_strict(message, &Signature::from_bytes(signature)).is_ok())
        };
        match (self.sign(pair.private, message), self.sign(pair.private, message)) {
            (Ok(first), Ok(second)) if good(&first) && first == second => {
                self.find("signature", Verdict::Pass, "verifies, and is the same each time");
            }
            (Ok(first), Ok(_)) if good(&first) => {
                self.find(
                    "signature",
                    Verdict::Note,
                    "verifies, but differs from time to time (RFC 8032 is deterministic)",
                );
            }
            (Ok(_), _) => self.find("signature", Verdict::Fail, "does not verify"),
            (Err(error), _) => self.find("signature", Verdict::Fail, error.to_string()),
        }
    }

    /// We never ask for a context. A token that ignores one would pass a signature off as another kind, though.
    fn context(&mut self, pair: &Pair) {
        static CONTEXT: &[u8] = b"edgate";
        let message = b"edgate-hsm doctor\0";
        let context = self.admin.module.context(self.inside);
        let parameters = EddsaParams::new(EddsaSignatureScheme::Ed25519ctx(CONTEXT));
        let with = context
            .open_ro_session(self.admin.token.slot)
            .and_then(|session| session.sign(&Mechanism::Eddsa(parameters), pair.private, message));
        match (with, self.sign(pair.private, message)) {
            (Ok(with), Ok(without)) if with == without => {
                self.find("context", Verdict::Fail, "an Ed25519ctx context is ignored without a word");
            }
            (Ok(_), _) => self.find("context", Verdict::Pass, "Ed25519ctx is honoured"),
            (Err(error), _) => {
                self.find("context", Verdict::Pass, format!("refused: {}", CallError::from(error)));
            }
        }
    }

    fn copy_as_extractable(&mut self, pair: &Pair) {
        for (what, template) in [
            ("extractable", Attribute::Extractable(true)),
            ("not sensitive", Attribute::Sensitive(false)),
            ("public", Attribute::Private(false)),
        ] {
            let outcome = self.session().copy_object(pair.private, &[Attribute::Token(false), template]);
            self.forbid("copy", what, outcome.map(|_| ()));
        }
    }

    fn wrap_unextractable(&mut self, pair: &Pair) {
        let template = [
            Attribute::Token(false),
            Attribute::ValueLen(32.into()),
            Attribute::Wrap(true),
            Attribute::Extractable(false),
            Attribute::Sensitive(true),
        ];
        let Ok(wrapping) = self.session().generate_key(&Mechanism::AesKeyGen, &template) else {
            self.find("wrap", Verdict::Note, "no wrapping key can be generated");
            return;
        };
        let outcome = self.session().wrap_key(&Mechanism::AesKeyWrapPad, wrapping, pair.private);
        self.forbid("wrap", "an unextractable key", outcome.map(|_| ()));
    }

    fn read_out(&mut self, pair: &Pair) {
        // The library leaves out what is not answered.
        let value = self.session().get_attributes(pair.private, &[AttributeType::Value]);
        let shown = value.is_ok_and(|attributes| !attributes.is_empty());
        let (verdict, detail) =
            if shown { (Verdict::Fail, "the private key can be read") } else { (Verdict::Pass, "refused") };
        self.find("read out", verdict, detail);
    }

    /// A key of another kind must not sign with Ed25519.
    fn other_key(&mut self) {
        let public = [Attribute::Token(false), Attribute::EcParams(P256_PARAMS_OID.to_vec())];
        let private = [Attribute::Token(false), Attribute::Sign(true), Attribute::Sensitive(true)];
        match self.session().generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private) {
            Ok((_, private)) => {
                let outcome = self.sign(private, b"edgate-hsm doctor\0");
                match outcome {
                    Ok(_) => self.find("wrong key", Verdict::Fail, "signs with Ed25519 on a P-256 key"),
                    Err(error) => self.find("wrong key", Verdict::Pass, format!("refused: {error}")),
                }
            }
            Err(_) => self.find("wrong key", Verdict::Note, "no P-256 key can be generated"),
        }
    }

    fn rate(&mut self, pair: &Pair) {
        let context = self.admin.module.context(self.inside);
        let Ok(session) = context.open_ro_session(self.admin.token.slot) else { return };
        let raw = self.admin.module.raw(self.inside);
        let (started, mut count) = (Instant::now(), 0_u32);
        while started.elapsed() < Duration::from_millis(500) {
            if raw.sign(&session, Algorithm::Ed25519, pair.private, &count.to_le_bytes()).is_err() {
                self.find("rate", Verdict::Fail, format!("the signature after {count} failed"));
                return;
            }
            count += 1;
        }
        let detail =
            format!("{:.0} signatures/s in one session", f64::from(count) / started.elapsed().as_secs_f64());
        self.find("rate", Verdict::Note, detail);
    }

    /// Something that must have been refused.
    fn forbid(&mut self, subject: &'static str, what: &str, outcome: Result<(), cryptoki::error::Error>) {
        match outcome {
            Ok(()) => self.find(subject, Verdict::Fail, format!("allowed: {what}")),
            Err(error) => {
                self.find(subject, Verdict::Pass, format!("refused: {what} ({})", CallError::from(error)));
            }
        }
    }
}
