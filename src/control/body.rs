//! Request bodies: one strict JSON object, known members only.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, header};

use super::error::{ApiError, ErrorKind, shortened};
use crate::audit::hold::is_said;
use crate::json::{self, JsonError, Kind, Reader};

/// Longest request body, in bytes. The largest useful request for one token, all its members at their limits, is about
/// 30 KiB; one for many has room for what is usual.
pub(super) const BODY_BYTES_MAX: usize = 256 * 1024;

/// How long a body may take to arrive.
const BODY_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

/// Takes the whole body.
pub(super) async fn receive(body: Body) -> Result<Vec<u8>, ApiError> {
    let received = tokio::time::timeout(BODY_TIMEOUT, axum::body::to_bytes(body, BODY_BYTES_MAX)).await;
    match received {
        Ok(Ok(bytes)) => Ok(bytes.to_vec()),
        Ok(Err(error)) if is_too_large(&error) => Err(ApiError::new(
            ErrorKind::RequestTooLarge,
            format!("the body is longer than {BODY_BYTES_MAX} bytes"),
        )),
        Ok(Err(_)) => Err(ApiError::invalid("the body ended early")),
        Err(_) => Err(ApiError::new(ErrorKind::RequestTimeout, "the body did not arrive within 10 seconds")),
    }
}

fn is_too_large(error: &axum::Error) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        if error.is::<http_body_util::LengthLimitError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Receives a body that says that it is JSON.
pub(super) async fn receive_json(request: Request) -> Result<Vec<u8>, ApiError> {
    check_content_type(request.headers())?;
    receive(request.into_body()).await
}

/// Receives a body that says nothing.
pub(super) async fn receive_nothing(request: Request) -> Result<(), ApiError> {
    nothing(&receive_json(request).await?)
}

/// A body that says nothing: an object without members.
pub(super) fn nothing(bytes: &[u8]) -> Result<(), ApiError> {
    read_object(bytes, &mut json::Scratch::default(), "none", |_, _| Ok(false))
}

/// A body must say that it is JSON: a page in a browser cannot send that across origins without asking first.
pub(super) fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    check_media_type(headers, "application/json")
}

/// A body must say that it is of this type.
pub(super) fn check_media_type(headers: &HeaderMap, wanted: &str) -> Result<(), ApiError> {
    let found = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or("(not text)"));
    let essence = found.map(|value| value.split(';').next().unwrap_or_default().trim());
    match essence {
        Some(essence) if essence.eq_ignore_ascii_case(wanted) => Ok(()),
        Some(other) => Err(ApiError::new(
            ErrorKind::UnsupportedMediaType,
            format!("Content-Type is {:?}; send {wanted}", shortened(other)),
        )),
        None => {
            let description = format!("Content-Type is missing; send {wanted}");
            Err(ApiError::new(ErrorKind::UnsupportedMediaType, description))
        }
    }
}

/// What is wrong with a body: its JSON, or what a member says.
#[derive(Debug)]
pub(super) enum BodyError {
    Json(JsonError),
    Rule(String),
}

impl From<JsonError> for BodyError {
    fn from(error: JsonError) -> Self {
        Self::Json(error)
    }
}

/// Reads `bytes` as one object; `member` gets each name and consumes its value, or says that it does not know it.
pub(super) fn read_object<'a>(
    bytes: &'a [u8],
    scratch: &'a mut json::Scratch,
    known: &str,
    mut member: impl FnMut(&mut Reader<'a>, &'a str) -> Result<bool, BodyError>,
) -> Result<(), ApiError> {
    let read = json::read(bytes, scratch, |reader| {
        if reader.kind()? != Kind::Object {
            return Err(BodyError::Rule("the body must be one JSON object".to_owned()));
        }
        reader.object(|reader, name| {
            if member(reader, name)? {
                return Ok(());
            }
            let name = shortened(name);
            Err(BodyError::Rule(format!("unknown member \"{name}\"; known are {known}")))
        })
    });
    read.map_err(|error| match error {
        BodyError::Json(error) => ApiError::invalid(format!("the body is not acceptable JSON: {error}")),
        BodyError::Rule(description) => ApiError::invalid(description),
    })
}

/// A string of at most `bytes_max` bytes without control characters.
pub(super) fn text<'a>(reader: &mut Reader<'a>, name: &str, bytes_max: usize) -> Result<&'a str, BodyError> {
    let text = any_text(reader, name, bytes_max)?;
    if text.chars().any(char::is_control) {
        return Err(BodyError::Rule(format!("\"{name}\" contains a control character")));
    }
    Ok(text)
}

/// A string of at most `bytes_max` bytes, of any characters: what a token may be called, however odd.
pub(super) fn any_text<'a>(
    reader: &mut Reader<'a>,
    name: &str,
    bytes_max: usize,
) -> Result<&'a str, BodyError> {
    if reader.kind()? != Kind::String {
        return Err(BodyError::Rule(format!("\"{name}\" must be a string")));
    }
    let text = reader.string()?;
    if text.len() > bytes_max {
        return Err(BodyError::Rule(format!("\"{name}\" is longer than {bytes_max} bytes")));
    }
    Ok(text)
}

/// A whole number of seconds, not negative.
pub(super) fn seconds(reader: &mut Reader<'_>, name: &str) -> Result<u64, BodyError> {
    whole_number(reader, name, " of seconds")
}

/// How many there are of something.
pub(super) fn count(reader: &mut Reader<'_>, name: &str) -> Result<u64, BodyError> {
    whole_number(reader, name, "")
}

