//! A token's place in a list: its claim `status` (§6.1).

use super::URI_BYTES_MAX;
use crate::json::{self, JsonError, Kind, Reader};

/// Where a token's status stands. Borrows from its claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reference<'a> {
    /// The place.
    pub index: u64,
    /// The list.
    pub uri: &'a str,
}

/// Why a claim `status` is no reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// The text is not strict JSON, or not an object.
    #[error("claims: {0}")]
    Json(#[from] JsonError),
    /// `status`, `status_list`, `idx` or `uri` is missing or of another type.
    #[error("status has no status_list with idx and uri")]
    Malformed,
}

impl<'a> Reference<'a> {
    /// Reads the place from the JSON text of verified claims; `None` for a token without `status`.
    ///
    /// Allocates nothing in steady state. A `status` of which no list is a part says nothing that is understood here, and is
    /// malformed: an issuer that is held to its lists must name one.
    ///
    /// # Errors
    /// [`ReferenceError`]
    pub fn read(claims: &'a str, scratch: &'a mut json::Scratch) -> Result<Option<Self>, ReferenceError> {
        json::read(claims.as_bytes(), scratch, |reader| {
            let mut found = None;
            reader.object(|reader, name| {
                if name == "status" {
                    found = Some(status(reader)?.ok_or(ReferenceError::Malformed)?);
                    return Ok(());
                }
                Ok::<_, ReferenceError>(reader.skip()?)
            })?;
            Ok(found)
        })
    }
}

fn status<'a>(reader: &mut Reader<'a>) -> Result<Option<Reference<'a>>, ReferenceError> {
    let mut found = None;
    if reader.kind()? != Kind::Object {
        return Ok(None);
    }
    reader.object(|reader, name| {
        // Other mechanisms may stand beside it (§6.1).
        if name == "status_list" {
            found = Some(status_list(reader)?.ok_or(ReferenceError::Malformed)?);
            return Ok(());
        }
        Ok::<_, ReferenceError>(reader.skip()?)
    })?;
    Ok(found)
}

fn status_list<'a>(reader: &mut Reader<'a>) -> Result<Option<Reference<'a>>, ReferenceError> {
    let (mut index, mut uri) = (None, None);
    if reader.kind()? != Kind::Object {
        return Ok(None);
    }
    reader.object(|reader, name| {
        match (name, reader.kind()?) {
            ("idx", Kind::Number) => index = reader.number()?.to_u64(),
            ("uri", Kind::String) => {
                uri = Some(reader.string()?).filter(|uri| (1..=URI_BYTES_MAX).contains(&uri.len()));
            }
            _ => reader.skip()?,
        }
        Ok::<_, ReferenceError>(())
    })?;
    Ok(index.zip(uri).map(|(index, uri)| Reference { index, uri }))
}
