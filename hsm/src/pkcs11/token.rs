//! Finding the token that a URI names.

use cryptoki::context::Pkcs11;
use cryptoki::slot::{Limit, Slot, TokenInfo};

use super::{CallError, Who};
use crate::{HsmError, Pkcs11Uri};

/// A token that is present.
#[derive(Debug, Clone)]
pub struct TokenSeen {
    /// Its full name.
    pub uri: Pkcs11Uri,
    /// What it says about its PIN.
    pub flags: TokenFlags,
    /// How many sessions it admits; `None` if it does not say or has no limit.
    pub sessions_max: Option<u64>,
    pub(crate) slot: Slot,
}

/// What a token says about its user PIN and itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TokenFlags {
    /// `CKF_USER_PIN_COUNT_LOW`: a wrong PIN was entered since the last good one.
    pub pin_count_low: bool,
    /// `CKF_USER_PIN_FINAL_TRY`: one more wrong PIN locks the token.
    pub pin_final_try: bool,
    /// `CKF_USER_PIN_LOCKED`.
    pub pin_locked: bool,
    /// `CKF_WRITE_PROTECTED`.
    pub write_protected: bool,
    /// `CKF_ERROR_STATE`: it failed a self-test.
    pub error_state: bool,
    /// `CKF_PROTECTED_AUTHENTICATION_PATH`: the PIN is entered at the device.
    pub pin_at_device: bool,
}

/// Every initialised token that the module shows. A token that does not answer is left out.
///
/// # Errors
/// If the slots cannot be listed.
pub(crate) fn list_tokens(context: &Pkcs11) -> Result<Vec<TokenSeen>, CallError> {
    let slots = context.get_slots_with_token()?;
    Ok(slots
        .into_iter()
        .filter_map(|slot| context.get_token_info(slot).ok().map(|token| (slot, token)))
        .filter(|(_, token)| token.token_initialized())
        .map(|(slot, token)| TokenSeen::new(slot, &token))
        .collect())
}

/// The one token that `wanted` names.
///
/// # Errors
/// [`HsmError::Token`] for none or several, with what is there.
pub(crate) fn find_token(context: &Pkcs11, wanted: &Pkcs11Uri) -> Result<TokenSeen, HsmError> {
    let mut present = list_tokens(context)?;
    let matching: Vec<usize> =
        (0..present.len()).filter(|index| present[*index].is_named_by(wanted)).collect();
    match matching[..] {
        [index] => Ok(present.swap_remove(index)),
        _ => Err(HsmError::Token {
            wanted: Box::new(wanted.token_only()),
            matches: matching.len(),
            present: present.into_iter().map(|token| token.uri).collect(),
        }),
    }
}

impl TokenSeen {
    fn new(slot: Slot, token: &TokenInfo) -> Self {
        let uri = Pkcs11Uri {
            token: Some(token.label().to_owned()),
            manufacturer: Some(token.manufacturer_id().to_owned()),
            serial: Some(token.serial_number().to_owned()),
            model: Some(token.model().to_owned()),
            ..Pkcs11Uri::empty()
        };
        let sessions_max = match token.max_session_count() {
            Limit::Max(count) => Some(count),
            Limit::Unavailable | Limit::Infinite => None,
        };
        Self { uri, flags: TokenFlags::new(token), sessions_max, slot }
    }

    fn is_named_by(&self, wanted: &Pkcs11Uri) -> bool {
        let same = |wanted: &Option<String>, found: &Option<String>| wanted.is_none() || wanted == found;
        same(&wanted.token, &self.uri.token)
            && same(&wanted.serial, &self.uri.serial)
            && same(&wanted.manufacturer, &self.uri.manufacturer)
            && same(&wanted.model, &self.uri.model)
            && wanted.slot_id.is_none_or(|number| number == self.slot.id())
    }
}

impl TokenFlags {
    pub(crate) fn new(token: &TokenInfo) -> Self {
        Self {
            pin_count_low: token.user_pin_count_low(),
            pin_final_try: token.user_pin_final_try(),
            pin_locked: token.user_pin_locked(),
            write_protected: token.write_protected(),
            error_state: token.error_state(),
            pin_at_device: token.protected_authentication_path(),
        }
    }

    /// The flags, those about the PIN being of `who`.
    pub(crate) fn of(who: Who, token: &TokenInfo) -> Self {
        match who {
            Who::User => Self::new(token),
            Who::Officer => Self {
                pin_count_low: token.so_pin_count_low(),
                pin_final_try: token.so_pin_final_try(),
                pin_locked: token.so_pin_locked(),
                ..Self::new(token)
            },
        }
    }
}
