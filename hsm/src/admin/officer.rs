//! The security officer's part: a key that is trusted to wrap others.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::Attribute;
use cryptoki::session::Session;

use super::keygen::Generator;
use super::protection::{Protection, WRAPS, with_less_protection};
use super::{GeneratedKey, KeyName, PATIENCE, open_session};
use crate::pkcs11::{CallError, Class, Module, PinPolicy, TokenSeen, Who};
use crate::{HsmError, Pkcs11Uri, Purpose};

/// A session of the security officer at one token. While it is open, no user is logged in there, in the whole process.
#[derive(Debug)]
pub struct Officer {
    module: Arc<Module>,
    token: TokenSeen,
    session: Session,
}

impl Officer {
    /// Logs in to `token`, under a PIN guard as the service has one.
    ///
    /// # Errors
    /// What configuration, operator or device must change.
    pub fn open(path: &Path, token: &Pkcs11Uri, pin: &PinPolicy) -> Result<Self, HsmError> {
        let (module, token, session) = open_session(Who::Officer, path, token, pin)?;
        Ok(Self { module, token, session })
    }

    /// Generates the AES-256 key that wraps others: it does nothing else, it never leaves the token, and it is trusted
    /// (`CKA_TRUSTED`, PKCS#11 2.40 §4.8.2), which only the officer can say, and on SoftHSM only while a key is made.
    /// Whoever may use it can unwrap with it into a key that can be read, unless the token keeps them from it
    /// (`CKA_UNWRAP_TEMPLATE`, which `cryptoki` 0.12 cannot say): it belongs into a token only while keys are backed up
    /// or restored there. What the token refused to be told is in the answer; without `CKA_TRUSTED=true` it wraps no
    /// key that keygen made to be backed up.
    ///
    /// # Errors
    /// [`HsmError::KeyInUse`] if the name is taken, or for another purpose; otherwise what the token answered.
    pub fn make_backup_key(&self, name: &KeyName) -> Result<GeneratedKey, HsmError> {
        let _inside = self.module.enter(Instant::now() + PATIENCE)?;
        let generator = Generator { session: &self.session, token: &self.token.uri };
        let (uri, names) = generator.names(name)?;
        if name.purpose() != Purpose::Backup {
            let (key, found) = (Box::new(uri), name.purpose());
            return Err(HsmError::KeyInUse { key, found, wanted: Purpose::Backup });
        }
        let made = match self.make(&uri, &names, true) {
            // Where the officer sees no private objects, as on SoftHSM: "not logged in", as a user.
            Err(HsmError::Call(error)) if error.class() == Class::Login => {
                let mut refused = self.make(&uri, &names, false)?;
                refused.push("CKA_PRIVATE=true");
                refused
            }
            made => made?,
        };
        Ok(GeneratedKey { uri, public_key: None, refused: made })
    }

    /// What was refused.
    fn make(
        &self,
        uri: &Pkcs11Uri,
        names: &[Attribute],
        private: bool,
    ) -> Result<Vec<&'static str>, HsmError> {
        let id = uri.id.as_deref().unwrap_or_default();
        let (_, refused) = with_less_protection(&self.session, id, WRAPS, |protections: &[Protection]| {
            let mut template = vec![
                Attribute::Token(true),
                Attribute::Private(private),
                Attribute::Sensitive(true),
                Attribute::Extractable(false),
                Attribute::ValueLen(32.into()),
                Attribute::Encrypt(false),
                Attribute::Decrypt(false),
                Attribute::Wrap(true),
                Attribute::Unwrap(true),
            ];
            template.extend_from_slice(names);
            let mechanisms = [MechanismType::AES_KEY_WRAP_PAD, MechanismType::AES_KEY_WRAP];
            template.extend(protections.iter().map(|protection| protection.attribute(&mechanisms)));
            self.session.generate_key(&Mechanism::AesKeyGen, &template).map_err(CallError::from)
        })?;
        Ok(refused)
    }
}
