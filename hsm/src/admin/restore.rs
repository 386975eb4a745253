//! Unwrapping a key from its backup, which stays only if it signs as the key of the backup.
//!
//! It is tried with an object of the session first, which is gone with it: so a file that holds another key never puts one into the
//! token, whenever the process is killed. What is unwrapped for good then has to show the same, and is destroyed if it does not.

use std::fmt;

use cryptoki::mechanism::MechanismType;
use cryptoki::object::{Attribute, ObjectClass, ObjectHandle};

use super::protection::{COMES_BACK, Protection, SIGNS, secret, signs_with, with_less_protection};
use super::{Admin, GeneratedKey};
use crate::backup::Backup;
use crate::error::Leftover;
use crate::hex::Hex;
use crate::pkcs11::{
    CallError, Class, EC_PARAMS_NAME, EC_PARAMS_OID, Inside, KeyRules, P256_PARAMS_OID, find_signing_key,
    key_type,
};
use crate::{Algorithm, HsmError, ObjectKind, Pkcs11Uri};

/// Begins what a key has to sign that was unwrapped.
const CHALLENGE_PREFIX: &[u8] = b"edgate-hsm restore\0";

/// Why a key that was unwrapped is none.
pub(super) enum Unproven {
    /// The token answered an error.
    Call(CallError),
    /// The system gave no random bytes.
    Entropy(getrandom::Error),
    /// It is another key.
    Rule(&'static str),
}

impl Admin {
    /// Puts the key of `backup` into the token, under its label and id and with the protections that keygen gives; `backup_key` is
    /// the label of the key that wraps it here, if it is not the one in the file. The answer says which protections were refused.
    ///
    /// # Errors
    /// [`HsmError::NotRestored`] with the rule: the label or id is taken, the backup key is another one, or the key is not the one of
    /// the backup; [`HsmError::KeyAttribute`] or [`HsmError::Object`] for the backup key; otherwise what the token answered.
    pub fn restore(&self, backup: &Backup, backup_key: Option<&str>) -> Result<GeneratedKey, HsmError> {
        let inside = self.enter()?;
        let contents = backup.contents();
        let uri = Pkcs11Uri {
            object: Some(contents.label.clone()),
            id: Some(contents.id.clone()),
            kind: Some(ObjectKind::Private),
            ..self.token.uri.token_only()
        };
        let refuse = |rule: String, left| HsmError::NotRestored { key: Box::new(uri.clone()), rule, left };
        let label = Attribute::Label(contents.label.clone().into_bytes());
        let id = Attribute::Id(contents.id.clone());
        let half = self.half_restored(&label, &id)?;
        for (what, name) in [("label", label), ("id", id)] {
            let taken = self.session.find_objects(&[name]).map_err(CallError::from)?;
            if taken.iter().any(|object| Some(*object) != half) {
                let rule = format!("the token has an object of that {what}, and none is ever replaced");
                return Err(refuse(rule, Leftover::Nothing));
            }
        }
        let wrapping = self.backup_key(backup_key.unwrap_or(&contents.backup_key))?;
        if let (Some(here), Some(there)) = (wrapping.check, contents.check)
            && here != there
        {
            let rule = format!(
                "the token's backup key is another one than the one it was wrapped under (check value {}, the backup's is {})",
                Hex(&here),
                Hex(&there)
            );
            return Err(refuse(rule, Leftover::Nothing));
        }
        self.rehearse(&inside, backup, wrapping.handle)
            .map_err(|found| refuse(found.rule(), Leftover::Nothing))?;

        if let Some(half) = half {
            // It is ours to complete if it is the key, and nobody's to replace if it is not.
            self.prove(&inside, backup, half)
                .and_then(|()| self.add_public_key(backup, &uri))
                .and_then(|()| self.check_protections(&uri, contents.public_key.algorithm(), &[]))
                .map_err(|found| refuse(found.rule(), Leftover::Kept))?;
            return Ok(GeneratedKey { uri, public_key: Some(contents.public_key), refused: Vec::new() });
        }
        let made = with_less_protection(&self.session, &contents.id, COMES_BACK, |protections| {
            self.unwrap(backup, wrapping.handle, true, |names, mechanisms| {
                secret(names, true, protections, mechanisms)
            })
        });
        let (handle, refused) = made.map_err(|error| {
            // Some make the object all the same.
            let rule = format!("the token brings it back for this session, and not for good ({error})");
            refuse(rule, self.destroy_all(&contents.id))
        })?;
        let shown = self
            .prove(&inside, backup, handle)
            .and_then(|()| self.add_public_key(backup, &uri))
            .and_then(|()| self.check_protections(&uri, contents.public_key.algorithm(), &refused));
        if let Err(found) = shown {
            return Err(refuse(found.rule(), self.destroy_all(&contents.id)));
        }
        Ok(GeneratedKey { uri, public_key: Some(contents.public_key), refused })
    }

