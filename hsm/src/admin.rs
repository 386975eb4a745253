//! What an operator does with a token: look into it, generate keys. A running service generates signing keys too (`pool/making`),
//! and does nothing else of this.

mod backup;
mod ceremony;
mod doctor;
mod keygen;
mod officer;
mod protection;
mod rate;
mod restore;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass};
use cryptoki::session::Session;

pub use ceremony::{ATTRIBUTE_NAMES, TRANSCRIPT_PREFIX};
pub use doctor::{Finding, REPORT_PREFIX, Report, Verdict};
pub(crate) use keygen::Generator;
pub use keygen::{GeneratedKey, KeyName};
pub use officer::Officer;
pub use rate::{Callers, SignPaths, pooled_rate};

use crate::pkcs11::{
    CallError, Inside, Module, PinPolicy, TokenSeen, Who, find_token, list_tokens, log_in, read_point,
};
use crate::{Algorithm, HsmError, ObjectKind, Pkcs11Uri, PublicKey};

/// How long one administrative step may wait for the module.
const PATIENCE: Duration = Duration::from_secs(30);

/// A logged-in read-write session of one process at one token.
#[derive(Debug)]
pub struct Admin {
    module: Arc<Module>,
    token: TokenSeen,
    session: Session,
}

/// A key object in a token.
#[derive(Debug, Clone)]
pub struct KeySeen {
    /// Its full name.
    pub uri: Pkcs11Uri,
    /// `ed25519`, `ec`, `aes-256`, ...
    pub algorithm: String,
    /// Public key of an Ed25519 or P-256 key, where the token shows it.
    pub public_key: Option<PublicKey>,
    /// `CKA_EXTRACTABLE`; `None` for public keys.
    pub extractable: Option<bool>,
}

/// The tokens that the module at `path` shows. Initialises the module; needs no PIN.
///
/// # Errors
/// If the module cannot be loaded or answers an error.
pub fn tokens(path: &Path) -> Result<Vec<TokenSeen>, HsmError> {
    let module = Module::load(path)?;
    let deadline = Instant::now() + PATIENCE;
    module.initialize(deadline)?;
    let inside = module.enter(deadline)?;
    Ok(list_tokens(module.context(&inside))?)
}

/// A session of `who` at one token, logged in under the PIN guard.
fn open_session(
    who: Who,
    path: &Path,
    token: &Pkcs11Uri,
    pin: &PinPolicy,
) -> Result<(Arc<Module>, TokenSeen, Session), HsmError> {
    token.require_token()?;
    let module = Module::load(path)?;
    let deadline = Instant::now() + PATIENCE;
    module.initialize(deadline)?;
    let (token, session) = {
        let inside = module.enter(deadline)?;
        let context = module.context(&inside);
        let token = find_token(context, token)?;
        let session = context.open_rw_session(token.slot).map_err(CallError::from)?;
        log_in(who, context, &session, &token, pin, None)?;
        (token, session)
    };
    Ok((module, token, session))
}

impl Admin {
    /// Logs in to `token`, as the service would: under the same PIN guard.
    ///
    /// # Errors
    /// What configuration, operator or device must change.
    pub fn open(path: &Path, token: &Pkcs11Uri, pin: &PinPolicy) -> Result<Self, HsmError> {
        let (module, token, session) = open_session(Who::User, path, token, pin)?;
        Ok(Self { module, token, session })
    }

    /// The token's full name and flags.
    #[must_use]
    pub fn token(&self) -> &TokenSeen {
        &self.token
    }

    /// Every key object in the token.
    ///
    /// # Errors
    /// What the module answered.
    pub fn keys(&self) -> Result<Vec<KeySeen>, HsmError> {
        let _inside = self.enter()?;
        let classes = [
            (ObjectClass::PRIVATE_KEY, ObjectKind::Private),
            (ObjectClass::PUBLIC_KEY, ObjectKind::Public),
            (ObjectClass::SECRET_KEY, ObjectKind::SecretKey),
        ];
        let mut seen = Vec::new();
        for (class, kind) in classes {
            let template = [Attribute::Class(class), Attribute::Token(true)];
            for handle in self.session.find_objects(&template).map_err(CallError::from)? {
                let asked = [
                    AttributeType::Label,
                    AttributeType::Id,
                    AttributeType::KeyType,
                    AttributeType::Extractable,
                    AttributeType::EcPoint,
                    AttributeType::ValueLen,
                ];
                let attributes = self.session.get_attributes(handle, &asked).map_err(CallError::from)?;
                seen.push(self.describe(kind, attributes));
            }
        }
        Ok(seen)
    }

    fn describe(&self, kind: ObjectKind, attributes: Vec<Attribute>) -> KeySeen {
        let mut uri = Pkcs11Uri { kind: Some(kind), ..self.token.uri.token_only() };
        let (mut key_type, mut extractable, mut point, mut bytes) = (None, None, None, None);
        for attribute in attributes {
            match attribute {
                Attribute::Label(label) => {
                    uri.object = String::from_utf8(label).ok().filter(|text| !text.is_empty());
                }
                Attribute::Id(id) => uri.id = Some(id).filter(|id| !id.is_empty()),
                Attribute::KeyType(value) => key_type = Some(value),
                Attribute::Extractable(value) => extractable = Some(value),
                Attribute::EcPoint(value) => point = Some(value),
                Attribute::ValueLen(value) => bytes = Some(*value),
                // Not asked for.
                _ => {}
            }
        }
        let algorithm = match (key_type, bytes) {
            (Some(KeyType::EC_EDWARDS), _) => "ed25519".to_owned(),
            (Some(KeyType::EC), _) => "ec".to_owned(),
            (Some(KeyType::AES), Some(bytes)) => format!("aes-{}", bytes * 8),
            (Some(KeyType::AES), None) => "aes".to_owned(),
            (Some(KeyType::RSA), _) => "rsa".to_owned(),
            (other, _) => other.map_or_else(|| "unknown".to_owned(), |other| other.to_string()),
        };
        let known = match key_type {
            Some(KeyType::EC_EDWARDS) => Some(Algorithm::Ed25519),
            Some(KeyType::EC) => Some(Algorithm::P256),
            _ => None,
        };
        let public_key = known.zip(point).and_then(|(algorithm, point)| read_point(algorithm, &point));
        KeySeen { uri, algorithm, public_key, extractable }
    }

    fn enter(&self) -> Result<Inside<'_>, HsmError> {
        self.module.enter(Instant::now() + PATIENCE)
    }
}
