//! Wrapping a signing key under a backup key, and trying at once whether it comes back.

use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};

use super::Admin;
use crate::backup::{Backup, BackupContents, BackupError, WrapMechanism};
use crate::pkcs11::{CallError, Inside, KeyRules, SigningKeyFound, find_one, find_signing_key};
use crate::{Algorithm, HsmError, Pkcs11Uri, Purpose};

/// A key of the token that wraps others.
pub(super) struct BackupKey {
    pub(super) handle: ObjectHandle,
    /// `CKA_CHECK_VALUE` (PKCS#11 2.40 §4.9.1), where the token shows one.
    pub(super) check: Option<[u8; 3]>,
    trusted: bool,
    private: bool,
}

/// What a private key is called, and how it may leave.
struct Leaving {
    label: String,
    id: Vec<u8>,
    extractable: bool,
    wrap_with_trusted: bool,
}

impl Admin {
    /// Wraps the signing key that `key` names under the backup key with the label `backup_key`, has it sign the result, and tries
    /// whether it comes back: it is unwrapped for this session, signs, and is destroyed. So what is returned can be restored, by the
    /// same token at least; nothing of it is in the clear at any time outside the token.
    ///
    /// # Errors
    /// [`HsmError::NotWrapped`] for a key or token with which this cannot be done; [`HsmError::KeyAttribute`] or
    /// [`HsmError::Object`] for the backup key; otherwise what the token answered.
    pub fn backup(&self, key: &Pkcs11Uri, backup_key: &str) -> Result<Backup, HsmError> {
        key.require_object()?;
        let inside = self.enter()?;
        let found = find_signing_key(&self.session, key, &Algorithm::ALL, KeyRules::any())?;
        let public_key = found.public_key.ok_or_else(|| HsmError::Unpinned { key: Box::new(key.clone()) })?;
        let refuse = |problem: String| HsmError::NotWrapped { key: Box::new(key.clone()), problem };
        let leaving = self.leaving(&found)?;
        if leaving.id.is_empty() {
            return Err(refuse(
                "it has no CKA_ID, by which its backup would name it; give it one with the vendor's tool"
                    .to_owned(),
            ));
        }
        if !leaving.extractable {
            return Err(refuse(
                "it was made never to leave its token (CKA_EXTRACTABLE=false); keys that can be backed up are made so, with `edgate hsm \
                 keygen --wrappable`, and of others the vendor's own tool may make a copy"
                    .to_owned(),
            ));
        }
        let wrapping = self.backup_key(backup_key)?;
        if leaving.wrap_with_trusted && !wrapping.trusted {
            return Err(refuse(format!(
                "it may be wrapped under a trusted key only, and {backup_key} is not (CKA_TRUSTED); make one with `edgate hsm keygen \
                 --purpose backup --so-pin-source …`"
            )));
        }
        let mechanisms = self.wrap_mechanisms(&inside)?;
        let mut problem = "the token offers neither CKM_AES_KEY_WRAP_PAD nor CKM_AES_KEY_WRAP; the vendor's own tool may make a copy"
            .to_owned();
        for mechanism in mechanisms {
            let answer = self.session.wrap_key(&mechanism.call(), wrapping.handle, found.private);
            let wrapped = match answer.map_err(CallError::from) {
                Ok(wrapped) => wrapped,
                Err(error) => {
                    problem = format!(
                        "the token does not wrap {} keys ({error} to {}); the vendor's own tool may make a copy",
                        public_key.algorithm().name(),
                        mechanism.name()
                    );
                    continue;
                }
            };
            for wrapped in lengths(wrapped) {
                let contents = BackupContents {
                    token: self.token.uri.token_only(),
                    purpose: Purpose::of_label(&leaving.label).unwrap_or(Purpose::Backup),
                    label: leaving.label.clone(),
                    id: leaving.id.clone(),
                    public_key,
                    mechanism,
                    backup_key: backup_key.to_owned(),
                    check: wrapping.check,
                    wrapped,
                };
                let signature =
                    self.sign_with(&inside, found.algorithm, found.private, &contents.message())?;
                let backup = Backup::signed(contents, signature)
                    .and_then(|backup| match Backup::parse(backup.to_text().as_bytes())? == backup {
                        true => Ok(backup),
                        false => Err(BackupError::Altered),
                    })
                    // What is written has to be read, years later.
                    .map_err(|error| refuse(format!("a backup of it could not be read: {error}")))?;
                match self.rehearse(&inside, &backup, wrapping.handle) {
                    Ok(()) => return Ok(backup),
                    Err(found) => {
                        problem = format!(
                            "the token wraps it but does not bring it back ({found}), so that no backup could be restored; the vendor's own \
                             tool may make a copy"
                        );
                    }
                }
            }
        }
        Err(refuse(problem))
    }

    /// Whether the backup key with this label can be used only by whoever is logged in (`CKA_PRIVATE`). One that an officer made is often a
    /// public object, since officers see no others.
    ///
    /// # Errors
    /// As [`Self::backup`], for the backup key.
    pub fn is_backup_key_private(&self, label: &str) -> Result<bool, HsmError> {
        let _inside = self.enter()?;
        Ok(self.backup_key(label)?.private)
    }

