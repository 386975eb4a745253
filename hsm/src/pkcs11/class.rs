//! What an answer of a module means, function by function.

use std::fmt;

use cryptoki::context::Function;
use cryptoki::error::{Error, RvError};

/// What to do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Not enough sessions or memory: back off, make do with less.
    Busy,
    /// The request itself is wrong: tell the caller.
    Caller,
    /// It will not work until the configuration or the device is changed.
    Config,
    /// The device, the connection to it or the module's state is gone: stop, re-initialise, come back.
    Device,
    /// The login or the object handle is stale: look, log in, find again, retry once.
    Login,
    /// The PIN or its counter: never retried.
    Pin,
    /// The data did not authenticate. Says nothing about the device.
    Rejected,
    /// This session is spoiled: open another, retry once.
    Session,
}

/// An error that a module answered.
#[derive(Clone, PartialEq, Eq)]
pub struct CallError {
    function: String,
    code: String,
    class: Class,
}

impl CallError {
    /// The C function, such as `C_SignInit`.
    #[must_use]
    pub fn function(&self) -> &str {
        &self.function
    }

    /// The code, such as `CKR_DEVICE_ERROR`.
    #[must_use]
    pub fn code(&self) -> &str {
        &self.code
    }

    /// What to do about it.
    #[must_use]
    pub fn class(&self) -> Class {
        self.class
    }

    pub(crate) fn new(code: RvError, function: Function) -> Self {
        Self { function: format!("C_{function:?}"), code: code_name(code), class: classify(code, function) }
    }

    /// As an agent says.
    pub(crate) fn told(function: String, code: String, class: Class) -> Self {
        Self { function, code, class }
    }

    /// An answer that the standard does not allow.
    pub(crate) fn nonsense(function: Function, what: &str) -> Self {
        Self { function: format!("C_{function:?}"), code: what.to_owned(), class: Class::Session }
    }
}

impl From<Error> for CallError {
    fn from(error: Error) -> Self {
        match error {
            Error::Pkcs11(code, function) => Self::new(code, function),
            // The rest is about loading and converting: nothing that a retry changes.
            other => Self { function: "module".to_owned(), code: other.to_string(), class: Class::Config },
        }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} answered {}", self.function, self.code)
    }
}

impl fmt::Debug for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CallError({self}, {:?})", self.class)
    }
}

impl std::error::Error for CallError {}

fn classify(code: RvError, function: Function) -> Class {
    match (code, function) {
        // SoftHSM before 2.7 has no other word for a tag mismatch. Taken for a fault of the device, one altered file on
        // disk would put the token out of service.
        (RvError::GeneralError, Function::Decrypt | Function::DecryptFinal) => Class::Rejected,
        // Likewise for what was wrapped under another key, or altered.
        (RvError::GeneralError, Function::UnwrapKey) => Class::Rejected,
        // Kryoptic's word for "somebody logged out" and for "the key is gone".
        (RvError::GeneralError, Function::SignInit | Function::EncryptInit | Function::DecryptInit) => {
            Class::Login
        }
        (RvError::ArgumentsBad, Function::Login) => Class::Pin,

        (
            RvError::PinIncorrect
            | RvError::PinInvalid
            | RvError::PinLenRange
            | RvError::PinExpired
            | RvError::PinLocked
            | RvError::UserPinNotInitialized,
            _,
        ) => Class::Pin,

        (
            RvError::SignatureInvalid
            | RvError::SignatureLenRange
            | RvError::EncryptedDataInvalid
            | RvError::EncryptedDataLenRange
            | RvError::WrappedKeyInvalid
            | RvError::WrappedKeyLenRange,
            _,
        ) => Class::Rejected,

        (
            RvError::ArgumentsBad
            | RvError::DataInvalid
            | RvError::DataLenRange
            | RvError::MechanismParamInvalid
            | RvError::KeyFunctionNotPermitted
            | RvError::KeyTypeInconsistent
            | RvError::KeySizeRange,
            _,
        ) => Class::Caller,

        (
            RvError::SessionHandleInvalid
            | RvError::SessionClosed
            | RvError::OperationActive
            | RvError::OperationNotInitialized
            | RvError::BufferTooSmall,
            _,
        ) => Class::Session,

        (RvError::UserNotLoggedIn | RvError::ObjectHandleInvalid | RvError::KeyHandleInvalid, _) => {
            Class::Login
        }

        (RvError::SessionCount | RvError::HostMemory | RvError::FunctionCanceled | RvError::Cancel, _) => {
            Class::Busy
        }

        (
            RvError::SlotIdInvalid
            | RvError::MechanismInvalid
            | RvError::CurveNotSupported
            | RvError::DomainParamsInvalid
            | RvError::TemplateInconsistent
            | RvError::TemplateIncomplete
            | RvError::AttributeTypeInvalid
            | RvError::AttributeValueInvalid
            | RvError::AttributeReadOnly
            | RvError::FunctionNotSupported
            | RvError::CantLock
            | RvError::NeedToCreateThreads
            | RvError::ActionProhibited
            | RvError::SessionReadOnly
            | RvError::TokenWriteProtected,
            _,
        ) => Class::Config,

        // DeviceError, DeviceRemoved, DeviceMemory, TokenNotPresent, TokenNotRecognized, FunctionFailed, GeneralError,
        // CryptokiNotInitialized, vendors' own codes, and whatever comes: the device until shown otherwise.
        _ => Class::Device,
    }
}

/// `DeviceError` -> `CKR_DEVICE_ERROR`; vendor codes keep their number.
fn code_name(code: RvError) -> String {
    let name = format!("{code:?}");
    if !name.bytes().all(|byte| byte.is_ascii_alphabetic()) {
        return name;
    }
    name.chars().fold("CKR".to_owned(), |mut text, c| {
        if c.is_ascii_uppercase() {
            text.push('_');
        }
        text.push(c.to_ascii_uppercase());
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_code_means_different_things_in_different_functions() {
        let class = |code, function| CallError::new(code, function).class();
        assert_eq!(class(RvError::GeneralError, Function::Decrypt), Class::Rejected);
        assert_eq!(class(RvError::GeneralError, Function::SignInit), Class::Login);
        assert_eq!(class(RvError::GeneralError, Function::Sign), Class::Device);
        assert_eq!(class(RvError::ArgumentsBad, Function::Login), Class::Pin);
        assert_eq!(class(RvError::ArgumentsBad, Function::Sign), Class::Caller);
        assert_eq!(class(RvError::VendorDefined(0x8000_0001), Function::Sign), Class::Device);
    }

    #[test]
    fn codes_are_written_as_in_the_standard() {
        let text = CallError::new(RvError::CryptokiNotInitialized, Function::SignInit).to_string();
        assert_eq!(text, "C_SignInit answered CKR_CRYPTOKI_NOT_INITIALIZED");
    }
}
