//! Errors on the wire: a stable code for each kind, so that whoever asked acts on it as if it had called the token itself.
//!
//! Words are for people. They are bounded, and cleaned of control characters when they are read: the other side may lie.

use std::path::PathBuf;
use std::sync::Arc;

use super::names::{purpose, put_purpose, uri};
use super::wire::{Decoder, Encoder, FrameError};
use crate::{CallError, Class, HsmError, LoginRefusal, Pkcs11Uri};

/// How deep an error may lie in others that say which token is not available because of it.
const DEPTH_MAX: u32 = 4;

/// Tokens listed as present.
const PRESENT_MAX: usize = 32;

/// Of the name of a PKCS#11 function, or of a code.
const NAME_BYTES_MAX: usize = 96;

const CALL: u8 = 1;
const DEADLINE_PASSED: u8 = 2;
const KEY_IN_USE: u8 = 3;
const KEY_MISMATCH: u8 = 4;
const LOGIN: u8 = 5;
const MODULE: u8 = 6;
const MODULE_BUSY: u8 = 7;
const MODULE_RENEWED: u8 = 8;
const OBJECT: u8 = 9;
const OVERLOADED: u8 = 10;
const PURPOSE_NOT_SERVED: u8 = 11;
const SIGNATURE_FAULT: u8 = 12;
const STOPPED: u8 = 13;
const STUCK: u8 = 14;
const TOKEN: u8 = 15;
const UNAVAILABLE: u8 = 16;
const UNPINNED: u8 = 17;
const UNSEALED: u8 = 18;
const WORDS: u8 = 19;

pub(super) fn encode(error: &HsmError, fields: &mut Encoder) {
    encode_at(error, fields, 0);
}

fn encode_at(error: &HsmError, fields: &mut Encoder, depth: u32) {
    let of_key = |fields: &mut Encoder, code, key: &Pkcs11Uri| {
        fields.u8(code);
        fields.text(&key.to_string());
    };
    let of_purpose = |fields: &mut Encoder, code, purpose| {
        fields.u8(code);
        put_purpose(fields, purpose);
    };
    let of_path = |fields: &mut Encoder, code, path: &PathBuf| {
        fields.u8(code);
        fields.text(&path.to_string_lossy());
    };
    match error {
        HsmError::Call(call) => put_call(fields, call),
        HsmError::DeadlinePassed { purpose } => of_purpose(fields, DEADLINE_PASSED, *purpose),
        HsmError::KeyInUse { key, found, wanted } => {
            of_key(fields, KEY_IN_USE, key);
            put_purpose(fields, *found);
            put_purpose(fields, *wanted);
        }
        HsmError::KeyMismatch { key } => of_key(fields, KEY_MISMATCH, key),
        HsmError::Login { token, refusal } => {
            of_key(fields, LOGIN, &token.token_only());
            fields.text(&refusal.to_string());
        }
        HsmError::Module { path, problem } => {
            of_path(fields, MODULE, path);
            fields.text(problem);
        }
        HsmError::ModuleBusy { path } => of_path(fields, MODULE_BUSY, path),
        HsmError::ModuleRenewed { path } => of_path(fields, MODULE_RENEWED, path),
        HsmError::Object { wanted, matches } => {
            of_key(fields, OBJECT, wanted);
            fields.u32(u32::try_from(*matches).unwrap_or(u32::MAX));
        }
        HsmError::Overloaded { purpose } => of_purpose(fields, OVERLOADED, *purpose),
        HsmError::PurposeNotServed { purpose } => of_purpose(fields, PURPOSE_NOT_SERVED, *purpose),
        HsmError::SignatureFault { purpose } => of_purpose(fields, SIGNATURE_FAULT, *purpose),
        HsmError::Stopped => fields.u8(STOPPED),
        HsmError::Stuck { workers } => {
            fields.u8(STUCK);
            fields.u32(u32::try_from(*workers).unwrap_or(u32::MAX));
        }
        HsmError::Token { wanted, matches, present } => {
            of_key(fields, TOKEN, wanted);
            fields.u32(u32::try_from(*matches).unwrap_or(u32::MAX));
            let listed = present.iter().take(PRESENT_MAX);
            fields.u32(u32::try_from(listed.len()).unwrap_or(0));
            listed.for_each(|token| fields.text(&token.token_only().to_string()));
        }
        HsmError::Unavailable { token, cause } if depth < DEPTH_MAX => {
            of_key(fields, UNAVAILABLE, token);
            encode_at(cause, fields, depth + 1);
        }
        HsmError::Unpinned { key } => of_key(fields, UNPINNED, key),
        HsmError::Unsealed => fields.u8(UNSEALED),
        // Files and members are not an agent's to fail at; where they do, the words and what to do about it are enough.
        HsmError::Agent { .. }
        | HsmError::AgentRefused { .. }
        | HsmError::AgentSays { .. }
        | HsmError::Backup { .. }
        | HsmError::Entropy { .. }
        | HsmError::Exists { .. }
        | HsmError::File { .. }
        | HsmError::KeyAttribute { .. }
        | HsmError::Malformed { .. }
        | HsmError::Memory { .. }
        | HsmError::MemberRefused { .. }
        | HsmError::Missing { .. }
        | HsmError::NoMember { .. }
        | HsmError::NotAFile { .. }
        | HsmError::NotRestored { .. }
        | HsmError::NotWrapped { .. }
        | HsmError::Owner { .. }
        | HsmError::Permissions { .. }
        | HsmError::Purpose { .. }
        | HsmError::Thread { .. }
        | HsmError::TooLong { .. }
        | HsmError::Unavailable { .. }
        | HsmError::UnlockAtAgent { .. }
        | HsmError::UnlockUnclear { .. }
        | HsmError::Uri(_) => {
            fields.u8(WORDS);
            put_class(fields, error.class());
            fields.text(&error.to_string());
        }
    }
}

