//! A body held against its schema: checked without keeping anything of it, or read.

use super::super::{
    cbor::{CborError, Reader, Value},
    sealed::is_sealed_len,
};
use super::{Body, BodyError, Class, Field, Shape, fields_of};

/// Checks a body against its schema without keeping anything of it: no allocation, for the walk over a whole log.
///
/// # Errors
/// The first way in which the body does not fit.
pub fn check_body(kind: u16, schema: u16, body: &[u8]) -> Result<(), BodyError> {
    each_field(kind, schema, body, |_, ()| {})
}

/// Reads a body that fits its schema, in the same pass.
pub(super) fn read_fields(kind: u16, schema: u16, body: &[u8]) -> Result<Body<'_>, BodyError> {
    let mut fields = Body::with_capacity(FIELDS_USUAL);
    each_field(kind, schema, body, |field, value| fields.push((field, value)))?;
    Ok(fields)
}

fn each_field<'a, V: Kept<'a>>(
    kind: u16,
    schema: u16,
    body: &'a [u8],
    keep: impl FnMut(&'static Field, V),
) -> Result<(), BodyError> {
    let fields = fields_of(kind, schema)?;
    let mut reader = Reader::new(body);
    if reader.major() != Some(MAJOR_MAP) {
        return Err(BodyError::NotAMap);
    }
    map(&mut reader, fields, keep)?;
    Ok(reader.end()?)
}

/// What is kept of a value: nothing, or the value.
trait Kept<'a>: Sized {
    fn bool(value: bool) -> Self;
    fn bytes(bytes: &'a [u8]) -> Self;
    fn text(reader: &mut Reader<'a>) -> Result<Self, CborError>;
    fn uint(number: u64) -> Self;
    /// `count` items, each of which `item` reads.
    fn array<E>(count: usize, item: impl FnMut() -> Result<Self, E>) -> Result<Self, E>;
    /// Entries, which `each` hands over one by one.
    fn map<E>(each: impl FnOnce(&mut dyn FnMut(&'static Field, Self)) -> Result<(), E>) -> Result<Self, E>;
}

impl<'a> Kept<'a> for () {
    fn bool(_value: bool) {}

    fn bytes(_bytes: &'a [u8]) {}

    #[inline]
    fn text(reader: &mut Reader<'a>) -> Result<(), CborError> {
        reader.skip_text()
    }

    fn uint(_number: u64) {}

    fn array<E>(count: usize, mut item: impl FnMut() -> Result<(), E>) -> Result<(), E> {
        (0..count).try_for_each(|_| item())
    }

    fn map<E>(each: impl FnOnce(&mut dyn FnMut(&'static Field, ())) -> Result<(), E>) -> Result<(), E> {
        each(&mut |_, ()| {})
    }
}

impl<'a> Kept<'a> for Value<'a> {
    fn bool(value: bool) -> Self {
        Value::Bool(value)
    }

    fn bytes(bytes: &'a [u8]) -> Self {
        Value::Bytes(bytes)
    }

    fn text(reader: &mut Reader<'a>) -> Result<Self, CborError> {
        reader.text().map(Value::Text)
    }

    fn uint(number: u64) -> Self {
        Value::Uint(number)
    }

    fn array<E>(count: usize, mut item: impl FnMut() -> Result<Self, E>) -> Result<Self, E> {
        (0..count).map(|_| item()).collect::<Result<_, _>>().map(Value::Array)
    }

    fn map<E>(each: impl FnOnce(&mut dyn FnMut(&'static Field, Self)) -> Result<(), E>) -> Result<Self, E> {
        let mut entries = Vec::new();
        each(&mut |field, value| entries.push((field.key, value)))?;
        Ok(Value::Map(entries))
    }
}

/// Reads the map that is next. Schemas nest no deeper than [`DEPTH_MAX`](super::cbor::DEPTH_MAX), so neither does this.
fn map<'a, V: Kept<'a>>(
    reader: &mut Reader<'a>,
    fields: &'static [Field],
    mut keep: impl FnMut(&'static Field, V),
) -> Result<(), BodyError> {
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
        keep(field, value(reader, field)?);
    }
    match rest.find(|field| field.required) {
        Some(field) => Err(BodyError::FieldMissing(field.name)),
        None => Ok(()),
    }
}

#[inline(always)]
fn value<'a, V: Kept<'a>>(reader: &mut Reader<'a>, field: &'static Field) -> Result<V, BodyError> {
    let wrong = BodyError::WrongShape(field.name);
    Ok(match (field.shape, reader.major()) {
        (Shape::Bool, Some(MAJOR_SIMPLE)) => V::bool(reader.bool()?),
        (Shape::Bytes(len), Some(MAJOR_BYTES)) => {
            let bytes = reader.string()?;
            if len.is_some_and(|len| len != bytes.len())
                || field.class == Class::Sealed && !is_sealed_len(bytes.len())
            {
                return Err(wrong);
            }
            V::bytes(bytes)
        }
        (Shape::Items(fields), Some(MAJOR_ARRAY)) => {
            let count = reader.count()?;
            items(reader, count, fields).or(Err(wrong))?
        }
        (Shape::Text, Some(MAJOR_TEXT)) => V::text(reader)?,
        (Shape::Texts, Some(MAJOR_ARRAY)) => V::array(reader.count()?, || {
            if reader.major() != Some(MAJOR_TEXT) {
                return Err(wrong);
            }
            Ok(V::text(reader)?)
        })?,
        (Shape::Uint, Some(MAJOR_UINT)) => V::uint(reader.number()?),
        _ => return Err(wrong),
    })
}

/// Apart, so that the others are read in place.
#[inline(never)]
fn items<'a, V: Kept<'a>>(
    reader: &mut Reader<'a>,
    count: usize,
    fields: &'static [Field],
) -> Result<V, BodyError> {
    V::array(count, || {
        if reader.major() != Some(MAJOR_MAP) {
            return Err(BodyError::NotAMap);
        }
        V::map(|keep| map(reader, fields, keep))
    })
}

/// Fields of most bodies; more make the list longer.
const FIELDS_USUAL: usize = 12;

/// Major types of RFC 8949 §3.1.
const MAJOR_UINT: u8 = 0;
const MAJOR_BYTES: u8 = 2;
const MAJOR_TEXT: u8 = 3;
const MAJOR_ARRAY: u8 = 4;
const MAJOR_MAP: u8 = 5;
const MAJOR_SIMPLE: u8 = 7;
