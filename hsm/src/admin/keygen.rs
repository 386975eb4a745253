//! Generating keys, in the token and for good.

use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, ObjectHandle};
use cryptoki::session::Session;

use super::Admin;
use super::protection::{LEAVES_WRAPPED, Protection, SIGNS, STAYS, secret, signs_with, with_less_protection};
use crate::pkcs11::{CallError, Class, EC_PARAMS_NAME, EC_PARAMS_OID, KeyRules, P256_PARAMS_OID};
use crate::{Algorithm, HsmError, ObjectKind, Pkcs11Uri, PublicKey, Purpose};

/// What a new key is called, `edgate/PURPOSE/NAME`, and what it is made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyName {
    purpose: Purpose,
    // `None` for AES.
    algorithm: Option<Algorithm>,
    name: String,
    // Whether it may leave the token wrapped under a trusted key.
    wrappable: bool,
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
        (plain && (1..=64).contains(&name.len())).then(|| Self {
            purpose,
            algorithm,
            name: name.to_owned(),
            wrappable: false,
        })
    }

    /// The name that a label is of.
    pub(crate) fn from_label(label: &str) -> Option<Self> {
        let (purpose, name) = Purpose::split_label(label)?;
        Self::new(purpose, name)
    }

    /// The same name for a key of another algorithm; `None` if that does not serve the purpose.
    #[must_use]
    pub fn with_algorithm(self, algorithm: Algorithm) -> Option<Self> {
        let serves = self.purpose.algorithms().contains(&algorithm);
        serves.then_some(Self { algorithm: Some(algorithm), ..self })
    }

    /// The same name for a key that can be backed up by [`Admin::backup`]: it may leave the token wrapped under a
    /// trusted key, and in no other way (`CKA_EXTRACTABLE`, `CKA_SENSITIVE` and `CKA_WRAP_WITH_TRUSTED`, PKCS#11 2.40
    /// §4.9). `None` for what does not sign.
    #[must_use]
    pub fn wrappable(self) -> Option<Self> {
        self.algorithm.is_some().then_some(Self { wrappable: true, ..self })
    }

    /// Whether it is for a key that can be backed up.
    #[must_use]
    pub fn is_wrappable(&self) -> bool {
        self.wrappable
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
    /// copied or changed, and does nothing else, as far as the token can be told so; one that is [`KeyName::wrappable`] can leave it
    /// wrapped.
    ///
    /// # Errors
    /// [`HsmError::KeyInUse`] if the name is taken; [`HsmError::KeyAttribute`] for a backup key, which [`super::Officer`] makes;
    /// otherwise what the token answered. A signing key that does not
    /// prove itself with a signature is an error, and stays in the token for the operator to look at.
    pub fn generate(&self, name: &KeyName) -> Result<GeneratedKey, HsmError> {
        if name.purpose == Purpose::Backup {
            let key = Pkcs11Uri { object: Some(name.label()), ..self.token.uri.token_only() };
            let problem = "a backup key has to be trusted, which only the security officer can say: `edgate hsm keygen --purpose backup \
                --so-pin-source …`";
            return Err(HsmError::KeyAttribute { key: Box::new(key), problem });
        }
        let inside = self.enter()?;
        let (uri, refused) = Generator { session: &self.session, token: &self.token.uri }.generate(name)?;
        drop(inside);
        if name.algorithm.is_none() {
            return Ok(GeneratedKey { uri, public_key: None, refused });
        }
        // Whatever the token refused to be told: that is said, and this is about what the key signs.
        let (public_key, _) =
            self.sign_under(&uri, &Algorithm::ALL, KeyRules::any(), &crate::pool::probe_message())?;
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
        let (uri, names) = self.names(name)?;
        let id = uri.id.as_deref().unwrap_or_default();
        let Some(algorithm) = name.algorithm else {
            let (_, refused) = with_less_protection(self.session, id, STAYS, |protections| {
                let mut template = vec![
                    Attribute::ValueLen(32.into()),
                    Attribute::Encrypt(true),
                    Attribute::Decrypt(true),
                    Attribute::Wrap(false),
                    Attribute::Unwrap(false),
                ];
                template.extend(secret(&names, false, protections, &[MechanismType::AES_GCM]));
                self.session.generate_key(&Mechanism::AesKeyGen, &template).map_err(CallError::from)
            })?;
            return Ok((uri, refused));
        };
        let protections = if name.wrappable { LEAVES_WRAPPED } else { STAYS };
        let (_, refused) = with_less_protection(self.session, id, protections, |protections| {
            self.generate_pair(algorithm, name.wrappable, &names, protections)
        })?;
        Ok((uri, refused))
    }

    /// The full name of a key that is going to be made, with a new id, and its label and id as attributes.
    ///
    /// # Errors
    /// [`HsmError::KeyInUse`] if an object has that label.
    pub(super) fn names(&self, name: &KeyName) -> Result<(Pkcs11Uri, [Attribute; 2]), HsmError> {
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
        Ok((uri, [Attribute::Label(label.into_bytes()), Attribute::Id(id)]))
    }

    /// One pair, naming the curve as the token wants it named.
    fn generate_pair(
        &self,
        algorithm: Algorithm,
        wrappable: bool,
        names: &[Attribute],
        protections: &[Protection],
    ) -> Result<ObjectHandle, CallError> {
        let mut private = SIGNS.to_vec();
        let (mechanism, curve) = match algorithm {
            Algorithm::Ed25519 => (Mechanism::EccEdwardsKeyPairGen, EC_PARAMS_OID),
            Algorithm::P256 => (Mechanism::EccKeyPairGen, P256_PARAMS_OID),
        };
        private.extend(secret(names, wrappable, protections, &[signs_with(algorithm)]));
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
}
