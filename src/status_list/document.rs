//! The claims of a list token (§5.1), read and written.

use serde::Serialize;

use super::{Bits, ListError, STATUS_LIST_TYP, StatusList};
use crate::decision::UnixSeconds;
use crate::json::{self, JsonError, Kind, Reader};
use crate::token::{HeaderText, json_part};

/// What a list token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// `sub`: the list's own uri.
    pub uri: String,
    /// `iss`, which a list token need not have.
    pub issuer: Option<String>,
    /// `iat`.
    pub issued_at: UnixSeconds,
    /// `exp`.
    pub expires_at: Option<UnixSeconds>,
    /// `ttl`: how long it may be kept before a fresh one is fetched, in seconds.
    pub ttl_s: Option<u64>,
    /// The list.
    pub list: StatusList,
}

/// Why a payload is no list token's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// It is not strict JSON.
    #[error("claims: {0}")]
    Json(#[from] JsonError),
    /// The list cannot be read.
    #[error("status_list: {0}")]
    List(#[from] ListError),
    /// A member is missing, of another type, or says something impossible.
    #[error("{0} is missing or malformed")]
    Member(&'static str),
}

impl Document {
    /// Reads the payload of a list token.
    ///
    /// # Errors
    /// [`DocumentError`]
    pub fn read(payload: &[u8]) -> Result<Self, DocumentError> {
        let mut scratch = json::Scratch::default();
        let mut members = Members::default();
        json::read(payload, &mut scratch, |reader| {
            if reader.kind()? != Kind::Object {
                return Err(DocumentError::Member("the payload"));
            }
            reader.object(|reader, name| members.read(reader, name))
        })?;
        let Members { uri, issuer, issued_at, expires_at, ttl_s, list } = members;
        Ok(Self {
            uri: uri.filter(|uri| !uri.is_empty()).ok_or(DocumentError::Member("sub"))?,
            issuer,
            issued_at: issued_at.ok_or(DocumentError::Member("iat"))?,
            expires_at,
            ttl_s,
            list: list.ok_or(DocumentError::Member("status_list"))?,
        })
    }

    /// The `header.payload` to be signed with the key named `kid`.
    ///
    /// # Errors
    /// [`DocumentError`] if the list cannot be compressed or the text not written; neither is known to happen.
    pub fn signing_input(&self, kid: &str) -> Result<String, DocumentError> {
        Ok(format!("{}.{}", Self::header_part(kid)?, self.payload_part()?))
    }

    /// The encoded header of lists that the key named `kid` signs.
    ///
    /// # Errors
    /// [`DocumentError`] if the text cannot be written, which is not known to happen.
    pub fn header_part(kid: &str) -> Result<String, DocumentError> {
        json_part(&HeaderText::new(STATUS_LIST_TYP, kid, None))
            .map_err(|_| DocumentError::Member("the header"))
    }

    /// The encoded claims; compresses the list.
    ///
    /// # Errors
    /// As of [`Document::signing_input`].
    pub fn payload_part(&self) -> Result<String, DocumentError> {
        let claims = ClaimsText {
            iss: self.issuer.as_deref(),
            sub: &self.uri,
            iat: self.issued_at.0,
            exp: self.expires_at.map(|exp| exp.0),
            ttl: self.ttl_s,
            status_list: ListText { bits: self.list.bits().number(), lst: self.list.encode()? },
        };
        json_part(&claims).map_err(|_| DocumentError::Member("the payload"))
    }
}

#[derive(Default)]
struct Members {
    uri: Option<String>,
    issuer: Option<String>,
    issued_at: Option<UnixSeconds>,
    expires_at: Option<UnixSeconds>,
    ttl_s: Option<u64>,
    list: Option<StatusList>,
}

impl Members {
    fn read(&mut self, reader: &mut Reader<'_>, name: &str) -> Result<(), DocumentError> {
        match name {
            "sub" => self.uri = Some(text(reader, "sub")?.to_owned()),
            "iss" => self.issuer = Some(text(reader, "iss")?.to_owned()),
            "iat" => self.issued_at = Some(UnixSeconds(seconds(reader, "iat")?)),
            "exp" => self.expires_at = Some(UnixSeconds(seconds(reader, "exp")?)),
            // "A positive number" (§5.1).
            "ttl" => {
                let ttl_s = seconds(reader, "ttl")?;
                self.ttl_s = Some(if ttl_s == 0 { Err(DocumentError::Member("ttl"))? } else { ttl_s });
            }
            "status_list" => self.list = Some(list(reader)?),
            _ => reader.skip()?,
        }
        Ok(())
    }
}

fn list(reader: &mut Reader<'_>) -> Result<StatusList, DocumentError> {
    let (mut bits, mut lst) = (None, None);
    if reader.kind()? != Kind::Object {
        return Err(DocumentError::Member("status_list"));
    }
    reader.object(|reader, name| {
        match name {
            "bits" if reader.kind()? == Kind::Number => {
                bits = reader.number()?.to_u64().and_then(Bits::from_number);
            }
            "lst" => lst = Some(text(reader, "lst")?),
            _ => reader.skip()?,
        }
        Ok::<_, DocumentError>(())
    })?;
    let bits = bits.ok_or(DocumentError::Member("bits"))?;
    Ok(StatusList::decode(bits, lst.ok_or(DocumentError::Member("lst"))?)?)
}

fn text<'a>(reader: &mut Reader<'a>, name: &'static str) -> Result<&'a str, DocumentError> {
    if reader.kind()? == Kind::String { Ok(reader.string()?) } else { Err(DocumentError::Member(name)) }
}

/// A number that is not negative and below 2^53, without its fraction.
fn seconds(reader: &mut Reader<'_>, name: &'static str) -> Result<u64, DocumentError> {
    const NUMBER_MAX: u64 = 1 << 53;
    if reader.kind()? != Kind::Number {
        return Err(DocumentError::Member(name));
    }
    let number = reader.number()?;
    let whole = number.to_u64().or_else(|| {
        let floor = number.to_f64().floor();
        #[expect(clippy::cast_precision_loss, reason = "a power of two is exact")]
        let in_range = (0.0..NUMBER_MAX as f64).contains(&floor);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole, and in range")]
        in_range.then_some(floor as u64)
    });
    whole.filter(|number| *number < NUMBER_MAX).ok_or(DocumentError::Member(name))
}

#[derive(Serialize)]
struct ClaimsText<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    sub: &'a str,
    iat: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    exp: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<u64>,
    status_list: ListText,
}

#[derive(Serialize)]
struct ListText {
    bits: u8,
    lst: String,
}
