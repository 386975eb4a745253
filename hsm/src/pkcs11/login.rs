//! Logging in without ever locking the token.

use std::path::PathBuf;

use cryptoki::context::Pkcs11;
use cryptoki::error::{Error, RvError};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;
use zeroize::Zeroizing;

use super::token::TokenFlags;
use super::{CallError, Class, TokenSeen};
use crate::{GuardError, HsmError, PinError, PinGuard, PinSource};

/// Where PINs come from and where rejected ones are remembered.
#[derive(Debug, Clone)]
pub struct PinPolicy {
    /// The source.
    pub source: PinSource,
    /// `$CREDENTIALS_DIRECTORY`, for [`PinSource::Credential`].
    pub credentials: Option<PathBuf>,
    /// Folder of the guard file: the service's state directory.
    pub guard_folder: PathBuf,
}

/// Why no login was made or none will be made again. Only an operator can change it.
#[derive(Debug, thiserror::Error)]
pub enum LoginRefusal {
    /// The token's counter says that a wrong PIN would lock it, or that it is locked.
    #[error("{0}")]
    Counter(&'static str),
    /// The PIN was rejected before, or the record cannot be kept.
    #[error(transparent)]
    Guard(GuardError),
    /// The PIN cannot be read.
    #[error(transparent)]
    Pin(PinError),
    /// The token refused the PIN just now.
    #[error("the token refused the PIN ({0}); it is not tried again. Correct the PIN")]
    Refused(CallError),
    /// As an agent says.
    #[error("{0}")]
    Told(String),
}

/// How a login ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Login {
    /// Somebody in this process was logged in; the PIN was not looked at.
    Already,
    /// The PIN was accepted.
    Made,
}

/// Who logs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    /// The security officer, who sets PINs and says what is trusted, and uses no keys.
    Officer,
    /// Whoever uses keys.
    User,
}

/// Logs the application in to `token` through `session`. `supplied` is a PIN from an operator. No user may be logged in
/// to the token when the officer comes.
///
/// # Errors
/// [`HsmError::Login`] when only an operator can help; otherwise what the module answered.
pub(crate) fn log_in(
    who: Who,
    context: &Pkcs11,
    session: &Session,
    token: &TokenSeen,
    policy: &PinPolicy,
    supplied: Option<&Zeroizing<String>>,
) -> Result<Login, HsmError> {
    let user_type = match who {
        Who::Officer => UserType::So,
        Who::User => UserType::User,
    };
    let flags = || context.get_token_info(token.slot).map(|info| TokenFlags::of(who, &info));
    let refuse = |refusal| HsmError::Login { token: Box::new(token.uri.clone()), refusal };
    // Asked anew: what was seen when the token was found may be old.
    let before = flags().map_err(CallError::from)?;
    if before.pin_locked {
        return Err(refuse(LoginRefusal::Counter(match who {
            Who::Officer => "its security officer's PIN is locked; the vendor's tool says what is left to do",
            Who::User => "its PIN is locked; the security officer has to set a new one (C_InitPIN)",
        })));
    }
    if before.pin_final_try {
        return Err(refuse(LoginRefusal::Counter(
            "one more wrong PIN locks it; log in once with the vendor's tool to reset the counter",
        )));
    }
    if before.pin_at_device {
        return Ok(finish(session.login(user_type, None))?);
    }

    let read;
    let pin = match supplied {
        Some(pin) => pin,
        None => {
            read = policy
                .source
                .read(policy.credentials.as_deref())
                .map_err(|error| refuse(LoginRefusal::Pin(error)))?;
            &read
        }
    };
    let (label, serial) =
        (token.uri.token.as_deref().unwrap_or(""), token.uri.serial.as_deref().unwrap_or(""));
    // A counter of its own, as in the token. Serial numbers have no space within.
    let officer = format!("{serial} officer");
    let serial = if who == Who::Officer { &officer } else { serial };
    let guard = PinGuard::new(&policy.guard_folder, label, serial);
    let attempt = guard.admit(pin).map_err(|error| refuse(LoginRefusal::Guard(error)))?;
    let secret = AuthPin::from(Box::<str>::from(pin.as_str()));
    let outcome = finish(session.login(user_type, Some(&secret)));
    drop(secret);
    let recorded = match &outcome {
        Ok(Login::Made) => attempt.accepted(),
        Ok(Login::Already) => attempt.not_looked_at(),
        Err(error) if error.class() == Class::Pin => attempt.rejected(),
        Err(_) => {
            // A general error may hide a refusal (SoftHSM on a read-only token): the counter tells.
            let after = flags().unwrap_or(before);
            if after == before { attempt.not_looked_at() } else { attempt.rejected() }
        }
    };
    recorded.map_err(|error| refuse(LoginRefusal::Guard(error)))?;
    outcome.map_err(|error| match error.class() {
        Class::Pin => refuse(LoginRefusal::Refused(error)),
        _ => error.into(),
    })
}

fn finish(answer: Result<(), Error>) -> Result<Login, CallError> {
    match answer {
        Ok(()) => Ok(Login::Made),
        Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(Login::Already),
        Err(error) => Err(error.into()),
    }
}
