//! Generating keys, in the token and for good.

use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, ObjectHandle};
use cryptoki::session::Session;

use super::Admin;
use crate::pkcs11::{CallError, Class, EC_PARAMS_NAME, EC_PARAMS_OID, P256_PARAMS_OID};
use crate::{Algorithm, HsmError, ObjectKind, Pkcs11Uri, PublicKey, Purpose};

/// What a new key is called, `edgate/PURPOSE/NAME`, and what it is made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyName {
    purpose: Purpose,
    // `None` for AES.
    algorithm: Option<Algorithm>,
    name: String,
}

/// A key that was made.
#[derive(Debug, Clone)]
pub struct GeneratedKey {
    /// Its full name.
    pub uri: Pkcs11Uri,
    /// Public key, for signing keys.
    pub public_key: Option<PublicKey>,
    /// Protections that the token refused to set; empty if it took all.
    pub refused: Vec<&'static str>,
}

impl KeyName {
    /// A name for a key of the usual algorithm; `name` is one or more of `A-Z a-z 0-9 . _ -`.
    #[must_use]
    pub fn new(purpose: Purpose, name: &str) -> Option<Self> {
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        let algorithm = purpose.algorithms().first().copied();
        (plain && (1..=64).contains(&name.len())).then(|| Self { purpose, algorithm, name: name.to_owned() })
    }

    /// The same name for a key of another algorithm; `None` if that does not serve the purpose.
    #[must_use]
    pub fn with_algorithm(self, algorithm: Algorithm) -> Option<Self> {
        let serves = self.purpose.algorithms().contains(&algorithm);
        serves.then_some(Self { algorithm: Some(algorithm), ..self })
    }

    /// What the key is for.
    #[must_use]
    pub fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// The algorithm of a pair; `None` for AES.
    #[must_use]
    pub fn algorithm(&self) -> Option<Algorithm> {
        self.algorithm
    }

    /// The name alone.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// As the token shows it.
    #[must_use]
    pub fn label(&self) -> String {
        format!("edgate/{}/{}", self.purpose, self.name)
    }
}

impl Admin {
    /// Generates a key for the purpose of `name`: AES-256 for wrapping, else a pair. It cannot leave the token, be
    /// copied or changed, and does nothing else, as far as the token can be told so.
    ///
    /// # Errors
    /// [`HsmError::KeyInUse`] if the name is taken; otherwise what the token answered. A signing key that does not
    /// prove itself with a signature is an error, and stays in the token for the operator to look at.
    pub fn generate(&self, name: &KeyName) -> Result<GeneratedKey, HsmError> {
        let inside = self.enter()?;
        let (uri, refused) = Generator { session: &self.session, token: &self.token.uri }.generate(name)?;
        drop(inside);
        if name.algorithm.is_none() {
            return Ok(GeneratedKey { uri, public_key: None, refused });
        }
        let public_key = self.selftest(&uri)?;
        Ok(GeneratedKey { uri, public_key: Some(public_key), refused })
    }
}

/// A logged-in read-write session, and the token that it is at.
pub(crate) struct Generator<'a> {
    pub(crate) session: &'a Session,
    pub(crate) token: &'a Pkcs11Uri,
}