    /// The key that wraps others; it must do nothing else, and not leave the token.
    pub(super) fn backup_key(&self, label: &str) -> Result<BackupKey, HsmError> {
        let uri = Pkcs11Uri { object: Some(label.to_owned()), ..self.token.uri.token_only() };
        let handle = find_one(&self.session, &uri, ObjectClass::SECRET_KEY, KeyType::AES)?;
        let refuse = |problem| HsmError::KeyAttribute { key: Box::new(uri.clone()), problem };
        let asked = [
            AttributeType::Wrap,
            AttributeType::Unwrap,
            AttributeType::Encrypt,
            AttributeType::Decrypt,
            AttributeType::Extractable,
            AttributeType::Sensitive,
            AttributeType::Trusted,
            AttributeType::Private,
            AttributeType::ValueLen,
            AttributeType::CheckValue,
        ];
        let (mut wraps, mut unwraps, mut encrypts, mut decrypts) = (false, false, true, true);
        let (mut extractable, mut sensitive, mut trusted, mut private, mut bytes, mut check) =
            (true, false, false, false, 0, None);
        // What is not answered counts as the worse answer.
        for attribute in self.session.get_attributes(handle, &asked).map_err(CallError::from)? {
            match attribute {
                Attribute::Wrap(value) => wraps = value,
                Attribute::Unwrap(value) => unwraps = value,
                Attribute::Encrypt(value) => encrypts = value,
                Attribute::Decrypt(value) => decrypts = value,
                Attribute::Extractable(value) => extractable = value,
                Attribute::Sensitive(value) => sensitive = value,
                Attribute::Trusted(value) => trusted = value,
                Attribute::Private(value) => private = value,
                Attribute::ValueLen(value) => bytes = *value,
                Attribute::CheckValue(value) => check = value.try_into().ok(),
                // Not asked for.
                _ => {}
            }
        }
        if Purpose::of_label(label) != Some(Purpose::Backup) {
            return Err(refuse("it is no backup key: those are labelled edgate/backup/NAME"));
        }
        if !(wraps && unwraps) || bytes != 32 {
            return Err(refuse("it may not both wrap and unwrap, or is not 32 bytes long (AES-256)"));
        }
        if encrypts || decrypts {
            return Err(refuse("it may encrypt or decrypt too, and would give what it wrapped in the clear"));
        }
        if extractable || !sensitive {
            return Err(refuse("it can itself leave the token, and with it whatever it wrapped"));
        }
        Ok(BackupKey { handle, check, trusted, private })
    }

    fn leaving(&self, found: &SigningKeyFound) -> Result<Leaving, HsmError> {
        let asked = [
            AttributeType::Label,
            AttributeType::Id,
            AttributeType::Extractable,
            AttributeType::WrapWithTrusted,
        ];
        let mut leaving =
            Leaving { label: String::new(), id: Vec::new(), extractable: false, wrap_with_trusted: false };
        for attribute in self.session.get_attributes(found.private, &asked).map_err(CallError::from)? {
            match attribute {
                Attribute::Label(label) => leaving.label = String::from_utf8(label).unwrap_or_default(),
                Attribute::Id(id) => leaving.id = id,
                Attribute::Extractable(value) => leaving.extractable = value,
                Attribute::WrapWithTrusted(value) => leaving.wrap_with_trusted = value,
                // Not asked for.
                _ => {}
            }
        }
        Ok(leaving)
    }

    /// Those that the token offers, the better one first.
    fn wrap_mechanisms(&self, inside: &Inside<'_>) -> Result<Vec<WrapMechanism>, HsmError> {
        let context = self.module.context(inside);
        let offered = context.get_mechanism_list(self.token.slot).map_err(CallError::from)?;
        Ok(WrapMechanism::ALL.into_iter().filter(|mechanism| offered.contains(&mechanism.kind())).collect())
    }
}

impl WrapMechanism {
    fn kind(self) -> MechanismType {
        match self {
            Self::AesKeyWrap => MechanismType::AES_KEY_WRAP,
            Self::AesKeyWrapPad => MechanismType::AES_KEY_WRAP_PAD,
        }
    }

    pub(super) fn call(self) -> Mechanism<'static> {
        match self {
            Self::AesKeyWrap => Mechanism::AesKeyWrap,
            Self::AesKeyWrapPad => Mechanism::AesKeyWrapPad,
        }
    }
}

/// What may have been the answer. `cryptoki` 0.12 gives the whole buffer, as long as the module first said, although it may use less
/// of it: NSS says 48 bytes for an answer of 40. The right one is the one that unwraps.
fn lengths(wrapped: Vec<u8>) -> Vec<Vec<u8>> {
    // One block, RFC 3394 §2.2.1.
    let shorter = wrapped.strip_suffix(&[0; 8]).map(<[u8]>::to_vec);
    [Some(wrapped), shorter].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_of_nothing_may_be_no_part_of_the_answer() {
        let answer = vec![7; 40];
        let padded = [&answer[..], &[0; 8]].concat();
        assert_eq!(lengths(answer.clone()), std::slice::from_ref(&answer));
        assert_eq!(lengths(padded.clone()), [padded, answer]);
    }
}