pub(super) fn decode(fields: &mut Decoder<'_>) -> Result<HsmError, FrameError> {
    decode_at(fields, 0)
}

fn decode_at(fields: &mut Decoder<'_>, depth: u32) -> Result<HsmError, FrameError> {
    let boxed = |fields: &mut Decoder<'_>| uri(fields).map(Box::new);
    let path = |fields: &mut Decoder<'_>| fields.words("path").map(PathBuf::from);
    let number = |fields: &mut Decoder<'_>| fields.u32().map(|number| usize::try_from(number).unwrap_or(0));
    Ok(match fields.u8()? {
        CALL => HsmError::Call(call(fields)?),
        DEADLINE_PASSED => HsmError::DeadlinePassed { purpose: purpose(fields)? },
        KEY_IN_USE => {
            HsmError::KeyInUse { key: boxed(fields)?, found: purpose(fields)?, wanted: purpose(fields)? }
        }
        KEY_MISMATCH => HsmError::KeyMismatch { key: boxed(fields)? },
        LOGIN => {
            HsmError::Login { token: boxed(fields)?, refusal: LoginRefusal::Told(fields.words("refusal")?) }
        }
        MODULE => HsmError::Module { path: path(fields)?, problem: fields.words("problem")? },
        MODULE_BUSY => HsmError::ModuleBusy { path: path(fields)? },
        MODULE_RENEWED => HsmError::ModuleRenewed { path: path(fields)? },
        OBJECT => HsmError::Object { wanted: boxed(fields)?, matches: number(fields)? },
        OVERLOADED => HsmError::Overloaded { purpose: purpose(fields)? },
        PURPOSE_NOT_SERVED => HsmError::PurposeNotServed { purpose: purpose(fields)? },
        SIGNATURE_FAULT => HsmError::SignatureFault { purpose: purpose(fields)? },
        STOPPED => HsmError::Stopped,
        STUCK => HsmError::Stuck { workers: number(fields)? },
        TOKEN => {
            let (wanted, matches) = (boxed(fields)?, number(fields)?);
            let count = fields.count(PRESENT_MAX, "tokens")?;
            HsmError::Token {
                wanted,
                matches,
                present: (0..count).map(|_| uri(fields)).collect::<Result<_, _>>()?,
            }
        }
        UNAVAILABLE if depth < DEPTH_MAX => {
            HsmError::Unavailable { token: boxed(fields)?, cause: Arc::new(decode_at(fields, depth + 1)?) }
        }
        UNPINNED => HsmError::Unpinned { key: boxed(fields)? },
        UNSEALED => HsmError::Unsealed,
        WORDS => HsmError::AgentSays { class: class(fields)?, text: fields.words("error")? },
        _ => return Err(FrameError::Unknown("error")),
    })
}

fn put_call(fields: &mut Encoder, call: &CallError) {
    fields.u8(CALL);
    put_name(fields, call.function());
    put_name(fields, call.code());
    put_class(fields, call.class());
}

pub(super) fn put_name(fields: &mut Encoder, name: &str) {
    fields.text(name.get(..name.floor_char_boundary(NAME_BYTES_MAX)).unwrap_or_default());
}

fn call(fields: &mut Decoder<'_>) -> Result<CallError, FrameError> {
    Ok(CallError::told(name(fields)?, name(fields)?, class(fields)?))
}

/// The name of a function or of a code, which is a label of metrics too.
pub(super) fn name(fields: &mut Decoder<'_>) -> Result<String, FrameError> {
    let name = fields.words("name")?;
    if name.len() > NAME_BYTES_MAX { Err(FrameError::TooMany("bytes of a name")) } else { Ok(name) }
}

fn put_class(fields: &mut Encoder, class: Class) {
    fields.u8(match class {
        Class::Busy => 0,
        Class::Caller => 1,
        Class::Config => 2,
        Class::Device => 3,
        Class::Login => 4,
        Class::Pin => 5,
        Class::Rejected => 6,
        Class::Session => 7,
    });
}

fn class(fields: &mut Decoder<'_>) -> Result<Class, FrameError> {
    match fields.u8()? {
        0 => Ok(Class::Busy),
        1 => Ok(Class::Caller),
        2 => Ok(Class::Config),
        3 => Ok(Class::Device),
        4 => Ok(Class::Login),
        5 => Ok(Class::Pin),
        6 => Ok(Class::Rejected),
        7 => Ok(Class::Session),
        _ => Err(FrameError::Unknown("class")),
    }
}