    /// The private half, if it is all that there is under this label and this id: a restore that was cut off leaves it.
    fn half_restored(&self, label: &Attribute, id: &Attribute) -> Result<Option<ObjectHandle>, HsmError> {
        let find = |template: &[Attribute]| self.session.find_objects(template).map_err(CallError::from);
        let private = Attribute::Class(ObjectClass::PRIVATE_KEY);
        let both = find(&[label.clone(), id.clone(), private])?;
        let (of_label, of_id) = (find(std::slice::from_ref(label))?, find(std::slice::from_ref(id))?);
        match both[..] {
            [half] if of_label == both && of_id == both => Ok(Some(half)),
            _ => Ok(None),
        }
    }

    /// What the token was told of the key is what it says of it: some ignore what they do not refuse. A key whose token refused
    /// `CKA_WRAP_WITH_TRUSTED` is reported with that, and the service does not use it.
    fn check_protections(
        &self,
        uri: &Pkcs11Uri,
        algorithm: Algorithm,
        refused: &[&'static str],
    ) -> Result<(), Unproven> {
        let rules = KeyRules {
            allow_extractable: refused.contains(&Protection::WrapWithTrusted.name()),
            allow_wrapped_export: true,
        };
        match find_signing_key(&self.session, uri, &[algorithm], rules) {
            Ok(_) => Ok(()),
            Err(HsmError::Call(error)) => Err(Unproven::Call(error)),
            Err(_) => Err(Unproven::Rule(
                "the token does not keep it sensitive, and wrapped under a trusted key alone, though it did not refuse to",
            )),
        }
    }

    /// Unwraps the key for this session alone, has it show itself, and lets it go.
    pub(super) fn rehearse(
        &self,
        inside: &Inside<'_>,
        backup: &Backup,
        wrapping: ObjectHandle,
    ) -> Result<(), Unproven> {
        let handle = self
            .unwrap(backup, wrapping, false, |_, _| {
                vec![Attribute::Private(true), Attribute::Sensitive(true), Attribute::Extractable(false)]
            })
            .map_err(Unproven::Call)?;
        let shown = self.prove(inside, backup, handle);
        let gone = self.session.destroy_object(handle).map_err(|error| Unproven::Call(error.into()));
        shown.and(gone)
    }

    /// `more` is what the template has besides the kind of key, of its names and its mechanisms.
    fn unwrap(
        &self,
        backup: &Backup,
        wrapping: ObjectHandle,
        for_good: bool,
        more: impl FnOnce(&[Attribute], &[MechanismType]) -> Vec<Attribute>,
    ) -> Result<ObjectHandle, CallError> {
        let contents = backup.contents();
        let algorithm = contents.public_key.algorithm();
        let names =
            [Attribute::Label(contents.label.clone().into_bytes()), Attribute::Id(contents.id.clone())];
        let mut template =
            vec![Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::KeyType(key_type(algorithm))];
        template.extend(SIGNS);
        if !for_good {
            template.push(Attribute::Token(false));
        }
        template.extend(more(&names, &[signs_with(algorithm)]));
        let mechanism = contents.mechanism.call();
        Ok(self.session.unwrap_key(&mechanism, wrapping, &contents.wrapped, &template)?)
    }

    /// Has the key sign something new and what the backup signed.
    fn prove(&self, inside: &Inside<'_>, backup: &Backup, handle: ObjectHandle) -> Result<(), Unproven> {
        let mut fresh = [0; 32];
        getrandom::fill(&mut fresh).map_err(Unproven::Entropy)?;
        let challenge = [CHALLENGE_PREFIX, &fresh].concat();
        let algorithm = backup.contents().public_key.algorithm();
        let sign =
            |message: &[u8]| self.sign_with(inside, algorithm, handle, message).map_err(Unproven::Call);
        let (of_challenge, of_backup) = (sign(&challenge)?, sign(&backup.contents().message())?);
        backup.shows_key(&challenge, &of_challenge, &of_backup).map_err(Unproven::Rule)
    }

    /// Puts the public half beside the private one, in the encoding that the token takes and shows again.
    fn add_public_key(&self, backup: &Backup, uri: &Pkcs11Uri) -> Result<(), Unproven> {
        let contents = backup.contents();
        let (algorithm, raw) = (contents.public_key.algorithm(), contents.public_key.as_bytes());
        let length = u8::try_from(raw.len()).unwrap_or(u8::MAX);
        let octets = [&[0x04, length], raw].concat();
        let curves: &[&[u8]] = match algorithm {
            Algorithm::Ed25519 => &[EC_PARAMS_OID, EC_PARAMS_NAME],
            Algorithm::P256 => &[P256_PARAMS_OID],
        };
        let mut refused = None;
        for (curve, point) in curves.iter().flat_map(|curve| [(curve, &octets[..]), (curve, raw)]) {
            let template = [
                Attribute::Class(ObjectClass::PUBLIC_KEY),
                Attribute::KeyType(key_type(algorithm)),
                Attribute::Token(true),
                Attribute::Private(false),
                Attribute::Verify(true),
                Attribute::Label(contents.label.clone().into_bytes()),
                Attribute::Id(contents.id.clone()),
                Attribute::EcParams(curve.to_vec()),
                Attribute::EcPoint(point.to_vec()),
            ];
            match self.session.create_object(&template).map_err(CallError::from) {
                Ok(_) => {
                    let shown = find_signing_key(&self.session, uri, &[algorithm], KeyRules::any());
                    return match shown.map(|found| found.public_key) {
                        Ok(Some(key)) if key == contents.public_key => Ok(()),
                        Ok(_) | Err(_) => Err(Unproven::Rule(
                            "the token does not show the public key of the backup beside the private one",
                        )),
                    };
                }
                Err(error) => refused = Some(error),
            }
        }
        Err(refused.map_or(Unproven::Rule("the token takes no public key"), Unproven::Call))
    }

    /// Destroys every object of this id, none of which was there before.
    fn destroy_all(&self, id: &[u8]) -> Leftover {
        let find = || self.session.find_objects(&[Attribute::Id(id.to_vec())]);
        match find() {
            Ok(found) if found.is_empty() => Leftover::Nothing,
            found => {
                for handle in found.unwrap_or_default() {
                    // What is left is looked at below.
                    let _ = self.session.destroy_object(handle);
                }
                if find().is_ok_and(|left| left.is_empty()) { Leftover::Destroyed } else { Leftover::Kept }
            }
        }
    }

    /// Signs in a session of its own: an error may spoil it, and ours has objects to look after.
    pub(super) fn sign_with(
        &self,
        inside: &Inside<'_>,
        algorithm: Algorithm,
        key: ObjectHandle,
        message: &[u8],
    ) -> Result<[u8; 64], CallError> {
        let session = self.module.context(inside).open_ro_session(self.token.slot)?;
        self.module.raw(inside).sign(&session, algorithm, key, message)
    }
}

impl Unproven {
    fn rule(&self) -> String {
        match self {
            Self::Call(error) if error.class() == Class::Rejected => format!(
                "the token's backup key does not unwrap it ({error}): it was wrapped under another one, or not by such a token"
            ),
            Self::Call(_) | Self::Entropy(_) => format!("the token does not bring it back ({self})"),
            Self::Rule(rule) => (*rule).to_owned(),
        }
    }
}

impl fmt::Display for Unproven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call(error) => error.fmt(f),
            Self::Entropy(error) => write!(f, "no random bytes from the system: {error}"),
            Self::Rule(rule) => f.write_str(rule),
        }
    }
}