impl Generator<'_> {
    /// As [`Admin::generate`], without the proof; the new key's name, and the protections that the token refused.
    pub(crate) fn generate(&self, name: &KeyName) -> Result<(Pkcs11Uri, Vec<&'static str>), HsmError> {
        let label = name.label();
        let mut id = vec![0; 16];
        // Chosen before: with CKA_MODIFIABLE=false it cannot be set afterwards.
        getrandom::fill(&mut id).map_err(|source| HsmError::Entropy { purpose: name.purpose, source })?;
        let kind = if name.algorithm.is_none() { ObjectKind::SecretKey } else { ObjectKind::Private };
        let uri = Pkcs11Uri {
            object: Some(label.clone()),
            id: Some(id.clone()),
            kind: Some(kind),
            ..self.token.token_only()
        };
        let taken = self.session.find_objects(&[Attribute::Label(label.clone().into_bytes())]);
        if !taken.map_err(CallError::from)?.is_empty() {
            let key = Box::new(Pkcs11Uri { id: None, ..uri });
            return Err(HsmError::KeyInUse { key, found: name.purpose, wanted: name.purpose });
        }
        let names = [Attribute::Label(label.into_bytes()), Attribute::Id(id)];
        let Some(algorithm) = name.algorithm else {
            let refused = self.with_less_protection(&uri, |protections| {
                let mut template = vec![
                    Attribute::ValueLen(32.into()),
                    Attribute::Encrypt(true),
                    Attribute::Decrypt(true),
                    Attribute::Wrap(false),
                    Attribute::Unwrap(false),
                ];
                template.extend(secret(&names, protections, MechanismType::AES_GCM));
                self.session.generate_key(&Mechanism::AesKeyGen, &template).map_err(CallError::from)
            })?;
            return Ok((uri, refused));
        };
        let generate = |protections: &[Protection]| self.generate_pair(algorithm, &names, protections);
        let refused = self.with_less_protection(&uri, generate)?;
        Ok((uri, refused))
    }

    /// One pair, naming the curve as the token wants it named.
    fn generate_pair(
        &self,
        algorithm: Algorithm,
        names: &[Attribute],
        protections: &[Protection],
    ) -> Result<ObjectHandle, CallError> {
        let mut private = vec![Attribute::Sign(true), Attribute::Decrypt(false), Attribute::Unwrap(false)];
        private.extend([Attribute::Derive(false), Attribute::SignRecover(false)]);
        let (mechanism, signs_with, curve) = match algorithm {
            Algorithm::Ed25519 => (Mechanism::EccEdwardsKeyPairGen, MechanismType::EDDSA, EC_PARAMS_OID),
            Algorithm::P256 => (Mechanism::EccKeyPairGen, MechanismType::ECDSA, P256_PARAMS_OID),
        };
        private.extend(secret(names, protections, signs_with));
        let generate = |params: &[u8]| {
            let mut public = vec![
                Attribute::Token(true),
                Attribute::Private(false),
                Attribute::Verify(true),
                Attribute::EcParams(params.to_vec()),
            ];
            public.extend_from_slice(names);
            self.session.generate_key_pair(&mechanism, &public, &private).map_err(CallError::from)
        };
        // YubiHSM takes the name only, NSS and opencryptoki the identifier only.
        let (_, handle) = match generate(curve) {
            Err(error) if error.class() == Class::Config && algorithm == Algorithm::Ed25519 => {
                generate(EC_PARAMS_NAME)?
            }
            other => other?,
        };
        Ok(handle)
    }

    /// Tries `generate` with all protections, then with fewer, as tokens refuse some. Never when a key of that id is
    /// there: then an attempt that was answered with an error made it.
    fn with_less_protection(
        &self,
        uri: &Pkcs11Uri,
        generate: impl Fn(&[Protection]) -> Result<ObjectHandle, CallError>,
    ) -> Result<Vec<&'static str>, HsmError> {
        let mut left = &PROTECTIONS[..];
        loop {
            let error = match generate(left) {
                Ok(_) => {
                    return Ok(PROTECTIONS[left.len()..]
                        .iter()
                        .map(|protection| protection.name())
                        .collect());
                }
                Err(error) => error,
            };
            let made = self.session.find_objects(&[Attribute::Id(uri.id.clone().unwrap_or_default())]);
            let retry = matches!(error.class(), Class::Config | Class::Device | Class::Caller);
            match left.split_last() {
                Some((_, fewer)) if retry && made.map_err(CallError::from)?.is_empty() => left = fewer,
                _ => return Err(error.into()),
            }
        }
    }
}

/// What a token may refuse to be told, the most often refused last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protection {
    Modifiable,
    Copyable,
    AllowedMechanisms,
}

const PROTECTIONS: [Protection; 3] =
    [Protection::Modifiable, Protection::Copyable, Protection::AllowedMechanisms];

impl Protection {
    const fn name(self) -> &'static str {
        match self {
            Self::Modifiable => "CKA_MODIFIABLE=false",
            Self::Copyable => "CKA_COPYABLE=false",
            Self::AllowedMechanisms => "CKA_ALLOWED_MECHANISMS",
        }
    }
}

/// The template of a key that must not leave.
fn secret(names: &[Attribute], protections: &[Protection], mechanism: MechanismType) -> Vec<Attribute> {
    let mut template = vec![
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
    ];
    template.extend_from_slice(names);
    template.extend(protections.iter().map(|protection| match protection {
        Protection::Modifiable => Attribute::Modifiable(false),
        Protection::Copyable => Attribute::Copyable(false),
        Protection::AllowedMechanisms => Attribute::AllowedMechanisms(vec![mechanism]),
    }));
    template
}
