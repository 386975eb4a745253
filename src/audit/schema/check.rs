//! A body held against its schema without keeping anything of it.

use super::super::cbor::Reader;
use super::{BodyError, Field, Shape, fields_of};

/// Checks a body against its schema without keeping anything of it: no allocation, for the walk over a whole log.
///
/// # Errors
/// The first way in which the body does not fit.
pub fn check_body(kind: u16, schema: u16, body: &[u8]) -> Result<(), BodyError> {
    let fields = fields_of(kind, schema)?;
    let mut reader = Reader::new(body);
    if reader.major() != Some(MAJOR_MAP) {
        return Err(BodyError::NotAMap);
    }
    check_fields(&mut reader, fields)?;
    Ok(reader.end()?)
}

/// Checks the map that is next. Schemas nest no deeper than [`DEPTH_MAX`](super::cbor::DEPTH_MAX), so neither does this.
fn check_fields(reader: &mut Reader<'_>, fields: &'static [Field]) -> Result<(), BodyError> {
    let mut rest = fields.iter();
    for _ in 0..reader.count()? {
        if reader.major() != Some(MAJOR_UINT) {
            return Err(BodyError::NotAMap);
        }
        let key = reader.number()?;
        let field = loop {
            match rest.next() {
                Some(field) if field.key == key => break field,
                Some(field) if field.key < key && field.required => {
                    return Err(BodyError::FieldMissing(field.name));
                }
                Some(field) if field.key < key => {}
                // Also a key that repeats or goes back: its field has been passed.
                _ => return Err(BodyError::FieldUnknown(key)),
            }
        };
        check_shape(reader, field)?;
    }
    match rest.find(|field| field.required) {
        Some(field) => Err(BodyError::FieldMissing(field.name)),
        None => Ok(()),
    }
}

#[inline]
fn check_shape(reader: &mut Reader<'_>, field: &'static Field) -> Result<(), BodyError> {
    let wrong = Err(BodyError::WrongShape(field.name));
    match (field.shape, reader.major()) {
        (Shape::Bool, Some(MAJOR_SIMPLE)) => reader.bool().map(drop)?,
        (Shape::Bytes(len), Some(MAJOR_BYTES)) => {
            let bytes = reader.string()?;
            if len.is_some_and(|len| len != bytes.len()) {
                return wrong;
            }
        }
        (Shape::Items(fields), Some(MAJOR_ARRAY)) => {
            for _ in 0..reader.count()? {
                if reader.major() != Some(MAJOR_MAP) {
                    return wrong;
                }
                check_fields(reader, fields).or(wrong)?;
            }
        }
        (Shape::Text, Some(MAJOR_TEXT)) => reader.skip_text()?,
        (Shape::Texts, Some(MAJOR_ARRAY)) => {
            for _ in 0..reader.count()? {
                if reader.major() != Some(MAJOR_TEXT) {
                    return wrong;
                }
                reader.skip_text()?;
            }
        }
        (Shape::Uint, Some(MAJOR_UINT)) => reader.number().map(drop)?,
        _ => return wrong,
    }
    Ok(())
}

/// Major types of RFC 8949 §3.1.
const MAJOR_UINT: u8 = 0;
const MAJOR_BYTES: u8 = 2;
const MAJOR_TEXT: u8 = 3;
const MAJOR_ARRAY: u8 = 4;
const MAJOR_MAP: u8 = 5;
const MAJOR_SIMPLE: u8 = 7;
