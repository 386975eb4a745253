//! Making and destroying signing keys in the token of a running service.
//!
//! Both need a read-write session, which a worker opens for the one job and closes. The user that the keeper logged in is
//! logged in there too; a token that lets that user make no keys says so, and `edgate hsm keygen` makes them as another.

use std::sync::Arc;
use std::time::Instant;

use cryptoki::object::{Attribute, ObjectClass};
use cryptoki::session::Session;

use super::Pool;
use super::job::{Output, Work};
use super::shared::Shared;
use crate::admin::Generator;
use crate::pkcs11::{CallError, Inside, KeyRules, TokenSeen, find_all, find_signing_key, key_type};
use crate::{HsmError, KeyName, Pkcs11Uri, PublicKey, Purpose};

impl Pool {
    /// Generates a token-signing key that cannot leave the token, under a name that is not taken; blocks. Its full name.
    ///
    /// Whoever opens it with [`Pool::signing_key`] has it prove itself. A call that fails may have made the key all the same:
    /// it is unused then.
    ///
    /// # Errors
    /// What the token answered; [`HsmError::KeyInUse`] if the name is taken.
    pub fn make_signing_key(&self, name: KeyName, deadline: Instant) -> Result<Pkcs11Uri, HsmError> {
        match self.run(Work::Make { name }, Purpose::TokenSigning, deadline)? {
            Output::Made { uri } => Ok(uri),
            _ => Err(HsmError::Stopped),
        }
    }

    /// Destroys the signing key that `uri` names, and its public half; blocks. A key that is gone is no error.
    ///
    /// # Errors
    /// [`HsmError::KeyMismatch`] if it is not the key with this public half; [`HsmError::Object`] if the token shows no key at
    /// all, which says nothing about this one; otherwise what the token answered.
    pub fn destroy_signing_key(
        &self,
        uri: &Pkcs11Uri,
        public_key: [u8; 32],
        deadline: Instant,
    ) -> Result<(), HsmError> {
        let uri = self.object_uri(uri)?;
        let public_key = PublicKey::Ed25519(public_key);
        // The keeper would miss it.
        self.forget_public(public_key);
        self.run(Work::Destroy { uri, public_key }, Purpose::TokenSigning, deadline).map(|_| ())
    }
}

pub(super) fn make(shared: &Arc<Shared>, inside: &Inside<'_>, name: &KeyName) -> Result<Output, HsmError> {
    let (session, token) = read_write(shared, inside)?;
    let (uri, _) = Generator { session: &session, token: &token.uri }.generate(name)?;
    // What a new firmware may call otherwise is no part of the name.
    Ok(Output::Made { uri: Pkcs11Uri { manufacturer: None, model: None, ..uri } })
}

pub(super) fn destroy(
    shared: &Arc<Shared>,
    inside: &Inside<'_>,
    uri: &Pkcs11Uri,
    public_key: PublicKey,
) -> Result<Output, HsmError> {
    let (session, _) = read_write(shared, inside)?;
    let found = match find_signing_key(&session, uri, &[public_key.algorithm()], KeyRules::any()) {
        Err(HsmError::Object { wanted, matches: 0 }) => {
            // A token whose store is away shows nothing; one that shows other keys has lost this one.
            let others =
                session.find_objects(&[Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::Token(true)]);
            return match others.map_err(CallError::from)?.is_empty() {
                false => Ok(Output::Destroyed),
                true => Err(HsmError::Object { wanted, matches: 0 }),
            };
        }
        found => found?,
    };
    if found.public_key.is_some_and(|found| found != public_key) {
        return Err(HsmError::KeyMismatch { key: Box::new(uri.clone()) });
    }
    session.destroy_object(found.private).map_err(CallError::from)?;
    for public in find_all(&session, uri, ObjectClass::PUBLIC_KEY, key_type(public_key.algorithm()))? {
        session.destroy_object(public).map_err(CallError::from)?;
    }
    Ok(Output::Destroyed)
}

/// A session of its own, closed when it is dropped, inside the module.
fn read_write(shared: &Arc<Shared>, inside: &Inside<'_>) -> Result<(Session, TokenSeen), HsmError> {
    let token = shared.token_in(inside.epoch())?;
    let session = shared.module.context(inside).open_rw_session(token.slot).map_err(CallError::from)?;
    Ok((session, token))
}