fn whole_number(reader: &mut Reader<'_>, name: &str, unit: &str) -> Result<u64, BodyError> {
    let wrong = || BodyError::Rule(format!("\"{name}\" must be a whole number{unit}, 0 or more"));
    if reader.kind()? != Kind::Number {
        return Err(wrong());
    }
    reader.number()?.to_u64().ok_or_else(wrong)
}

/// Who answers for something, and why.
pub(super) struct Words {
    pub(super) authority: String,
    pub(super) reason: String,
}

/// The words of a body that has nothing else; each at most so many bytes.
pub(super) fn words(bytes: &[u8], authority_max: usize, reason_max: usize) -> Result<Words, ApiError> {
    const MEMBERS: &str = "authority, reason";
    let (mut authority, mut reason) = (None, None);
    read_object(bytes, &mut json::Scratch::default(), MEMBERS, |reader, name| {
        match name {
            "authority" => authority = Some(text(reader, name, authority_max)?.to_owned()),
            "reason" => reason = Some(text(reader, name, reason_max)?.to_owned()),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    let (authority, reason) = said(authority, reason, MEMBERS)?;
    Ok(Words { authority, reason })
}

/// Who answers for something, and why: both are needed, and say something.
pub(super) fn said<T: AsRef<str>>(
    authority: Option<T>,
    reason: Option<T>,
    members: &str,
) -> Result<(T, T), ApiError> {
    match (authority, reason) {
        (Some(authority), Some(reason)) if is_said(authority.as_ref()) && is_said(reason.as_ref()) => {
            Ok((authority, reason))
        }
        _ => {
            Err(ApiError::invalid(format!("needed are: {members}; an authority and a reason say something")))
        }
    }
}

/// A JSON object of at most `bytes_max` bytes, as received.
pub(super) fn object<'a>(
    reader: &mut Reader<'a>,
    name: &str,
    bytes_max: usize,
) -> Result<&'a str, BodyError> {
    if reader.kind()? != Kind::Object {
        return Err(BodyError::Rule(format!("\"{name}\" must be a JSON object")));
    }
    let raw = reader.raw()?;
    if raw.len() > bytes_max {
        return Err(BodyError::Rule(format!("\"{name}\" is longer than {bytes_max} bytes")));
    }
    Ok(raw)
}

/// The requests of `{"MEMBER": [{…}, …]}`, as received; `None` for a body that is one request itself.
pub(super) fn one_or_many(
    bytes: &[u8],
    member: &str,
    count_max: usize,
    bytes_max: usize,
) -> Result<Option<Vec<String>>, ApiError> {
    let mut scratch = json::Scratch::default();
    let mut many = None;
    let mut other = false;
    let read = read_object(bytes, &mut scratch, member, |reader, name| {
        if name == member {
            many = Some(objects(reader, name, count_max, bytes_max)?);
            return Ok(true);
        }
        other = true;
        Ok(false)
    });
    match many {
        // Whatever is wrong with the body of one is said where that is read.
        None if other || read.is_ok() => Ok(None),
        _ => {
            read?;
            Ok(many.map(|many| many.into_iter().map(str::to_owned).collect()))
        }
    }
}

/// An array of 1 to `count_max` JSON objects of at most `bytes_max` bytes each, as received.
pub(super) fn objects<'a>(
    reader: &mut Reader<'a>,
    name: &str,
    count_max: usize,
    bytes_max: usize,
) -> Result<Vec<&'a str>, BodyError> {
    if reader.kind()? != Kind::Array {
        return Err(BodyError::Rule(format!("\"{name}\" must be an array of JSON objects")));
    }
    let mut all = Vec::new();
    reader.array(|reader| -> Result<(), BodyError> {
        if all.len() == count_max {
            return Err(BodyError::Rule(format!("\"{name}\" has more than {count_max} elements")));
        }
        all.push(object(reader, name, bytes_max)?);
        Ok(())
    })?;
    if all.is_empty() {
        return Err(BodyError::Rule(format!("\"{name}\" is empty; give at least one")));
    }
    Ok(all)
}

/// An array of strings, or one string; at least one, at most `count_max`, each passed to `check`.
pub(super) fn names<'a>(
    reader: &mut Reader<'a>,
    name: &str,
    count_max: usize,
    single_allowed: bool,
    check: impl Fn(&str) -> Result<(), String>,
) -> Result<Vec<&'a str>, BodyError> {
    let mut all: Vec<&'a str> = Vec::new();
    let mut element = |reader: &mut Reader<'a>| -> Result<(), BodyError> {
        if reader.kind()? != Kind::String {
            return Err(BodyError::Rule(format!("each element of \"{name}\" must be a string")));
        }
        let text = reader.string()?;
        check(text).map_err(BodyError::Rule)?;
        if all.contains(&text) {
            return Err(BodyError::Rule(format!("\"{name}\" names \"{}\" twice", shortened(text))));
        }
        if all.len() == count_max {
            return Err(BodyError::Rule(format!("\"{name}\" has more than {count_max} elements")));
        }
        all.push(text);
        Ok(())
    };
    match reader.kind()? {
        Kind::Array => reader.array(element)?,
        Kind::String if single_allowed => element(reader)?,
        _ => {
            let also = if single_allowed { "a string or " } else { "" };
            return Err(BodyError::Rule(format!("\"{name}\" must be {also}an array of strings")));
        }
    }
    if all.is_empty() {
        return Err(BodyError::Rule(format!("\"{name}\" is empty; name at least one")));
    }
    Ok(all)
}
