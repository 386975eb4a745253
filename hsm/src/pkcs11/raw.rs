//! The one place that calls a module directly.
//!
//! `cryptoki` 0.12 signs with three calls: `C_SignInit`, `C_Sign` for the length, `C_Sign`. On a module whose calls
//! cost 200 microseconds (a network HSM) that is 600 where 400 do, and NSS refuses the length query outright. Signatures of
//! Ed25519 (RFC 8032 §5.1.6) and of ECDSA on P-256 (PKCS#11 §2.3.1) are 64 bytes, so the length query asks what is known.
//! Upstream has the same in `sign_into`, not released; this file goes when it is.
#![expect(
    unsafe_code,
    reason = "two calls through the module's function table; see the module's documentation"
)]

use std::path::Path;
use std::ptr;

use cryptoki::context::{Function, Pkcs11};
use cryptoki::error::Rv;
use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;
use cryptoki_sys::{
    CK_C_Sign, CK_C_SignInit, CK_FUNCTION_LIST, CK_MECHANISM, CK_MECHANISM_TYPE, CK_OBJECT_HANDLE,
    CK_SESSION_HANDLE, CK_ULONG, CKM_ECDSA, CKM_EDDSA, CKR_OK,
};

use sha2::{Digest as _, Sha256};

use super::CallError;
use crate::Algorithm;

/// The two functions of one module. They stay valid because the library is never unloaded.
#[derive(Clone, Copy)]
pub(crate) struct RawSign {
    sign_init: CK_C_SignInit,
    sign: CK_C_Sign,
}

impl RawSign {
    /// Looks the two functions up in the module that `context` loaded from `path`.
    ///
    /// # Errors
    /// If the module cannot be opened or has no function table.
    pub(crate) fn new(path: &Path, _context: &Pkcs11) -> Result<Self, CallError> {
        // SAFETY: loading runs the library's initialisers; `_context` shows that they ran before, for the loader
        // gives out the library it has. The path was checked by `Module::load`.
        let library = unsafe { cryptoki_sys::Pkcs11::new(path) }
            .map_err(|error| CallError::from(cryptoki::error::Error::LibraryLoading(error)))?;
        if library.C_GetFunctionList.is_err() {
            return Err(cryptoki::error::Error::MissingSymbol("C_GetFunctionList").into());
        }
        let mut list: *mut CK_FUNCTION_LIST = ptr::null_mut();
        // SAFETY: the symbol is present (checked above) and takes one pointer to be filled in (PKCS#11 §5.4.4).
        let code = unsafe { library.C_GetFunctionList(&raw mut list) };
        check(code, Function::GetFunctionList)?;
        if list.is_null() {
            return Err(CallError::nonsense(Function::GetFunctionList, "a null table"));
        }
        // SAFETY: not null; the standard has the table live as long as the library; both members read here are
        // within the first version of the structure, which every later one begins with.
        let (sign_init, sign) = unsafe { ((*list).C_SignInit, (*list).C_Sign) };
        // Never unloaded: modules start threads and register exit handlers.
        std::mem::forget(library);
        Ok(Self { sign_init, sign })
    }

    /// Signs in two calls: with pure Ed25519 (`CKM_EDDSA` without parameter), or the SHA-256 of the message with `CKM_ECDSA`.
    ///
    /// # Errors
    /// What the module answered. The session may be left with an active operation and must be closed.
    pub(crate) fn sign(
        self,
        session: &Session,
        algorithm: Algorithm,
        key: ObjectHandle,
        message: &[u8],
    ) -> Result<[u8; 64], CallError> {
        let (session, key) = (session.handle(), key.handle());
        match algorithm {
            Algorithm::Ed25519 => self.sign_at(session, CKM_EDDSA, key, message),
            Algorithm::P256 => self.sign_at(session, CKM_ECDSA, key, &Sha256::digest(message)),
        }
    }

    fn sign_at(
        self,
        session: CK_SESSION_HANDLE,
        mechanism: CK_MECHANISM_TYPE,
        key: CK_OBJECT_HANDLE,
        message: &[u8],
    ) -> Result<[u8; 64], CallError> {
        let (Some(sign_init), Some(sign)) = (self.sign_init, self.sign) else {
            return Err(cryptoki::error::Error::NullFunctionPointer.into());
        };
        let mut mechanism = CK_MECHANISM { mechanism, pParameter: ptr::null_mut(), ulParameterLen: 0 };
        // SAFETY: `mechanism` outlives the call, which does not keep the pointer (PKCS#11 §5.13.1). Handles are plain
        // numbers that the module checks; `&Session` is not Sync, so no other thread uses this session.
        let code = unsafe { sign_init(session, &raw mut mechanism, key) };
        check(code, Function::SignInit)?;

        let mut signature = [0; 64];
        let mut length: CK_ULONG = 64;
        let message_length = CK_ULONG::try_from(message.len())
            .map_err(|error| CallError::from(cryptoki::error::Error::TryFromInt(error)))?;
        // SAFETY: `message` is read only, for its length, although the C prototype lacks `const`; `signature` has the
        // `length` bytes stated, and a module that needs more answers CKR_BUFFER_TOO_SMALL (PKCS#11 §5.2).
        let code = unsafe {
            sign(
                session,
                message.as_ptr().cast_mut(),
                message_length,
                signature.as_mut_ptr(),
                &raw mut length,
            )
        };
        check(code, Function::Sign)?;
        if length != 64 {
            return Err(CallError::nonsense(Function::Sign, "a signature that is not 64 bytes long"));
        }
        Ok(signature)
    }
}

fn check(code: cryptoki_sys::CK_RV, function: Function) -> Result<(), CallError> {
    if code == CKR_OK {
        return Ok(());
    }
    match Rv::from(code) {
        Rv::Ok => Ok(()),
        Rv::Error(error) => Err(CallError::new(error, function)),
    }
}

impl std::fmt::Debug for RawSign {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RawSign")
    }
}
